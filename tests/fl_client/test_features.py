"""What code makes of one patient depends on her alone, and nothing but it tells of her."""

import importlib.util
import io
import json
import math
import time
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fl_client.feature_store import FeatureStore
from fl_client.features import (
    ENDING_SECONDS,
    VALUE_MAX,
    FeaturesUnfit,
    SandboxedLoader,
    read_features,
    with_features,
)
from fl_client.job_code import CodeMissing, JobCode
from fl_client.jobs import CodeNotAllowed, JobBook, JobNotApproved
from fl_client.logs import Lines
from fl_client.sandbox import CodeChanged, CodeFailed, SandboxUnavailable, run_code
from records.volumes import VolumeLoader
from tests.fl_client.feature_world import BUNDLE, SOURCES, STEP, Rows, feature_job, patient
from tests.fl_client.job_world import OFFICER, SITE, World

pytestmark = pytest.mark.slow

PATIENTS = [
    patient("one", (0, 1, 2, 3), label=1),
    patient("two", (1, 1, 5, 7), (0, 0, 0, 2)),
    patient("three", (-1, 0, 0, 0), label=1),
]
FEATURES = [[[0.5, 2.5]], [[1, 6], [0, 1]], [[-0.5, 0]]]


class Here:
    """Runs the code in this process, for what the sandbox has no part in."""

    def __init__(self):
        spec = importlib.util.spec_from_loader("steps", None)
        self.module = importlib.util.module_from_spec(spec)
        exec(SOURCES["steps.py"], self.module.__dict__)
        self.module.time = types.SimpleNamespace(sleep=self._too_long)
        self.seen = []
        self.asked = []

    @staticmethod
    def _too_long(_seconds):
        raise TimeoutError

    def __call__(self, _bundle, function, given, **asked):
        self.seen.append(given)
        self.asked.append(asked)
        try:
            return getattr(self.module, function.partition(":")[2])(given)
        except Exception as error:
            raise CodeFailed("raised") from error


@pytest.fixture
def here():
    return Here()


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "features.db")


def loader(store, run, *, function="pairs", allowed=lambda: None, **more):
    step = STEP.model_copy(update={"function": f"steps:{function}"})
    return SandboxedLoader(Rows(), step, (2,), BUNDLE, store, allowed, run=run, **more)


def by_patient(loaded, count):
    return [loaded.x[loaded.patient == index].tolist() for index in range(count)]


def test_each_patient_is_turned_into_her_features_under_her_label(store, here):
    loaded = loader(store, here).load(PATIENTS)
    assert by_patient(loaded, 3) == FEATURES
    assert loaded.y.tolist() == [1, 0, 0, 1]
    assert loaded.x.dtype == np.float32
    assert loader(store, here).load([]).x.shape == (0, 2)


def test_the_code_sees_one_patient_at_a_time_and_nothing_of_her_but_the_records(store, here):
    loader(store, here).load(PATIENTS)
    seen = sorted(np.load(io.BytesIO(one)).tolist() for one in here.seen)
    assert seen == sorted([list(row.values) for row in one.records] for one in PATIENTS)


