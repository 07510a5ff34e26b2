"""A hospital with a desk, a job and two accounts, and browsers in which they are signed in."""

import pytest
from fastapi.testclient import TestClient

from identity.roles import Role
from portal.officer.desk import OfficerDesk
from portal.officer.server import COOKIE, create_app
from portal.officer.signin import Sessions, site_accounts
from privacy.stewardship import open_dataset
from tests.fl_client.job_world import SITE, Clock, World
from tests.portal.officer.world import CHEAP, HERE, PASSWORD, USER, sign_in


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def desk(tmp_path, clock):
    open_dataset(tmp_path / "budget.db", "scans", epsilon_limit=3.0, delta=1e-5)
    return OfficerDesk(tmp_path, SITE, clock=clock)


@pytest.fixture
def job(desk):
    world = World()
    terms, manifest = world.job(title="<b>lesion</b> against none")
    return desk.book.keep(manifest, terms)


@pytest.fixture
def accounts(desk):
    made = site_accounts(desk.folder, desk.book.decisions.log.append, cost=CHEAP)
    made.add("officer-1", PASSWORD, roles={Role.OFFICER}, actor=USER, site=SITE)
    made.add("steward-1", PASSWORD, roles={Role.STEWARD}, actor=USER, site=SITE)
    yield made
    made.close()


@pytest.fixture
def client(desk, accounts, clock):
    app = create_app(desk, Sessions(accounts, SITE, clock))
    with TestClient(app, base_url=HERE, follow_redirects=True) as opened:
        yield opened


@pytest.fixture
def officer(client):
    """A browser in which an officer is signed in."""
    assert sign_in(client).status_code == 200
    assert client.cookies.get(COOKIE + SITE)
    return client


@pytest.fixture
def steward(client):
    """A browser in which a steward is signed in."""
    assert sign_in(client, "steward-1").status_code == 200
    return client
