"""What is shipped for real machines is well formed, and every command in its guide exists."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer.main

from portal.cli import app
from portal.deployment.cli import _show
from portal.deployment.plan import Plan
from portal.deployment.up import plan_server

ROOT = Path(__file__).parent.parent.parent.parent
UNITS = sorted((ROOT / "deploy").glob("*/*.service"))
GUIDE = ROOT / "docs" / "operate.md"
PROGRAM = "/opt/bithive/.venv/bin/bithive"
HARDENED = (
    "NoNewPrivileges=yes",
    "ProtectSystem=strict",
    "PrivateTmp=yes",
    "RestrictAddressFamilies=",
    "SystemCallFilter=@system-service",
    "CapabilityBoundingSet=",
    "UMask=0077",
    "LimitCORE=0",
    "User=bithive",
)


def command_of(words):
    """Return the click command that ``bithive WORDS`` would run, and the words left over."""
    found = typer.main.get_command(app)
    left = list(words)
    while hasattr(found, "commands") and left:
        name = left.pop(0)
        assert name in found.commands, f"there is no `bithive {' '.join(words)}`"
        found = found.commands[name]
    assert not hasattr(found, "commands"), f"`bithive {' '.join(words)}` is a group of commands"
    return found, left


def check_exists(line):
    """See that a command line's command and options exist."""
    words = shlex.split(line, comments=True)
    command, left = command_of(words)
    options = {name for one in command.params for name in one.opts}
    for word in left:
        if word.startswith("--") and word != "--help":
            assert word.split("=")[0] in options, f"`bithive {line}` has no {word}"


def commands_in(text):
    """Return every command line of the guide: in blocks, and between backticks."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            found += re.findall(r"(?:^|&& )bithive ([^&]+)", line)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found += re.findall(r"`bithive ([^`]+)`", prose)
    return [" ".join(one.split()) for one in found]


@pytest.mark.slow
def test_every_command_of_the_guide_exists():
    found = commands_in(GUIDE.read_text())
    assert len(found) > 40
    for line in found:
        check_exists(line)


def test_a_command_that_does_not_exist_is_noticed():
    for wrong in ("levitate", "site levitate", "up --levitate", "site"):
        with pytest.raises(AssertionError):
            check_exists(wrong)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_every_command_of_a_unit_exists(unit):
    for line in unit.read_text().splitlines():
        if line.startswith(f"ExecStart={PROGRAM} "):
            check_exists(line.removeprefix(f"ExecStart={PROGRAM} "))


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_every_unit_that_stays_is_hardened(unit):
    text = unit.read_text()
    if "Type=oneshot" in text:
        return
    for line in HARDENED:
        assert f"\n{line}" in text, line


def test_the_agents_unit_has_no_network_and_the_node_reads_keys_from_systemd():
    agent = (ROOT / "deploy/site/bithive-agent.service").read_text()
    assert "PrivateNetwork=yes" in agent
    assert "RestrictAddressFamilies=AF_UNIX\n" in agent
    node = (ROOT / "deploy/site/bithive-node.service").read_text()
    for key in ("tls.key", "node.key"):
        assert f"LoadCredential={key}:" in node
        assert f"${{CREDENTIALS_DIRECTORY}}/{key}" in node


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_finds_no_fault_in_a_unit(unit, tmp_path):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs systemd-analyze (Debian package systemd)")
    text = unit.read_text().replace(PROGRAM, sys.executable)
    text = text.replace("/usr/sbin/nginx", sys.executable)
    copy = tmp_path / unit.name
    copy.write_text(text)
    done = subprocess.run(
        [program, "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    ours = [line for line in done.stderr.splitlines() if unit.name in line]
    # Units that this one waits for are not installed here.
    assert [line for line in ours if "not found" not in line] == []


def test_systemd_finds_no_fault_in_what_lets_the_agent_make_a_sandbox(tmp_path):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs systemd-analyze (Debian package systemd)")
    for broken in (False, True):
        shutil.copytree(ROOT / "deploy/site", tmp_path / "units", dirs_exist_ok=True)
        unit = tmp_path / "units/bithive-agent.service"
        unit.write_text(unit.read_text().replace(PROGRAM, sys.executable))
        added = tmp_path / "units/bithive-agent.service.d/code.conf"
        if broken:  # it is read at all
            added.write_text(added.read_text().replace("user net", "user nothing"))
        done = subprocess.run(
            [program, "verify", "--man=no", str(unit)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert ("code.conf" in done.stderr) is broken, done.stderr


@pytest.mark.slow
def test_nginx_finds_no_fault_in_a_servers_configuration(tmp_path):
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("needs nginx (Debian package nginx-light)")
    operator = tmp_path / "operator"
    names = ["--address", "fed.example.org:443", "--server-name", "fed.example.org"]
    command = [sys.executable, "-m", "portal", "operator", "init", "consortium", *names]
    made = subprocess.run(
        [*command, "--home", str(operator)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert made.returncode == 0, made.stderr
    plan = plan_server(
        tmp_path, server_name="fed.example.org", listen="127.0.0.1", port=0, superlink=9092
    )
    assert Plan.load(tmp_path) == plan
    configuration = plan.front / "nginx.conf"
    configuration.write_text(configuration.read_text().replace("127.0.0.1:0", "127.0.0.1:8443"))
    done = subprocess.run(
        [program, "-t", "-p", str(plan.front), "-c", str(configuration)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    text = configuration.read_text()
    assert "server_name fed.example.org;" in text
    assert 'proxy_set_header Authorization "";' in text  # no secret of ours passes this way
    assert str(operator / "authority" / "crl.pem") in text


def test_the_image_copies_every_package_and_runs_without_rights():
    import tomllib

    text = (ROOT / "deploy" / "Containerfile").read_text()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = (ROOT / "deploy" / "Containerfile.dockerignore").read_text().splitlines()
    assert copied[1] == "*"
    for package in settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert f"!{package}" in copied
    assert "\nCOPY . /opt/bithive\n" in text
    assert "\nUSER 10001\n" in text
    assert "--requirement requirements.lock" in text


def test_the_commands_of_a_deployment_have_examples():
    found = typer.main.get_command(app)
    for name in ("up", "down", "status", "doctor"):
        assert isinstance(found.commands[name], click.Command)
        assert "Example" in found.commands[name].epilog


def test_the_table_of_processes_shows_whole_addresses_in_80_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    address = "unix:/run/bithive/0123456789abcdef/lakeside.sock"
    unit = {"name": "agent-lakeside", "state": "backing-off", "pid": 1, "restarts": 2}
    unit |= {"address": address, "error": "the disk is full [Errno 28]"}
    _show({"home": "bithive-home", "supervisor": 1, "units": [unit]}, as_json=False)
    shown = capsys.readouterr().out
    cells = [line.split("│")[-2].strip() for line in shown.splitlines() if line.startswith("│")]
    assert "".join(cells) == address
    assert max(map(len, shown.splitlines())) <= 80
    assert "agent-lakeside last said: the disk is full [Errno 28]" in shown
