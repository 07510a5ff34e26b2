"""How long a hospital keeps what studies' code made: of who takes part, while rounds are to come.

The resident process tidies once a minute, when it starts and when it ends, so that neither a crash
nor a withdrawal that came by another way leaves anything behind. What it decides by is written
down elsewhere and is asked anew each time: the officer's decisions, the rounds answered, the newest
leaves that the registry signed, and the grants that ended here.

What holds, each line a test in tests/fl_client/test_retention.py:

1. Of a study whose last round is answered nothing is kept: a round is trained once.
2. Nor of one whose job is refused or has ended, where code is forbidden, or the hospital has left.
3. Nor of a patient whose grant has ended, whether here or in a lane that the registry signed.
4. Of who takes part in a study that goes on, everything is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from consent.openings import OpeningStore
from fl_client.feature_store import FILE, FeatureStore, step_of
from fl_client.jobs import Job
from fl_client.store import SiteStore
from protocol.ids import PatientId


def tidy(folder: Path, jobs: Iterable[Job], store: SiteStore) -> int:
    """Delete what studies' code made and nothing needs any more; return of how many patients.

    Args:
        folder: The hospital's.
        jobs: Those that studies run under now.
        store: What the hospital's agents remember.

    Raises:
        StorageError: The disk refused, or another process is reading; what was deleted is not
            overwritten then. Do it again.
    """
    if not (folder / FILE).is_file():
        return 0
    features = FeatureStore(folder / FILE)
    openings = OpeningStore(folder / "openings.db")
    try:
        wanted: dict[str, set[str]] = {}
        for job in jobs:
            terms = job.terms
            code = terms.training.features
            if code is not None and terms.rounds not in store.answered(terms.study):
                step = step_of(code, terms.training.input_shape)
                patients = taking_part(terms.study, store, openings)
                wanted.setdefault(step, set()).update(map(features.person, patients))
        return features.keep_only(wanted)
    finally:
        features.close()
        openings.close()


def taking_part(study: str, store: SiteStore, openings: OpeningStore) -> set[PatientId]:
    """Return whose grant in a study is live, as far as this hospital knows."""
    ended = store.consents.ended()
    live = {
        chunk * len(leaves) + offset: leaf
        for chunk, (_, leaves) in store.consents.lane(study).items()
        for offset, leaf in enumerate(leaves)
        if leaf and leaf not in ended
    }
    return {
        patient
        for place, (patient, opening) in openings.all().items()
        if place in live and opening.leaf() == live[place]
    }
