"""The control API's lock opens to one secret, in a file for the server's account alone."""

import stat

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.deployment.control_lock import (
    ControlSecretUnfit,
    ShowSecret,
    lock_of,
    make_secret,
    read_secret,
    secret_path,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("flower")


@pytest.fixture(scope="module")
def lock(folder):
    return lock_of(folder)


def test_the_lock_opens_to_its_secret(folder, lock):
    from flwr.common.constant import ACCESS_TOKEN_KEY, NOOP_FLWR_AID

    secret = read_secret(folder)
    for shown in (secret, secret.encode()):
        opened, account = lock.validate_tokens_in_metadata([(ACCESS_TOKEN_KEY, shown)])
        assert opened is True
        assert account.flwr_aid == NOOP_FLWR_AID


@given(st.text() | st.binary())
def test_the_lock_opens_to_nothing_else(lock, shown):
    from flwr.common.constant import ACCESS_TOKEN_KEY

    assert lock.validate_tokens_in_metadata([(ACCESS_TOKEN_KEY, shown)]) == (False, None)


def test_the_lock_stays_shut_to_none_to_several_and_to_its_own_hash(folder, lock):
    import hashlib

    from flwr.common.constant import ACCESS_TOKEN_KEY

    secret = read_secret(folder)
    digest = hashlib.sha256(secret.encode())
    for metadata in (
        [],
        [("authorization", secret)],
        [(ACCESS_TOKEN_KEY, secret), (ACCESS_TOKEN_KEY, secret)],
        [(ACCESS_TOKEN_KEY, secret[:-1])],
        [(ACCESS_TOKEN_KEY, secret + "0")],
        [(ACCESS_TOKEN_KEY, secret.upper())],
        [(ACCESS_TOKEN_KEY, digest.digest())],
        [(ACCESS_TOKEN_KEY, digest.hexdigest())],
    ):
        assert lock.validate_tokens_in_metadata(metadata) == (False, None)


def test_nobody_signs_in_or_gets_tokens_from_the_lock(folder, lock):
    assert lock.get_login_details() is None
    assert lock.get_auth_tokens("code") is None
    assert lock.refresh_tokens([("flwr-oidc-refresh-token", read_secret(folder))]) == (None, None)


def test_the_lock_keeps_the_hash_alone(folder, lock):
    assert read_secret(folder) not in repr(vars(lock))


def test_a_secret_is_the_accounts_alone_and_new_where_it_is_asked_for(tmp_path):
    lock_of(tmp_path)
    first = read_secret(tmp_path)
    assert stat.S_IMODE(secret_path(tmp_path).stat().st_mode) == 0o600
    lock_of(tmp_path)
    assert read_secret(tmp_path) == first
    make_secret(tmp_path)
    assert read_secret(tmp_path) != first
    assert stat.S_IMODE(secret_path(tmp_path).stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"\n", b"0" * 63, b"0" * 65, b"g" * 64, b"\xff" * 64])
def test_what_is_no_secret_makes_no_lock(tmp_path, content):
    path = secret_path(tmp_path)
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(ControlSecretUnfit, match="hexadecimal") as refused:
        lock_of(tmp_path)
    assert refused.value.path == path
    assert path.read_bytes() == content


def test_a_secret_that_others_may_read_makes_no_lock(tmp_path):
    make_secret(tmp_path)
    secret_path(tmp_path).chmod(0o640)
    with pytest.raises(ControlSecretUnfit, match="0640"):
        lock_of(tmp_path)


def test_where_no_superlink_was_started_there_is_no_secret(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_secret(tmp_path)


def test_the_secret_goes_into_one_header_and_displaces_none():
    from flwr.supercore.protobuf.client import ProtobufRequestContext

    request = httpx.Request("POST", "https://127.0.0.1/v1/control/list-runs")
    context = ProtobufRequestContext("ListRuns", None, request)
    ShowSecret("secret").intercept(context, lambda _: httpx.Response(200))
    assert request.headers["authorization"] == "Bearer secret"
    with pytest.raises(RuntimeError):
        ShowSecret("other").intercept(context, lambda _: httpx.Response(200))
