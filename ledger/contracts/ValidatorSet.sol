// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/**
 * @title Validator set
 * @notice Says who makes blocks: a set of n = 3f + 1 nodes, chosen anew each epoch by score, of
 *         which a QBFT network reads the addresses before every block.
 * @dev A candidate is registered for a legal entity, rated by the oracle, and seen alive:
 *
 *          none --add--> candidate --rotate--> seated --rotate--> candidate --remove--> none
 *                        seated --remove--> leaving, still seated --rotate--> none
 *
 *      score = C * R * S * sqrt(1 + M): compute, reliability and stake in millionths, medical
 *      records in units. A rating counts from the epoch after it was given, so that it can be
 *      struck before. Whoever was not seen in this epoch or the last counts as 0.
 *
 *      rotate, once an epoch, by anybody: up to f times, the weakest seat goes to the strongest
 *      candidate, if she is more than a tenth stronger. So nobody is ever without a seat for
 *      trembling scores, and more than two thirds of the set stay through every rotation.
 *
 *      The genesis block writes this contract's storage; there is no constructor. The order of
 *      the state variables is therefore part of its interface (ledger/chain/besu.py).
 *
 *      Invariants, checked in tests/ledger/contracts/test_validator_set.py:
 *        1. getValidators reads storage alone and never reverts.
 *        2. The set has as many seats as at genesis, at least four, all different, no two of one
 *           entity.
 *        3. An epoch changes at most f = (n - 1) / 3 seats.
 * @custom:units Epochs of EPOCH_BLOCKS blocks; scores have no unit.
 * @custom:trust The governor decides who may be a candidate, and can strike ratings; it should be
 *               a timelock. The oracle rates, and must commit to its evidence. Together they choose
 *               the set, at f seats an epoch; neither can shrink it.
 * @custom:kill  None here. Besu's genesis transitions can override the contract's answer.
 */
