"""How much memory does a server need for a round of eight sites with ResNet-18?

Question  What is the peak of a server's memory above that of its loaded process, over whole rounds
          of real ciphertexts, and how does it compare with the model itself as float32?
Method    Eight hospitals with real keys, pads and encryption (``_sum_hospitals``) serve in one
          process; in a fresh one the real engine, store (SQLite), gate for ciphertexts, secure sum
          and FedAvg with momentum run two rounds, asking one site after another over sockets. The
          kernel's high-water mark of that process (VmHWM) less what it was after loading is the
          peak. Beside it, in a fresh process each: all updates held at once and added with
          ``ServerContext.add`` (the baseline), and the peaks of each phase. Proofs of consent,
          training and Flower's messages are left out: a SuperLink holds messages of its own.
Expected  Below three times the model: one upload at a time, the sum, and the residues of both.
Run       python -m experiments.server_memory           (some minutes)
          python -m experiments.server_memory --json    (the numbers alone)
Result    experiments/results/server_memory.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.registry import Registry, SignedEpoch
from experiments._recorded import record
from experiments._sum_hospitals import Hospital, SocketTransport, listening, terms_of
from fl_server.aggregation import first_state
from fl_server.app import keep_freed_memory
from fl_server.engine import Engine
from fl_server.gate import Admitted, Gate
from fl_server.phases import Deadlines
from fl_server.store import ServerStore
from privacy.bfv import EncryptedUpdate, ServerContext, self_test
from privacy.keys import SiteKeys
from privacy.parameters import parameter_set
from protocol.ids import SiteId
from protocol.messages import Contribution
from protocol.progress import Step
from protocol.terms import StudyTerms
from zk.keys import VerificationKey

MODEL_BYTES_EACH: Final = 4
ROOT: Final = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Config:
    """Everything that decides the result.

    ``tensor_sizes`` are ResNet-18's: 11.2 million parameters, for images of one channel and two
    classes.
    """

    sites: int = 8
    rounds: int = 2
    tensor_sizes: tuple[int, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """The tensors of the model."""
        return self.tensor_sizes or resnet18()


def resnet18(channels: int = 1, classes: int = 2) -> tuple[int, ...]:
    """Return the tensor sizes of ResNet-18 with group normalisation.

    References:
        He et al., Deep Residual Learning for Image Recognition, CVPR 2016, table 1.
    """
    sizes = [64 * channels * 49, 64, 64]
    before = 64
    for width in (64, 128, 256, 512):
        for block in range(2):
            entering = before if block == 0 else width
            sizes += [width * entering * 9, width, width, width * width * 9, width, width]
            if block == 0 and before != width:
                sizes += [width * before, width, width]
        before = width
    return (*sizes, 512 * classes, classes)


def measured(config: Config) -> dict[str, Any]:
    """Return the peaks, in bytes above the loaded process, and the model's size."""
    with tempfile.TemporaryDirectory(prefix="bithive-memory-") as name:
        folder = Path(name)
        keys = {SiteId(f"site-{index:02}"): SiteKeys.generate() for index in range(config.sites)}
        server_key = Ed25519PrivateKey.generate()
        public = server_key.public_key().public_bytes_raw()
        terms = terms_of(keys, public, config.sizes, config.rounds)
        (folder / "terms.json").write_text(terms.model_dump_json())
        (folder / "server.key").write_bytes(server_key.private_bytes_raw())
        hospitals = {
            site: Hospital(site, terms, one, folder / f"{site}.db", seed)
            for seed, (site, one) in enumerate(keys.items())
        }
        with listening(hospitals, folder):
            streamed = _child("serve", folder, config.sites)
        held = _child("hold", folder, config.sites)
    model = MODEL_BYTES_EACH * sum(config.sizes)
    return {
        "peak_bytes": streamed["peak_bytes"],
        "model_bytes": model,
        "ratio": round(streamed["peak_bytes"] / model, 2),
        "held_at_once_bytes": held["peak_bytes"],
        "held_at_once_ratio": round(held["peak_bytes"] / model, 2),
        "loaded_bytes": streamed["loaded_bytes"],
        "phases": streamed["phases"],
        "upload_bytes": streamed["upload_bytes"],
        "sites": config.sites,
    }


