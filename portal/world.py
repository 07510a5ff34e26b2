"""Found a run: keys, data, grants, study terms, money. Everything a first round needs to exist.

Each step is what the party itself would do: hospitals make their keys, patients' commitments go to
the registry and the openings to the hospital only, the server gets public keys, the researcher
funds an escrow. A run killed while it is founded is founded anew; once founded, nothing here is
made again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

from consent.grant import new_opening
from consent.openings import OpeningStore
from consent.purposes import category_mask, granted_mask, purpose_mask
from consent.registry import Registry
from consent.terms import Terms
from fl_server.aggregation import first_steps
from fl_server.store import ModelState, ServerStore
from models.networks import build, tensor_sizes, to_vector
from models.recipes import Recipe
from portal.home import Home, Settings
from portal.patients import Wishes
from privacy.accounting import noise_multiplier_for
from privacy.keys import SiteKeys
from privacy.parameters import parameter_set
from privacy.sharing import quorum
from privacy.signatures import signing_key
from protocol.ids import GrantId, PatientId, SiteId, StudyId, number_of
from protocol.messages import (
    SITES_MIN,
    ConsentTerms,
    PrivacyTerms,
    SiteIdentity,
    StudyTerms,
    TrainingTerms,
    canonical,
)
from protocol.units import day_number
from records.dataset import StudyData
from storage.files import PRIVATE, write_whole
from zk.circuit import circuit
from zk.keys import VerificationKey

REGISTRY: Final = "bithive-registry"
GRANT_DAYS: Final = 365
CERTIFICATE_DAYS: Final = 30
"""Days a certificate covers; the gate allows at most 31."""
STUDY_PURPOSE: Final = "HMB"
"""DUO:0000006, health, medical or biomedical research."""
OTHER_PURPOSE: Final = "POA"
"""DUO:0000011, population origins or ancestry research: what a narrow grant here allows."""
ACCOUNTANT: Final = "prv"
ENCRYPTION: Final = {"members": "packed-bfv-8", "threshold": "threshold-bfv-8"}
"""The parameter set for each way of opening; under differential privacy 8 bits are enough."""
SECRET_BYTES: Final = 32


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


def found(home: Home, founding: Founding) -> StudyTerms:
    """Make the run's world; return the study's terms."""
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
    for site in sites:
        _grant_all(home, registry, terms, founding, site)
    founding.verification_key.save(home.server / "verification_key.json")
    if founding.verification_key.status == "development":
        write_whole(home.server / "allow-development-key", b"this is a demonstration\n")
    write_whole(home.server / "terms.json", canonical(terms))
    module = build(terms.training.network, terms.training.input_shape, settings.seed)
    vector = to_vector(module)
    ServerStore(home.server / "server.db").found(
        terms,
        ModelState(vector, 0 * vector, first_steps(terms, parameter_set(terms.encryption))),
    )
    return terms


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
    steps = recipe.steps * settings.rounds
    noise = noise_multiplier_for(
        settings.epsilon, settings.delta, recipe.sampling_rate, steps, ACCOUNTANT
    )
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
        ),
        privacy=PrivacyTerms(
            epsilon=settings.epsilon,
            delta=settings.delta,
            sampling_rate=recipe.sampling_rate,
            noise_multiplier=noise,
            clipping_norm=recipe.clipping_norm,
            steps=recipe.steps,
            accountant=ACCOUNTANT,
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
        encryption=ENCRYPTION[settings.opening],
        sites_min=max(SITES_MIN, quorum(len(identities))),
        opening=settings.opening,  # type: ignore[arg-type]  # pydantic checks the two names
    )


def _identity(home: Home, site: SiteId) -> SiteIdentity:
    keys = SiteKeys.load_or_make(home.site(site) / "keys.json")
    return SiteIdentity(
        site=site, signing_key=keys.signing_public, agreement_key=keys.agreement_public
    )


def _grant_all(
    home: Home, registry: Registry, terms: StudyTerms, founding: Founding, site: SiteId
) -> None:
    """Let a site's patients grant: commitments to the registry, openings to the hospital."""
    patients = founding.data.sites[site]
    decisions = founding.wishes.decisions[site]
    slots = circuit(founding.settings.circuit).slots
    lane = registry.open_lane(
        terms.study, site, terms.consent.dataset, capacity=len(patients), chunk_size=slots
    )
    openings = OpeningStore(home.site(site) / "openings.db")
    granted = []
    for patient in patients:
        if decisions[patient.id] == "refuses":
            continue
        purpose = STUDY_PURPOSE if decisions[patient.id] == "grants" else OTHER_PURPOSE
        opening, code = new_opening(
            patient.id,
            openings.hospital_salt,
            _terms(terms, founding, site, purpose),
            entropy=secrets.token_bytes,
        )
        granted.append((patient.id, opening, code))
    receipts = registry.publish_many(
        lane,
        [(opening.leaf(), code.revoke_hash) for _, opening, code in granted],
        now=datetime.now(UTC),
    )
    openings.add_many(
        [
            (patient, opening, receipt)
            for (patient, opening, _), receipt in zip(granted, receipts, strict=True)
        ]
    )
    _keep_codes(
        home,
        site,
        {
            patient: (receipt.grant, code.secret)
            for (patient, _, code), receipt in zip(granted, receipts, strict=True)
        },
    )


def _terms(terms: StudyTerms, founding: Founding, site: SiteId, purpose: str) -> Terms:
    first_day = day_number(founding.today)
    return Terms(
        grants=granted_mask([purpose]) | category_mask([founding.data.source.modality]),
        site=number_of(site, bits=32),
        dataset=number_of(terms.consent.dataset, bits=32),
        study=number_of(terms.study, bits=64),
        not_before=first_day,
        expiry=first_day + GRANT_DAYS,
    )


def _keep_codes(home: Home, site: SiteId, codes: Mapping[PatientId, tuple[GrantId, bytes]]) -> None:
    """Keep what the patients of a site hold on paper: grant ids and withdrawal codes."""
    papers = {
        patient: {"grant": grant, "code": code.hex()} for patient, (grant, code) in codes.items()
    }
    write_whole(home.patients / f"{site}.json", json.dumps(papers, indent=1).encode(), mode=PRIVATE)


def withdraw_due(home: Home, registry: Registry, wishes: Wishes, before_round: int) -> list[SiteId]:
    """Let every patient withdraw who wants to before ``before_round``; return their sites.

    A withdrawal handed in twice is withdrawn once.
    """
    due = [one for one in wishes.withdrawals if one.before_round == before_round]
    for one in due:
        papers = json.loads((home.patients / f"{one.site}.json").read_text())
        paper = papers[one.patient]
        registry.withdraw(
            GrantId(paper["grant"]), bytes.fromhex(paper["code"]), now=datetime.now(UTC)
        )
    return [one.site for one in due]
