// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// Who is paid how many base units.
struct Payout {
    address recipient;
    uint256 amount;
}