@given(st.permutations(range(3)), st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_who_else_is_loaded_and_in_which_order_changes_no_one(
    tmp_path_factory, order, count, random
):
    store = FeatureStore(tmp_path_factory.mktemp("site") / "features.db")
    chosen = [PATIENTS[index] for index in order[:count]]
    loaded = loader(store, Here(), shuffle=random.shuffle).load(chosen)
    assert by_patient(loaded, count) == [FEATURES[index] for index in order[:count]]


def test_the_order_of_the_runs_is_drawn(store, here):
    loader(store, here, shuffle=lambda waiting: waiting.reverse()).load(PATIENTS)
    assert np.load(io.BytesIO(here.seen[0])).tolist() == [[-1, 0, 0, 0]]


def test_failing_and_hanging_are_a_record_of_zeros_and_the_patient_stays(store, here):
    picked = [patient("fails", (3, 0, 0, 0), label=1), patient("hangs", (2, 0, 0, 0)), PATIENTS[2]]
    loaded = loader(store, here, function="choosy").load(picked)
    assert by_patient(loaded, 3) == [[[0, 0]], [[0, 0]], [[-0.5, 0]]]
    assert loaded.y.tolist() == [1, 0, 1]
    assert store.counts() == (3, 2)
    loader(store, here, function="choosy").load(picked)
    assert len(here.seen) == 3, "a failure is not tried again: that would take time"


def test_every_run_is_given_the_same_time_and_held_for_all_of_it(store, here):
    loader(store, here, function="choosy").load([*PATIENTS, patient("fails", (3, 0, 0, 0))])
    assert {asked["hold_seconds"] for asked in here.asked} == {STEP.seconds + ENDING_SECONDS}
    assert {asked["limits"].wall_seconds < STEP.seconds for asked in here.asked} == {True}


def test_nobody_is_run_twice_while_her_records_stay_the_same(store, here):
    drawn = loader(store, here, function="draws").load(PATIENTS)
    again = loader(store, here, function="draws").load(PATIENTS)
    assert np.array_equal(drawn.x, again.x)
    changed = [patient("one", (9, 1, 2, 3), label=1), *PATIENTS[1:]]
    loader(store, here, function="draws").load(changed)
    assert len(here.seen) == 4


def test_who_is_no_longer_loaded_is_forgotten(store, here):
    loader(store, here).load(PATIENTS)
    loader(store, here).load(PATIENTS[:1])
    assert store.counts() == (1, 0)
    loader(store, here, whole=False).load(PATIENTS[1:])
    assert store.counts() == (3, 0)


def test_what_one_step_made_is_not_anothers(store, here):
    loader(store, here).load(PATIENTS[:1])
    loaded = loader(store, here, function="choosy").load([patient("one", (0, 1, 2, 3))])
    assert len(here.seen) == 2
    assert loaded.x.tolist() == FEATURES[0]


def test_what_does_not_fit_on_the_disk_is_made_again(store, here, monkeypatch):
    monkeypatch.setattr("fl_client.features.STORE_BYTES_MAX", 2 * 4 * STEP.records_max * 2)
    assert by_patient(loader(store, here).load(PATIENTS), 3) == FEATURES
    assert store.counts() == (2, 0)
    loader(store, here).load(PATIENTS)
    assert len(here.seen) == 4


def test_leave_is_asked_before_each_patient(store, here):
    class Forbidden(Exception):
        pass

    left = iter([None, None, None])

    def allowed():
        try:
            next(left)
        except StopIteration:
            raise Forbidden from None

    with pytest.raises(Forbidden):
        loader(store, here, allowed=allowed).load(PATIENTS)
    assert len(here.seen) == 2


def test_records_of_another_shape_than_the_code_is_made_for_are_refused(store, here):
    step = STEP.model_copy(update={"input_shape": (5,)})
    with pytest.raises(FeaturesUnfit, match=r"5.*4"):
        SandboxedLoader(Rows(), step, (2,), BUNDLE, store, lambda: None, run=here).load(PATIENTS)
    assert here.seen == []


def test_volumes_with_a_class_for_each_voxel_are_refused(store, here, monkeypatch):
    voxels = np.zeros((1, 1, 4, 4, 4), np.float32)
    classes = Rows().load(PATIENTS[:1])
    volume = type(classes)(voxels, np.zeros((1, 4, 4, 4), np.int64), np.zeros(1, np.int64))
    monkeypatch.setattr(VolumeLoader, "load", lambda *_: volume)
    step = STEP.model_copy(update={"input_shape": (1, 4, 4, 4)})
    with pytest.raises(FeaturesUnfit):
        SandboxedLoader(VolumeLoader(), step, (2,), BUNDLE, store, lambda: None, run=here).load(
            PATIENTS[:1]
        )


# What comes back is hostile


def saved(values):
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


@given(arrays(np.float32, st.tuples(st.integers(1, 5), st.just(2), st.just(3)), elements=st.floats(
    allow_nan=False, allow_infinity=False, width=32)))  # fmt: skip
def test_what_numpy_saves_is_read_and_cut_to_the_bound(values):
    found = read_features(saved(values), (2, 3), 5)
    assert np.array_equal(found, np.clip(values, -VALUE_MAX, VALUE_MAX))


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\x93NUMPY",
        saved(np.zeros((1, 2), np.float64)),
        saved(np.zeros((1, 2), ">f4")),
        saved(np.zeros((0, 2), np.float32)),
        saved(np.zeros((6, 2), np.float32)),
        saved(np.zeros((1, 3), np.float32)),
        saved(np.zeros((2, 2), np.float32, order="F")),
        saved(np.zeros((2,), np.float32)),
        saved(np.zeros((1, 2), np.float32)) + b"\0",
        saved(np.zeros((1, 2), np.float32))[:-1],
        saved(np.zeros((1, 2), np.float32)).replace(b"(1, 2)", b"(2, 1)"),
        saved(np.array([[1, math.nan]], np.float32)),
        saved(np.array([[1, math.inf]], np.float32)),
        b"\x80\x04.",
    ],
)
def test_anything_else_is_no_features(said):
    assert read_features(said, (2,), 5) is None


