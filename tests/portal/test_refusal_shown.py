"""What the command says of a refusal is one line, and nothing in it acts on the terminal."""

import pytest

from portal import cli
from portal.site_control import AgentRefused


@pytest.mark.parametrize(
    "reason", ["\x1b[1A\x1b[2Kapproved", "[/] [link=https://elsewhere.example]here[/link]", "a\nb"]
)
def test_a_refusal_in_another_programs_words_is_shown_and_not_obeyed(monkeypatch, capsys, reason):
    def refuse(**_):
        raise AgentRefused("x", reason)

    monkeypatch.setattr(cli, "app", refuse)
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().err
    assert said.startswith("agent-refused: the agent refused with x: ")
    assert said.endswith("\n")
    assert said[:-1].isprintable()
    if reason.startswith("["):
        assert reason in said
