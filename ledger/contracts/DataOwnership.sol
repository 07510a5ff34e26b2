// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {ERC2981} from "@openzeppelin/contracts/token/common/ERC2981.sol";
import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";

/**
 * @title Data ownership
 * @notice A token for each data set that someone owns the right to offer. It holds a commitment
 *         to the data set and one to its terms of use, nothing else: no name, no address of a
 *         file, no text.
 * @dev A token's id is its commitment, a salted hash made off chain. Who destroys the salt has
 *      erased what it stands for.
 *
 *      Invariants, checked in tests/ledger/contracts:
 *        1. A commitment is registered once, also after its token was burned.
 *        2. The share of resales (ERC-2981) is at most ROYALTY_MAX, and fixed with the token.
 * @custom:units Royalties in hundredths of a percent of the price.
 * @custom:trust The registrar checks off chain who may own what. The owner alone changes terms
 *               and burns. Markets pay royalties because they choose to: ERC-2981 only tells.
 * @custom:kill  Take the registrar's role away. Not upgradable: a right that can be rewritten is
 *               not owned.
 */
contract DataOwnership is ERC721, ERC2981, AccessControl {
    /// A commitment or terms of nothing.
    error CommitmentMissing();
    /// The commitment was registered before.
    error RegisteredAlready(bytes32 commitment);
    /// More than ROYALTY_MAX.
    error RoyaltyTooHigh(uint96 royalty);
    /// The caller neither owns the token nor may act for its owner.
    error NotTheOwner(address caller);

    event Registered(
        bytes32 indexed commitment, address indexed owner, bytes32 terms, address recipient, uint96 royalty
    );
    event TermsChanged(bytes32 indexed commitment, bytes32 terms);
    event Withdrawn(bytes32 indexed commitment);

    bytes32 public constant REGISTRAR_ROLE = keccak256("REGISTRAR");
    uint96 public constant ROYALTY_MAX = 1_000;

    mapping(bytes32 commitment => bool) public registered;
    mapping(bytes32 commitment => bytes32) private _terms;

    constructor(string memory name_, string memory symbol_, address admin) ERC721(name_, symbol_) {
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
    }

    /// @notice Register a data set to its owner.
    /// @param terms Commitment to the terms of use.
    /// @param recipient Who gets the share of resales.
    function register(address owner, bytes32 commitment, bytes32 terms, address recipient, uint96 royalty)
        external
        onlyRole(REGISTRAR_ROLE)
    {
        if (commitment == 0 || terms == 0) revert CommitmentMissing();
        if (registered[commitment]) revert RegisteredAlready(commitment);
        if (royalty > ROYALTY_MAX) revert RoyaltyTooHigh(royalty);
        registered[commitment] = true;
        _terms[commitment] = terms;
        _setTokenRoyalty(uint256(commitment), recipient, royalty);
        emit Registered(commitment, owner, terms, recipient, royalty);
        // Not _safeMint: it would hand control to the owner's contract in the middle.
        _mint(owner, uint256(commitment));
    }

    /// @notice Replace the terms that later orders are made under.
    function changeTerms(bytes32 commitment, bytes32 terms) external {
        _checkOwner(commitment);
        if (terms == 0) revert CommitmentMissing();
        _terms[commitment] = terms;
        emit TermsChanged(commitment, terms);
    }

    /// @notice Burn the token; the data set is not on offer any more.
    function withdraw(bytes32 commitment) external {
        _checkOwner(commitment);
        delete _terms[commitment];
        _resetTokenRoyalty(uint256(commitment));
        emit Withdrawn(commitment);
        _burn(uint256(commitment));
    }

    /// @notice The terms of a token that exists.
    function termsOf(bytes32 commitment) external view returns (bytes32) {
        _requireOwned(uint256(commitment));
        return _terms[commitment];
    }

    function supportsInterface(bytes4 id) public view override(ERC721, ERC2981, AccessControl) returns (bool) {
        return super.supportsInterface(id);
    }

    function _checkOwner(bytes32 commitment) private view {
        address owner = _requireOwned(uint256(commitment));
        if (!_isAuthorized(owner, msg.sender, uint256(commitment))) revert NotTheOwner(msg.sender);
    }
}
