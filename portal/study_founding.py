"""Found a study on its server: terms, lanes, first model, escrow, job; no hospital's folder.

What a server needs of a hospital are two public keys, which the operator's register of sites holds
since the hospital was admitted. What a hospital needs of the server is a folder of files, which
somebody carries there; the fingerprint of the registry's key is read out by telephone::

    HOME/operator/authority/sites.json   in: who takes part, under which keys
    HOME/server/                         out: keys of server and registry, server.db, registry.db
    HOME/market/                         out: the books, with the price in escrow
    HOME/server/for-sites/               out: terms.json, verification_key.json, proving.key

A demonstration founds its world with the same steps (``portal.world``), and makes the hospitals'
part beside.

What holds, each line a test in tests/portal/test_study_founding.py:

1. No folder of a hospital is opened or made.
2. Founded twice with the same wishes, or again after it was killed anywhere, it is the same study.
3. A home holds one study: other wishes, or a demonstration's home, are refused.
4. The terms name exactly the sites that were asked for, under the keys they were admitted with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from consent.lanes import LanePolicy
from consent.purposes import category_mask, purpose_mask
from consent.registry import Registry
from fl_server.aggregation import first_state, study_algorithm
from fl_server.offering import CODE_FILE
from fl_server.store import ServerStore
from identity.register import Register
from marketplace.study import Study
from models.algorithms.catalogue import algorithm_of, defaults_for
from models.networks import build, tensor_sizes, to_vector
from models.recipes import Recipe, recipe_for
from portal.consents import open_registry
from portal.features import FeatureStep
from portal.granting import STUDY_PURPOSE
from portal.home import Home, Settings
from portal.jobs import keep_job, price_of
from portal.market import RESEARCHER, Market
from portal.noise import encryption_of, privacy_terms
from portal.site_settings import (
    FOR_SITES,
    PROVING_KEY,
    TERMS,
    VERIFICATION_KEY,
    registry_fingerprint,
)
from privacy.parameters import parameter_set
from privacy.sharing import quorum
from privacy.signatures import signing_key
from protocol.canonical import canonical
from protocol.errors import ConfigurationError
from protocol.ids import SLUG, SiteId, StudyId
from protocol.terms import SITES_MIN, ConsentTerms, SiteIdentity, StudyTerms, TrainingTerms
from protocol.units import EPOCH_DAY, day_number
from records.image import INPUT_SHAPE
from records.tables import HEART, WISCONSIN, width
from records.volumes import GRID
from storage.files import link_or_copy, private_folder, write_whole
from zk.circuit import circuit
from zk.keys import VerificationKey

REGISTRY: Final = "bithive-registry"
CERTIFICATE_DAYS: Final = 30
"""Days a certificate covers; the gate allows at most 31."""
CNN_LR: Final = 1.0
"""For the compact convolutional network, where an algorithm needs one with normalisation."""
DATASET_CHARACTERS_MAX: Final = 34
"""A study is called ``study-DATASET``, and a slug has 40 characters."""
ALLOW_DEVELOPMENT: Final = "allow-development-key"

Modality = Literal["image", "table", "volume"]


class StudyFounded(ConfigurationError):
    """The home holds a study already, and another one than was asked for."""

    code = "study-founded"

    def __init__(self, home: Path, study: str, differing: Sequence[str]) -> None:
        self.study = study
        self.differing = tuple(differing)
        what = f" with another {', '.join(differing)}" if differing else ""
        super().__init__(
            f"{home} holds the study {study}{what}; one home is one study, so give the same wishes "
            "or another --home"
        )


class StudyTooSmall(ConfigurationError):
    """Too few sites take part for a sum to hide any of them."""

    code = "study-too-small"

    def __init__(self, sites: Sequence[str]) -> None:
        self.sites = tuple(sites)
        super().__init__(
            f"a study takes {SITES_MIN} sites at least and {len(sites)} would take part "
            f"({', '.join(sites) or 'none'}); admit more with `bithive operator admit`"
        )


class InputShapeUnknown(ConfigurationError):
    """Nobody said how many features the study's table has."""

    code = "input-shape-unknown"

    def __init__(self, dataset: str, known: Sequence[str]) -> None:
        self.dataset = dataset
        super().__init__(
            f"how many features a row of {dataset!r} has is not known here; give --input-shape "
            f"with that number (known: {', '.join(known)})"
        )


class DatasetMisnamed(ConfigurationError):
    """A data set was given a name that grants and terms cannot carry."""

    code = "dataset-misnamed"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"{name[:60]!r} cannot name a data set; use 1 to {DATASET_CHARACTERS_MAX} lower-case "
            "letters, digits and inner dashes"
        )


