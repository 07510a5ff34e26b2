"""All 210,000,000 BTT exist from the first block, nobody can make more, and holders can burn."""

import pytest

from tests.ledger.contracts.machine import (
    DAY,
    NOBODY,
    SUPPLY,
    address,
    deploy_btt,
    hexed,
    reverts,
)

HOLDER, STRANGER, TREASURY = address("holder"), address("stranger"), address("treasury")


def test_the_supply_is_minted_once_to_the_allocation(machine):
    holders = {HOLDER: SUPPLY - 1, STRANGER: 1}
    btt = deploy_btt(machine, holders)
    assert btt.totalSupply() == btt.SUPPLY() == SUPPLY
    assert [btt.balanceOf(one) for one in holders] == [SUPPLY - 1, 1]
    assert [one[0] for one in btt.deployed] == ["Transfer", "Transfer"]
    assert (btt.name(), btt.symbol(), btt.decimals()) == ("BitHive Token", "BTT", 18)


@pytest.mark.parametrize("total", [SUPPLY - 1, SUPPLY + 1])
def test_an_allocation_of_another_total_is_refused(machine, total):
    with reverts("AllocationUnbalanced", total):
        deploy_btt(machine, {HOLDER: total})


@pytest.mark.parametrize(("holders", "amounts"), [(0, 0), (1, 2), (65, 65)])
def test_a_malformed_allocation_is_refused(machine, holders, amounts):
    with reverts("AllocationMalformed", holders, amounts):
        machine.deploy("BTT", "n", "s", [HOLDER] * holders, [SUPPLY] * amounts)


def test_an_allocation_to_nobody_is_refused(machine):
    with reverts("ERC20InvalidReceiver"):
        deploy_btt(machine, {NOBODY: SUPPLY})


def test_the_number_of_holders_has_a_limit(btt):
    assert btt.HOLDERS_MAX() == 64


def test_no_function_mints(btt):
    names = {one["name"] for one in btt.abi if one["type"] == "function"}
    assert not [name for name in names if "mint" in name.lower() or "pause" in name.lower()]


def test_one_base_unit_and_the_whole_supply_move(btt):
    done = btt.transfer(HOLDER, 1, sender=TREASURY)
    assert done.events == [("Transfer", hexed(TREASURY), hexed(HOLDER), 1)]
    btt.transfer(TREASURY, 1, sender=HOLDER)
    btt.transfer(HOLDER, SUPPLY, sender=TREASURY)
    assert (btt.balanceOf(HOLDER), btt.balanceOf(TREASURY)) == (SUPPLY, 0)


def test_more_than_the_balance_cannot_move(btt):
    with reverts("ERC20InsufficientBalance"):
        btt.transfer(HOLDER, 1, sender=STRANGER)
    with reverts("ERC20InvalidReceiver"):
        btt.transfer(NOBODY, 1, sender=TREASURY)


def test_an_allowance_is_used_up(btt):
    done = btt.approve(STRANGER, 5, sender=TREASURY)
    assert done.events == [("Approval", hexed(TREASURY), hexed(STRANGER), 5)]
    btt.transferFrom(TREASURY, HOLDER, 3, sender=STRANGER)
    assert btt.allowance(TREASURY, STRANGER) == 2
    with reverts("ERC20InsufficientAllowance"):
        btt.transferFrom(TREASURY, HOLDER, 3, sender=STRANGER)
    with reverts("ERC20InvalidSpender"):
        btt.approve(NOBODY, 1, sender=TREASURY)


def test_burning_lowers_the_supply_for_good(btt):
    done = btt.burn(7, sender=TREASURY)
    assert done.events == [("Transfer", hexed(TREASURY), hexed(NOBODY), 7)]
    btt.approve(STRANGER, 5, sender=TREASURY)
    btt.burnFrom(TREASURY, 5, sender=STRANGER)
    assert (btt.totalSupply(), btt.burned()) == (SUPPLY - 12, 12)
    with reverts("ERC20InsufficientBalance"):
        btt.burn(1, sender=STRANGER)
    with reverts("ERC20InsufficientAllowance"):
        btt.burnFrom(TREASURY, 1, sender=STRANGER)


# Signed, so that the holder needs no gas.


