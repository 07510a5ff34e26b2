"""A data set has one token, its owner decides about it, and it says nothing but commitments."""

import pytest

from tests.ledger.contracts.machine import NOBODY, address, hexed, reverts

OWNER, REGISTRAR, ADMIN = address("owner"), address("registrar"), address("admin")
BUYER, STRANGER, PAYEE = address("buyer"), address("stranger"), address("payee")
COMMITMENT, TERMS = b"c" * 32, b"t" * 32
TOKEN = int.from_bytes(COMMITMENT, "big")


@pytest.fixture
def data(machine):
    data = machine.deploy("DataOwnership", "BitHive Data", "BHD", ADMIN)
    data.grantRole(data.REGISTRAR_ROLE(), REGISTRAR, sender=ADMIN)
    return data


@pytest.fixture
def owned(data):
    done = data.register(OWNER, COMMITMENT, TERMS, PAYEE, 250, sender=REGISTRAR)
    assert done.events == [
        ("Registered", COMMITMENT, hexed(OWNER), TERMS, hexed(PAYEE), 250),
        ("Transfer", hexed(NOBODY), hexed(OWNER), TOKEN),
    ]
    return data


def test_a_token_holds_commitments_and_a_share_of_resales(owned):
    assert owned.ownerOf(TOKEN) == hexed(OWNER)
    assert owned.termsOf(COMMITMENT) == TERMS
    assert owned.registered(COMMITMENT)
    assert owned.royaltyInfo(TOKEN, 10_000) == (hexed(PAYEE), 250)
    assert (owned.name(), owned.symbol(), owned.balanceOf(OWNER)) == ("BitHive Data", "BHD", 1)
    assert owned.tokenURI(TOKEN) == ""  # nothing to fetch, nothing to leak
    for interface in ("80ac58cd", "2a55205a", "7965db0b"):  # ERC-721, ERC-2981, IAccessControl
        assert owned.supportsInterface(bytes.fromhex(interface))


def test_only_the_registrar_registers_and_each_commitment_once(owned):
    with reverts("AccessControlUnauthorizedAccount"):
        owned.register(OWNER, b"d" * 32, TERMS, PAYEE, 0, sender=ADMIN)
    with reverts("RegisteredAlready", COMMITMENT):
        owned.register(OWNER, COMMITMENT, TERMS, PAYEE, 0, sender=REGISTRAR)
    owned.withdraw(COMMITMENT, sender=OWNER)
    with reverts("RegisteredAlready", COMMITMENT):
        owned.register(OWNER, COMMITMENT, TERMS, PAYEE, 0, sender=REGISTRAR)


def test_what_says_nothing_or_asks_too_much_is_refused(data):
    for commitment, terms in ((bytes(32), TERMS), (COMMITMENT, bytes(32))):
        with reverts("CommitmentMissing"):
            data.register(OWNER, commitment, terms, PAYEE, 0, sender=REGISTRAR)
    with reverts("RoyaltyTooHigh", 1_001):
        data.register(OWNER, COMMITMENT, TERMS, PAYEE, data.ROYALTY_MAX() + 1, sender=REGISTRAR)
    with reverts("ERC721InvalidReceiver"):
        data.register(NOBODY, COMMITMENT, TERMS, PAYEE, 0, sender=REGISTRAR)
    with reverts("ERC2981InvalidTokenRoyaltyReceiver"):
        data.register(OWNER, COMMITMENT, TERMS, NOBODY, 0, sender=REGISTRAR)


def test_the_owner_changes_terms_and_withdraws_and_nobody_else(owned):
    for act in (lambda: owned.changeTerms(COMMITMENT, b"u" * 32, sender=STRANGER),
                lambda: owned.withdraw(COMMITMENT, sender=REGISTRAR)):  # fmt: skip
        with reverts("NotTheOwner"):
            act()
    done = owned.changeTerms(COMMITMENT, b"u" * 32, sender=OWNER)
    assert done.events == [("TermsChanged", COMMITMENT, b"u" * 32)]
    assert owned.termsOf(COMMITMENT) == b"u" * 32
    with reverts("CommitmentMissing"):
        owned.changeTerms(COMMITMENT, bytes(32), sender=OWNER)
    done = owned.withdraw(COMMITMENT, sender=OWNER)
    assert done.events[0] == ("Withdrawn", COMMITMENT)
    assert owned.royaltyInfo(TOKEN, 10_000) == (hexed(NOBODY), 0)
    with reverts("ERC721NonexistentToken", TOKEN):
        owned.termsOf(COMMITMENT)
    with reverts("ERC721NonexistentToken", TOKEN):
        owned.ownerOf(TOKEN)


def test_a_token_is_sold_like_any_other(owned):
    done = owned.approve(STRANGER, TOKEN, sender=OWNER)
    assert done.events == [("Approval", hexed(OWNER), hexed(STRANGER), TOKEN)]
    assert owned.getApproved(TOKEN) == hexed(STRANGER)
    owned.transferFrom(OWNER, BUYER, TOKEN, sender=STRANGER)
    with reverts("ERC721InsufficientApproval"):
        owned.transferFrom(BUYER, OWNER, TOKEN, sender=STRANGER)
    with reverts("ERC721IncorrectOwner"):
        owned.transferFrom(OWNER, STRANGER, TOKEN, sender=BUYER)
    with reverts("ERC721InvalidApprover"):
        owned.approve(STRANGER, TOKEN, sender=STRANGER)
    done = owned.setApprovalForAll(STRANGER, True, sender=BUYER)
    assert done.events == [("ApprovalForAll", hexed(BUYER), hexed(STRANGER), True)]
    assert owned.isApprovedForAll(BUYER, STRANGER)
    owned.changeTerms(COMMITMENT, b"u" * 32, sender=STRANGER)
    owned.safeTransferFrom(BUYER, OWNER, TOKEN, sender=STRANGER)
    assert owned.ownerOf(TOKEN) == hexed(OWNER)
    with reverts("ERC721InvalidOperator"):
        owned.setApprovalForAll(NOBODY, True, sender=OWNER)
    with reverts("ERC721InvalidOwner"):
        owned.balanceOf(NOBODY)


def test_a_contract_that_cannot_hold_tokens_gets_none(machine, owned):
    placed = machine.place(b"\x5f\x5f\xfd")
    with reverts("ERC721InvalidReceiver"):
        owned.safeTransferFrom(OWNER, placed, TOKEN, sender=OWNER)
