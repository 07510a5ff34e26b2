// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC20Votes} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Votes.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";

/**
 * @title BTT
 * @notice The token: 210,000,000 BTT, all of them minted when the contract is deployed, to those
 *         whom the allocation names, and never again. Holders can burn their own.
 * @dev Invariants, checked in tests/ledger/contracts:
 *        1. totalSupply + burned = SUPPLY, always; burned never falls.
 *        2. The balances sum to totalSupply.
 *      Votes count from when they are delegated, by block timestamp (ERC-6372).
 * @custom:units Base units; 1 BTT = 10**18.
 * @custom:trust Nobody has a role here: no minter, no freezer, no pause. A token that can be
 *               stopped is not money. Not upgradable, for the same reason: who can replace the
 *               code can replace the balances.
 * @custom:kill  None.
 */
contract BTT is ERC20, ERC20Burnable, ERC20Permit, ERC20Votes {
    /// Holders and amounts are not two lists of one length, from 1 to HOLDERS_MAX.
    error AllocationMalformed(uint256 holders, uint256 amounts);
    /// The amounts sum to another total than the supply.
    error AllocationUnbalanced(uint256 total);

    uint256 public constant SUPPLY = 210_000_000 * 10 ** 18;
    uint256 public constant HOLDERS_MAX = 64;

    /// @param holders Who receives the supply, such as vesting wallets.
    /// @param amounts What each receives; together exactly SUPPLY.
    constructor(string memory name_, string memory symbol_, address[] memory holders, uint256[] memory amounts)
        ERC20(name_, symbol_)
        ERC20Permit(name_)
    {
        if (holders.length == 0 || holders.length > HOLDERS_MAX || holders.length != amounts.length) {
            revert AllocationMalformed(holders.length, amounts.length);
        }
        for (uint256 i = 0; i < holders.length; ++i) {
            _mint(holders[i], amounts[i]);
        }
        if (totalSupply() != SUPPLY) revert AllocationUnbalanced(totalSupply());
    }

    /// @notice How much was burned since the beginning.
    function burned() external view returns (uint256) {
        return SUPPLY - totalSupply();
    }

    function clock() public view override returns (uint48) {
        return uint48(block.timestamp);
    }

    function CLOCK_MODE() public pure override returns (string memory) {
        return "mode=timestamp";
    }

    function nonces(address owner) public view override(ERC20Permit, Nonces) returns (uint256) {
        return super.nonces(owner);
    }

    function _update(address from, address to, uint256 value) internal override(ERC20, ERC20Votes) {
        super._update(from, to, value);
    }
}
