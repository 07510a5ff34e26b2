"""A printed epsilon carries delta, unit, sampling and accountant, and never promises too much."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from privacy.events import DpSgdEvent, SummedNoiseEvent
from privacy.statement import PrivacyStatement, read_statement, rounded_up, sampling_of


@given(st.floats(0, 1e6), st.integers(1, 6))
def test_what_is_printed_is_not_smaller_and_nearly_the_same(epsilon, digits):
    printed = float(rounded_up(epsilon, digits))
    assert epsilon - 1e-11 <= printed <= epsilon + 10.0**-digits * 1.001


def test_the_text_has_all_five_parts_and_json_gives_them_back():
    found = PrivacyStatement(3.21, 1e-5, "patient", "none", "rdp")
    for part in ("3.21", "delta 1e-05", "unit: patient", "sampling: none", "accountant: RDP"):
        assert part in found.text()
    written = json.loads(json.dumps(found.as_json() | {"more": 1}))
    assert read_statement(written) == found


def test_an_infinite_epsilon_says_so():
    assert rounded_up(math.inf) == "infinite"


def test_sampling_names_the_noise_that_sites_add_together():
    summed = SummedNoiseEvent(0.5, 10.0, 8.0, 3, 4, 1)
    assert sampling_of([summed]) == "Poisson at rate 0.5, noise summed over sites"
    assert sampling_of([summed, DpSgdEvent(1.0, 2.0, 1)]).startswith("Poisson at rates 0.5 to 1")
