"""On PostgreSQL a registry does what it does on SQLite, and refuses the same.

A server is started in a folder of its own, by a user without privileges, and listens on a socket
there. The tests below the fixtures are those of the other files, run again on it.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from consent.lanes import LanePolicy
from consent.postgresql import PostgresqlUnusable, open_postgresql
from consent.registry import Registry
from protocol.ids import SiteId, StudyId
from tests.consent.test_crowd import crowd
from tests.consent.test_lanes import (  # noqa: F401 - run again on PostgreSQL
    test_the_same_triple_gives_the_same_lane,
)
from tests.consent.test_registry import (  # noqa: F401 - run again on PostgreSQL
    test_a_chunk_is_a_node_of_the_tree,
    test_a_code_of_another_grant_or_none_is_refused,
    test_a_full_lane_is_refused_and_takes_none_of_the_call,
    test_a_withdrawn_leaf_is_gone_in_the_next_epoch_and_its_place_is_not_used_again,
    test_an_empty_registry_signs_the_empty_tree,
    test_grants_of_one_call_take_the_next_places_in_one_epoch,
    test_withdrawing_again_returns_the_first_receipt_and_changes_nothing,
    test_writers_at_once_lose_nothing,
)
from tests.consent.test_registry_proven import (  # noqa: F401 - run again on PostgreSQL
    chain,
    grant,
    group,
    live,
    observed,
    test_a_lane_is_read_as_of_any_epoch,
    test_a_person_withdraws_by_proof,
    test_a_proof_that_was_shown_publishes_nothing_again,
    test_an_observer_verifies_every_grants_proof,
    test_new_terms_replace_the_old_leaf_in_one_epoch,
    test_nothing_but_what_was_proven_is_published,
    test_the_code_of_a_replaced_grant_ends_what_took_its_place,
    test_the_log_comes_in_pages_that_join,
    test_the_payout_ids_of_a_lane_are_those_of_its_live_grants_by_leaf,
    withdraw,
)

pytestmark = pytest.mark.slow
START_SECONDS = 60


def program(name):
    """The newest PostgreSQL program of this name on this machine, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


def servant():
    """Options for a child process without privileges: a server refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@pytest.fixture(scope="module")
def server():
    """The address of a server that lives as long as this module's tests."""
    pytest.importorskip("psycopg", reason="PostgreSQL tests need psycopg")
    if program("initdb") is None or program("postgres") is None:
        pytest.skip("PostgreSQL tests need its programs: Debian package postgresql")
    folder = Path(tempfile.mkdtemp(prefix="bithive-pg-"))
    options = servant()
    if options:
        os.chown(folder, options["user"], options["group"])
    options |= {"cwd": folder, "stdout": subprocess.DEVNULL, "env": {"PATH": os.environ["PATH"]}}
    made = [program("initdb"), "-D", str(folder / "data"), "-E", "UTF8"]
    made += ["--locale=C", "-U", "registry", "-A", "trust"]
    subprocess.run(made, check=True, **options)
    command = [program("postgres"), "-D", str(folder / "data"), "-k", str(folder)]
    running = subprocess.Popen(
        [*command, "-c", "listen_addresses="], stderr=subprocess.DEVNULL, **options
    )
    address = f"postgresql+psycopg://registry@/postgres?host={folder}"
    try:
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                sa.create_engine(address).connect().close()
                break
            except sa.exc.OperationalError:
                assert time.monotonic() < until, "the server did not start"
                time.sleep(0.1)
        yield address
    finally:
        running.terminate()
        running.wait()
        shutil.rmtree(folder)


@pytest.fixture
def target(server):
    """The same address, with nothing in its database."""
    engine = sa.create_engine(server)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    return server


@pytest.fixture
def open_registry(target, key):
    opened = []

    def open_again(**changes):
        settings = {"registry_id": "registry", "signing_key": key}
        opened.append(Registry(open_postgresql(target), **(settings | changes)))
        return opened[-1]

    yield open_again
    for one in opened:
        one.close()


@pytest.fixture
def lane(request, registry):
    """A lane of two chunks of four; for proven grants alone where a test is about those."""
    proven = request.node.function.__module__.endswith("proven")
    policy = LanePolicy.PROVEN if proven else LanePolicy.HOSPITAL
    return registry.open_lane(StudyId("study"), SiteId("north"), "scans", 8, 4, policy=policy)


def test_several_processes_at_once_lose_nothing(target):
    crowd(target)


@pytest.mark.parametrize("table", ["epochs", "changes"])
def test_the_database_itself_refuses_to_rewrite_history(registry, publish, target, table):
    publish(11)
    engine = sa.create_engine(target)
    for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET leaf = leaf"):
        changed = (
            statement.replace("leaf = leaf", "root = root") if table == "epochs" else statement
        )
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
            connection.exec_driver_sql(changed)
    engine.dispose()


def test_the_database_itself_refuses_a_second_live_leaf_of_a_nullifier(registry, grant, target):  # noqa: F811 - the fixture
    grant("by_self")
    engine = sa.create_engine(target)
    with pytest.raises(sa.exc.IntegrityError, match="one_live"), engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO grants SELECT 1, 'x', lane, '\\x01', revoke_hash, nullifier, payout_id, "
            "proof, NULL, NULL FROM grants"
        )
    engine.dispose()


def test_a_server_that_acknowledges_what_is_not_on_its_disk_is_refused(target):
    engine = sa.create_engine(target, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("ALTER ROLE registry SET synchronous_commit = off")
        try:
            with pytest.raises(PostgresqlUnusable, match="synchronous_commit"):
                open_postgresql(target)
        finally:
            connection.exec_driver_sql("ALTER ROLE registry RESET synchronous_commit")
    engine.dispose()


@pytest.mark.parametrize("url", ["sqlite://", "north", "postgresql+nothing://a/b"])
def test_what_is_no_address_of_a_server_is_refused(url):
    with pytest.raises(PostgresqlUnusable):
        open_postgresql(url)
