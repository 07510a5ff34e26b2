"""A hospital is set up from its own records and a server's folder, whole or not at all."""

import json
import os
import shutil

import pytest
from typer.testing import CliRunner

from identity.requests import FingerprintDiffers
from identity.site_folder import SiteKeysMissing
from portal.site_cli import app
from portal.site_settings import (
    PROVING_KEY,
    SETTINGS,
    TERMS,
    VERIFICATION_KEY,
    SiteOwn,
    keys_file,
    proof_files,
)
from portal.site_setup import (
    Holding,
    RecordsUnlikeStudy,
    SiteNotInStudy,
    StudyFolderUnusable,
    open_own,
    set_up,
)
from privacy.keys import SiteKeys
from privacy.ledger_view import datasets
from protocol.canonical import canonical
from protocol.ids import SiteId
from protocol.terms import StudyTerms
from records.dataset import SiteWithoutRecords
from records.own import Divided
from records.sources import SourceMissing, SourceUnknown
from tests.portal.apart_world import Apart

NORTH = SiteId("north")
HOLDING = Holding("wisconsin", divided=Divided(seed=7, sites=3))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = Apart(tmp_path_factory.mktemp("setup"), ("harbour", "lakeside", "north"))
    made.study = made.found()
    return made


@pytest.fixture
def folder(world, tmp_path):
    """A hospital's folder that has its identity and nothing else."""
    target = tmp_path / "home/sites/north"
    shutil.copytree(world.folder(NORTH), target)
    return target


@pytest.fixture
def handed(world, tmp_path):
    """What the server handed over, as it came."""
    return shutil.copytree(world.study.for_sites, tmp_path / "for-sites")


def sets_up(folder, handed, world, holding=HOLDING, fingerprint=None):
    told = fingerprint or world.study.fingerprint
    return set_up(folder, NORTH, holding, handed, fingerprint=told)


def test_the_folder_alone_says_all_that_an_agent_starts_from(folder, handed, world):
    done = sets_up(folder, handed, world)
    shutil.rmtree(handed)
    own = SiteOwn.load(folder, NORTH)
    assert own == done.own
    consent = world.study.terms.consent
    pinned = ("dataset", "registry", "registry_key", "circuit", "key_hash")
    assert all(getattr(own, name) == getattr(consent, name) for name in pinned)
    assert own.registry_reader is None
    assert open_own(folder, own).patients == done.records.patients
    proving, _ = proof_files(folder)
    assert proving.read_bytes() == world.proving_key.read_bytes()


def test_set_up_twice_the_folder_is_the_same(folder, handed, world):
    def contents():
        return {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()}

    sets_up(folder, handed, world)
    before = contents()
    sets_up(folder, handed, world)
    assert contents() == before


def test_another_registrys_key_than_was_read_out_sets_nothing_up(folder, handed, world):
    other = world.study.fingerprint[::-1]
    with pytest.raises(FingerprintDiffers, match="registry's key"):
        sets_up(folder, handed, world, fingerprint=other)
    assert not (folder / SETTINGS).exists()


@pytest.mark.parametrize("name", [TERMS, VERIFICATION_KEY, PROVING_KEY])
def test_a_folder_that_lacks_a_file_sets_nothing_up(folder, handed, world, name):
    (handed / name).unlink()
    with pytest.raises(StudyFolderUnusable, match=f"no {name}"):
        sets_up(folder, handed, world)
    assert not (folder / SETTINGS).exists()


@pytest.mark.parametrize("name", [TERMS, VERIFICATION_KEY])
def test_a_cut_file_sets_nothing_up(folder, handed, world, name):
    os.truncate(handed / name, 100)
    with pytest.raises(StudyFolderUnusable, match="are none"):
        sets_up(folder, handed, world)
    assert not (folder / SETTINGS).exists()


def test_a_verification_key_that_the_terms_do_not_name_sets_nothing_up(folder, handed, world):
    file = handed / VERIFICATION_KEY
    relabelled = json.loads(file.read_text()) | {"status": "ceremony"}
    file.write_text(json.dumps(relabelled))
    with pytest.raises(StudyFolderUnusable, match="not the one its terms name"):
        sets_up(folder, handed, world)


