// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EscrowVault} from "./EscrowVault.sol";
import {Payout} from "./Payout.sol";

/**
 * @title Order escrow
 * @notice Holds the price of an order for access to data until it was delivered, then pays those
 *         whom the quote names. What is not delivered is refunded.
 * @dev Each order is a state machine with no way back:
 *
 *          none --draft--> draft --quote--> quoted --hold--> held --approve--> approved
 *          approved --startDelivery--> delivering --deliver, with proof--> delivered
 *          delivered --capture, by the buyer, or by anybody after 72 h--> captured
 *          held, approved, delivering --deny, fail, or expire--> refunded
 *          delivered --dispute, within 72 h--> disputed --resolve--> captured, refunded or split
 *          disputed --lapse, after 30 days without a decision--> refunded
 *
 *      Invariants, checked in tests/ledger/contracts:
 *        1. An order pays out its price, in full, once: to the payees, the buyer, or both.
 *        2. Nothing is paid to payees before a delivery proof was named.
 *        3. The payees and their shares are those of the quote that the buyer paid for.
 * @custom:units Base units; seconds; block timestamps.
 * @custom:trust The committee allows or denies. The arbiter decides only how much of a disputed
 *               price goes back to the buyer. That a delivery proof is true is judged off chain:
 *               its hash binds the provider to it.
 */
