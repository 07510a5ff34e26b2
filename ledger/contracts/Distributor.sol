// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";
import {ISemaphoreVerifier} from "./ISemaphoreVerifier.sol";
import {Payout} from "./Payout.sol";

/**
 * @title Distributor
 * @notice Pays many: a batch of up to 250 addresses at once, or any number of nameless payees by
 *         one Merkle root, from which each claims her own.
 * @dev Batches: unknown --payBatch--> paid, once by its id.
 *
 *      Roots: each epoch's root replaces the last. A leaf is (nullifier, cumulative amount): what
 *      the nullifier has earned since the beginning, so a claim pays the difference to what it was
 *      paid before, and missing an epoch loses nothing.
 *
 *      A nullifier is Poseidon(scope, secret) of Semaphore. The claim's Groth16 proof shows that
 *      its maker knows the secret and binds the recipient, by the message of consent/claims.py,
 *      number_for("bithive-claim-1", recipient), the recipient as EIP-55 writes it: what is proven
 *      for a claim off chain is proven here. Whoever carries the claim to the chain can redirect
 *      nothing and learns no name. Group and scope are the claimer's: the leaf names the nullifier
 *      that is owed, and under which group or scope its secret is shown adds nothing to that. She
 *      should use the group she was paid in, for a group of one names her.
 *
 *      Invariants, checked in tests/ledger/contracts:
 *        1. Claims pay at most total, the sum of the tree as its settler funded it.
 *        2. A nullifier is paid at most the largest cumulative amount in a settled tree.
 *        3. The balance is at least total - claimed. A batch passes through and leaves no trace
 *           in either.
 * @custom:units Base units.
 * @custom:trust The settler decides who is owed what, and must fund it in the same transaction.
 * @custom:kill  The pauser can stop claims (not batches) until a wrong root is replaced, for paid
 *               claims cannot be called back. Not upgradable: replace it by settling to another.
 *               Money of unclaimed leaves stays for them.
 */
