// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

/**
 * @title Stake manager
 * @notice Holds the BTT that parties answer with for their conduct. Stake can leave after 21 days
 *         of notice, during which it can still be slashed.
 * @dev Each base unit of a party goes one way:
 *
 *          none --bond--> bonded --unbond--> unbonding --withdraw, after 21 days--> free
 *                         bonded, or unbonding for less than 21 days --slash--> slashed
 *
 *      Slashed stake is halved: one half is burned, the other, with an odd unit, goes to victims.
 *      Unbonding more while some is unbonding starts the 21 days of all of it anew.
 *
 *      Invariants, checked in tests/ledger/contracts:
 *        1. staked = the sum of all bonded and unbonding stake, and the balance is at least that.
 *        2. What came in = what is staked + withdrawn + burned + sent to victims.
 * @custom:units Base units; seconds; block timestamps.
 * @custom:trust The slasher can take any party's stake but cannot gain by it: half burns, half
 *               goes to the fixed pool of victims. Give the role to a timelock, whose delay is the
 *               time to appeal, 72 h.
 * @custom:kill  There is no pause: it would hold stake beyond its 21 days. To stop slashing, take
 *               the role away. Not upgradable: who bonds must know what can become of the stake.
 */
contract StakeManager is AccessControl, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// An amount of nothing, or above what there is.
    error AmountOutOfRange(uint256 amount, uint256 max);
    /// Nothing is unbonding.
    error NothingUnbonding(address party);
    /// The 21 days are not over.
    error UnbondingStill(address party, uint64 freeAt);
    /// A slash names its evidence.
    error EvidenceMissing();
    /// The pool for victims is nobody, or the contract itself.
    error VictimsMalformed();

    event Bonded(address indexed party, uint256 amount);
    event Unbonding(address indexed party, uint256 amount, uint64 freeAt);
    event Withdrawn(address indexed party, uint256 amount);
    event Slashed(
        address indexed party, uint256 amount, uint256 burned, uint256 toVictims, bytes32 evidence
    );

    enum StakeState {
        None,
        Bonded,
        Unbonding,
        Free
    }

    struct Stake {
        uint128 bonded;
        uint128 unbonding;
        uint64 freeAt;
    }

    bytes32 public constant SLASHER_ROLE = keccak256("SLASHER");
    uint64 public constant UNBONDING_TIME = 21 days;
    ERC20Burnable public immutable TOKEN;
    address public immutable VICTIMS;

    /// All bonded and unbonding stake.
    uint256 public staked;
    mapping(address party => Stake) private _stakes;

    constructor(ERC20Burnable token, address victims, address admin) {
        if (victims == address(0) || victims == address(this)) revert VictimsMalformed();
        TOKEN = token;
        VICTIMS = victims;
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
    }

    /// @notice Add to the caller's bonded stake.
    function bond(uint256 amount) external nonReentrant {
        if (amount == 0 || amount > type(uint96).max) revert AmountOutOfRange(amount, type(uint96).max);
        _stakes[msg.sender].bonded += uint128(amount);
        staked += amount;
        emit Bonded(msg.sender, amount);
        IERC20(TOKEN).safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @notice Give notice for part of the caller's bonded stake.
    function unbond(uint256 amount) external {
        Stake storage one = _stakes[msg.sender];
        if (amount == 0 || amount > one.bonded) revert AmountOutOfRange(amount, one.bonded);
        one.bonded -= uint128(amount);
        one.unbonding += uint128(amount);
        one.freeAt = uint64(block.timestamp) + UNBONDING_TIME;
        emit Unbonding(msg.sender, amount, one.freeAt);
    }

    /// @notice Take out what was unbonding and is free.
    function withdraw() external nonReentrant {
        Stake storage one = _stakes[msg.sender];
        uint256 amount = one.unbonding;
        if (amount == 0) revert NothingUnbonding(msg.sender);
        if (block.timestamp < one.freeAt) revert UnbondingStill(msg.sender, one.freeAt);
        one.unbonding = 0;
        staked -= amount;
        emit Withdrawn(msg.sender, amount);
        IERC20(TOKEN).safeTransfer(msg.sender, amount);
    }

    /// @notice Take stake for misconduct: what is bonded first, then what is unbonding.
    /// @param evidence Commitment to what shows it.
    function slash(address party, uint256 amount, bytes32 evidence)
        external
        onlyRole(SLASHER_ROLE)
        nonReentrant
    {
        uint256 max = slashable(party);
        if (amount == 0 || amount > max) revert AmountOutOfRange(amount, max);
        if (evidence == 0) revert EvidenceMissing();
        Stake storage one = _stakes[party];
        uint128 fromBonded = amount < one.bonded ? uint128(amount) : one.bonded;
        one.bonded -= fromBonded;
        one.unbonding -= uint128(amount) - fromBonded;
        staked -= amount;
        uint256 burned = amount / 2;
        emit Slashed(party, amount, burned, amount - burned, evidence);
        if (burned > 0) TOKEN.burn(burned);
        IERC20(TOKEN).safeTransfer(VICTIMS, amount - burned);
    }

    /// @notice What of a party's stake can be slashed now.
    function slashable(address party) public view returns (uint256) {
        Stake storage one = _stakes[party];
        return one.bonded + (block.timestamp < one.freeAt ? one.unbonding : 0);
    }

    function stakeOf(address party) external view returns (Stake memory) {
        return _stakes[party];
    }

    /// @notice The state of a party's stake: that of its last part on the way out.
    function stateOf(address party) external view returns (StakeState) {
        Stake storage one = _stakes[party];
        if (one.unbonding > 0) {
            return block.timestamp < one.freeAt ? StakeState.Unbonding : StakeState.Free;
        }
        return one.bonded > 0 ? StakeState.Bonded : StakeState.None;
    }
}
