// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";

/**
 * @title Audit anchor
 * @notice Keeps the heads of audit logs, so that a log's keeper cannot show different histories
 *         to different people, or forget one.
 * @dev Heads are only added, each larger than the last of its log and naming the size of that one,
 *      so that a writer who missed a head is refused instead of writing over it.
 *
 *      Invariants, checked in tests/ledger/contracts:
 *        1. A head never changes; a log's sizes rise strictly.
 * @custom:units Sizes are numbers of entries; roots are those of RFC 6962.
 * @custom:trust An operator can anchor a head that is no continuation of the last. Heads alone
 *               cannot show that; whoever holds two of them asks for a consistency proof
 *               (storage/merkle.py), and its absence convicts.
 * @custom:kill  Take the role away. Not upgradable: evidence that can be replaced is none.
 */
contract AuditAnchor is AccessControl {
    /// The head is not larger than the last one.
    error SizeNotLarger(bytes32 log, uint64 size, uint64 last);
    /// The log's last head has another size than the caller believes.
    error LastHeadDiffers(bytes32 log, uint64 last);
    /// A head without a root.
    error RootMissing();
    /// No head of this size was anchored.
    error UnknownHead(bytes32 log, uint64 size);

    event HeadAnchored(
        bytes32 indexed log, uint64 indexed size, bytes32 root, uint64 previous, address indexed by
    );

    struct Last {
        uint64 size;
        uint64 anchoredAt;
        uint64 heads;
    }

    bytes32 public constant OPERATOR_ROLE = keccak256("OPERATOR");

    mapping(bytes32 log => Last) private _last;
    mapping(bytes32 log => mapping(uint64 size => bytes32)) private _roots;

    constructor(address admin) {
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
    }

    /// @notice Add a head.
    /// @param log The log's id, hashed.
    /// @param previous The size of the log's last head; 0 before the first.
    function anchor(bytes32 log, uint64 previous, uint64 size, bytes32 root) external onlyRole(OPERATOR_ROLE) {
        Last storage last = _last[log];
        if (last.size != previous) revert LastHeadDiffers(log, last.size);
        if (size <= previous) revert SizeNotLarger(log, size, previous);
        if (root == 0) revert RootMissing();
        last.size = size;
        last.anchoredAt = uint64(block.timestamp);
        ++last.heads;
        _roots[log][size] = root;
        emit HeadAnchored(log, size, root, previous, msg.sender);
    }

    /// @notice The root of the head of this size.
    function rootAt(bytes32 log, uint64 size) external view returns (bytes32 root) {
        root = _roots[log][size];
        if (root == 0) revert UnknownHead(log, size);
    }

    /// @notice The last head of a log: its size, when it was anchored, how many there are.
    function lastOf(bytes32 log) external view returns (Last memory) {
        return _last[log];
    }
}
