// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// Whether the cliff is part of the duration or comes before it.
enum CliffMode {
    Inside,
    Before
}

/// Without a beneficiary a vesting wallet would hold its tokens for ever.
error BeneficiaryNeeded();