@dataclass(frozen=True)
class Design:
    """What a study is to be, all decided before it has any site.

    Attributes:
        settings: Rounds, epsilon, delta, algorithm, noise, circuit, opening, whose word grants
            rest on, and the seed of the first model.
        dataset: By which name hospitals know the records.
        modality: What kind of records they are.
        input_shape: Of one record, as ``StudyData.input_shape``.
        title: For a person.
        recipe: How it trains.
        verification_key: What consent is checked with.
        today: From which day on certificates count.
        features: The researcher's own feature step, where there is one.
    """

    settings: Settings
    dataset: str
    modality: Modality
    input_shape: tuple[int, ...]
    title: str
    recipe: Recipe
    verification_key: VerificationKey
    today: date
    features: FeatureStep | None = None

    @property
    def seen_shape(self) -> tuple[int, ...]:
        """Of one record as the network takes it."""
        return self.input_shape if self.features is None else self.features.shape


@dataclass(frozen=True)
class Asked:
    """What a study is asked for, beside its design.

    Attributes:
        sites: Which sites take part; empty for all that are admitted.
        patients_most: For how many grants a site's lane has room, withdrawn ones too.
        price: Base units for all rounds together.
        researcher: Who asks, for the officers who read the job.
        proving_key: The file that hospitals prove with.
    """

    sites: tuple[SiteId, ...]
    patients_most: int
    price: int
    researcher: str
    proving_key: Path


@dataclass(frozen=True)
class Founded:
    """A founded study: its terms, what to carry to the hospitals, and what to read out to them."""

    terms: StudyTerms
    for_sites: Path
    fingerprint: str
    """Of the registry's key."""


def found_study(home: Home, design: Design, asked: Asked, *, now: datetime) -> Founded:
    """Found a study on a server of its own; again, see that it is the one that is there.

    Args:
        home: The server's; the operator's register is in it.
        design: What the study is to be.
        asked: By whom it is carried, and paid.
        now: With a time zone.

    Raises:
        RegisterUnreadable: There is no register of sites.
        SiteNotAdmitted: A site that was asked for does not take part.
        StudyTooSmall: Fewer than three would.
        StudyRefused: The price leaves a round with nothing.
        StudyFounded: The home holds another study.
        HomeBusy: Another process founds one here.
        StorageError: The disk refused; run it again.
    """
    # Refused before anything is made.
    Study(_study_of(design), RESEARCHER, asked.price, design.settings.rounds)
    with home.lock():
        identities = identities_of(Register.load(_register(home)), asked.sites)
        _check_free(home, design, identities, asked)
        capacities = dict.fromkeys((one.site for one in identities), asked.patients_most)
        terms, _ = found_server(home.server, design, identities, capacities)
        Market(home.market, terms, lambda: now, budget=asked.price).found()
        keep_job(home, terms, price=asked.price, now=now, researcher=asked.researcher)
        folder = hand_out(home.server, terms, design.verification_key, asked.proving_key)
        home.mark_founded()
    return Founded(terms, folder, registry_fingerprint(terms.consent.registry_key))


def identities_of(register: Register, wanted: Sequence[SiteId]) -> tuple[SiteIdentity, ...]:
    """Return the public keys of the sites that take part, in order of their names.

    Args:
        register: The operator's.
        wanted: Which of them; all where none is named.

    Raises:
        SiteNotAdmitted: One of them does not take part.
        StudyTooSmall: They are fewer than three.
    """
    names = set(wanted) or {one.site for one in register.active()}
    members = [register.member(name) for name in sorted(names)]
    if len(members) < SITES_MIN:
        raise StudyTooSmall(sorted(names))
    return tuple(
        SiteIdentity(site=one.site, signing_key=one.signing_key, agreement_key=one.agreement_key)
        for one in members
    )


def found_server(
    server: Path,
    design: Design,
    identities: tuple[SiteIdentity, ...],
    capacities: Mapping[SiteId, int],
) -> tuple[StudyTerms, Registry]:
    """Make the server's side of a study: keys, terms, a lane for each site, the first model.

    Every step may be repeated; a study that is kept stays as it is.

    Args:
        server: The server's folder.
        design: What the study is.
        identities: Of its sites.
        capacities: For how many grants each site's lane has room at least.

    Returns:
        The terms, and the registry, opened with its key.
    """
    kept = kept_terms(server)
    terms = kept or terms_at(server, design, identities)
    module = build(terms.training.network, terms.training.input_shape, design.settings.seed)
    algorithm_of(study_algorithm(terms).constants, module)  # refused now, not at every hospital
    registry = open_registry(server, terms)
    for site, capacity in sorted(capacities.items()):
        registry.open_lane(
            terms.study,
            site,
            terms.consent.dataset,
            capacity=capacity,
            chunk_size=circuit(design.settings.circuit).slots,
            policy=LanePolicy(design.settings.grants),
        )
    design.verification_key.save(server / VERIFICATION_KEY)
    if design.verification_key.status == "development":
        write_whole(server / ALLOW_DEVELOPMENT, b"this is a demonstration\n")
    if design.features is not None:
        write_whole(server / CODE_FILE, design.features.bundle)
    initial = first_state(terms, parameter_set(terms.encryption), to_vector(module))
    ServerStore(server / "server.db").found(terms, initial)
    write_whole(server / TERMS, canonical(terms))
    return terms, registry


