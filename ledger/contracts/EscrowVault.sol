// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Payout} from "./Payout.sol";

/**
 * @title Escrow vault
 * @notice What orders and rounds share: the token, and the sum of all that is held for them.
 * @dev held changes with every base unit that comes or goes, before the token moves.
 */
abstract contract EscrowVault is AccessControl, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// The payout at this position is of nothing, to nobody, or to the escrow itself.
    error PayoutMalformed(uint256 position);
    /// More payouts, or rounds, than one transaction may hold, or none.
    error CountOutOfRange(uint256 count, uint256 max);
    /// The caller is not the party whose step this is.
    error NotTheParty(address caller);
    /// A time lies in the past, or further away than anything may take.
    error TimeOutOfRange(uint64 time);
    /// A step must name its evidence.
    error EvidenceMissing();

    uint64 public constant DURATION_MAX = 1096 days;
    IERC20 public immutable TOKEN;

    /// What all orders, rounds and epochs hold together.
    uint256 public held;

    constructor(IERC20 token) {
        TOKEN = token;
    }

    function _take(address from, uint256 amount) internal {
        held += amount;
        TOKEN.safeTransferFrom(from, address(this), amount);
    }

    function _give(address to, uint256 amount) internal {
        if (amount == 0) return;
        held -= amount;
        TOKEN.safeTransfer(to, amount);
    }

    /// @param total What the payouts sum to.
    function _giveAll(Payout[] calldata payouts, uint256 total) internal {
        held -= total;
        for (uint256 i = 0; i < payouts.length; ++i) {
            TOKEN.safeTransfer(payouts[i].recipient, payouts[i].amount);
        }
    }

    /// @return total What the payouts sum to.
    function _checked(Payout[] calldata payouts, uint256 max) internal view returns (uint256 total) {
        if (payouts.length == 0 || payouts.length > max) revert CountOutOfRange(payouts.length, max);
        for (uint256 i = 0; i < payouts.length; ++i) {
            Payout calldata one = payouts[i];
            if (one.amount == 0 || one.recipient == address(0) || one.recipient == address(this)) {
                revert PayoutMalformed(i);
            }
            total += one.amount;
        }
    }

    function _checkTime(uint64 time) internal view {
        if (time <= block.timestamp || time > block.timestamp + DURATION_MAX) revert TimeOutOfRange(time);
    }
}