abstract contract OrderEscrow is EscrowVault {
    /// The order is not in the state that the step starts from.
    error OrderMisplaced(bytes32 order, OrderState state);
    /// The buyer has an order under this label.
    error OrderDraftedAlready(bytes32 order);
    /// The order's time is over; it can be refunded.
    error OrderExpired(bytes32 order);
    /// The order's time is not over.
    error OrderNotExpired(bytes32 order);
    /// These payouts are not those of the quote.
    error PayoutsDiffer(bytes32 order);
    /// Delivered more than 72 hours ago: too late to dispute.
    error DisputeWindowOver(bytes32 order);
    /// Delivered less than 72 hours ago: only the buyer may end the order so soon.
    error DisputeWindowOpen(bytes32 order);
    /// The arbiter may still decide.
    error ArbitrationOpen(bytes32 order);
    /// More than the price cannot go back.
    error RefundTooLarge(uint256 refund, uint256 price);

    event OrderDrafted(
        bytes32 indexed order, address indexed buyer, address indexed provider, bytes32 label
    );
    event OrderQuoted(bytes32 indexed order, uint256 price, bytes32 terms, uint64 expiry, Payout[] payouts);
    event OrderHeld(bytes32 indexed order, uint256 price);
    event OrderApproved(bytes32 indexed order, address indexed by);
    event OrderDelivering(bytes32 indexed order);
    event OrderDelivered(bytes32 indexed order, bytes32 proof);
    event OrderDisputed(bytes32 indexed order, bytes32 reason);
    event OrderCaptured(bytes32 indexed order, uint256 paid);
    event OrderRefunded(bytes32 indexed order, uint256 refunded, bytes32 reason);
    event OrderSplit(bytes32 indexed order, uint256 paid, uint256 refunded);

    enum OrderState {
        None,
        Draft,
        Quoted,
        Held,
        Approved,
        Delivering,
        Delivered,
        Disputed,
        Captured,
        Refunded,
        Split
    }

    struct Order {
        address buyer;
        uint64 expiry;
        OrderState state;
        address provider;
        uint64 movedAt; // when it was delivered, or disputed
        uint256 price;
        bytes32 payouts; // hash of the quoted list
        bytes32 proof; // commitment to what shows delivery
    }

    bytes32 public constant COMMITTEE_ROLE = keccak256("COMMITTEE");
    bytes32 public constant ARBITER_ROLE = keccak256("ARBITER");
    uint64 public constant DISPUTE_WINDOW = 72 hours;
    uint64 public constant ARBITRATION_MAX = 30 days;
    uint256 public constant PAYEES_MAX = 16;

    mapping(bytes32 order => Order) private _orders;

    /// @notice Begin an order. Its id holds the buyer, so nobody can take another's label.
    /// @param label The off-chain order's id, hashed.
    function draft(bytes32 label, address provider) external returns (bytes32 order) {
        order = orderOf(msg.sender, label);
        if (_orders[order].state != OrderState.None) revert OrderDraftedAlready(order);
        _orders[order].buyer = msg.sender;
        _orders[order].provider = provider;
        _orders[order].state = OrderState.Draft;
        emit OrderDrafted(order, msg.sender, provider, label);
    }

    /// @notice Name the price and who gets which part of it, once; the buyer accepts by paying.
    /// @param payouts Together the price: provider, fees.
    /// @param terms Commitment to the terms of use, off chain.
    /// @param expiry When an order not delivered can be refunded.
    function quote(bytes32 order, Payout[] calldata payouts, bytes32 terms, uint64 expiry) external {
        Order storage one = _at(order, OrderState.Draft);
        _checkParty(one.provider);
        _checkTime(expiry);
        uint256 price = _checked(payouts, PAYEES_MAX);
        one.state = OrderState.Quoted;
        one.expiry = expiry;
        one.price = price;
        one.payouts = keccak256(abi.encode(payouts));
        emit OrderQuoted(order, price, terms, expiry, payouts);
    }

    /// @notice Accept the quote: the price moves from the buyer into escrow.
    function hold(bytes32 order) external nonReentrant {
        Order storage one = _at(order, OrderState.Quoted);
        _checkParty(one.buyer);
        _checkRunning(order, one);
        one.state = OrderState.Held;
        emit OrderHeld(order, one.price);
        _take(msg.sender, one.price);
    }

    /// @notice The committee allows the use.
    function approve(bytes32 order) external onlyRole(COMMITTEE_ROLE) {
        Order storage one = _at(order, OrderState.Held);
        _checkRunning(order, one);
        one.state = OrderState.Approved;
        emit OrderApproved(order, msg.sender);
    }

    /// @notice The committee refuses the use, and the buyer gets the price back.
    function deny(bytes32 order, bytes32 reason) external onlyRole(COMMITTEE_ROLE) nonReentrant {
        _refund(order, _at(order, OrderState.Held), reason);
    }

    /// @notice The provider begins to deliver.
    function startDelivery(bytes32 order) external {
        Order storage one = _at(order, OrderState.Approved);
        _checkParty(one.provider);
        _checkRunning(order, one);
        one.state = OrderState.Delivering;
        emit OrderDelivering(order);
    }

    /// @notice The provider has delivered.
    /// @param proof Commitment to what shows it, such as the head of the log that recorded it.
    function deliver(bytes32 order, bytes32 proof) external {
        Order storage one = _at(order, OrderState.Delivering);
        _checkParty(one.provider);
        _checkRunning(order, one);
        if (proof == 0) revert EvidenceMissing();
        one.state = OrderState.Delivered;
        one.movedAt = uint64(block.timestamp);
        one.proof = proof;
        emit OrderDelivered(order, proof);
    }

    /// @notice The provider cannot deliver, and the buyer gets the price back.
    function fail(bytes32 order, bytes32 reason) external nonReentrant {
        Order storage one = _undelivered(order);
        _checkParty(one.provider);
        _refund(order, one, reason);
    }

    /// @notice Refund an order that was not delivered in time. Anybody may.
    function expire(bytes32 order) external nonReentrant {
        Order storage one = _undelivered(order);
        if (block.timestamp < one.expiry) revert OrderNotExpired(order);
        _refund(order, one, "expired");
    }

    /// @notice Pay a delivered order: the buyer at once, anybody after the dispute window.
    /// @param payouts Those of the quote.
    function capture(bytes32 order, Payout[] calldata payouts) external nonReentrant {
        Order storage one = _at(order, OrderState.Delivered);
        if (msg.sender != one.buyer && block.timestamp <= one.movedAt + DISPUTE_WINDOW) {
            revert DisputeWindowOpen(order);
        }
        _pay(order, one, payouts, 0);
    }

    /// @notice The buyer disputes a delivery.
    function dispute(bytes32 order, bytes32 reason) external {
        Order storage one = _at(order, OrderState.Delivered);
        _checkParty(one.buyer);
        if (block.timestamp > one.movedAt + DISPUTE_WINDOW) revert DisputeWindowOver(order);
        one.state = OrderState.Disputed;
        one.movedAt = uint64(block.timestamp);
        emit OrderDisputed(order, reason);
    }

    /// @notice Decide a dispute.
    /// @param refund What goes back to the buyer: nothing captures, the price refunds, else it is
    ///        split, and each payee gets the remaining part of her share, rounded down; the units
    ///        left over go to the buyer.
    /// @param payouts Those of the quote.
    function resolve(bytes32 order, uint256 refund, Payout[] calldata payouts)
        external
        onlyRole(ARBITER_ROLE)
        nonReentrant
    {
        Order storage one = _at(order, OrderState.Disputed);
        if (refund > one.price) revert RefundTooLarge(refund, one.price);
        if (refund == one.price) _refund(order, one, "resolved");
        else _pay(order, one, payouts, refund);
    }

    /// @notice Refund a dispute that nobody decided. Anybody may.
    function lapse(bytes32 order) external nonReentrant {
        Order storage one = _at(order, OrderState.Disputed);
        if (block.timestamp <= one.movedAt + ARBITRATION_MAX) revert ArbitrationOpen(order);
        _refund(order, one, "lapsed");
    }

    function orderAt(bytes32 order) external view returns (Order memory) {
        return _orders[order];
    }

    function orderOf(address buyer, bytes32 label) public pure returns (bytes32) {
        return keccak256(abi.encode(buyer, label));
    }

    function _refund(bytes32 order, Order storage one, bytes32 reason) private {
        one.state = OrderState.Refunded;
        emit OrderRefunded(order, one.price, reason);
        _give(one.buyer, one.price);
    }

    function _pay(bytes32 order, Order storage one, Payout[] calldata payouts, uint256 refund) private {
        if (keccak256(abi.encode(payouts)) != one.payouts) revert PayoutsDiffer(order);
        uint256 price = one.price;
        uint256 left = price;
        one.state = refund == 0 ? OrderState.Captured : OrderState.Split;
        // Every amount is settled before the first one moves, and so is the event.
        uint256[] memory amounts = new uint256[](payouts.length);
        for (uint256 i = 0; i < payouts.length; ++i) {
            amounts[i] = payouts[i].amount * (price - refund) / price;
            left -= amounts[i];
        }
        if (refund == 0) emit OrderCaptured(order, price);
        else emit OrderSplit(order, price - left, left);
        for (uint256 i = 0; i < payouts.length; ++i) {
            _give(payouts[i].recipient, amounts[i]);
        }
        _give(one.buyer, left);
    }

    function _at(bytes32 order, OrderState state) private view returns (Order storage one) {
        one = _orders[order];
        if (one.state != state) revert OrderMisplaced(order, one.state);
    }

    function _undelivered(bytes32 order) private view returns (Order storage one) {
        one = _orders[order];
        if (one.state < OrderState.Held || one.state > OrderState.Delivering) {
            revert OrderMisplaced(order, one.state);
        }
    }

    function _checkParty(address party) private view {
        if (msg.sender != party) revert NotTheParty(msg.sender);
    }

    function _checkRunning(bytes32 order, Order storage one) private view {
        if (block.timestamp >= one.expiry) revert OrderExpired(order);
    }
}
