// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {VestingWallet} from "@openzeppelin/contracts/finance/VestingWallet.sol";
import {VestingWalletCliff} from "@openzeppelin/contracts/finance/VestingWalletCliff.sol";
import {BeneficiaryNeeded, CliffMode} from "./VestingTerms.sol";

/**
 * @title Vesting
 * @notice Holds an allocation and releases it evenly over time, nothing before the cliff.
 * @dev The cliff counts inside the duration or before it:
 *
 *          inside   |--cliff--|            at its end, what ran up since the start comes at once
 *                   |======duration======|
 *          before   |--cliff--|======duration======|      nothing runs up during the cliff
 *
 *      Invariants, checked in tests/ledger/contracts:
 *        1. What was released is at most what the schedule says, at every second.
 *        2. From the end on, everything is releasable, to the base unit.
 * @custom:units Seconds, block timestamps, base units.
 * @custom:trust The beneficiary can hand the wallet to another address, as with every
 *               VestingWallet, but cannot give it up to nobody. Anybody may call release; the
 *               beneficiary is paid.
 * @custom:kill  None. There is no claw-back: who grants an allocation decides before funding it.
 */
contract Vesting is VestingWalletCliff {
    CliffMode public immutable MODE;

    /// @param begin When the allocation begins, before any cliff.
    /// @param cliffSeconds How long nothing is released; in mode Inside at most the duration.
    /// @param durationSeconds How long the even release takes.
    constructor(address beneficiary, uint64 begin, uint64 cliffSeconds, uint64 durationSeconds, CliffMode mode)
        VestingWallet(beneficiary, mode == CliffMode.Before ? begin + cliffSeconds : begin, durationSeconds)
        VestingWalletCliff(mode == CliffMode.Before ? 0 : cliffSeconds)
    {
        MODE = mode;
    }

    /// @notice Refused: the tokens would be nobody's.
    function renounceOwnership() public pure override {
        revert BeneficiaryNeeded();
    }
}
