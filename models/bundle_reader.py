"""Import a MONAI bundle without running anything from it.

MONAI's own parser evaluates every string that begins with ``$``, imports and calls whatever
``_target_`` names, and follows macros to other files: loading a bundle with it is running its
author's program. Here a bundle is data. Its configuration is parsed as strict JSON, walked once,
and refused if any part could act; the network is built by ``models.design`` from a short list of
constructors; the weights are read as tensors alone and must fit that network exactly.

Bundles from elsewhere describe data loading, handlers and engines with expressions. With
``network_only`` these parts are left unread and only ``network_def`` must be plain.

What holds, each line a test in tests/models/test_bundle_attacks.py:

1. No expression, import, call, macro, file or pickle of a bundle is ever evaluated.
2. What is imported computes what was exported.
3. Weights are finite, and of exactly the names and shapes of the network.

References:
    [1] CWE-95, Improper Neutralization of Directives in Dynamically Evaluated Code.
    [2] CWE-502, Deserialization of Untrusted Data: pickles.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from models.bundle import CARD, CONFIG, METADATA, NETWORK, WEIGHTS
from models.bundle_files import WEIGHTS_BYTES_MAX, BundleRefused, open_bundle
from models.design import Design, construct
from models.networks import tensor_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence

DEPTH_MAX: Final = 16
VALUES_MAX: Final = 10_000
TENSORS_MAX: Final = 10_000
TARGET: Final = "_target_"
DESCRIPTION: Final = "_desc_"
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_. -]*")
_REFERENCE: Final = re.compile(r"@([A-Za-z0-9_]+(?:(?:::|#)[A-Za-z0-9_]+)*)")
_OVER_A_BATCH: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_WRAPPERS: Final = ("model", "state_dict")
"""Keys under which checkpoints keep the weights beside other things."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and found plain.

    Attributes:
        module: The network with its weights, in evaluation mode.
        design: What it was built from.
        metadata: As the bundle has it; text that nobody vouches for.
        card: The model card, or None.
        weights_sha256: Of the file with the weights.
        ignored: Files and parts of the configuration that were not read.
        per_record: Whether each record's output depends on it alone, so that it can be trained
            privately: no statistics over a batch.
    """

    module: nn.Module
    design: Design
    metadata: Mapping[str, Any]
    card: Mapping[str, Any] | None
    weights_sha256: str
    ignored: tuple[str, ...]
    per_record: bool

    def summary(self) -> dict[str, Any]:
        """Return what a person wants to know before using it, as plain values."""
        return {
            "network": self.design.target,
            "arguments": dict(self.design.arguments),
            "parameters": sum(tensor_sizes(self.module)),
            "per_record": self.per_record,
            "weights_sha256": self.weights_sha256,
            "ignored": list(self.ignored),
            "metadata": dict(self.metadata),
            "card": None if self.card is None else dict(self.card),
        }


def read_bundle(path: Path, *, network_only: bool = False) -> Bundle:
    """Read a bundle from a folder or a ``.zip``; see the module.

    Args:
        path: The folder or archive.
        network_only: Leave every part of the configuration but ``network_def`` unread, instead
            of refusing what acts in them.

    Raises:
        BundleRefused: Something in it could act, lies outside, is too large or does not fit.
        DesignRefused: Its network is not on the list of what is built here.
    """
    files = open_bundle(path)
    config = _document(files.read[CONFIG], CONFIG)
    if NETWORK not in config:
        raise BundleRefused(CONFIG, f"has no {NETWORK}")
    parts = {NETWORK: config[NETWORK]} if network_only else config
    _inert(parts, CONFIG)
    module, design = _network(config)
    state = _weights(files.read[WEIGHTS])
    _load(module, state)
    metadata = _document(files.read.get(METADATA, b"{}"), METADATA)
    card = _document(files.read[CARD], CARD) if CARD in files.read else None
    unread = sorted(set(config) - {NETWORK}) if network_only else []
    return Bundle(
        module=module.eval(),
        design=design,
        metadata=metadata,
        card=card,
        weights_sha256=hashlib.sha256(files.read[WEIGHTS]).hexdigest(),
        ignored=(*files.ignored, *(f"{CONFIG}: {name}" for name in unread)),
        per_record=not any(isinstance(part, _OVER_A_BATCH) for part in module.modules()),
    )


def _document(content: bytes, where: str) -> dict[str, Any]:
    """Parse strict JSON: one object, no key twice, no NaN."""

    def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise BundleRefused(where, "names one key twice")
        return found

    def no_constant(name: str) -> Any:
        raise BundleRefused(where, f"holds {name}, which is no JSON")

    try:
        found = json.loads(content, object_pairs_hook=once, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:  # also of bytes that are not UTF-8
        raise BundleRefused(where, "is no JSON") from error
    if not isinstance(found, dict):
        raise BundleRefused(where, "is no JSON object")
    return found


def _inert(document: Mapping[str, Any], where: str) -> None:
    """Refuse whatever MONAI's parser would do more with than keep it."""
    waiting: list[tuple[Any, str, int]] = [(document, "", 0)]
    seen = 0
    while waiting:
        value, place, depth = waiting.pop()
        seen += 1
        if depth > DEPTH_MAX or seen > VALUES_MAX:
            raise BundleRefused(where, "is nested too deep or holds too much")
        if isinstance(value, str):
            _inert_text(value, f"{where} at {place or 'its top'}")
        elif isinstance(value, list):
            waiting.extend((one, f"{place}[{at}]", depth + 1) for at, one in enumerate(value))
        elif isinstance(value, dict):
            for key, one in value.items():
                _inert_key(key, f"{where} at {place or 'its top'}")
                if key != DESCRIPTION:
                    waiting.append((one, f"{place}.{key}".lstrip("."), depth + 1))


