"""On PostgreSQL registry, enrolment group and claims do and refuse what they do on SQLite.

A server is started in a folder of its own, by a user without privileges, and listens on a socket
there. The tests below the fixtures are those of the other files, run again on it.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from consent.claims import ClaimBook
from consent.enrolment import EnrolmentGroup
from consent.lanes import LanePolicy
from consent.postgresql import PostgresqlUnusable, open_postgresql
from consent.registry import Registry
from protocol.ids import SiteId, StudyId
from tests.consent import test_enrolment
from tests.consent.test_claims import (  # noqa: F401 - run again on PostgreSQL
    book,
    test_a_claim_is_unpaid_until_it_is_marked_once,
    test_a_claim_survives_the_process_and_is_not_made_twice_after_it,
    test_a_claim_to_a_payout_that_was_not_opened_is_refused,
    test_a_payout_id_that_two_grants_name_is_one_share,
    test_a_proof_about_another_group_is_refused,
    test_a_proof_for_another_payout_is_refused,
    test_a_proof_that_does_not_hold_is_refused,
    test_a_proof_that_was_seen_pays_nobody_else,
    test_a_second_claim_is_refused_and_says_what_was_kept,
    test_fewer_than_twenty_are_refused,
    test_fewer_than_twenty_are_told_so_where_that_is_the_rule,
    test_more_claims_than_shares_are_refused,
    test_opening_again_gives_the_same_payout_and_never_another,
    test_payouts_come_by_hospital_and_study_in_the_order_of_their_epochs,
    test_the_group_is_the_tree_over_the_payout_ids,
    test_the_same_identity_claims_from_the_next_epoch_too,
    test_what_is_left_over_goes_to_who_claims_first,
    test_what_is_owed_is_what_was_promised_less_what_was_paid,
    test_what_is_to_be_paid_is_in_an_order_that_does_not_say_who_came_first,
)
from tests.consent.test_crowd import claiming_crowd, crowd, enrolling_crowd
from tests.consent.test_enrolment import (  # noqa: F401 - run again on PostgreSQL
    family,
    test_a_carer_acts_for_one_ward,
    test_a_carer_alone_has_no_place,
    test_a_carer_must_be_enrolled_as_one,
    test_a_carer_removed_after_the_wards_day_changes_nothing,
    test_a_commitment_joins_once_even_after_it_was_removed,
    test_a_full_group_takes_nobody,
    test_a_removed_carer_takes_no_ward,
    test_a_removed_ward_has_no_carer_acting_and_does_not_come_back,
    test_a_root_that_never_was_is_refused,
    test_a_root_that_others_joined_after_serves_for_24_hours,
    test_another_process_sees_the_same_group_and_goes_on_with_it,
    test_anybody_rebuilds_the_group_from_its_log,
    test_before_her_day_the_carer_acts_in_the_wards_place,
    test_from_her_day_on_the_ward_acts_and_no_proof_of_her_carer_serves,
    test_members_stand_in_the_order_of_joining_under_the_root,
    test_nobody_joins_without_the_signature_of_the_hospital_named,
    test_only_the_hospital_that_enrolled_removes_and_only_once,
    test_the_day_is_that_of_utc,
    test_the_log_refuses_to_be_rewritten,
    test_the_root_0_of_an_emptied_group_is_refused_though_it_is_in_the_log,
    test_who_is_of_age_is_not_enrolled_as_a_ward,
    test_who_was_removed_has_0_in_her_place_and_no_older_root_serves,
    test_without_her_carer_nobody_acts_for_the_ward_until_her_day,
)
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
    live,
    observed,
    people_in,
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
        running.send_signal(signal.SIGINT)  # ends now; SIGTERM waits for every client to leave
        running.wait()
        shutil.rmtree(folder)


@pytest.fixture
def target(server):
    """The same address, with nothing in its database."""
    empty(server)
    return server


def empty(server):
    engine = sa.create_engine(server)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()


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
def path(target):
    """What the other files open as a file."""
    engine = open_postgresql(target)
    yield engine
    engine.dispose()


@pytest.fixture
def group(request, path):
    """Those whose proofs are in the vectors; nobody for tests about enrolling."""
    if request.node.function.__module__.endswith("test_enrolment"):
        return EnrolmentGroup(path, test_enrolment.KEYS)
    return people_in(path)


@pytest.fixture
def lane(request, registry):
    """A lane of two chunks of four; for proven grants alone where a test is about those."""
    proven = request.node.function.__module__.endswith("proven")
    policy = LanePolicy.PROVEN if proven else LanePolicy.HOSPITAL
    return registry.open_lane(StudyId("study"), SiteId("north"), "scans", 8, 4, policy=policy)


def test_several_processes_at_once_lose_nothing(target):
    crowd(target)


def test_two_hundred_enrolments_at_once_lose_nobody(target):
    enrolling_crowd(target)


def test_two_hundred_claims_at_once_are_each_kept_once(target):
    claiming_crowd(target)


def test_any_interleaving_leaves_the_group_as_the_model_says(target, path):
    class OnPostgresql(test_enrolment.Machine):
        def __init__(self):
            empty(target)
            self.database = path
            super().__init__()

    few = settings(
        max_examples=3,
        stateful_step_count=10,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(OnPostgresql, settings=few)


def test_the_three_share_one_database(registry, target, path):
    group = EnrolmentGroup(path, test_enrolment.KEYS)
    group.enrol(test_enrolment.enrolled(1), now=test_enrolment.NOW)
    assert ClaimBook(path, registry=registry.id).unpaid() == []
    assert registry.epoch().number == 0
    assert group.members(now=test_enrolment.NOW) == [1]


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
