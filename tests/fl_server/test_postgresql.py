"""On PostgreSQL the server's database keeps and refuses what it does on SQLite, by the same tests.

The tests below the fixtures are those of the other files, run again on a server that is started
for this module.
"""

import pytest

from fl_server.database import ServerDatabase
from fl_server.store import ServerStore
from storage.postgresql import open_postgresql
from tests.consent.test_postgresql import server, target  # noqa: F401 - fixtures
from tests.fl_server.records import model, planned, terms
from tests.fl_server.test_answers import (  # noqa: F401 - run again on PostgreSQL
    answers,
    test_a_step_that_has_ended_stays_ended,
    test_a_stored_answer_is_found_again_under_its_own_question_only,
    test_a_stray_is_kept_once_by_hash_and_size,
    test_forgotten_answers_are_asked_for_again,
)
from tests.fl_server.test_lease import (  # noqa: F401 - run again on PostgreSQL
    elsewhere,
    test_a_heart_that_beats_keeps_the_run_longer_than_the_lease,
    test_a_holder_whose_heart_stopped_is_followed_after_its_time,
    test_a_run_that_was_given_back_is_free_at_once,
    test_of_many_that_take_over_at_once_one_gets_it,
    test_while_one_holds_the_run_another_is_refused,
    test_who_lost_the_run_writes_nothing_any_more,
)
from tests.fl_server.test_live import (  # noqa: F401 - run again on PostgreSQL
    reader,
    test_a_run_is_waiting_then_running_then_finished,
    test_an_event_is_stored_with_what_it_tells_of,
    test_an_event_whose_transaction_failed_comes_with_the_next,
    test_events_come_in_order_from_one_position_to_the_next,
    test_sites_stand_where_their_last_event_left_them,
    test_writers_at_once_leave_no_gap,
)
from tests.fl_server.test_parts import (  # noqa: F401 - run again on PostgreSQL
    test_a_failed_transaction_leaves_neither_row_nor_file,
    test_what_is_dropped_is_gone,
    test_what_is_read_is_what_was_kept,
)
from tests.fl_server.test_store import (  # noqa: F401 - run again on PostgreSQL
    test_a_database_from_before_there_were_versions_is_refused,
    test_a_database_of_another_version_is_refused_and_left_as_it_is,
    test_a_model_is_read_as_it_was_kept,
    test_a_run_is_named_by_its_terms_whoever_opens_it,
    test_ciphertexts_stay_until_the_next_round_is_closed,
    test_closing_is_all_or_nothing,
    test_nothing_enters_a_frozen_round,
    test_other_bytes_of_the_same_site_and_round_are_refused_and_named,
    test_the_opened_integers_come_back_whatever_their_width,
    test_the_same_bytes_count_once,
    test_what_is_kept_is_there_for_another_process,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def source(target):  # noqa: F811 - the fixture
    """What the other files open as a file."""
    engine = open_postgresql(target)
    yield engine
    engine.dispose()


@pytest.fixture
def store(request, source):
    """Founded, and planned where the tests of the store itself run."""
    made = ServerStore(source)
    made.found(terms(), model())
    if request.node.function.__module__.endswith("test_store"):
        made.plan(planned())
    return made


@pytest.fixture
def database(source):
    return ServerDatabase(source)