def _inert_key(key: str, where: str) -> None:
    if key in {TARGET, DESCRIPTION}:
        return
    if key.startswith("_"):
        raise BundleRefused(where, f"steers the loader with the key {key[:40]!r}")
    if not _KEY.fullmatch(key):
        raise BundleRefused(where, f"has a key that merges or points elsewhere: {key[:40]!r}")


def _inert_text(text: str, where: str) -> None:
    bare = text.strip()
    if bare.startswith("$"):
        raise BundleRefused(where, "holds an expression ($), which a loader would run")
    if bare.startswith("%"):
        raise BundleRefused(where, "includes another file or part (%)")
    if "@" in bare and not _REFERENCE.fullmatch(text):
        raise BundleRefused(where, "holds a reference (@) that is no plain name")


def _network(config: Mapping[str, Any]) -> tuple[nn.Module, Design]:
    described = config[NETWORK]
    if not isinstance(described, dict) or not isinstance(described.get(TARGET), str):
        raise BundleRefused(f"{CONFIG} at {NETWORK}", "names no constructor")
    arguments = {
        key: _resolved(value, config)
        for key, value in described.items()
        if key not in {TARGET, DESCRIPTION}
    }
    design = Design(described[TARGET], arguments)
    return construct(design), design


def _resolved(value: Any, config: Mapping[str, Any]) -> Any:
    """Replace a reference to a plain value of the same document by it; one step, no chains."""
    if isinstance(value, list):
        return [_resolved(one, config) for one in value]
    if isinstance(value, dict):
        return {key: _resolved(one, config) for key, one in value.items()}
    if not (isinstance(value, str) and value.startswith("@")):
        return value
    found: Any = config
    for step in re.split("::|#", value[1:]):
        if not isinstance(found, dict) or step not in found:
            raise BundleRefused(CONFIG, "refers to something that is not in it")
        found = found[step]
    numbers = found if isinstance(found, list) else [found]
    plain = all(isinstance(one, int | float) for one in numbers)
    if not plain:
        raise BundleRefused(CONFIG, "refers to something that is no number or list of numbers")
    return found


def _weights(content: bytes) -> Mapping[str, Tensor]:
    """Read tensors, and nothing else, from what ``torch.save`` wrote."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise BundleRefused(WEIGHTS, "is not in the format of torch.save since 1.6") from error
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    size = sum(entry.file_size for entry in entries)
    if packed or size > WEIGHTS_BYTES_MAX or len(entries) > TENSORS_MAX:
        raise BundleRefused(WEIGHTS, "unpacks to more than it is")
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise BundleRefused(WEIGHTS, "holds something other than tensors") from error
    except (AttributeError, TypeError, IndexError, OverflowError) as error:
        raise BundleRefused(WEIGHTS, "is damaged") from error
    for name in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    tensors = isinstance(found, dict) and all(
        isinstance(name, str) and isinstance(one, Tensor) for name, one in found.items()
    )
    if not tensors:
        raise BundleRefused(WEIGHTS, "holds something other than named tensors")
    return found


def _load(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give the module the weights, which must be its own in name, shape and kind."""
    wanted = module.state_dict()
    if set(wanted) != set(state):
        raise BundleRefused(WEIGHTS, "has other tensors than the network")
    for name, target in wanted.items():
        one = state[name]
        # The shape first: a view of one number can claim any size.
        if one.shape != target.shape or one.layout != torch.strided or one.is_quantized:
            raise BundleRefused(WEIGHTS, f"does not fit the network at {name}")
        if one.is_complex() or one.is_floating_point() != target.is_floating_point():
            raise BundleRefused(WEIGHTS, f"has other kinds of numbers at {name}")
        if not bool(torch.isfinite(one.float()).all()):
            raise BundleRefused(WEIGHTS, f"is not finite at {name}")
    module.load_state_dict(dict(state), strict=True)
