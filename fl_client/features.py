"""A researcher's own feature step: her code sees one patient's records at a time, and no more.

A study may bring code that turns the records a hospital's loader gives of a patient into what the
network is trained on. ``SandboxedLoader`` stands between the loader and the training::

    loader ─▶ (records, *input_shape) ─▶ sandbox: npy ─▶ npy ─▶ read as hostile ─▶ training
              of ONE patient             a new process each time  (records', *shape)

Why this keeps differential privacy. The noise of a round covers what one patient can change: her
clipped gradient. So what the code makes of her must not depend on anybody else, and nothing but her
gradient may tell of it. Then the code is a map f on single patients, randomised perhaps, and the
round is DP-SGD on the patients f(p): adding a patient adds one clipped gradient, as without code.
Whether f is honest, steady or even sensible does not matter for privacy. What is done for it:

* *Nothing is shared.* Each patient gets a new process, in which nothing can be written and which
  ends with her; the code, and its hash, are the same for all.
* *Failing is an answer.* Where the code raises, hangs or returns nonsense, the patient counts with
  one record of zeros, as others did before us [1, 3]. Were she left out, or were the round refused,
  the number of patients, or the hospital's silence, would tell of her without any noise. It is
  remembered like an answer, so that later rounds take no other time. How often it happened is in
  the hospital's own file, and in no log.
* *Time is the same for all.* Code can hide an answer in how long it takes [2]. So each run ends at
  the same time after its start, done or killed. A round lasts longer by how many patients are new
  or have new records, and by nothing else. One runs after the other, so that none slows another.
* *The order is drawn.* Code that looks at the clock could tell how many ran before. In a random
  order one patient more takes a turn, and whoever had it moves to the end; nobody else moves. Code
  that bends everything to the clock so changes two patients, one new and one another than before:
  at worst what three cost together, where one was promised. Code that asks no clock changes one.
* *Numbers are bounded.* Shape and number of records are the terms'; a value that is not finite is a
  failure, and larger ones are cut to ``VALUE_MAX``, so that no patient's features end a round.

What this does not close: two runs share a kernel, its file cache and the processor's caches one
after the other, and code written to that end may leave a trace in them for the next patient's run.
The calls that would read such traces plainly are refused, timing them is not. That, and that the
output carries what it likes of one patient into her own clipped, noised gradient, is what an
officer weighs when she reads the code.

What holds, each line a test in tests/fl_client/test_features.py:

1. What a patient's features are does not depend on who else is loaded, nor in which order.
2. The code is run only while its job is approved and code is allowed: asked before each patient.
3. A failure of any kind is one record of zeros; no exception, count or time tells of it.
4. Each patient is run once as long as her records stay the same; who is no longer loaded is
   forgotten. How long anything is kept: ``fl_client.feature_store``.

References:
    [1] Roy et al., Airavat: Security and Privacy for MapReduce, NSDI 2010, sections 4 and 5.
    [2] Haeberlen, Pierce and Narayan, Differential Privacy Under Fire, USENIX Security 2011,
    sections 3 and 4.
    [3] Mohan et al., GUPT: Privacy Preserving Data Analysis Made Easy, SIGMOD 2012, section 6.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from fl_client.feature_store import FILE, FeatureStore, Made, step_of
from fl_client.job_code import JobCode
from fl_client.jobs import JobBook
from fl_client.logs import event
from fl_client.sandbox import CodeChanged, CodeFailed, Limits, SandboxUnavailable, run_code
from protocol.canonical import digest
from protocol.errors import RecordError
from protocol.ids import SiteId
from protocol.terms import FeatureTerms, StudyTerms
from records.dataset import Arrays, Loader, Patient, Progress, patient_digest

log = logging.getLogger("bithive.features")
VALUE_MAX: Final = 1000.0
"""Larger features are cut to it: their squares and those of gradients stay finite."""
WORKING: Final = 0.9
"""The share of a patient's time that the code has; the rest is for ending it."""
ENDING_SECONDS: Final = 0.5
"""Added to each patient's time: to end code that holds all the memory it may, or gives back all
that it may, was measured to take a tenth of a second."""
STARTING_SECONDS: Final = 10
"""Of processor time, beside what the terms give, for the interpreter and NumPy."""
HEADER_MAX: Final = 512
NO_WORD: Final = re.compile(r"[^A-Za-z0-9._]+")
LACKING_MAX: Final = 80
"""Characters of a field of the log."""
STORE_BYTES_MAX: Final = 2**31


