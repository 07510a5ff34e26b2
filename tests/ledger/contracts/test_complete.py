"""Every external function, error and event of the contracts appears in a test of this folder."""

import re
from pathlib import Path

import pytest

from ledger.contracts.artifacts import CONTRACTS, load

HERE = Path(__file__)
TEXT = "".join(one.read_text() for one in HERE.parent.glob("test_*.py") if one.name != HERE.name)
# Errors of the library that nothing in these contracts can bring about.
UNREACHABLE = {
    "CheckpointUnorderedInsertion": "time does not run backwards",
    "ECDSAInvalidSignatureLength": "signatures come as v, r, s",
    "ERC20ExceededSafeSupply": "the supply is far below 2**208",
    "ERC20InvalidApprover": "nobody has the key of address 0",
    "ERC20InvalidSender": "nobody has the key of address 0",
    "ERC2981InvalidDefaultRoyalty": "there is no default royalty",
    "ERC2981InvalidDefaultRoyaltyReceiver": "there is no default royalty",
    "ERC2981InvalidTokenRoyalty": "royalties are capped below the price",
    "ERC721InvalidSender": "a commitment is refused before it could be minted twice",
    "EIP712DomainChanged": "an event for upgradable domains; ours is not",
    "FailedCall": "ether is sent to wallets that take it",
    "InsufficientBalance": "a wallet releases no more ether than it has",
    "InvalidShortString": "names are set once",
    "SafeCastOverflowedUintDowncast": "votes and times are far below their bounds",
    "StringTooLong": "names are set once",
    "StringsInsufficientHexLength": "addresses have 20 bytes",
    "RoleAdminChanged": "the admin of roles is never changed",
}


def named(kind):
    return sorted(
        {one["name"] for name in CONTRACTS for one in load(name).abi if one["type"] == kind}
    )


@pytest.mark.parametrize("name", named("function"))
def test_every_external_function_is_called(name):
    assert re.search(rf"\.{name}\b|\"{name}\"", TEXT), name


@pytest.mark.parametrize("name", [one for one in named("error") if one not in UNREACHABLE])
def test_every_error_is_brought_about(name):
    assert f'"{name}"' in TEXT


@pytest.mark.parametrize("name", [one for one in named("event") if one not in UNREACHABLE])
def test_every_event_is_seen(name):
    assert f'"{name}"' in TEXT
