"""On the server's own machine too, nobody without the secret commands Flower's SuperLink."""

import http.client
import os
import shutil
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.federation.conftest import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.superlink]

OPEN = {
    ("GET", "/health"),
    ("HEAD", "/health"),
    ("GET", "/docs"),
    ("HEAD", "/docs"),
    ("GET", "/docs/oauth2-redirect"),
    ("HEAD", "/docs/oauth2-redirect"),
    ("GET", "/openapi.json"),
    ("HEAD", "/openapi.json"),
}
"""What a stranger is answered: that it lives, and what Flower publishes of its API."""
LOGIN = {f"/v1/control/{name}" for name in ("get-login-details", "get-auth-tokens")}
RENEWAL = "/v1/control/refresh-auth-tokens"
SECRETS = ["", "0" * 64, "Bearer", "null", "a" * 4096]


@pytest.fixture(scope="module")
def routes():
    """Every route of the SuperLink that is installed, so that a new one is tried too."""
    from fastapi.routing import iter_route_contexts
    from flwr.superlink.main import create_app

    found = set()
    for context in iter_route_contexts(create_app().routes):
        for method in context.methods or {"GET"}:
            found.add((method, context.path.replace("{", "").replace("}", "")))
    assert len([path for _, path in found if path.startswith("/v1/control/")]) > 30
    assert len([path for _, path in found if path.startswith("/v1/runtime/")]) > 15
    return sorted(found)


@pytest.fixture
def line(superlink):
    """A connection of a stranger: he has the authority's certificate, and that is all."""
    context = ssl.create_default_context(cafile=str(superlink.authority))
    connection = http.client.HTTPSConnection(
        "127.0.0.1", superlink.port, context=context, timeout=60
    )
    yield connection
    connection.close()


def ask(line, method, path, headers=(), body=b""):
    """Return status and body of one request with exactly these headers."""
    line.putrequest(method, path)
    for name, value in (
        ("content-type", "application/protobuf"),
        ("accept", "application/protobuf"),
        ("content-length", str(len(body))),
        *headers,
    ):
        line.putheader(name, value)
    line.endheaders(body)
    answer = line.getresponse()
    return answer.status, answer.read()


def tokens(value):
    """Every place where a token is looked for."""
    from flwr.supercore.constant import TASK_TOKEN_HEADER

    return [("authorization", f"Bearer {value}"), (TASK_TOKEN_HEADER, value)]


def control_calls(routes):
    return [
        path
        for method, path in routes
        if method == "POST" and path.startswith("/v1/control/") and path not in {*LOGIN, RENEWAL}
    ]


def test_a_stranger_on_loopback_is_answered_by_no_call_but_that_it_lives(line, routes):
    for method, path in routes:
        status, body = ask(line, method, path)
        if (method, path) in OPEN:
            assert status in {200, 405}, (method, path)
        elif path in LOGIN:
            assert (status, body) == (200, b""), path  # an empty message: nobody signs in here
        else:
            assert status in {400, 401, 403}, (method, path, status)
            assert status != 400 or path == RENEWAL, path


def test_a_wrong_secret_opens_no_call_of_the_control_and_runtime_api(line, routes):
    runtime = [path for _, path in routes if path.startswith("/v1/runtime/")]
    for secret in SECRETS:
        for path in runtime + control_calls(routes):
            status, _ = ask(line, "POST", path, headers=tokens(secret))
            assert status in {401, 403}, (path, secret[:10], status)


def test_a_secret_that_is_nearly_right_opens_nothing(superlink, line, routes):
    from portal.deployment.control_lock import read_secret

    right = read_secret(superlink.folder)
    call = "/v1/control/list-runs"
    assert ask(line, "POST", call, headers=[("authorization", f"Bearer {right}")])[0] == 200
    wrong = [
        [("authorization", right)],
        [("authorization", f"Basic {right}")],
        [("authorization", f"Bearer {right.upper()}")],
        [("authorization", f"Bearer {right[:-1]}")],
        [("authorization", f"Bearer {right}0")],
        [("authorization", f"Bearer {right}"), ("authorization", f"Bearer {right}")],
        [("authorization", "Bearer x"), ("authorization", f"Bearer {right}")],
        [("access-token", right)],
        [("cookie", f"authorization=Bearer {right}")],
        [("flwr-oidc-access-token", right)],
    ]
    for headers in wrong:
        for path in (call, "/v1/control/start-run", "/v1/control/stop-run"):
            assert ask(line, "POST", path, headers=headers)[0] == 401, headers


