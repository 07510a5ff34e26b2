"""Erasing a patient: end her grants, then destroy all that tells which leaves were hers.

A leaf is a Poseidon hash over a pseudonym, the terms and a salt of 254 random bits that the
hospital alone holds. Once salt, randomness and opening are destroyed, nobody can tell whose leaf it
was, the hospital included, though it still knows her number: there is nothing left to compare with.
What stays is public and about nobody: a leaf that was, a hash of a code, an epoch.

A hospital keeps something of its patients in several places. Each is asked by her number, so that
an erasure which was interrupted anywhere is finished by the same command::

    begin ─▶ end her grants ─▶ destroy, place by place, openings last ─▶ record ─▶ done
    (a mark, consent.interrupted)                                       (names nobody)

What holds (tests/consent/test_erasure.py):

1. Nothing of an erased patient is in the openings' files: no number, pseudonym, salt or leaf.
2. Her grants are withdrawn first; if that fails nothing is destroyed, so it can be tried again.
3. Other patients' openings stay.
4. Stopped at any step and run again, it ends where it would have ended, and is recorded once.
5. A patient who was erased cannot be told from one who never was: both are ``NothingToErase``.

Out of reach are copies: backups of the openings, which must be kept as short as the law says, and
the receipts on a patient's own paper.

References:
    Regulation (EU) 2016/679, article 17.
    Personal Information Protection Law of the People's Republic of China, article 47.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from consent.interrupted import Interrupted
from protocol.errors import ConsentError, StorageError
from protocol.ids import PatientId

Record = Callable[[Mapping[str, Any], str], object]
"""Takes facts that name no patient, and a key under which they are recorded once."""


class NothingToErase(ConsentError):
    """A hospital keeps nothing of such a patient."""

    code = "nothing-to-erase"

    def __init__(self) -> None:
        super().__init__(
            "nothing is kept here of a patient with this number: she was erased before, or never "
            "granted here, and erasing leaves nothing by which to tell the two apart; see whether "
            "the number is the hospital's own for her"
        )


class ErasureUnfinished(ConsentError):
    """A place refused to destroy what it keeps of a patient whose grants have ended."""

    code = "erasure-unfinished"

    def __init__(self, done: Sequence[str], left: Sequence[str], reason: StorageError) -> None:
        self.done, self.left = tuple(done), tuple(left)
        super().__init__(
            f"her grants have ended; destroyed: {', '.join(done) or 'nothing'}; left: "
            f"{', '.join(left)}, because of {reason.code} ({reason}); set that right and run the "
            "command again with the same number"
        )


class Place(Protocol):
    """Where a hospital keeps something of its patients."""

    @property
    def name(self) -> str:
        """What is kept there, in the plural."""
        ...

    def holds(self, patient: PatientId) -> int:
        """Return how many things are kept of a patient."""
        ...

    def destroy(self, patient: PatientId) -> object:
        """Leave no byte of them; with nothing there, of what was deleted before.

        Raises:
            StorageError: The disk refused, or somebody is reading; try again.
        """
        ...


@dataclass(frozen=True)
class Erased:
    """What was done, without saying to whom."""

    destroyed: Mapping[str, int]
    """How many things each place kept of her when it began."""
    resumed: bool
    """An erasure of hers had been interrupted, and this finished it."""
    interrupted: int
    """Erasures of others that were begun and are not finished."""


def erase(
    patient: PatientId,
    places: Sequence[Place],
    *,
    withdraw: Callable[[], object],
    interrupted: Interrupted,
    record: Record,
    by: str,
    now: datetime,
) -> Erased:
    """End all of a patient's grants, and destroy what every place keeps of her, in their order.

    Args:
        patient: The hospital's own number.
        places: Of the hospital; that by which others find what is hers comes last.
        withdraw: Ends her grants, and does nothing where they have ended.
        interrupted: The hospital's marks of erasures that are not finished.
        record: Told, once, that an erasure was finished, by whom, and when it began.
        by: Who erases; never the patient.
        now: With a time zone.

    Raises:
        NothingToErase: No place keeps anything of her.
        ConsentError, StorageError: A grant was not ended; nothing was destroyed.
        ErasureUnfinished: A place refused; what comes before it is destroyed.
    """
    held = {place.name: place.holds(patient) for place in places}
    begun = interrupted.find(patient)
    if begun is None and not any(held.values()):
        raise NothingToErase
    resumed = begun is not None
    begun = begun or interrupted.begin(patient, by=by, now=now)
    withdraw()
    names = list(held)
    for number, place in enumerate(places):
        try:
            place.destroy(patient)
        except StorageError as error:
            raise ErasureUnfinished(names[:number], names[number:], error) from error
    record({"began": begun.at, "by": begun.by}, begun.id)
    interrupted.end(begun)
    return Erased(held, resumed, interrupted.count())
