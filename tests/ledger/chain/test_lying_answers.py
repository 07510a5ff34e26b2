"""A node that answers with what a contract never returns gets a named error, and no traceback."""

import pytest

from ledger.chain.calls import decoded
from ledger.chain.node import Node, NodeAnswerUnusable
from ledger.chain.stakes import stake_of

WORD = 32


@pytest.mark.parametrize("output", [b"", b"\x01", b"\xff" * WORD, b"\xff" * (3 * WORD)])
@pytest.mark.parametrize("function", ["stakeOf", "stateOf"])
def test_bytes_of_another_form_are_no_answer(function, output):
    with pytest.raises(NodeAnswerUnusable):
        decoded("StakeManager", function, output)


class Deployed:
    """A deployment whose contracts stand anywhere."""

    def address(self, _contract):
        return bytes(20)


@pytest.mark.parametrize("state", [4, 255])
def test_a_state_that_there_is_not_is_no_answer(state):
    node = Node(lambda *_: "0x" + state.to_bytes(WORD, "big").hex() + "00" * 2 * WORD, 1)
    with pytest.raises(NodeAnswerUnusable):
        stake_of(node, Deployed(), bytes(20))