def test_a_hospital_that_the_study_does_not_name_by_its_keys_is_not_set_up(folder, handed, world):
    with pytest.raises(SiteNotInStudy):
        set_up(world.folder("harbour"), NORTH, HOLDING, handed, fingerprint=world.study.fingerprint)
    keys_file(folder).unlink()
    with pytest.raises(SiteKeysMissing):
        sets_up(folder, handed, world)
    SiteKeys.generate().save(keys_file(folder))
    with pytest.raises(SiteNotInStudy, match="present keys"):
        sets_up(folder, handed, world)


def test_records_of_another_kind_or_shape_are_refused(folder, handed, world, tmp_path):
    phantom = Holding("phantom", divided=Divided(seed=1, sites=3), patients=2)
    with pytest.raises(RecordsUnlikeStudy, match="no consent to a image"):
        sets_up(folder, handed, world, phantom)
    row = "63,1,1,145,233,1,2,150,0,2.3,3,0,6,0\n"
    (tmp_path / "processed.north.data").write_text(row)
    with pytest.raises(RecordsUnlikeStudy, match="of shape"):
        sets_up(folder, handed, world, Holding(str(tmp_path)))
    assert not (folder / SETTINGS).exists()


def test_records_that_are_not_there_or_not_this_hospitals_are_refused(
    folder, handed, world, tmp_path
):
    (tmp_path / "processed.south.data").write_text("")
    with pytest.raises(SourceMissing):
        sets_up(folder, handed, world, Holding(str(folder / "nowhere")))
    with pytest.raises(SiteWithoutRecords):
        sets_up(folder, handed, world, Holding(str(tmp_path)))


def test_a_word_is_divided_or_refused(folder, handed, world):
    with pytest.raises(SourceUnknown, match="no hospital's own"):
        sets_up(folder, handed, world, Holding("phantom"))


def test_records_inside_the_folder_move_with_it(folder, handed, world, tmp_path):
    study = StudyTerms.model_validate_json((handed / TERMS).read_bytes())
    heart = study.training.model_copy(update={"input_shape": (24,)})
    (handed / TERMS).write_bytes(canonical(study.model_copy(update={"training": heart})))
    (folder / "tables").mkdir()
    row = "63,1,1,145,233,1,2,150,0,2.3,3,0,6,0\n"
    (folder / "tables/processed.north.data").write_text(row * 3)
    done = sets_up(folder, handed, world, Holding(str(folder / "tables")))
    assert done.own.records == "tables"
    moved = shutil.move(folder, tmp_path / "elsewhere")
    assert len(open_own(tmp_path / "elsewhere", SiteOwn.load(moved, NORTH)).patients) == 3


def command(folder, handed, world, *options):
    told = ("--registry-fingerprint", world.study.fingerprint, "--study", str(handed))
    where = ("--home", str(folder.parent.parent), "--records", "wisconsin", "--sites", "3")
    return CliRunner().invoke(app, ["setup", "north", *told, *where, *options])


def test_the_command_says_what_is_held_and_who_gives_the_cap(folder, handed, world):
    done = command(folder, handed, world)
    assert done.exit_code == 0, done.output
    assert "north is set up for Cell nuclei" in done.stdout
    assert "bithive site budget north --cap EPSILON --dataset wisconsin" in done.stderr
    assert not (folder / "budget.db").exists()


def test_the_steward_opens_the_ledger_with_a_cap_and_may_repeat_it(folder, handed, world):
    for _ in range(2):
        done = command(folder, handed, world, "--cap", "4", "--json")
        assert done.exit_code == 0, done.output
        shown = json.loads(done.stdout)
    assert (shown["site"], shown["dataset"], shown["ledger_open"]) == ("north", "wisconsin", True)
    assert shown["patients"] == 38
    assert datasets(folder / "budget.db") == ["wisconsin"]
