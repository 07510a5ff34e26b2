"""On PostgreSQL the books do and refuse what they do on SQLite, by the same tests.

The tests below the fixtures are those of the other files, run again on a server that is started
for this module.
"""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from ledger import chart, tokenomics
from ledger.books import Ledger
from ledger.store import open_tables
from protocol.units import TOTAL_SUPPLY
from storage.postgresql import open_postgresql
from tests.audit.test_log import (  # noqa: F401 - run again on PostgreSQL
    log,
    test_an_empty_log_has_a_signed_head_of_nothing,
    test_events_stay_in_order_with_the_facts_given,
    test_every_event_and_every_earlier_head_can_be_proven,
)
from tests.consent.test_postgresql import empty, server, target  # noqa: F401 - fixtures
from tests.ledger import test_machine
from tests.ledger.test_books import (  # noqa: F401 - run again on PostgreSQL
    test_a_negative_amount_is_refused,
    test_a_repeated_transfer_is_found_even_when_the_money_is_gone,
    test_a_transfer_moves_the_amount_and_is_kept,
    test_a_transfer_of_nothing_is_refused,
    test_an_account_that_was_not_opened_is_refused,
    test_burned_money_still_counts_and_never_returns,
    test_genesis_mints_the_supply_once,
    test_genesis_with_another_allocation_is_refused,
    test_legs_apply_in_order_and_all_or_none,
    test_more_than_the_account_holds_is_refused,
    test_the_same_key_moves_money_once,
    test_the_same_key_with_other_content_is_refused,
)
from tests.ledger.test_escrow import (  # noqa: F401 - run again on PostgreSQL
    held,
    test_a_held_escrow_is_not_opened_again,
    test_a_key_of_another_step_is_refused,
    test_a_release_that_is_no_payment_is_refused,
    test_after_a_refund_nothing_more_happens,
    test_after_the_last_release_nothing_more_happens,
    test_an_order_nobody_funded_is_unknown,
    test_every_step_repeated_makes_the_transfer_it_made,
    test_it_pays_in_parts_and_is_captured_with_the_last,
    test_money_put_up_is_held_apart,
    test_more_than_is_held_is_not_released,
    test_what_cannot_be_put_up_opens_no_escrow,
    test_what_is_left_returns_to_the_funder,
)
from tests.ledger.test_flags import (  # noqa: F401 - run again on PostgreSQL
    test_a_batch_is_what_its_transfers_would_have_been,
    test_a_batch_that_is_refused_in_one_place_leaves_nothing,
    test_a_flag_forbids_and_a_lowered_one_does_not,
    test_a_key_repeated_inside_a_batch_moves_money_once,
    test_a_reversal_is_another_transfer,
    test_only_an_empty_account_is_closed_and_for_ever,
)
from tests.ledger.test_many_operations import (  # noqa: F401 - run again on PostgreSQL
    test_a_hundred_thousand_random_operations_keep_the_books_true,
)
from tests.ledger.test_pending import (  # noqa: F401 - run again on PostgreSQL
    deadline,
    test_a_hold_lapses_at_its_time_and_not_before,
    test_all_that_is_due_expires_together,
    test_beginning_again_returns_the_first_hold_or_is_refused,
    test_posting_a_part_returns_the_rest,
    test_posting_gives_all_of_it_once,
    test_voiding_returns_all_of_it,
    test_what_cannot_be_held_is_refused,
)
from tests.ledger.test_staking import (  # noqa: F401 - run again on PostgreSQL
    staked,
    test_a_full_pool_pays_the_ceiling_and_an_empty_one_nothing,
    test_a_short_pool_pays_everyone_the_same_share_and_shows_the_rate,
    test_a_stake_is_bonded_once,
    test_a_stake_is_free_after_its_days_and_twenty_one_more,
    test_the_pool_takes_its_share_of_fees_and_a_capped_part_of_the_bucket,
    test_what_is_slashed_is_half_burned_and_half_the_victims,
)
from tests.ledger.test_statements import (  # noqa: F401 - run again on PostgreSQL
    busy,
    test_a_statement_adds_up,
    test_beancount_derives_every_balance_to_the_base_unit,
    test_statements_of_days_follow_one_another,
)
from tests.ledger.test_vesting import (  # noqa: F401 - run again on PostgreSQL
    foundation,
    test_a_tranche_takes_a_decision_and_its_date,
    test_every_bucket_that_vests_is_allocated_once,
    test_mining_is_emitted_by_its_steps_and_no_other_way,
    test_other_terms_than_were_allocated_release_nothing,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def path(target):  # noqa: F811 - the fixture
    """What the other files open as a file."""
    engine = open_tables(open_postgresql(target))
    yield engine
    engine.dispose()


def test_any_order_of_operations_leaves_the_books_true(target, path):  # noqa: F811 - the fixture
    class OnPostgresql(test_machine.Books):
        def opened(self):
            return Ledger(path)

        def open_new(self):
            empty(target)
            path.dispose()
            open_tables(path)
            return Ledger(path)

    few = settings(
        max_examples=6,
        stateful_step_count=20,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(OnPostgresql, settings=few)


def test_writers_at_once_come_one_after_another(ledger, target, now):  # noqa: F811 - the fixture
    funder, stranger = chart.wallet("funder"), chart.wallet("stranger")

    def pay(name):
        own = Ledger(open_postgresql(target))
        for number in range(25):
            own.transfer(f"{name}:{number}", funder, stranger, 10, memo="", now=now)
        own.close()

    threads = [threading.Thread(target=pay, args=(name,)) for name in "abcd"]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert (ledger.balance(funder), ledger.balance(stranger)) == (0, 1000)
    assert ledger.verify().transfers == 102


@pytest.mark.parametrize("table", ["transfers", "legs"])
def test_the_server_itself_refuses_to_edit_the_journal(ledger, target, table):  # noqa: F811 - the fixture
    engine = sa.create_engine(target)
    for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET sequence = sequence + 9"):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_the_server_itself_refuses_a_negative_balance(ledger, target):  # noqa: F811 - the fixture
    engine = sa.create_engine(target)
    overdrawn = "UPDATE accounts SET debits = credits + 1 WHERE account = 'wallet:funder'"
    with pytest.raises(sa.exc.IntegrityError, match="negative"), engine.begin() as connection:
        connection.exec_driver_sql(overdrawn)
    engine.dispose()


def test_amounts_are_whole_numbers_of_38_digits_on_the_server(ledger, target, now):  # noqa: F811 - the fixture
    everything, funder = chart.treasury("mining"), chart.wallet("funder")
    ledger.transfer("all", everything, funder, ledger.balance(everything), memo="", now=now)
    engine = sa.create_engine(target)
    with engine.connect() as connection:
        kind = "SELECT data_type, numeric_precision, numeric_scale FROM information_schema.columns "
        kind += "WHERE table_name = 'legs' AND column_name = 'amount'"
        assert tuple(connection.exec_driver_sql(kind).one()) == ("numeric", 38, 0)
        total = "SELECT sum(credits - debits) FROM accounts WHERE account <> 'genesis'"
        assert int(connection.exec_driver_sql(total).scalar()) == TOTAL_SUPPLY
    engine.dispose()
    assert tokenomics.load().allocation.amounts()["mining"] == ledger.find("all").legs[0].amount
