"""Only accounts of the chart can be named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import chart
from protocol.ids import SLUG

slugs = st.from_regex(SLUG, fullmatch=True)


@given(slugs, slugs)
def test_every_account_of_a_study_and_site_is_in_the_chart(study, site):
    for account in (
        chart.wallet(site),
        chart.escrow(study),
        chart.pool(study, site),
        chart.treasury("founding_lab"),
        chart.GENESIS,
        chart.BURNED,
        chart.SLASHED,
    ):
        assert chart.check_account(account) == account


@pytest.mark.parametrize(
    "name",
    [
        "",
        "wallet",
        "wallet:",
        "wallet:a:b",
        "pool:a",
        "burned:x",
        "purse:a",
        "wallet:Ä",
        "wallet:A",
        "wallet:a b",
        "wallet:-a",
        "genesis:",
        "wallet:a\n",
        "wallet:" + "a" * 65,
    ],
)
def test_a_name_outside_the_chart_is_refused(name):
    with pytest.raises(chart.AccountMisnamed):
        chart.check_account(name)
