"""Agents of one home listen in a folder of its user alone, which goes when they have ended."""

import tempfile

import pytest

from portal.agent_sockets import SocketFolderForeign, remove_sockets, socket_of, where
from portal.deployment.hold import hold
from portal.deployment.plan import Plan
from portal.deployment.up import take_down
from protocol.ids import SiteId

NORTH = SiteId("north")


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


def test_a_folder_is_made_for_its_user_and_removed_with_its_sockets(tmp_path):
    place = socket_of(tmp_path, NORTH)
    assert len(str(place).removeprefix(str(tmp_path))) < 60
    assert where(tmp_path).stat().st_mode & 0o077 == 0
    place.touch()
    remove_sockets(tmp_path)
    assert not where(tmp_path).exists()
    remove_sockets(tmp_path)


def test_what_is_no_socket_stays(tmp_path):
    socket_of(tmp_path, NORTH).touch()
    (where(tmp_path) / "kept").touch()
    remove_sockets(tmp_path)
    assert [one.name for one in where(tmp_path).iterdir()] == ["kept"]


def test_a_folder_that_others_can_enter_is_refused(tmp_path):
    where(tmp_path).mkdir(mode=0o755)
    with pytest.raises(SocketFolderForeign):
        socket_of(tmp_path, NORTH)


def test_a_deployment_that_was_killed_leaves_no_socket_after_down(tmp_path):
    plan = Plan(tmp_path, (NORTH,), 1, 2, 3, 4)
    plan.save()
    plan.agent(NORTH).touch()
    with hold(plan.folder):
        held = (plan.folder / "lock").read_bytes()
    (plan.folder / "lock").write_bytes(held)
    take_down(tmp_path)
    assert not where(tmp_path).exists()


def test_sockets_in_a_folder_that_a_link_leads_to_stay(tmp_path):
    """Whoever else may write the temporary folder could name another of ours so."""
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    (other / "another.sock").touch()
    where(tmp_path).symlink_to(other)
    remove_sockets(tmp_path)
    assert (other / "another.sock").exists()
    with pytest.raises(SocketFolderForeign):
        socket_of(tmp_path, NORTH)
