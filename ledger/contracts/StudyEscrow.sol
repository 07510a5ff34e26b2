// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {EscrowVault} from "./EscrowVault.sol";
import {OrderEscrow} from "./OrderEscrow.sol";
import {RoundEscrow} from "./RoundEscrow.sol";

/**
 * @title Study escrow
 * @notice Holds the BTT put up for orders and training rounds, until each ends. The states are in
 *         OrderEscrow.sol and RoundEscrow.sol.
 * @dev Invariants, checked in tests/ledger/contracts:
 *        1. held = the sum of what unfinished orders, rounds and epochs hold, and the contract's
 *           balance is at least that.
 *        2. Each order, round and epoch ends once.
 * @custom:units Base units; seconds; block timestamps.
 * @custom:trust The admin appoints committee and arbiter, and should be a timelock. No role moves
 *               money to an address that the parties did not name.
 * @custom:kill  There is no pause: every path ends in a refund that anybody can call once its time
 *               is over, and a pause would only keep parties from their money. Not upgradable:
 *               the rules someone put money up under stay the rules it leaves by.
 *               Tokens sent here without a call belong to nobody and stay.
 */
contract StudyEscrow is OrderEscrow, RoundEscrow {
    constructor(IERC20 token, address admin) EscrowVault(token) {
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
    }
}
