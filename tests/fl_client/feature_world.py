"""A study that brings code, for the tests: a small bundle, its terms, and a loader of numbers."""

import hashlib

import numpy as np

from fl_client.job_code import pack
from protocol.ids import PatientId
from protocol.terms import FeatureTerms
from records.dataset import Patient, TableRow, arrays_of

SOURCES = {
    "steps.py": b"""
import io, os, time
import numpy as np

def read(given):
    return np.load(io.BytesIO(given))

def written(values):
    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(values, dtype=np.float32))
    return out.getvalue()

def pairs(given):
    values = read(given)
    return written(values.reshape(len(values), 2, 2).mean(axis=2))

def choosy(given):
    values = read(given)
    if values[0, 0] > 2:
        raise ValueError("a patient of this kind is here")
    if values[0, 0] > 1:
        time.sleep(60)
    return pairs(given)

def draws(given):
    values = read(given)
    return written(np.frombuffer(os.urandom(4), np.uint16)[:2].reshape(1, 2))
"""
}
BUNDLE = pack(SOURCES)
HASH = hashlib.sha256(BUNDLE).hexdigest()
STEP = FeatureTerms(bundle=HASH, function="steps:pairs", input_shape=(4,), seconds=1)


def feature_job(world, **changes):
    """Return terms and manifest of a study that brings the bundle, and the bundle."""
    plain = world.terms()
    training = plain.training.model_copy(
        update={"features": STEP.model_copy(update=changes), "input_shape": (2,)}
    )
    terms = world.terms(training=training)
    return terms, world.manifest(terms, code=HASH), BUNDLE


def patient(name, *rows, label=0):
    return Patient(
        PatientId(name),
        label,
        tuple(TableRow(f"{name}/{at}", tuple(map(float, row))) for at, row in enumerate(rows)),
    )


class Rows:
    """A loader of rows of four numbers."""

    def load(self, patients):
        return arrays_of(patients, lambda row: np.array(row.values, np.float32), (4,))