@given(st.binary(max_size=300))
def test_noise_is_no_features(said):
    assert read_features(said, (2,), 5) is None


# Only what was approved


@pytest.fixture
def site(tmp_path):
    world = World()
    terms, manifest, bundle = feature_job(world)
    book = JobBook(tmp_path / "site.db", SITE)
    book.keep(manifest, terms)
    return tmp_path, book, terms, manifest, bundle


def wrapped(site):
    folder, _, terms, *_ = site
    return with_features(Rows(), folder, SITE, terms)


def test_a_study_without_code_has_the_hospitals_own_loader(tmp_path):
    rows = Rows()
    assert with_features(rows, tmp_path, SITE, World().terms()) is rows
    assert list(tmp_path.iterdir()) == []


def test_without_the_code_there_is_no_loader(site):
    with pytest.raises(CodeMissing):
        wrapped(site)


def test_code_runs_only_while_its_job_is_approved_and_code_allowed(site, monkeypatch, here):
    folder, book, _, manifest, bundle = site
    JobCode(folder / "site.db").keep(bundle, named=[])
    loading = wrapped(site)
    object.__setattr__(loading, "run", here)
    with pytest.raises(JobNotApproved):
        loading.load(PATIENTS)
    book.allow_code(OFFICER)
    book.approve(manifest.hash, OFFICER, left=lambda _job: math.inf)
    assert by_patient(loading.load(PATIENTS), 3) == FEATURES
    book.allow_code(OFFICER, allowed=False)
    with pytest.raises(CodeNotAllowed):
        loading.load(PATIENTS)
    book.allow_code(OFFICER)
    book.refuse(manifest.hash, OFFICER, reason="no")
    with pytest.raises(JobNotApproved):
        loading.load(PATIENTS)
    assert len(here.seen) == 3


def test_another_approved_job_of_the_study_does_not_allow_this_code(site, here):
    folder, book, terms, _, bundle = site
    JobCode(folder / "site.db").keep(bundle, named=[])
    loading = wrapped(site)
    world = World()
    plain = world.terms()
    other = book.keep(world.manifest(plain), plain)
    book.approve(other.hash, OFFICER, left=lambda _job: math.inf)
    assert plain.study == terms.study
    with pytest.raises(CodeChanged):
        loading.load(PATIENTS)


def test_the_same_code_under_other_approved_terms_is_not_run(site, here):
    folder, book, terms, manifest, bundle = site
    JobCode(folder / "site.db").keep(bundle, named=[])
    loading = wrapped(site)
    object.__setattr__(loading, "run", here)
    book.allow_code(OFFICER)
    book.approve(manifest.hash, OFFICER, left=lambda _job: math.inf)
    features = terms.training.features.model_copy(update={"function": "steps:other"})
    training = terms.training.model_copy(update={"features": features})
    others = terms.model_copy(update={"training": training})
    other = book.keep(World().manifest(others, code=manifest.code), others)
    book.approve(other.hash, OFFICER, left=lambda _job: math.inf)
    with pytest.raises(CodeChanged):
        loading.load(PATIENTS)
    assert not here.seen


def test_what_a_machine_lacks_is_in_the_hospitals_log(store, caplog):
    def refuse(*_given, **_asked):
        raise SandboxUnavailable("unshare failed: Operation not permitted; a setting is 0")

    with pytest.raises(SandboxUnavailable):
        loader(store, refuse).load(PATIENTS)
    line = json.loads(Lines().format(caplog.records[-1]))
    assert line["event"] == "sandbox-unavailable"
    assert line["state"] == "unshare-failed-Operation-not-permitted-a-setting-is-0"


# In the sandbox itself


def test_in_the_sandbox_patients_become_features_and_a_failing_one_zeros(store):
    times = []

    def timed(*given, **asked):
        started = time.monotonic()
        try:
            return run_code(*given, **asked)
        finally:
            times.append(time.monotonic() - started)

    picked = [PATIENTS[0], patient("fails", (3, 0, 0, 0))]
    step = STEP.model_copy(update={"function": "steps:choosy", "seconds": 2})
    loading = SandboxedLoader(Rows(), step, (2,), BUNDLE, store, lambda: None, run=timed)
    try:
        loaded = loading.load(picked)
    except SandboxUnavailable:
        pytest.skip("this machine permits no unprivileged namespaces; the sandbox is not tested")
    assert by_patient(loaded, 2) == [FEATURES[0], [[0, 0]]]
    assert min(times) >= step.seconds