contract ValidatorSet {
    error NotTheGovernor(address caller);
    error NotTheOracle(address caller);
    /// Nobody, or for nobody.
    error CandidateMalformed();
    /// The node is a candidate already, or was and still has its seat.
    error CandidateKnown(address node);
    /// The entity has a candidate.
    error EntityTaken(bytes32 entity);
    error CandidatesTooMany(uint256 max);
    error CandidateUnknown(address node);
    /// Shares are at most a million; records at most RECORDS_MAX.
    error RatingOutOfRange();
    error EvidenceMissing();
    /// The set was rotated in this epoch.
    error EpochRunning(uint256 epoch);

    event CandidateAdded(address indexed node, bytes32 indexed entity);
    event CandidateRemoved(address indexed node);
    event Rated(address indexed node, uint256 score, uint256 fromEpoch, bytes32 evidence);
    event Struck(address indexed node, bytes32 reason);
    event SeatChanged(uint256 indexed epoch, address indexed left, address indexed entered);
    event Rotated(uint256 indexed epoch, uint256 changed);
    event GovernorChanged(address governor);
    event OracleChanged(address oracle);

    struct Candidate {
        bytes32 entity;
        uint128 score;
        uint128 scoreNext;
        uint64 nextFrom; // epoch; 0: nothing new
        uint64 seen; // epoch
        bool seated;
        bool leaving;
    }

    uint256 public constant EPOCH_BLOCKS = 1200;
    uint256 public constant CANDIDATES_MAX = 128;
    uint256 public constant MILLION = 1_000_000;
    uint256 public constant RECORDS_MAX = 1_000_000_000_000;

    address[] private _validators; // slot 0
    address public governor; // slot 1
    address public oracle; // slot 2
    uint256 public lastEpoch; // slot 3
    address[] private _candidates; // slot 4
    mapping(address node => Candidate) private _byNode; // slot 5
    mapping(bytes32 entity => address) public nodeOf; // slot 6

    modifier onlyGovernor() {
        if (msg.sender != governor) revert NotTheGovernor(msg.sender);
        _;
    }

    /// @notice Who makes blocks.
    function getValidators() external view returns (address[] memory) {
        return _validators;
    }

    /// @notice Register a node for a legal entity.
    /// @param entity Commitment to the entity; never its name.
    function add(address node, bytes32 entity) external onlyGovernor {
        if (node == address(0) || entity == 0) revert CandidateMalformed();
        if (_byNode[node].entity != 0) revert CandidateKnown(node);
        if (nodeOf[entity] != address(0)) revert EntityTaken(entity);
        if (_candidates.length >= CANDIDATES_MAX) revert CandidatesTooMany(CANDIDATES_MAX);
        _candidates.push(node);
        _byNode[node].entity = entity;
        _byNode[node].seen = uint64(epoch());
        nodeOf[entity] = node;
        emit CandidateAdded(node, entity);
    }

    /// @notice Take a node out: at once, or, if it has a seat, as soon as another can have it.
    function remove(address node) external onlyGovernor {
        Candidate storage one = _known(node);
        emit CandidateRemoved(node);
        if (one.seated) one.leaving = true;
        else _forget(node);
    }

    /// @notice Rate a node from the next epoch on.
    /// @param evidence Commitment to what shows it, such as the root of an audit log.
    function rate(address node, uint256 compute, uint256 reliability, uint256 stake, uint256 records, bytes32 evidence)
        external
    {
        if (msg.sender != oracle) revert NotTheOracle(msg.sender);
        if (evidence == 0) revert EvidenceMissing();
        Candidate storage one = _known(node);
        uint128 score = uint128(scoreOf(compute, reliability, stake, records));
        if (one.nextFrom != 0 && epoch() >= one.nextFrom) one.score = one.scoreNext;
        one.scoreNext = score;
        one.nextFrom = uint64(epoch() + 1);
        emit Rated(node, score, one.nextFrom, evidence);
    }

    /// @notice Undo a rating that does not count yet.
    function strike(address node, bytes32 reason) external onlyGovernor {
        Candidate storage one = _known(node);
        if (one.nextFrom > epoch()) one.nextFrom = 0;
        emit Struck(node, reason);
    }

    /// @notice Say that the calling node is alive.
    function beat() external {
        _known(msg.sender).seen = uint64(epoch());
    }

    /// @notice Choose the set of this epoch. Anybody may, once.
    function rotate() external {
        uint256 now_ = epoch();
        if (now_ <= lastEpoch) revert EpochRunning(now_);
        lastEpoch = now_;
        uint256 seats = (_validators.length - 1) / 3;
        uint256 changed;
        while (changed < seats && _swap(now_)) ++changed;
        emit Rotated(now_, changed);
    }

    function setGovernor(address governor_) external onlyGovernor {
        if (governor_ == address(0)) revert CandidateMalformed();
        governor = governor_;
        emit GovernorChanged(governor_);
    }

    function setOracle(address oracle_) external onlyGovernor {
        oracle = oracle_;
        emit OracleChanged(oracle_);
    }

    function epoch() public view returns (uint256) {
        return block.number / EPOCH_BLOCKS;
    }

    /// @notice C * R * S * sqrt(1 + M), the root in millionths: below 2**100.
    function scoreOf(uint256 compute, uint256 reliability, uint256 stake, uint256 records)
        public
        pure
        returns (uint256)
    {
        if (compute > MILLION || reliability > MILLION || stake > MILLION || records > RECORDS_MAX) {
            revert RatingOutOfRange();
        }
        return compute * reliability * stake * Math.sqrt((1 + records) * MILLION * MILLION);
    }

    /// @notice What a node counts in this epoch.
    function ratingOf(address node) public view returns (uint256) {
        Candidate storage one = _byNode[node];
        uint256 now_ = epoch();
        if (one.entity == 0 || one.leaving || one.seen + 1 < now_) return 0;
        return one.nextFrom != 0 && now_ >= one.nextFrom ? one.scoreNext : one.score;
    }

    function candidates() external view returns (address[] memory) {
        return _candidates;
    }

    function candidateAt(address node) external view returns (Candidate memory) {
        return _byNode[node];
    }

    /// Give the weakest seat to the strongest candidate without one, if she is strong enough.
    function _swap(uint256 now_) private returns (bool) {
        uint256 seat;
        uint256 weakest = type(uint256).max;
        for (uint256 i = 0; i < _validators.length; ++i) {
            uint256 rating = ratingOf(_validators[i]);
            if (rating < weakest) (seat, weakest) = (i, rating);
        }
        address challenger;
        uint256 strongest;
        for (uint256 i = 0; i < _candidates.length; ++i) {
            address node = _candidates[i];
            if (_byNode[node].seated) continue;
            uint256 rating = ratingOf(node);
            if (rating > strongest) (challenger, strongest) = (node, rating);
        }
        if (strongest * 100 <= weakest * 110) return false;
        address left = _validators[seat];
        _validators[seat] = challenger;
        _byNode[challenger].seated = true;
        _byNode[left].seated = false;
        if (_byNode[left].leaving) _forget(left);
        emit SeatChanged(now_, left, challenger);
        return true;
    }

    function _forget(address node) private {
        delete nodeOf[_byNode[node].entity];
        delete _byNode[node];
        uint256 last = _candidates.length - 1;
        for (uint256 i = 0; i < last; ++i) {
            if (_candidates[i] == node) {
                _candidates[i] = _candidates[last];
                break;
            }
        }
        _candidates.pop();
    }

    function _known(address node) private view returns (Candidate storage one) {
        one = _byNode[node];
        if (one.entity == 0) revert CandidateUnknown(node);
    }
}