def hand_out(
    server: Path, terms: StudyTerms, verification_key: VerificationKey, proving_key: Path
) -> Path:
    """Put what hospitals are given into one folder, and return it.

    Raises:
        StorageError: The disk refused, or the proving key cannot be read.
    """
    folder = private_folder(server / FOR_SITES)
    write_whole(folder / TERMS, canonical(terms))
    verification_key.save(folder / VERIFICATION_KEY)
    link_or_copy(proving_key, folder / PROVING_KEY)
    return folder


def kept_terms(server: Path) -> StudyTerms | None:
    """Return the terms of the study that a server's folder holds, or None."""
    file = server / "server.db"
    return ServerStore(file).terms() if file.is_file() else None


def terms_at(server: Path, design: Design, identities: tuple[SiteIdentity, ...]) -> StudyTerms:
    """Return the terms of a study under the keys of a server's folder, made where missing."""
    return study_terms(
        design,
        identities,
        server_key=signing_key(server / "server.key").public_key().public_bytes_raw(),
        registry_key=signing_key(server / "registry.key").public_key().public_bytes_raw(),
    )


def study_terms(
    design: Design,
    identities: tuple[SiteIdentity, ...],
    *,
    server_key: bytes,
    registry_key: bytes,
) -> StudyTerms:
    """Return the terms of a study."""
    settings, recipe = design.settings, design.recipe
    module = build(recipe.network, design.seen_shape, settings.seed)
    sites_min = max(SITES_MIN, quorum(len(identities)))
    first_day = day_number(design.today)
    return StudyTerms(
        study=_study_of(design),
        title=design.title,
        rounds=settings.rounds,
        sites=identities,
        server_key=server_key,
        training=TrainingTerms(
            network=recipe.network,
            input_shape=design.seen_shape,
            tensor_sizes=tensor_sizes(module),
            reference_patients=recipe.reference_patients,
            learning_rate=recipe.lr,
            server_learning_rate=recipe.server_lr,
            server_momentum=recipe.server_momentum,
            augment=recipe.augment,
            views=recipe.views,
            algorithm=settings.algorithm,  # type: ignore[arg-type]  # pydantic checks the names
            proximal=defaults_for(settings.algorithm).proximal,
            features=None if design.features is None else design.features.terms,
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
            dataset=design.dataset,
            required=purpose_mask([STUDY_PURPOSE]) | category_mask([design.modality]),
            from_day=first_day,
            through_day=first_day + CERTIFICATE_DAYS,
            circuit=settings.circuit,  # type: ignore[arg-type]  # pydantic checks the two names
            key_hash=design.verification_key.hash,
        ),
        encryption=encryption_of(settings),
        sites_min=sites_min,
        opening=settings.opening,  # type: ignore[arg-type]  # pydantic checks the two names
    )


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


def input_shape_of(dataset: str, modality: Modality, given: int | None = None) -> tuple[int, ...]:
    """Return the shape of one record as the loaders of this version make it.

    Args:
        dataset: The name of the data set.
        modality: Images and volumes have one shape here; tables have as many features as they do.
        given: That number, for a table that is not known here.

    Raises:
        DatasetMisnamed: The name is no slug, or too long.
        InputShapeUnknown: It is a table that is not known here, and there is no number.

    Examples:
        >>> input_shape_of("scans", "image"), input_shape_of("heart", "table")
        ((1, 64, 64), (24,))
    """
    if not SLUG.fullmatch(dataset) or len(dataset) > DATASET_CHARACTERS_MAX:
        raise DatasetMisnamed(dataset)
    if modality == "image":
        return INPUT_SHAPE
    if modality == "volume":
        return (1, *GRID)
    features = {"heart": width(HEART), "wisconsin": width(WISCONSIN)}
    count = features.get(dataset) if given is None else given
    if count is None:
        raise InputShapeUnknown(dataset, sorted(features))
    return (count,)


def _study_of(design: Design) -> StudyId:
    return StudyId(f"study-{design.dataset}")


def _register(home: Home) -> Path:
    return home.path / "operator" / "authority" / "sites.json"


def _check_free(
    home: Home, design: Design, identities: tuple[SiteIdentity, ...], asked: Asked
) -> None:
    """Return if the home holds no study, or this one."""
    kept = kept_terms(home.server)
    if home.settings() is not None:
        raise StudyFounded(home.path, "of a demonstration" if kept is None else kept.study, [])
    if kept is None:
        return
    first_day = EPOCH_DAY + timedelta(days=kept.consent.from_day)
    wanted = terms_at(home.server, replace(design, today=first_day), identities)
    differing = [
        name for name in StudyTerms.model_fields if getattr(wanted, name) != getattr(kept, name)
    ]
    if price_of(home) not in {None, asked.price}:
        differing.append("price")
    if differing:
        raise StudyFounded(home.path, kept.study, differing)
