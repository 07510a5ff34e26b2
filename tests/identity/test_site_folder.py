"""A site's keys are made once, for its own eyes, in forms that others' programs read."""

import stat

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from identity.joining import SiteNameDiffers, prepare
from identity.site_folder import SiteFolder, SiteKeysMissing, SiteKeysThere


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_and_their_folder_are_closed_to_others(world):
    world.request("north")
    folder = world.folder("north")
    assert mode(folder.path) == 0o700
    assert {mode(file) for file in folder.key_files()} == {0o600}


def test_keys_are_never_overwritten(world):
    world.request("north")
    before = [file.read_bytes() for file in world.folder("north").key_files()]
    with pytest.raises(SiteKeysThere):
        world.request("north")
    assert [file.read_bytes() for file in world.folder("north").key_files()] == before


@pytest.mark.parametrize("left", [1, 2, 3])
def test_keys_that_a_crash_left_are_completed(tmp_path, world, left):
    whole = world.folder("north")
    world.request("north")
    part = world.folder("part")
    part.path.mkdir(parents=True)
    for file in whole.key_files()[:left]:
        (part.path / file.name).write_bytes(file.read_bytes())
    made = world.request("part")
    for file in whole.key_files()[:left]:
        assert (part.path / file.name).read_bytes() == file.read_bytes()
    assert made.signing_key == whole.load().site.signing_public


def test_flowers_own_reader_takes_the_node_key(world):
    world.request("north")
    folder = world.folder("north")
    private = load_ssh_private_key(folder.node_key.read_bytes(), None)
    public = load_ssh_public_key(folder.node_public.read_bytes())
    assert private.public_key() == public
    assert public.curve.name == "secp384r1"


@pytest.mark.parametrize("name", ["site.key", "tls.key", "node.key"])
def test_a_missing_key_is_named(world, name):
    world.request("north")
    (world.folder("north").path / name).unlink()
    with pytest.raises(SiteKeysMissing, match=name):
        world.folder("north").load()


@pytest.mark.parametrize("name", ["tls.key", "node.key"])
def test_a_key_that_was_exchanged_for_something_else_is_not_quoted(world, name):
    world.request("north")
    (world.folder("north").path / name).write_bytes(b"OPENSSH not a key at all")
    with pytest.raises(SiteKeysMissing) as refused:
        world.folder("north").load()
    assert "not a key" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_keys_of_another_site_cannot_be_rotated(world, tmp_path):
    world.request("north")
    with pytest.raises(SiteNameDiffers):
        prepare(tmp_path / "north", "south", now=world.now, entropy=bytes, rotate=True)


def test_where_there_are_no_keys_none_can_be_rotated(world, tmp_path):
    with pytest.raises(SiteKeysMissing):
        prepare(tmp_path / "north", "north", now=world.now, entropy=bytes, rotate=True)


def test_a_rotation_that_waits_is_answered_with_the_same_request(world):
    world.request("north")
    first = world.request("north", rotate=True)
    assert world.request("north", rotate=True) == first
    assert SiteFolder(world.folder("north").path / "next") == world.folder("north").next
