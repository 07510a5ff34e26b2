"""An auditor finds every alteration of what a server keeps of its closed rounds."""

import numpy as np
import pytest

from fl_server import gate as gate_module
from fl_server.parts import cut
from fl_server.recheck import RoundAltered, recheck
from fl_server.store import FAULTS, ServerStore
from fl_server.tables import ROUNDS
from privacy.bfv import EncryptedUpdate
from privacy.commitment import CommitmentRefused
from privacy.parameters import parameter_set
from privacy.signatures import BadSignature
from privacy.tags import tag
from protocol.canonical import canonical, digest
from protocol.messages import Manifest
from protocol.summation import Commitment, Fault, Unmasking
from storage.database import writing

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(primed, tmp_path_factory):
    """The study run to its end, every proof believed."""
    study = primed.copy(tmp_path_factory.mktemp("finished") / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate_module, "verify_many", lambda _key, _proofs: None)
        study.engine().run()
    return study


@pytest.fixture
def closed(finished, tmp_path):
    """A copy of it to alter."""
    return finished.copy(tmp_path / "home")


def replace(study, number, kind, name, blob):
    with study.store.database.writing() as connection:
        study.store.database.parts.drop(connection, number, kind, name)
        study.store.database.parts.keep(connection, number, kind, name, cut(blob))


def alter(study, table, number, **values):
    with writing(study.store._engine) as connection:
        connection.execute(table.update().where(table.c.round == number).values(**values))


def test_an_honest_server_is_found_in_order(closed):
    found = recheck(closed.store)
    assert (found.rounds, found.opened, found.added_again) == (2, 2, (2,))
    assert found.manifest == digest(closed.store.round(2).manifest)


def test_changed_integers_are_found(closed):
    integers = closed.store.round(1).integers.copy()
    integers[0] += 1
    replace(closed, 1, "integers", "", integers.astype("<i8").tobytes())
    with pytest.raises(RoundAltered, match="integers"):
        recheck(closed.store)


def test_a_changed_model_is_found(closed):
    vector = closed.store.models.at(1).vector.copy()
    vector[0] = np.nextafter(vector[0], np.float32(np.inf))
    replace(closed, 1, "model", "vector", vector.astype("<f4").tobytes())
    with pytest.raises(RoundAltered, match="model"):
        recheck(closed.store)


@pytest.mark.parametrize("field", ["plan", "commitment", "integers_sha256", "model_sha256"])
def test_a_changed_manifest_is_found(closed, field):
    manifest = closed.store.round(1).manifest.model_copy(update={field: "1" * 64})
    alter(closed, ROUNDS, 1, manifest=canonical(manifest).decode())
    with pytest.raises(BadSignature):
        recheck(closed.store)
    alter(
        closed,
        ROUNDS,
        1,
        manifest=canonical(manifest.signed_by(closed.server_key().sign)).decode(),
    )
    with pytest.raises(RoundAltered):
        recheck(closed.store)


def test_a_round_put_in_anothers_place_is_found(closed):
    first = closed.store.round(1).manifest
    alter(closed, ROUNDS, 2, manifest=canonical(first).decode())
    with pytest.raises(RoundAltered, match="round"):
        recheck(closed.store)


def test_history_written_anew_by_the_server_breaks_the_chain(closed):
    second = closed.store.round(2).manifest
    forged = Manifest(**{**second.model_dump(), "previous": "2" * 64})
    alter(
        closed, ROUNDS, 2, manifest=canonical(forged.signed_by(closed.server_key().sign)).decode()
    )
    with pytest.raises(RoundAltered, match="follow"):
        recheck(closed.store)


def test_a_commitment_to_other_uploads_is_found(closed):
    stored = closed.store.round(2)
    forged = Commitment(**{**stored.commitment.model_dump(), "uploads_root": "3" * 64})
    forged = forged.signed_by(closed.server_key().sign)
    manifest = stored.manifest.model_copy(update={"commitment": digest(forged)})
    manifest = manifest.signed_by(closed.server_key().sign)
    closed_round = stored.closed.model_copy(update={"manifest": digest(manifest)})
    alter(
        closed,
        ROUNDS,
        2,
        commitment=canonical(forged).decode(),
        manifest=canonical(manifest).decode(),
        closed=canonical(closed_round).decode(),
    )
    with pytest.raises(CommitmentRefused, match="root"):
        recheck(closed.store)


def test_an_upload_that_its_site_did_not_sign_is_found(closed):
    blob = bytearray(closed.store.uploads.of(2)[closed.sites[0]][1])
    blob[-1] ^= 1
    replace(closed, 2, "upload", closed.sites[0], bytes(blob))
    with pytest.raises(RoundAltered, match=closed.sites[0]):
        recheck(closed.store)


def lie(study, number, *, told=None, commitment=None, signed=True):
    """Keep a word of the first site of a round as if it had told ``told`` of its upload."""
    kept = study.store.round(number).commitment
    site = kept.sites[0]
    word = Unmasking(
        site=site,
        commitment=commitment or digest(kept),
        challenge="7" * 64,
        tag=told or ("1", "2"),
    )
    if signed:
        word = word.signed_by(study.keys(site).sign)
    fault = Fault(what="tag-false", word=word, evidence={})
    alter(study, ROUNDS, number, faults=FAULTS.dump_json((fault,)).decode())
    return fault


def test_a_false_tag_is_listed_with_the_word_its_site_signed(closed):
    fault = lie(closed, 2)
    assert recheck(closed.store).faults == ((2, fault),)


def test_a_site_cannot_be_named_for_a_word_it_did_not_sign(closed):
    lie(closed, 1, signed=False)
    with pytest.raises(BadSignature):
        recheck(closed.store)


def test_a_site_cannot_be_named_for_a_word_about_another_sum(closed):
    lie(closed, 1, commitment="5" * 64)
    with pytest.raises(RoundAltered, match="another sum"):
        recheck(closed.store)


def test_a_site_cannot_be_named_for_a_tag_that_is_true(closed):
    commitment = closed.store.round(2).commitment
    _, blob = closed.store.uploads.of(2)[commitment.sites[0]]
    update = EncryptedUpdate(blob, commitment.key_id, closed.terms.encryption, commitment.length)
    true = tag(update, bytes.fromhex("7" * 64), parameter_set(closed.terms.encryption))
    lie(closed, 2, told=tuple(map(str, true)))
    with pytest.raises(RoundAltered, match="true"):
        recheck(closed.store)


def test_where_nothing_was_founded_nothing_was_closed(tmp_path):
    assert recheck(ServerStore(tmp_path / "server.db")).rounds == 0