def _child(what: str, folder: Path, sites: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "experiments.server_memory", f"--{what}", str(folder)]
    done = subprocess.run(  # noqa: S603  # ourselves
        [*command, "--sites", str(sites)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


# In the server's process


class Peak:
    """This process's high-water mark of resident memory, which can be set back."""

    def __init__(self) -> None:
        self.loaded = _status("VmRSS")
        self.marks: dict[str, int] = {}
        self.highest = 0
        self._reset()

    def mark(self, name: str) -> None:
        """Note the peak since the last mark under a name."""
        peak = max(0, _status("VmHWM") - self.loaded)
        self.marks[name] = max(self.marks.get(name, 0), peak)
        self.highest = max(self.highest, peak)
        self._reset()

    def _reset(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(name)


def _serve(folder: Path, sites: int) -> dict[str, Any]:
    """Run the rounds."""
    keep_freed_memory()  # as the server's own process does
    terms = StudyTerms.model_validate_json((folder / "terms.json").read_bytes())
    key = Ed25519PrivateKey.from_private_bytes((folder / "server.key").read_bytes())
    parameters = parameter_set(terms.encryption)
    store = ServerStore(folder / "server.db")
    store.found(
        terms, first_state(terms, parameters, np.zeros(terms.training.parameters, np.float32))
    )
    self_test(parameters)
    peak = Peak()

    def observe(step: Step) -> None:
        peak.mark(step.stage)

    engine = _Engine(
        terms=terms,
        store=store,
        registry=cast("Registry", _NoRegistry()),
        transport=SocketTransport([folder / f"{index}.sock" for index in range(sites)]),
        verification_key=cast("VerificationKey", None),
        signing_key=key,
        parameters=parameters,
        after_close=lambda _closed: None,
        progress=observe,
        deadlines=Deadlines(train=86400.0, open=86400.0, call=86400.0, join=86400.0),
    )
    engine.run()
    peak.mark("end")
    last = store.round(terms.rounds)
    assert last is not None
    assert last.closed is not None
    assert len(last.closed.receipts) == sites
    return {
        "peak_bytes": peak.highest,
        "loaded_bytes": peak.loaded,
        "phases": peak.marks,
        "upload_bytes": max(store.uploads.sizes(terms.rounds).values()),
    }


def _hold(folder: Path) -> dict[str, Any]:
    """Add the last round's updates as one adds what is all in memory."""
    keep_freed_memory()
    terms = StudyTerms.model_validate_json((folder / "terms.json").read_bytes())
    parameters = parameter_set(terms.encryption)
    context = ServerContext(parameters)
    store = ServerStore(folder / "server.db")
    peak = Peak()
    updates = [
        EncryptedUpdate(blob, one.key_id, one.encryption, one.length)
        for one, blob in store.uploads.of(terms.rounds).values()
    ]
    context.add(updates)
    peak.mark("add")
    return {"peak_bytes": peak.highest}


class _Engine(Engine):
    """The engine with a gate for ciphertexts alone."""

    def _start(self, number: int = 1) -> None:
        super()._start(number)
        self._intake.gate = cast("Gate", _CiphertextGate(ServerContext(self.parameters)))


@dataclass(frozen=True)
class _CiphertextGate:
    """Looks at the form of the ciphertext, as the gate does last."""

    context: ServerContext

    def admit(self, contribution: Contribution, ciphertext: bytes, *_rest: object) -> Admitted:
        update = EncryptedUpdate(
            ciphertext, contribution.key_id, contribution.encryption, contribution.length
        )
        self.context.check(update)
        return Admitted(contribution.receipt, update, (), 0.0)


class _NoRegistry:
    """A registry without patients."""

    @contextmanager
    def snapshot(self) -> Iterator[SignedEpoch]:
        yield SignedEpoch(registry="none", number=0, root=0, at="", signature=b"")

    def lanes(self) -> list[object]:
        return []


def main() -> None:
    """Measure, or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the numbers, write no result")
    parser.add_argument("--sites", type=int, default=Config.sites)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--hold", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve is not None:
        print(json.dumps(_serve(asked.serve, asked.sites)))
        return
    if asked.hold is not None:
        print(json.dumps(_hold(asked.hold)))
        return
    config, started = Config(sites=asked.sites), time.monotonic()
    found = measured(config)
    print(json.dumps(found, indent=None if asked.json else 2))
    if not asked.json:
        row = asdict(config) | {"tensor_sizes": config.sizes}
        record("server_memory", config, {**row, **found}, seconds=time.monotonic() - started)


if __name__ == "__main__":
    main()
