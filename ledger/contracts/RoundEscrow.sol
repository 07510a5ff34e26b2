// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {BitMaps} from "@openzeppelin/contracts/utils/structs/BitMaps.sol";
import {EscrowVault} from "./EscrowVault.sol";
import {Payout} from "./Payout.sol";

/**
 * @title Round escrow
 * @notice Locks the budget of a training round when it opens, and pays contributors from it once
 *         an epoch of closed rounds is settled. What no round earned goes back to the funder.
 * @dev Each round is a state machine with no way back:
 *
 *          none --open--> open --> committed --> revealed --> aggregated --> scored --> closed
 *          closed --settle, with others as an epoch--> settled
 *          any before settled --abort, by the coordinator, or by anybody from the deadline on-->
 *          aborted, and the budget is refunded
 *
 *      and so is each epoch, which takes over the budgets of its rounds:
 *
 *          none --settle (root)--> settled --pay, in batches, to the last base unit--> paid
 *                                  settled --reclaim, after 30 days--> refunded
 *
 *      Invariants, checked in tests/ledger/contracts:
 *        1. A round's budget leaves it once: to its epoch, or back to the funder.
 *        2. An epoch pays at most its total, each batch once.
 * @custom:units Base units; seconds; block timestamps.
 * @custom:trust The coordinator decides the split and may favour a site, but can move no more
 *               than the budgets the funder gave it, and only under a root that stays on record.
 *               The funder can count on the rest, and contributors on nothing until the epoch is
 *               settled: the coordinator may abort.
 */
