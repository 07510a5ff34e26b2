"""Found a run: keys, data, grants, study terms, money. Everything a first round needs to exist.

Each step is what the party itself would do: hospitals make their keys, the registry opens a lane
for each, patients grant (``portal.granting``), the server gets public keys, the researcher funds an
escrow. A run killed while it is founded is founded anew; once founded, nothing here is made again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from consent.lanes import LanePolicy
from models.recipes import Recipe
from portal.features import FeatureStep
from portal.granting import Crowd, grant_all
from portal.home import Home, Settings
from portal.patients import Wishes
from portal.semaphore_workers import Tell
from portal.site_settings import keys_file
from portal.study_founding import Design, found_server
from privacy.keys import SiteKeys
from privacy.stewardship import open_dataset
from protocol.ids import SiteId
from protocol.terms import SiteIdentity, StudyTerms
from records.dataset import StudyData
from zk.keys import VerificationKey


@dataclass(frozen=True)
class Founding:
    """What founding needs to know, all decided before."""

    settings: Settings
    data: StudyData
    recipe: Recipe
    wishes: Wishes
    verification_key: VerificationKey
    today: date
    title: str
    features: FeatureStep | None = None

    @property
    def design(self) -> Design:
        """What the study is, without whose patients are in it."""
        source = self.data.source
        return Design(
            settings=self.settings,
            dataset=source.name,
            modality=source.modality,
            input_shape=self.data.input_shape,
            title=self.title,
            recipe=self.recipe,
            verification_key=self.verification_key,
            today=self.today,
            features=self.features,
        )


def found(home: Home, founding: Founding, *, tell: Tell = lambda *_: None) -> StudyTerms:
    """Make the run's world; return the study's terms.

    Args:
        home: Empty but for its settings and records.
        founding: What it is to be.
        tell: Told of the grants that are made, where that takes time.
    """
    sites = sorted(founding.data.sites)
    identities = tuple(_identity(home, site) for site in sites)
    capacities = {site: len(patients) for site, patients in founding.data.sites.items()}
    terms, registry = found_server(home.server, founding.design, identities, capacities)
    grant_all(home, registry, terms, crowd_of(founding), tell=tell)
    for site in sites:  # each one's data steward decides; here they allow what the study asks
        open_dataset(
            home.site(site) / "budget.db",
            terms.consent.dataset,
            epsilon_limit=terms.privacy.epsilon,
            delta=terms.privacy.delta,
        )
    return terms


def crowd_of(founding: Founding) -> Crowd:
    """Return the patients, what they decided, and how they grant."""
    settings, data = founding.settings, founding.data
    return Crowd(
        decisions={
            site: {patient.id: founding.wishes.decisions[site][patient.id] for patient in patients}
            for site, patients in sorted(data.sites.items())
        },
        modality=data.source.modality,
        policy=LanePolicy(settings.grants),
        seed=settings.seed if settings.seed_noise else None,
        today=founding.today,
    )


def _identity(home: Home, site: SiteId) -> SiteIdentity:
    keys = SiteKeys.load_or_make(keys_file(home.site(site)))
    return SiteIdentity(
        site=site, signing_key=keys.signing_public, agreement_key=keys.agreement_public
    )