contract Distributor is AccessControl, Pausable, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// The batch was paid.
    error BatchPaidAlready(bytes32 batch);
    /// No payouts, or more than BATCH_MAX.
    error CountOutOfRange(uint256 count, uint256 max);
    /// The payout at this position is of nothing, to nobody, or to the distributor itself.
    error PayoutMalformed(uint256 position);
    /// Epochs are settled in order, by ones.
    error EpochMisplaced(uint64 epoch, uint64 last);
    /// The total of a tree includes all earlier ones, so it never falls; it stays below 2**96.
    error TotalOutOfRange(uint256 total, uint256 last);
    /// A root of nothing.
    error RootMissing();
    /// The leaf is not under the present root.
    error LeafUnproven(uint256 nullifier);
    /// The nullifier was paid its cumulative amount, or more, before.
    error ClaimedAlready(uint256 nullifier, uint256 paid);
    /// The tree owes more than its settler funded.
    error RootOverspent(uint256 amount, uint256 left);
    /// The recipient is nobody, or the distributor itself.
    error RecipientMalformed(address recipient);

    event BatchPaid(bytes32 indexed batch, address indexed by, uint256 count, uint256 amount);
    event EpochSettled(uint64 indexed epoch, bytes32 root, uint256 total, uint256 added);
    event Claimed(uint256 indexed nullifier, address indexed recipient, uint64 indexed epoch, uint256 amount);

    struct Claim {
        uint256 nullifier;
        uint256 cumulative;
        address recipient;
        uint256 group; // root of the Semaphore group
        uint256 scope;
        uint256[8] proof;
    }

    bytes32 public constant SETTLER_ROLE = keccak256("SETTLER");
    bytes32 public constant PAUSER_ROLE = keccak256("PAUSER");
    uint256 public constant BATCH_MAX = 250;
    IERC20 public immutable TOKEN;
    ISemaphoreVerifier public immutable VERIFIER;

    bytes32 public root;
    /// The present root's epoch, and what all leaves under it sum to.
    uint64 public epoch;
    uint96 public total;
    /// What claims have paid.
    uint96 public claimed;
    mapping(bytes32 batch => bool) public batchPaid;
    mapping(uint256 nullifier => uint256) public claimedBy;

    constructor(IERC20 token, ISemaphoreVerifier verifier, address admin) {
        TOKEN = token;
        VERIFIER = verifier;
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
    }

    /// @notice Pay up to 250 recipients from the caller's balance. A repeated call fails, so a
    ///         settler who lost a receipt may send it again.
    /// @param batch Its id, for ever.
    function payBatch(bytes32 batch, Payout[] calldata payouts) external onlyRole(SETTLER_ROLE) nonReentrant {
        if (batchPaid[batch]) revert BatchPaidAlready(batch);
        uint256 count = payouts.length;
        if (count == 0 || count > BATCH_MAX) revert CountOutOfRange(count, BATCH_MAX);
        uint256 amount;
        for (uint256 i = 0; i < count; ++i) {
            Payout calldata one = payouts[i];
            if (one.amount == 0 || one.recipient == address(0) || one.recipient == address(this)) {
                revert PayoutMalformed(i);
            }
            amount += one.amount;
        }
        batchPaid[batch] = true;
        emit BatchPaid(batch, msg.sender, count, amount);
        TOKEN.safeTransferFrom(msg.sender, address(this), amount);
        for (uint256 i = 0; i < count; ++i) {
            Payout calldata one = payouts[i];
            TOKEN.safeTransfer(one.recipient, one.amount);
        }
    }

    /// @notice Replace the root by the next epoch's, and fund what it adds.
    /// @param epoch_ The last one's, plus one.
    /// @param root_ Over all leaves, see leafOf; pairs are hashed sorted, by Keccak-256.
    /// @param total_ What the leaves sum to.
    function settle(uint64 epoch_, bytes32 root_, uint256 total_) external onlyRole(SETTLER_ROLE) nonReentrant {
        if (epoch_ != epoch + 1) revert EpochMisplaced(epoch_, epoch);
        if (root_ == 0) revert RootMissing();
        uint256 last = total;
        if (total_ < last || total_ > type(uint96).max) revert TotalOutOfRange(total_, last);
        epoch = epoch_;
        root = root_;
        total = uint96(total_);
        emit EpochSettled(epoch_, root_, total_, total_ - last);
        if (total_ > last) TOKEN.safeTransferFrom(msg.sender, address(this), total_ - last);
    }

    /// @notice Pay a nullifier what it is owed, to the recipient its proof names. Anybody may.
    function claim(Claim calldata one, bytes32[] calldata path) external whenNotPaused nonReentrant {
        if (one.recipient == address(0) || one.recipient == address(this)) {
            revert RecipientMalformed(one.recipient);
        }
        if (!MerkleProof.verifyCalldata(path, root, leafOf(one.nullifier, one.cumulative))) {
            revert LeafUnproven(one.nullifier);
        }
        uint256 before = claimedBy[one.nullifier];
        if (one.cumulative <= before) revert ClaimedAlready(one.nullifier, before);
        uint256 amount = one.cumulative - before;
        uint256 left = total - claimed;
        if (amount > left) revert RootOverspent(amount, left);
        VERIFIER.verify(
            [one.group, one.nullifier, _field(messageOf(one.recipient)), _field(one.scope)], one.proof
        );
        claimedBy[one.nullifier] = one.cumulative;
        claimed += uint96(amount);
        emit Claimed(one.nullifier, one.recipient, epoch, amount);
        TOKEN.safeTransfer(one.recipient, amount);
    }

    function pause() external onlyRole(PAUSER_ROLE) {
        _pause();
    }

    function unpause() external onlyRole(PAUSER_ROLE) {
        _unpause();
    }

    /// @notice The leaf of a nullifier: hashed twice, so that no inner node can pass for one.
    function leafOf(uint256 nullifier, uint256 cumulative) public pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(nullifier, cumulative))));
    }

    /// @notice What a claim's proof says: consent/claims.py, claim_message.
    function messageOf(address recipient) public pure returns (uint256) {
        return uint256(
            sha256(bytes.concat('["bithive-claim-1","', bytes(Strings.toChecksumHexString(recipient)), '"]'))
        );
    }

    /// Semaphore's way of a number into the field.
    function _field(uint256 number) private pure returns (uint256) {
        return uint256(keccak256(abi.encode(number))) >> 8;
    }
}