class FeaturesUnfit(RecordError):
    """A study's feature step is made for other records than this hospital's loader gives."""

    code = "features-unfit"

    def __init__(self, made_for: Sequence[int], given: Sequence[int]) -> None:
        self.made_for, self.given = tuple(made_for), tuple(given)
        super().__init__(
            f"the study's code is made for records of shape {_shown(made_for)}, and here they are "
            f"{_shown(given)}; ask its researcher for a study on such records"
        )


class Runs(Protocol):
    """Runs code on bytes, as ``fl_client.sandbox.run_code`` does."""

    def __call__(
        self,
        bundle: bytes,
        function: str,
        given: bytes,
        *,
        sha256: str,
        limits: Limits | None = None,
        hold_seconds: float = 0.0,
    ) -> bytes:
        """Return what the function makes of the bytes."""
        ...


@dataclass(frozen=True)
class SandboxedLoader:
    """A loader whose records went through a study's code, patient by patient.

    ``allowed`` raises where the code may not be run, and is asked before each patient; ``shape`` is
    what the network takes. ``whole`` says that the patients loaded are all that the store is for,
    so that it forgets the others. Without ``hold`` runs end when they are done: for records of
    nobody alone, as of persons their time would tell.
    """

    inner: Loader
    features: FeatureTerms
    shape: tuple[int, ...]
    bundle: bytes
    kept: FeatureStore
    allowed: Callable[[], None]
    whole: bool = True
    progress: Progress = lambda _done, _total: None
    hold: bool = True
    run: Runs = run_code
    shuffle: Callable[[list[int]], None] = secrets.SystemRandom().shuffle

    def load(self, patients: Sequence[Patient]) -> Arrays:
        """Return the features of ``patients``, in their order, made now or before.

        Raises:
            RecordError: A record is not well, or of another shape than the code is made for.
            JobNotApproved, CodeNotAllowed, CodeChanged: The code may not be run (any more).
            SandboxUnavailable: It cannot be shut in here.
        """
        self.allowed()
        step = step_of(self.features, self.shape)
        keys = [self._key(patient) for patient in patients]
        if self.whole:
            self.kept.forget_others(step, {person for person, _ in keys})
        found = self.kept.read(step, self.shape)
        missing = [index for index, key in enumerate(keys) if key not in found]
        self.shuffle(missing)
        with self.kept.turn():
            for done, index in enumerate(missing):
                self.progress(done, len(missing))
                self.allowed()
                found[keys[index]] = made = self._make(self._given(patients[index]))
                if len(found) <= STORE_BYTES_MAX // self._bytes_max():
                    self.kept.keep(step, *keys[index], made)
        if missing:
            event(log, "features-made", code=self.features.bundle[:16], count=len(missing))
        return _stacked(patients, [found[key] for key in keys], self.shape)

    def _given(self, patient: Patient) -> bytes:
        """Return the records of a patient as the code gets them."""
        arrays = self.inner.load([patient])
        if arrays.x.shape[1:] != self.features.input_shape or arrays.y.ndim != 1:
            raise FeaturesUnfit(self.features.input_shape, arrays.x.shape[1:])
        written = io.BytesIO()
        np.save(written, np.ascontiguousarray(arrays.x, "<f4"), allow_pickle=False)
        return written.getvalue()

    def _make(self, given: bytes) -> Made:
        features = self.features
        limits = Limits(
            cpu_seconds=features.seconds + STARTING_SECONDS,
            wall_seconds=WORKING * features.seconds,
            output_bytes=HEADER_MAX + self._bytes_max(),
        )
        try:
            said = self.run(
                self.bundle,
                features.function,
                given,
                sha256=features.bundle,
                limits=limits,
                hold_seconds=features.seconds + ENDING_SECONDS if self.hold else 0.0,
            )
        except CodeFailed:
            said = b""
        except SandboxUnavailable as error:  # the machine's own words, before any code was read
            lacking = NO_WORD.sub("-", error.lacking)[:LACKING_MAX]
            event(log, "sandbox-unavailable", logging.WARNING, state=lacking)
            raise
        values = read_features(said, self.shape, features.records_max)
        if values is None:
            return Made(np.zeros((1, *self.shape), np.float32), failed=True)
        return Made(values, failed=False)

    def _bytes_max(self) -> int:
        return 4 * self.features.records_max * math.prod(self.shape)

    def _key(self, patient: Patient) -> tuple[str, str]:
        """Return who she is in the store, and what her records and what is given of them are."""
        named = patient_digest(patient).to_bytes(31, "big")
        given = hashlib.sha256(named + hashlib.sha256(self._given(patient)).digest())
        return self.kept.person(patient.id), given.hexdigest()


