// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {VestingWallet} from "@openzeppelin/contracts/finance/VestingWallet.sol";
import {BeneficiaryNeeded} from "./VestingTerms.sol";

/**
 * @title Milestone vesting
 * @notice Holds an allocation in tranches and releases each once its milestone was found reached,
 *         and not before its date.
 * @dev Each tranche: locked --reach, from its date on--> reached. No way back.
 *
 *      Invariants, checked in tests/ledger/contracts:
 *        1. What was released is at most the reached tranches' part of the allocation.
 *        2. A tranche is reached once, and not before its date.
 * @custom:units Tranches are weights; with the amounts as weights, parts are exact base units.
 * @custom:trust The judge decides that a milestone was reached, and can do nothing else. A judge
 *               who never decides locks the tranche: give the role to governance, not a person.
 * @custom:kill  None.
 */
contract MilestoneVesting is VestingWallet {
    /// Weights and dates are not two lists of one length, from 1 to TRANCHES_MAX, or a weight is 0.
    error TranchesMalformed();
    /// The caller does not judge milestones.
    error NotTheJudge(address caller);
    /// There is no such tranche.
    error UnknownTranche(uint256 tranche);
    /// The tranche's date has not come.
    error TrancheTooEarly(uint256 tranche, uint64 earliest);
    /// The milestone was found reached before.
    error ReachedAlready(uint256 tranche);
    /// A decision names its evidence.
    error EvidenceMissing();

    event MilestoneReached(uint256 indexed tranche, bytes32 evidence);

    struct Tranche {
        uint128 weight;
        uint64 earliest;
        uint64 reachedAt; // 0: locked
    }

    uint256 public constant TRANCHES_MAX = 64;
    address public immutable JUDGE;
    uint256 public immutable WEIGHTS;

    Tranche[] private _tranches;

    constructor(address beneficiary, address judge, uint128[] memory weights, uint64[] memory earliest)
        VestingWallet(beneficiary, uint64(block.timestamp), 0)
    {
        if (weights.length == 0 || weights.length > TRANCHES_MAX || weights.length != earliest.length) {
            revert TranchesMalformed();
        }
        uint256 sum;
        for (uint256 i = 0; i < weights.length; ++i) {
            if (weights[i] == 0) revert TranchesMalformed();
            sum += weights[i];
            _tranches.push(Tranche(weights[i], earliest[i], 0));
        }
        JUDGE = judge;
        WEIGHTS = sum;
    }

    /// @notice State that the milestone of a tranche was reached.
    /// @param evidence A commitment to what shows it.
    function reach(uint256 tranche, bytes32 evidence) external {
        if (msg.sender != JUDGE) revert NotTheJudge(msg.sender);
        if (evidence == 0) revert EvidenceMissing();
        if (tranche >= _tranches.length) revert UnknownTranche(tranche);
        Tranche storage one = _tranches[tranche];
        if (one.reachedAt != 0) revert ReachedAlready(tranche);
        if (block.timestamp < one.earliest) revert TrancheTooEarly(tranche, one.earliest);
        one.reachedAt = uint64(block.timestamp);
        emit MilestoneReached(tranche, evidence);
    }

    function tranches() external view returns (Tranche[] memory) {
        return _tranches;
    }

    /// @notice Refused: the tokens would be nobody's.
    function renounceOwnership() public pure override {
        revert BeneficiaryNeeded();
    }

    function _vestingSchedule(uint256 totalAllocation, uint64 timestamp) internal view override returns (uint256) {
        uint256 reached;
        for (uint256 i = 0; i < _tranches.length; ++i) {
            Tranche storage one = _tranches[i];
            if (one.reachedAt != 0 && one.reachedAt <= timestamp) reached += one.weight;
        }
        return totalAllocation * reached / WEIGHTS;
    }
}
