"""A hospital's settings are read back as they were kept, and nothing else is taken for them."""

import json

import pytest

from identity.site_folder import SiteFolder, SiteKeysMissing
from portal.site_settings import (
    SETTINGS,
    Packaged,
    SiteNotSetUp,
    SiteOwn,
    SiteSettingsDamaged,
    StudyNotHeld,
    check_held,
    keys_file,
    registry_digest,
    registry_fingerprint,
    site_folder,
    site_keys,
)
from privacy.keys import SiteKeys
from protocol.ids import SiteId
from tests.fl_client.job_world import World

NORTH = SiteId("north")


def settings(**changes):
    fields = {
        "site": NORTH,
        "records": "records",
        "dataset": "scans",
        "modality": "image",
        "registry": "bithive-registry",
        "registry_key": b"\7" * 32,
        "circuit": "cover8",
        "key_hash": "ab" * 32,
    }
    return SiteOwn(**fields | changes)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sites/north").mkdir(parents=True)
    return tmp_path / "sites/north"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"packaged": Packaged(seed=3, sites=4), "records": "wisconsin", "modality": "table"},
        {"registry_reader": "/srv/registry.db", "researcher": "ward", "budget_cohort": "adults"},
    ],
)
def test_what_is_kept_is_read_back_and_closed_to_others(folder, changes):
    kept = settings(**changes)
    kept.save(folder)
    assert SiteOwn.load(folder, NORTH) == kept
    assert (folder / SETTINGS).stat().st_mode & 0o077 == 0


def test_a_folder_without_settings_names_the_command_and_the_sites_that_are_here(folder):
    settings().save(folder)
    with pytest.raises(SiteNotSetUp, match=r"this home has north; .*bithive site setup"):
        SiteOwn.load(folder.parent / "south", SiteId("south"))


@pytest.mark.parametrize("name", ["../north", "North", "", "a/b", "."])
def test_what_is_no_sites_name_leads_to_no_folder(tmp_path, name):
    with pytest.raises(SiteNotSetUp):
        site_folder(tmp_path, name)


def test_a_sites_name_leads_to_its_folder(tmp_path):
    assert site_folder(tmp_path, "north") == tmp_path / "sites/north"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format": "bithive-site-2"}, "format"),
        ({"site": "south"}, "of site south"),
        ({"site": "../../etc"}, "site"),
        ({"registry_key": "00"}, "registry_key"),
        ({"circuit": "cover9"}, "circuit"),
        ({"key_hash": "short"}, "key_hash"),
        ({"records": ""}, "records"),
        ({"packaged": {"seed": -1, "sites": 3}}, "packaged.seed"),
        ({"packaged": {"seed": 1, "sites": 10**9}}, "packaged.sites"),
        ({"noise_seed": 7}, "noise_seed"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(folder, changes, why):
    settings().save(folder)
    written = json.loads((folder / SETTINGS).read_text()) | changes
    (folder / SETTINGS).write_text(json.dumps(written))
    with pytest.raises(SiteSettingsDamaged, match=why):
        SiteOwn.load(folder, NORTH)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b" " * 70_000])
def test_a_file_that_is_no_settings_is_refused(folder, content):
    (folder / SETTINGS).write_bytes(content)
    with pytest.raises(SiteSettingsDamaged):
        SiteOwn.load(folder, NORTH)


def test_a_hospitals_keys_are_those_it_joined_with(folder):
    with pytest.raises(SiteKeysMissing, match="bithive site init"):
        site_keys(folder)
    drawn = SiteKeys.load_or_make(keys_file(folder))
    assert keys_file(folder).name == "keys.json"
    assert site_keys(folder).signing_public == drawn.signing_public
    made = SiteFolder.of(folder).make()
    assert site_keys(folder).signing_public == made.site.signing_public


@pytest.mark.parametrize(
    ("field", "other", "named"),
    [
        ("dataset", "others", "data ?set"),
        ("registry", "others", "registry"),
        ("registry_key", b"\1" * 32, "registry key"),
        ("circuit", "cover64", "circuit"),
        ("key_hash", "cd" * 32, "proof key"),
    ],
)
def test_a_study_of_what_is_not_held_is_refused_by_name(field, other, named):
    terms = World().terms()
    wanted = ("dataset", "registry", "registry_key", "circuit", "key_hash")
    own = settings(**{name: getattr(terms.consent, name) for name in wanted})
    check_held(terms, own)
    with pytest.raises(StudyNotHeld, match=f"another {named}"):
        check_held(terms, own.model_copy(update={field: other}))


def test_the_registrys_fingerprint_is_of_its_whole_key():
    key = bytes(range(32))
    assert registry_fingerprint(key).replace(" ", "") == registry_digest(key)[:32]
    assert registry_fingerprint(key) != registry_fingerprint(key[::-1])
