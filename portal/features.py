"""A study's feature step on the researcher's side, and in a demonstration's own measurements.

A researcher packs her sources, tries them in the sandbox in which hospitals will run them, on
records that are nobody's, and founds a study with the step::

    folder ─pack─▶ bundle.zip ─try_step─▶ Trial ─step_of─▶ FeatureStep ─▶ terms, server/code.zip

What a demonstration compares with, or judges by, goes through the same step (``with_step``).
"""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fl_client.feature_store import FILE, FeatureStore
from fl_client.features import SandboxedLoader, read_features
from fl_client.job_code import BUNDLE_BYTES_MAX, files_of, pack
from fl_client.sandbox import CodeFailed, Limits, run_code
from fl_server.offering import read_code
from protocol.canonical import MalformedMessage, read
from protocol.errors import ConfigurationError, storage_error
from protocol.terms import FeatureTerms, StudyTerms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from records.dataset import Loader

TRIED: Final = 3
"""Made-up records of one patient that a step is tried on."""
ROOM: Final = 2.0
"""A patient's time as a multiple of the slowest trial's."""
SECONDS_MAX: Final = 60
OUTPUT_BYTES_MAX: Final = 2**26


class FeaturesMisnamed(ConfigurationError):
    """A feature step was not named as ``BUNDLE.zip:module:function``."""

    code = "features-misnamed"

    def __init__(self, given: str) -> None:
        self.given = given
        super().__init__(
            f"{given!r} names no feature step; give BUNDLE.zip:module:function, of a bundle made "
            "by `bithive features pack`"
        )


class FeaturesDiffer(ConfigurationError):
    """A bundle was changed since a study was founded with it."""

    code = "features-differ"

    def __init__(self, bundle: Path, founded: str) -> None:
        self.bundle = bundle
        self.founded = founded
        super().__init__(
            f"{bundle} is not the code that the study was founded with (SHA-256 {founded}), which "
            "officers were asked to approve; put that bundle back, or found another study for this "
            "one in another --home"
        )


class FeaturesFail(ConfigurationError):
    """A feature step makes no features of a patient it was tried on."""

    code = "features-fail"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f"the code makes no features of the records it was tried on: {why}; see docs/jobs.md "
            "for what it gets and what it must return"
        )


@dataclass(frozen=True)
class FeatureStep:
    """A feature step that a study is founded with: its terms, what it makes, and the code."""

    terms: FeatureTerms
    shape: tuple[int, ...]
    """Of one record that comes out, which is what the network takes."""
    bundle: bytes


@dataclass(frozen=True)
class Trial:
    """What a step made of some patients, each run as a hospital runs it."""

    shape: tuple[int, ...]
    records: tuple[int, ...]
    """That came out, of each patient."""
    seconds: tuple[float, ...]
    """Each patient's run took, the sandbox included."""

    @property
    def seconds_needed(self) -> int:
        """What the terms should give each patient."""
        return min(SECONDS_MAX, max(1, math.ceil(ROOM * max(self.seconds))))

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "patients": len(self.seconds),
            "shape": list(self.shape),
            "records": list(self.records),
            "seconds_per_patient": round(sum(self.seconds) / len(self.seconds), 3),
            "seconds_slowest": round(max(self.seconds), 3),
            "seconds_needed": self.seconds_needed,
        }


def pack_folder(folder: Path) -> bytes:
    """Return the bundle of a folder's Python files.

    Raises:
        CodeUnreadable: They cannot be shown to an officer as they would run.
        StorageError: They cannot be read.
    """
    try:
        files = {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in sorted(folder.rglob("*.py"))
        }
    except OSError as error:
        raise storage_error(error, str(folder)) from error
    return pack(files)


