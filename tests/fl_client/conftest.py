"""One small study, founded and answered once, and copies of it."""

import pytest

from tests.fl_server.study import small_study


@pytest.fixture(scope="session")
def primed(tmp_path_factory):
    """The study with every site's answer to the first round, so that its proofs are made."""
    with small_study(tmp_path_factory.mktemp("primed") / "home") as study:
        planned = study.planned()
        for site in study.sites:
            study.contribution(site, planned)
        yield study


@pytest.fixture
def study(primed, tmp_path):
    """A copy of it to run and damage."""
    return primed.copy(tmp_path / "home")