def read_features(
    said: bytes, shape: tuple[int, ...], records_max: int
) -> NDArray[np.float32] | None:
    """Return the features in hostile bytes, or None where there are none.

    Nothing is parsed: an array of so many records has one way to be written, and the bytes must
    begin so.

    Args:
        said: What code returned; ``numpy.save`` of little-endian float32 in C order.
        shape: Of one record.
        records_max: At most so many of them.

    Returns:
        ``(records, *shape)`` finite values, none beyond ``VALUE_MAX``.
    """
    for records in range(1, records_max + 1):
        start = _header((records, *shape))
        if len(said) == len(start) + 4 * records * math.prod(shape) and said.startswith(start):
            values = np.frombuffer(said[len(start) :], "<f4").reshape(records, *shape)
            if not np.isfinite(values).all():
                return None
            return np.clip(values, -VALUE_MAX, VALUE_MAX).astype(np.float32)
    return None


def with_features(
    loader: Loader,
    folder: Path,
    site: SiteId,
    terms: StudyTerms,
    *,
    progress: Progress = lambda _done, _total: None,
) -> Loader:
    """Return a hospital's loader with the feature step of a study, where the study has one.

    Args:
        loader: The hospital's own.
        folder: The hospital's, with its jobs, their code, and what was made of its records.
        site: The hospital.
        terms: Of the study.
        progress: Told how many patients were run.

    Raises:
        CodeMissing: The code has not come.
    """
    features = terms.training.features
    if features is None:
        return loader
    book, asked = JobBook(folder / "site.db", site), digest(terms)

    def allowed() -> None:
        # The terms name the code, and which of its functions runs on what.
        if book.approved(terms.study).manifest.terms != asked:
            raise CodeChanged

    return SandboxedLoader(
        loader,
        features,
        terms.training.input_shape,
        JobCode(folder / "site.db").read(features.bundle),
        FeatureStore(folder / FILE),
        allowed,
        progress=progress,
    )


def _header(shape: tuple[int, ...]) -> bytes:
    written = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(written, described)
    return written.getvalue()


def _stacked(patients: Sequence[Patient], made: Sequence[Made], shape: tuple[int, ...]) -> Arrays:
    counts = [len(one.values) for one in made]
    empty = np.zeros((0, *shape), np.float32)
    return Arrays(
        x=np.concatenate([empty, *(one.values for one in made)]),
        y=np.repeat(np.array([one.label for one in patients], np.int64), counts),
        patient=np.repeat(np.arange(len(patients), dtype=np.int64), counts),
    )


def _shown(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