abstract contract RoundEscrow is EscrowVault {
    using BitMaps for BitMaps.BitMap;

    /// The round is not in the state that the step starts from.
    error RoundMisplaced(bytes32 round, RoundState state);
    /// The funder has a round under this label.
    error RoundOpenedAlready(bytes32 round);
    /// The round's deadline is over; anybody can abort it.
    error RoundOverdue(bytes32 round);
    /// A round is of another funder or coordinator than the rest of its epoch.
    error RoundOfAnother(bytes32 round);
    /// A budget or a total of nothing, or a total above the budgets.
    error AmountOutOfRange(uint256 amount, uint256 max);
    /// The coordinator has settled an epoch under this label.
    error EpochSettledAlready(bytes32 epoch);
    /// The epoch is not waiting for payment.
    error EpochMisplaced(bytes32 epoch, EpochState state);
    /// The batch was paid.
    error BatchPaidAlready(bytes32 epoch, uint256 batch);
    /// The batch is not under the epoch's root.
    error BatchUnproven(bytes32 epoch, uint256 batch);
    /// The batch would pay more than is left of the epoch's total.
    error EpochOverspent(uint256 amount, uint256 left);
    /// The time to pay the epoch is not over.
    error PaymentOpen(bytes32 epoch);

    event RoundOpened(
        bytes32 indexed round,
        address indexed funder,
        address indexed coordinator,
        bytes32 label,
        uint256 budget,
        uint64 deadline,
        bytes32 terms
    );
    event RoundAdvanced(bytes32 indexed round, RoundState state, bytes32 evidence);
    event RoundAborted(bytes32 indexed round, uint256 refunded, bytes32 reason);
    event RoundSettled(bytes32 indexed round, bytes32 indexed epoch);
    event EpochSettled(
        bytes32 indexed epoch, bytes32 label, bytes32 root, uint256 total, uint256 refunded
    );
    event EpochBatchPaid(bytes32 indexed epoch, uint256 indexed batch, uint256 amount);
    event EpochPaid(bytes32 indexed epoch);
    event EpochRefunded(bytes32 indexed epoch, uint256 refunded);

    enum RoundState {
        None,
        Open,
        Committed,
        Revealed,
        Aggregated,
        Scored,
        Closed,
        Settled,
        Aborted
    }

    enum EpochState {
        None,
        Settled,
        Paid,
        Refunded
    }

    struct Round {
        address funder;
        uint64 deadline;
        RoundState state;
        address coordinator;
        uint256 budget;
    }

    struct Epoch {
        address funder;
        uint64 settledAt;
        EpochState state;
        bytes32 root; // over batches of payouts
        uint256 total;
        uint256 left; // of the total, not paid yet
    }

    uint64 public constant PAYMENT_MAX = 30 days;
    uint256 public constant ROUNDS_MAX = 50;
    uint256 public constant BATCH_MAX = 250;

    mapping(bytes32 round => Round) private _rounds;
    mapping(bytes32 epoch => Epoch) private _epochs;
    mapping(bytes32 epoch => BitMaps.BitMap) private _batches;

    /// @notice Open a round and lock its budget. The caller is its funder.
    /// @param label The off-chain round's id, hashed.
    /// @param coordinator Who leads it through its states.
    /// @param terms Commitment to model, cohort and privacy terms.
    function openRound(bytes32 label, address coordinator, uint256 budget, uint64 deadline, bytes32 terms)
        external
        nonReentrant
        returns (bytes32 round)
    {
        round = roundOf(msg.sender, label);
        if (_rounds[round].state != RoundState.None) revert RoundOpenedAlready(round);
        if (budget == 0) revert AmountOutOfRange(0, type(uint256).max);
        _checkTime(deadline);
        _rounds[round] = Round(msg.sender, deadline, RoundState.Open, coordinator, budget);
        emit RoundOpened(round, msg.sender, coordinator, label, budget, deadline, terms);
        _take(msg.sender, budget);
    }

    /// @notice Lead a round into its next state, up to closed.
    /// @param state The one that follows the present one; named, so that a repeated call fails.
    /// @param evidence Commitment to what the state rests on: commitments, updates, sums, scores.
    function advance(bytes32 round, RoundState state, bytes32 evidence) external {
        Round storage one = _rounds[round];
        if (msg.sender != one.coordinator) revert NotTheParty(msg.sender);
        if (one.state == RoundState.None || state > RoundState.Closed || uint8(state) != uint8(one.state) + 1) {
            revert RoundMisplaced(round, one.state);
        }
        if (block.timestamp >= one.deadline) revert RoundOverdue(round);
        if (evidence == 0) revert EvidenceMissing();
        one.state = state;
        emit RoundAdvanced(round, state, evidence);
    }

    /// @notice End a round without payment, and refund its budget.
    function abort(bytes32 round, bytes32 reason) external nonReentrant {
        Round storage one = _rounds[round];
        if (one.state == RoundState.None || one.state > RoundState.Closed) {
            revert RoundMisplaced(round, one.state);
        }
        if (msg.sender != one.coordinator && block.timestamp < one.deadline) {
            revert NotTheParty(msg.sender);
        }
        one.state = RoundState.Aborted;
        emit RoundAborted(round, one.budget, reason);
        _give(one.funder, one.budget);
    }

    /// @notice Settle closed rounds of one funder as an epoch; what they did not earn is refunded.
    /// @param label The off-chain epoch's id, hashed.
    /// @param root Merkle root over the epoch's batches, see batchLeaf.
    /// @param total What all batches pay together.
    function settle(bytes32 label, bytes32[] calldata rounds, bytes32 root, uint256 total)
        external
        nonReentrant
        returns (bytes32 epoch)
    {
        epoch = epochOf(msg.sender, label);
        if (_epochs[epoch].state != EpochState.None) revert EpochSettledAlready(epoch);
        if (rounds.length == 0 || rounds.length > ROUNDS_MAX) {
            revert CountOutOfRange(rounds.length, ROUNDS_MAX);
        }
        if (root == 0) revert EvidenceMissing();
        address funder = _rounds[rounds[0]].funder;
        uint256 budget;
        for (uint256 i = 0; i < rounds.length; ++i) {
            Round storage one = _rounds[rounds[i]];
            if (one.state != RoundState.Closed) revert RoundMisplaced(rounds[i], one.state);
            if (one.coordinator != msg.sender || one.funder != funder) revert RoundOfAnother(rounds[i]);
            if (block.timestamp >= one.deadline) revert RoundOverdue(rounds[i]);
            one.state = RoundState.Settled;
            budget += one.budget;
            emit RoundSettled(rounds[i], epoch);
        }
        if (total == 0 || total > budget) revert AmountOutOfRange(total, budget);
        _epochs[epoch] = Epoch(funder, uint64(block.timestamp), EpochState.Settled, root, total, total);
        emit EpochSettled(epoch, label, root, total, budget - total);
        _give(funder, budget - total);
    }

    /// @notice Pay one batch of a settled epoch. Anybody may, the root decides who is paid.
    function pay(bytes32 epoch, uint256 batch, Payout[] calldata payouts, bytes32[] calldata path)
        external
        nonReentrant
    {
        Epoch storage one = _settled(epoch);
        if (_batches[epoch].get(batch)) revert BatchPaidAlready(epoch, batch);
        if (!MerkleProof.verifyCalldata(path, one.root, batchLeaf(epoch, batch, payouts))) {
            revert BatchUnproven(epoch, batch);
        }
        uint256 amount = _checked(payouts, BATCH_MAX);
        uint256 left = one.left;
        if (amount > left) revert EpochOverspent(amount, left);
        _batches[epoch].set(batch);
        one.left = left - amount;
        emit EpochBatchPaid(epoch, batch, amount);
        if (amount == left) {
            one.state = EpochState.Paid;
            emit EpochPaid(epoch);
        }
        _giveAll(payouts, amount);
    }

    /// @notice Return to the funder what an epoch has not paid in time. Anybody may.
    function reclaim(bytes32 epoch) external nonReentrant {
        Epoch storage one = _settled(epoch);
        if (block.timestamp <= one.settledAt + PAYMENT_MAX) revert PaymentOpen(epoch);
        uint256 left = one.left;
        one.left = 0;
        one.state = EpochState.Refunded;
        emit EpochRefunded(epoch, left);
        _give(one.funder, left);
    }

    function roundAt(bytes32 round) external view returns (Round memory) {
        return _rounds[round];
    }

    function epochAt(bytes32 epoch) external view returns (Epoch memory) {
        return _epochs[epoch];
    }

    function batchPaid(bytes32 epoch, uint256 batch) external view returns (bool) {
        return _batches[epoch].get(batch);
    }

    function roundOf(address funder, bytes32 label) public pure returns (bytes32) {
        return keccak256(abi.encode(funder, label));
    }

    function epochOf(address coordinator, bytes32 label) public pure returns (bytes32) {
        return keccak256(abi.encode(coordinator, label));
    }

    /// @notice The leaf of a batch: hashed twice, so that no inner node can pass for one.
    /// @dev keccak256(bytes.concat(keccak256(abi.encode(epoch, batch, payouts)))), but a list of
    ///      250 is copied at once instead of element by element.
    function batchLeaf(bytes32 epoch, uint256 batch, Payout[] calldata payouts)
        public
        pure
        returns (bytes32 leaf)
    {
        assembly ("memory-safe") {
            let start := mload(0x40) // beyond what is in use; nothing is kept there
            mstore(start, epoch)
            mstore(add(start, 0x20), batch)
            mstore(add(start, 0x40), 0x60) // where the list begins
            mstore(add(start, 0x60), payouts.length)
            let size := mul(payouts.length, 0x40)
            calldatacopy(add(start, 0x80), payouts.offset, size)
            mstore(0x00, keccak256(start, add(size, 0x80)))
            leaf := keccak256(0x00, 0x20)
        }
    }

    function _settled(bytes32 epoch) private view returns (Epoch storage one) {
        one = _epochs[epoch];
        if (one.state != EpochState.Settled) revert EpochMisplaced(epoch, one.state);
    }
}