def read_bundle(path: Path) -> bytes:
    """Return the bundle in a file, after checking that it has one reading only.

    Raises:
        CodeUnreadable: It is no bundle.
        StorageError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            bundle = file.read(BUNDLE_BYTES_MAX + 1)
    except OSError as error:
        raise storage_error(error, str(path)) from error
    files_of(bundle)
    return bundle


def named_step(given: str) -> tuple[Path, str]:
    """Return the file and the function in ``BUNDLE.zip:module:function``.

    Raises:
        FeaturesMisnamed: It is none.

    Examples:
        >>> named_step("blocks.zip:steps:halve")
        (PosixPath('blocks.zip'), 'steps:halve')
    """
    path, _, function = given.rpartition(":")
    path, _, module = path.rpartition(":")
    if not (path and module and function):
        raise FeaturesMisnamed(given)
    return Path(path), f"{module}:{function}"


def made_up(shape: tuple[int, ...], *, patients: int = 2) -> list[NDArray[np.float32]]:
    """Return records of nobody, the same each time: noise between 0 and 1."""
    generator = np.random.default_rng(1)
    return [generator.random((TRIED, *shape), np.float32) for _ in range(patients)]


def try_step(
    bundle: bytes, function: str, patients: Sequence[NDArray[np.float32]], *, records_max: int = 16
) -> Trial:
    """Run a step on some patients' records in the sandbox.

    Args:
        bundle: The code.
        function: ``module:function``.
        patients: Each ``(records, *input_shape)``; at least one.
        records_max: As the terms will have it.

    Raises:
        FeaturesFail: It raised, or what it made of one is not what it must return.
        SandboxUnavailable: This machine cannot shut it in.
    """
    assert patients
    sha256 = hashlib.sha256(bundle).hexdigest()
    limits = Limits(
        cpu_seconds=SECONDS_MAX, wall_seconds=SECONDS_MAX, output_bytes=OUTPUT_BYTES_MAX
    )
    shape: tuple[int, ...] | None = None
    records, seconds = [], []
    for values in patients:
        given = io.BytesIO()
        np.save(given, values.astype("<f4"))
        started = time.monotonic()
        try:
            said = run_code(bundle, function, given.getvalue(), sha256=sha256, limits=limits)
        except CodeFailed as error:
            raise FeaturesFail(f"it {error.how}") from error
        seconds.append(time.monotonic() - started)
        shape = shape or _shape(said)
        made = read_features(said, shape, records_max)
        if made is None:
            raise FeaturesFail(
                f"not 1 to {records_max} finite records of shape {shape} as numpy.save writes "
                "float32 in C order"
            )
        records.append(len(made))
    assert shape is not None
    return Trial(shape, tuple(records), tuple(seconds))


def step_for(
    given: str, input_shape: tuple[int, ...], *, earlier: FeatureTerms | None = None
) -> FeatureStep:
    """Return the step that ``BUNDLE.zip:module:function`` names, tried on records of nobody.

    Args:
        given: As a command was given it.
        input_shape: Of one record, as the hospitals' loaders give it.
        earlier: What a study was founded with before: the same step keeps its terms, though it may
            take another time today.

    Raises:
        FeaturesMisnamed, CodeUnreadable, FeaturesFail: It cannot be a study's.
        SandboxUnavailable: This machine cannot shut it in.
    """
    path, function = named_step(given)
    bundle = read_bundle(path)
    trial = try_step(bundle, function, made_up(input_shape))
    try:
        terms = read(
            FeatureTerms,
            {
                "bundle": hashlib.sha256(bundle).hexdigest(),
                "function": function,
                "input_shape": input_shape,
                "seconds": trial.seconds_needed,
            },
        )
    except MalformedMessage as error:
        raise FeaturesMisnamed(given) from error
    if earlier is not None and earlier.model_copy(update={"seconds": terms.seconds}) == terms:
        terms = earlier
    return FeatureStep(terms, trial.shape, bundle)


def check_unchanged(given: str, server: Path) -> None:
    """Return if a bundle is still the one that a study was founded with, or is no longer there.

    Args:
        given: As a command was given it.
        server: The server's folder, with the founded study; it has the code, which runs anyway.

    Raises:
        FeaturesMisnamed: It names no feature step.
        FeaturesDiffer: It was packed anew since.
        StorageError: It cannot be read.
    """
    path, _ = named_step(given)
    if not path.is_file():
        return
    terms = StudyTerms.model_validate_json((server / "terms.json").read_bytes())
    features = terms.training.features
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise storage_error(error, str(path)) from error
    if features is not None and digest != features.bundle:
        raise FeaturesDiffer(path, features.bundle)


def with_step(loader: Loader, server: Path, terms: StudyTerms, kept: Path) -> Loader:
    """Return a demonstration's loader, for what it measures itself: through the study's step.

    Args:
        loader: Of the records.
        server: The server's folder, with the code.
        terms: Of the study; without a step the loader is returned as it is.
        kept: A folder in which features are kept, the demonstration's own: a hospital's keeps what
            its retention allows.

    Raises:
        OfferedCodeChanged: The code is not there as it was.
    """
    features = terms.training.features
    if features is None:
        return loader
    return SandboxedLoader(
        loader,
        features,
        terms.training.input_shape,
        read_code(server, features.bundle),
        FeatureStore(kept / FILE),
        lambda: None,  # who runs a demonstration runs code of her own choice, on her own machine
        whole=False,
        hold=False,  # how long records of nobody take tells nothing
    )


def features_note(features: FeatureTerms | None) -> dict[str, Any] | None:
    """Return what a model card and a report say of a study's feature step, if it has one."""
    if features is None:
        return None
    return {
        "bundle": features.bundle,
        "function": features.function,
        "from": list(features.input_shape),
    }


def _shape(said: bytes) -> tuple[int, ...]:
    """Return the shape of one record in what ``numpy.save`` wrote."""
    content = io.BytesIO(said)
    try:
        np.lib.format.read_magic(content)
        shape, _, _ = np.lib.format.read_array_header_1_0(content)
    except ValueError as error:
        raise FeaturesFail("what it returned was not written by numpy.save") from error
    if not 2 <= len(shape) <= 5:
        raise FeaturesFail("it must return records and their features: two to five dimensions")
    return tuple(shape[1:])
