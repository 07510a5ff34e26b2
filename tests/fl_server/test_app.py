"""A server checks proofs only under a key that its own folder allows."""

from dataclasses import replace

import pytest

from fl_server.app import ServerFolderIncomplete, verification_key
from zk.keys import CeremonyNotAllowed, DevelopmentKeyRefused, KeyNotAllowed

TRANSCRIPT = "7" * 64


@pytest.fixture
def folder(study):
    return study.home.server


def offered(study, **changes):
    """Put another verification key into the folder, and into the terms."""
    key = replace(study.verification_key, **changes)
    key.save(study.home.server / "verification_key.json")
    consent = study.terms.consent.model_copy(update={"key_hash": key.hash})
    return key, study.terms.model_copy(update={"consent": consent})


def test_a_development_key_serves_only_where_the_folder_says_so(study, folder):
    assert verification_key(folder, study.terms) == study.verification_key
    (folder / "allow-development-key").unlink()
    with pytest.raises(DevelopmentKeyRefused):
        verification_key(folder, study.terms)


def test_a_ceremonys_key_serves_only_where_its_transcript_is_listed(study, folder):
    key, terms = offered(study, status="ceremony", transcript=TRANSCRIPT)
    with pytest.raises(CeremonyNotAllowed):
        verification_key(folder, terms)
    (folder / "allowed-ceremonies").write_text(f"{'6' * 64}\n")
    with pytest.raises(CeremonyNotAllowed):
        verification_key(folder, terms)
    (folder / "allowed-ceremonies").write_text(f"{'6' * 64}\n{TRANSCRIPT}\n")
    assert verification_key(folder, terms) == key


def test_another_key_than_the_studys_is_refused(study, folder):
    offered(study, status="ceremony", transcript=TRANSCRIPT)
    with pytest.raises(KeyNotAllowed):
        verification_key(folder, study.terms)


def test_a_folder_without_a_key_is_incomplete(study, folder):
    (folder / "verification_key.json").unlink()
    with pytest.raises(ServerFolderIncomplete, match="verification_key"):
        verification_key(folder, study.terms)