def signed(btt, key, kind, fields, values):
    """The signature of an EIP-712 message to BTT."""
    from eth_abi import encode

    from ledger.contracts.tree import keccak256

    _, name, version, chain, contract, _, extensions = btt.eip712Domain()
    assert not extensions
    domain = encode(
        ["bytes32", "bytes32", "bytes32", "uint256", "address"],
        [
            keccak256(
                b"EIP712Domain(string name,string version,"
                b"uint256 chainId,address verifyingContract)"
            ),
            keccak256(name.encode()),
            keccak256(version.encode()),
            chain,
            contract,
        ],
    )
    assert keccak256(domain) == btt.DOMAIN_SEPARATOR()
    types = [one.split()[0] for one in fields.split(",")]
    struct = encode(["bytes32", *types], [keccak256(f"{kind}({fields})".encode()), *values])
    digest = keccak256(b"\x19\x01" + keccak256(domain) + keccak256(struct))
    one = key.sign_msg_hash(digest)
    return one.v + 27, one.r.to_bytes(32, "big"), one.s.to_bytes(32, "big")


PERMIT = "address owner,address spender,uint256 value,uint256 nonce,uint256 deadline"
DELEGATION = "address delegatee,uint256 nonce,uint256 expiry"


@pytest.fixture
def key():
    eth_keys = pytest.importorskip("eth_keys")
    return eth_keys.keys.PrivateKey(b"\x05" * 32)


def test_a_permit_is_an_allowance_by_signature_once(machine, btt, key):
    owner, until = key.public_key.to_canonical_address(), machine.now + DAY
    signature = signed(btt, key, "Permit", PERMIT, [owner, STRANGER, 9, 0, until])
    with reverts("ERC2612InvalidSigner"):
        btt.permit(owner, STRANGER, 10, until, *signature)
    btt.permit(owner, STRANGER, 9, until, *signature)
    assert (btt.allowance(owner, STRANGER), btt.nonces(owner)) == (9, 1)
    with reverts("ERC2612InvalidSigner"):
        btt.permit(owner, STRANGER, 9, until, *signature)
    machine.now = until + 1
    with reverts("ERC2612ExpiredSignature"):
        btt.permit(owner, STRANGER, 9, until, *signature)


def test_a_malformed_signature_is_refused(machine, btt):
    with reverts("ECDSAInvalidSignature"):
        btt.permit(HOLDER, STRANGER, 9, machine.now, 1, bytes(32), bytes(32))
    with reverts("ECDSAInvalidSignatureS"):
        btt.permit(HOLDER, STRANGER, 9, machine.now, 27, bytes(32), b"\xff" * 32)


def test_votes_can_be_delegated_by_signature(machine, btt, key):
    owner, until = key.public_key.to_canonical_address(), machine.now + DAY
    btt.transfer(owner, 3, sender=TREASURY)
    signature = signed(btt, key, "Delegation", DELEGATION, [HOLDER, 0, until])
    btt.delegateBySig(HOLDER, 0, until, *signature)
    assert btt.getVotes(HOLDER) == 3
    with reverts("InvalidAccountNonce"):
        btt.delegateBySig(HOLDER, 0, until, *signature)
    machine.now = until + 1
    with reverts("VotesExpiredSignature"):
        btt.delegateBySig(HOLDER, 0, until, *signature)


def test_votes_count_from_delegation_by_the_second(machine, btt):
    assert btt.CLOCK_MODE() == "mode=timestamp"
    assert btt.clock() == machine.now
    done = btt.delegate(HOLDER, sender=TREASURY)
    assert [one[0] for one in done.events] == ["DelegateChanged", "DelegateVotesChanged"]
    assert btt.delegates(TREASURY) == hexed(HOLDER)
    begun = machine.now
    machine.now += 3
    btt.transfer(STRANGER, 10, sender=TREASURY)
    machine.now += 3
    assert btt.getVotes(HOLDER) == SUPPLY - 10
    assert btt.getPastVotes(HOLDER, begun) == SUPPLY
    assert btt.getPastVotes(HOLDER, begun - 1) == 0
    assert btt.getPastTotalSupply(begun) == SUPPLY
    assert btt.numCheckpoints(HOLDER) == 2
    assert btt.checkpoints(HOLDER, 0) == (begun, SUPPLY)
    with reverts("ERC5805FutureLookup"):
        btt.getPastVotes(HOLDER, machine.now)
