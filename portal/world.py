"""Found a run: keys, data, grants, study terms, money. Everything a first round needs to exist.

Each step is what the party itself would do: hospitals make their keys, the registry opens a lane
for each, patients grant (``portal.granting``), the server gets public keys, the researcher funds an
escrow. A run killed while it is founded is founded anew; once founded, nothing here is made again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from typing import Final

from consent.lanes import LanePolicy
from consent.purposes import category_mask, purpose_mask
from consent.registry import Registry
from fl_server.aggregation import first_state, study_algorithm
from fl_server.store import ServerStore
from models.algorithms.catalogue import algorithm_of, defaults_for
from models.networks import build, tensor_sizes, to_vector
from models.recipes import Recipe, recipe_for
from portal.granting import STUDY_PURPOSE, Crowd, grant_all
from portal.home import Home, Settings
from portal.noise import encryption_of, privacy_terms
from portal.patients import Wishes
from portal.semaphore_workers import Tell
from portal.site_settings import keys_file
from privacy.keys import SiteKeys
from privacy.parameters import parameter_set
from privacy.sharing import quorum
from privacy.signatures import signing_key
from privacy.stewardship import open_dataset
from protocol.ids import SiteId, StudyId
from protocol.messages import (
    SITES_MIN,
    ConsentTerms,
    SiteIdentity,
    StudyTerms,
    TrainingTerms,
    canonical,
)
from protocol.units import day_number
from records.dataset import StudyData
from storage.files import write_whole
from zk.circuit import circuit
from zk.keys import VerificationKey

REGISTRY: Final = "bithive-registry"
CERTIFICATE_DAYS: Final = 30
"""Days a certificate covers; the gate allows at most 31."""
CNN_LR: Final = 1.0
"""For the compact convolutional network, where an algorithm needs one with normalisation."""


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


def found(home: Home, founding: Founding, *, tell: Tell = lambda *_: None) -> StudyTerms:
    """Make the run's world; return the study's terms.

    Args:
        home: Empty but for its settings and records.
        founding: What it is to be.
        tell: Told of the grants that are made, where that takes time.
    """
    settings, data = founding.settings, founding.data
    sites = sorted(data.sites)
    identities = tuple(_identity(home, site) for site in sites)
    registry_key = signing_key(home.server / "registry.key")
    terms = study_terms(
        founding,
        identities,
        server_key=signing_key(home.server / "server.key").public_key().public_bytes_raw(),
        registry_key=registry_key.public_key().public_bytes_raw(),
    )
    registry = Registry(home.server / "registry.db", registry_id=REGISTRY, signing_key=registry_key)
    open_lanes(registry, terms, founding)
    grant_all(home, registry, terms, crowd_of(founding), tell=tell)
    founding.verification_key.save(home.server / "verification_key.json")
    if founding.verification_key.status == "development":
        write_whole(home.server / "allow-development-key", b"this is a demonstration\n")
    write_whole(home.server / "terms.json", canonical(terms))
    module = build(terms.training.network, terms.training.input_shape, settings.seed)
    algorithm_of(study_algorithm(terms).constants, module)  # refused now, not at every hospital
    initial = first_state(terms, parameter_set(terms.encryption), to_vector(module))
    ServerStore(home.server / "server.db").found(terms, initial)
    for site in sites:  # each one's data steward decides; here they allow what the study asks
        open_dataset(
            home.site(site) / "budget.db",
            terms.consent.dataset,
            epsilon_limit=terms.privacy.epsilon,
            delta=terms.privacy.delta,
        )
    return terms


def recipe_of(modality: str, algorithm: str) -> Recipe:
    """Return the recipe for a kind of data, changed where the algorithm needs it.

    Raises:
        UnknownModality, UnknownAlgorithm: There is no such kind of data or algorithm.
    """
    recipe, start = recipe_for(modality), defaults_for(algorithm)
    if algorithm == "fedbn" and modality == "image":
        recipe = replace(recipe, network="cnn", lr=CNN_LR)  # the wavelet network has no norms
    return replace(
        recipe,
        server_lr=recipe.server_lr if start.server_lr is None else start.server_lr,
        server_momentum=(
            recipe.server_momentum if start.server_momentum is None else start.server_momentum
        ),
    )


def study_terms(
    founding: Founding,
    identities: tuple[SiteIdentity, ...],
    *,
    server_key: bytes,
    registry_key: bytes,
) -> StudyTerms:
    """Return the terms of the run's study."""
    settings, recipe, data = founding.settings, founding.recipe, founding.data
    module = build(recipe.network, data.input_shape, settings.seed)
    sites_min = max(SITES_MIN, quorum(len(identities)))
    first_day = day_number(founding.today)
    return StudyTerms(
        study=StudyId(f"study-{data.source.name}"),
        title=founding.title,
        rounds=settings.rounds,
        sites=identities,
        server_key=server_key,
        training=TrainingTerms(
            network=recipe.network,
            input_shape=data.input_shape,
            tensor_sizes=tensor_sizes(module),
            reference_patients=recipe.reference_patients,
            learning_rate=recipe.lr,
            server_learning_rate=recipe.server_lr,
            server_momentum=recipe.server_momentum,
            augment=recipe.augment,
            views=recipe.views,
            algorithm=settings.algorithm,  # type: ignore[arg-type]  # pydantic checks the names
            proximal=defaults_for(settings.algorithm).proximal,
        ),
        privacy=privacy_terms(
            settings,
            recipe,
            sites=len(identities),
            sites_min=sites_min,
            dimension=sum(tensor_sizes(module)),
        ),
        consent=ConsentTerms(
            registry=REGISTRY,
            registry_key=registry_key,
            dataset=data.source.name,
            required=purpose_mask([STUDY_PURPOSE]) | category_mask([data.source.modality]),
            from_day=first_day,
            through_day=first_day + CERTIFICATE_DAYS,
            circuit=settings.circuit,  # type: ignore[arg-type]  # pydantic checks the two names
            key_hash=founding.verification_key.hash,
        ),
        encryption=encryption_of(settings),
        sites_min=sites_min,
        opening=settings.opening,  # type: ignore[arg-type]  # pydantic checks the two names
    )


def open_lanes(registry: Registry, terms: StudyTerms, founding: Founding) -> None:
    """Open a lane for every site, with room for all of its patients."""
    settings = founding.settings
    for site, patients in sorted(founding.data.sites.items()):
        registry.open_lane(
            terms.study,
            site,
            terms.consent.dataset,
            capacity=len(patients),
            chunk_size=circuit(settings.circuit).slots,
            policy=LanePolicy(settings.grants),
        )


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
