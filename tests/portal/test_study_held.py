"""An agent is made for no study of other consent than this hospital's, whatever was approved."""

from types import SimpleNamespace

import pytest

from portal.demo import site_agent
from portal.site_settings import StudyNotHeld
from protocol.progress import silent
from tests.fl_client.job_world import SITE, World


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("dataset", "others"),
        ("registry", "others"),
        ("registry_key", b"\1" * 32),
        ("circuit", "cover16"),
    ],
)
def test_a_study_of_another_registry_data_set_or_circuit_gets_no_agent(field, other):
    terms = World().terms()
    consent = terms.consent.model_copy(update={field: other})
    false = terms.model_copy(update={"consent": consent})
    with pytest.raises(StudyNotHeld, match=field.replace("_", " ")):
        site_agent(SimpleNamespace(terms=terms), SITE, None, false, silent)
