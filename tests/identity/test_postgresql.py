"""On PostgreSQL accounts do and refuse what they do on SQLite."""

import pytest

from identity.accounts import Accounts
from storage.postgresql import open_postgresql
from tests.consent.test_postgresql import server, target  # noqa: F401 - fixtures
from tests.identity.test_accounts import (  # noqa: F401 - run again on PostgreSQL
    CHEAP,
    OPERATOR,
    PASSWORD,
    Role,
    log,
    test_a_day_without_a_failure_forgets_them,
    test_a_session_ends_at_its_hour_and_when_it_lies_idle,
    test_a_session_ends_when_it_is_left,
    test_all_sessions_end_when_the_password_changes_or_the_account_is_disabled,
    test_an_account_that_cannot_be_is_not_made,
    test_an_address_that_tries_many_names_is_throttled,
    test_every_refusal_has_the_same_words,
    test_guesses_become_ever_slower_and_the_right_password_waits_too,
    test_many_at_once_get_no_further_than_many_in_a_row,
    test_who_signed_in_is_known_with_roles_and_account,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def accounts(target, log):  # noqa: F811 - a fixture's name
    made = Accounts(open_postgresql(target), audit=lambda *event: log.append(event), cost=CHEAP)
    made.add("r.west", PASSWORD, roles={Role.RESEARCHER}, actor=OPERATOR, account="wallet:west")
    yield made
    made.close()