def test_no_spelling_of_path_or_host_goes_past_the_lock(superlink, line, routes):
    for target in (
        "//v1/control/list-runs",
        "/v1//control/list-runs",
        "/v1/./control/list-runs",
        "/health/../v1/control/list-runs",
        "/v1/fleet/../control/list-runs",
        "/v1/%63ontrol/list-runs",
        "/v1/control%2flist-runs",
        "/v1/control/list-runs/",
        "/V1/control/list-runs",
        f"https://localhost:{superlink.port}/v1/control/list-runs",
    ):
        assert ask(line, "POST", target)[0] in {307, 400, 401, 403, 404}, target
    for host in ("health?", "localhost/health?", "localhost/health#", "a@b", "[::1]/x?"):
        line.putrequest("POST", "/v1/control/list-runs", skip_host=True)
        line.putheader("host", host)
        line.putheader("content-type", "application/protobuf")
        line.putheader("content-length", "0")
        line.endheaders()
        answer = line.getresponse()
        answer.read()
        assert answer.status in {400, 401}, host


def test_the_secret_is_no_key_to_the_runtime_and_the_fleet(superlink, line, routes):
    from portal.deployment.control_lock import read_secret

    right = read_secret(superlink.folder)
    for method, path in routes:
        if path.startswith(("/v1/runtime/", "/v1/fleet/")):
            assert ask(line, method, path, headers=tokens(right))[0] in {401, 403}, path


def test_no_task_can_be_claimed_with_a_secret_of_ones_own(superlink):
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
    from flwr.supercore.interceptors.http.superexec_auth import SuperExecAuthHttpInterceptor
    from flwr.supercore.runtime import RuntimeHttpClient

    from portal.deployment.control_lock import read_secret

    known = read_secret(superlink.folder)
    for secret in (b"x", known.encode(), bytes.fromhex(known)):
        client = RuntimeHttpClient.from_server_address(
            f"127.0.0.1:{superlink.port}",
            False,
            str(superlink.authority),
            [
                RuntimeVersionHttpInterceptor(component_name="SuperExec"),
                SuperExecAuthHttpInterceptor(
                    master_secret=secret,
                    protected_methods={"/flwr.proto.Runtime/AcquireTask"},
                ),
            ],
        )
        with pytest.raises(httpx.HTTPStatusError) as refused:
            client.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))
        assert refused.value.response.status_code in {401, 403}
        client.close()


def test_flowers_own_command_without_the_secret_is_refused(superlink, tmp_path):
    home = tmp_path / "flwr"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink.local]\naddress = "127.0.0.1:{superlink.port}"\n'
        f'root-certificates = "{superlink.authority}"\n'
    )
    done = subprocess.run(
        [str(Path(sys.executable).parent / "flwr"), "ls", "local"],
        env=os.environ | {"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode != 0, done.stdout
    assert "uthenticat" in done.stderr + done.stdout, done.stderr + done.stdout


def test_another_secret_in_the_folder_is_told_as_such(superlink, tmp_path):
    from portal.deployment.control_lock import make_secret
    from portal.deployment.loopback import SuperLinkSilent, control

    shutil.copytree(superlink.folder / "certificates", tmp_path / "certificates")
    with (
        pytest.raises(SuperLinkSilent, match="has no secret yet"),
        control(tmp_path, superlink.port),
    ):
        pass
    make_secret(tmp_path)
    with (
        control(tmp_path, superlink.port) as stranger,
        pytest.raises(SuperLinkSilent, match="another secret"),
    ):
        stranger.runs()


APP = """[project]
name = "waiting"
version = "1.0.0"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "bithive"
[tool.flwr.app.components]
serverapp = "waiting:server"
clientapp = "waiting:server"
[tool.flwr.app.config]
report = ""
"""
WAITING = """
import time
from pathlib import Path
from flwr.serverapp import ServerApp
server = ServerApp()
@server.main()
def main(grid, context):
    Path(context.run_config["report"]).write_text(str(list(grid.get_node_ids())))
    time.sleep(600)
"""


def children(pid):
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(one) for file in found for one in file.read_text().split()]


def test_a_run_starts_and_its_token_is_in_no_command_line_and_no_environment(superlink, tmp_path):
    from portal.deployment.loopback import control, start_run

    app, report = tmp_path / "app", tmp_path / "report"
    app.mkdir()
    (app / "pyproject.toml").write_text(APP)
    (app / "waiting.py").write_text(WAITING)
    run = start_run(superlink.folder, superlink.port, {"report": str(report)}, app=app)
    wait_until(lambda: report.exists() and report.read_text())
    (process,) = children(superlink.pid)
    opened = Path(f"/proc/{process}/fd/0")
    token = opened.read_bytes()
    assert len(token) > 64
    assert b"flwr-serverapp" in Path(f"/proc/{process}/cmdline").read_bytes()
    for said in ("cmdline", "environ"):
        assert token not in Path(f"/proc/{process}/{said}").read_bytes()
    assert token not in Path(f"/proc/{superlink.pid}/cmdline").read_bytes()
    assert token.decode() not in (superlink.folder / "superlink.log").read_text()
    with control(superlink.folder, superlink.port) as known:
        known.stop(run)
        assert [one.is_over for one in known.runs() if one.id == run] == [True]
    began = time.monotonic()
    while Path(f"/proc/{process}/fd/0").exists():  # until it ended, and was buried
        assert time.monotonic() - began < 240
        time.sleep(0.2)
