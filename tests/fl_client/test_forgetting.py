"""What an agent remembers of an erased patient goes, and nobody else's."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from fl_client.forgetting import AgentMemory
from fl_client.store import SiteStore
from fl_client.tables import CERTIFICATES, METADATA, PERSONAL, PERSONAL_MEMBERS
from fl_client.under_way import UnderWay
from protocol.ids import PatientId
from storage.database import open_database, writing

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
GONE, STAYS = PatientId("ward7-2"), PatientId("ward7-3")
STUDY = "lesions"


@pytest.fixture
def path(tmp_path):
    """A database with two models of the site's, and the certificates of three chunks."""
    file = tmp_path / "site.db"
    store = SiteStore(file)
    store.keep_answer(STUDY, 1, "plan", b"", None, personal=b"with her", members=[GONE, STAYS])
    store.keep_answer(STUDY, 2, "plan", b"", None, personal=b"without her", members=[STAYS])
    with writing(open_database(file, METADATA)) as connection:
        rows = [
            {"study": STUDY, "chunk": one, "selection": f"choice-{one}", "certificate": "{}"}
            for one in range(3)
        ]
        connection.execute(CERTIFICATES.insert(), rows)
    return file


def dump(path):
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_what_was_computed_from_her_records_goes_and_the_rest_stays(path):
    memory = AgentMemory(path, chunks=[])
    assert (memory.holds(GONE), memory.holds(STAYS), memory.holds(PatientId("other"))) == (1, 2, 0)
    memory.destroy(GONE)
    assert (memory.holds(GONE), memory.holds(STAYS)) == (0, 1)
    assert SiteStore(path).personal(STUDY, before=3) == [(2, b"without her")]
    assert b"with her" not in dump(path)
    assert b"without her" in dump(path)
    assert SiteStore(path).answered(STUDY) == [1, 2]


def test_what_does_not_say_from_whose_records_it_is_goes_too(path):
    with writing(open_database(path, METADATA)) as connection:
        connection.execute(sa.delete(PERSONAL_MEMBERS))
    memory = AgentMemory(path, chunks=[])
    assert memory.holds(GONE) == 0
    memory.destroy(GONE)
    with open_database(path, METADATA).connect() as connection:
        assert connection.execute(sa.select(PERSONAL)).all() == []


def test_the_certificates_of_her_chunks_go_and_those_of_others_stay(path):
    memory = AgentMemory(path, chunks=[1])
    assert memory.holds(PatientId("other")) == 1
    memory.destroy(GONE)
    found = dump(path)
    assert b"choice-1" not in found
    assert b"choice-0" in found
    assert b"choice-2" in found


def test_a_round_is_named_while_it_may_be_training(path):
    memory = AgentMemory(path, chunks=[])
    assert memory.training(now=NOW) == []
    rounds = UnderWay(path, answered=list, clock=lambda: NOW)
    with rounds.training(STUDY, 3, 60):
        assert memory.training(now=NOW) == [(STUDY, 3)]
    assert memory.training(now=NOW + timedelta(hours=1)) == []
    SiteStore(path).keep_answer(STUDY, 3, "plan", b"", None)
    assert memory.training(now=NOW) == []


def test_where_the_agent_never_ran_nothing_is_made(tmp_path):
    memory = AgentMemory(tmp_path / "site.db", chunks=[1])
    assert memory.holds(GONE) == 0
    memory.destroy(GONE)
    assert memory.training(now=NOW) == []
    assert list(tmp_path.iterdir()) == []
