"""Write a trained network as ONNX, and prove before anyone gets it that it computes the same.

The graph takes a batch of any size. Its output are logits, as of the network; what turns them
into probabilities stands in the file's metadata beside the model card.

PyTorch's tracing exporter is used. It is deprecated in favour of one that needs another package
(onnxscript); ours is pinned, these networks have no control flow that tracing could miss, and every
export is run with onnxruntime on batches of other sizes before its bytes are returned, so an
exporter that goes wrong is an error here and not at a hospital.

What holds, each line a test in tests/models/test_export.py:

1. onnxruntime's logits are within ``ATOL`` of PyTorch's for every network and batches of any size.
2. A graph that computes something else is never returned.
3. The network leaves as it came: mode, weights and stem.

References:
    ONNX, Open Neural Network Exchange, operator set 17 of the default domain.
"""

from __future__ import annotations

import copy
import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from models.onnx_stem import RealWaveletStem
from models.sonogram import SIDE, SonogramStem
from models.wavelets import WaveletStem
from protocol.errors import ConfigurationError
from storage.files import write_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

OPSET: Final = 17
INPUT: Final = "input"
OUTPUT: Final = "logits"
ATOL: Final = 1e-4
"""Largest difference of a logit from PyTorch's; a probability moves by a quarter of it at most."""
CHECKED_BATCHES: Final = (1, 3)
TRACED_BATCH: Final = 2
PRODUCER: Final = "bithive"


class ExportDiffers(ConfigurationError):
    """The exported graph does not compute what the network computes."""

    code = "model-export-differs"

    def __init__(self, difference: float) -> None:
        self.difference = difference
        super().__init__(
            f"the exported model's logits differ by {difference:g} where {ATOL:g} is allowed; "
            "export as a bundle instead, and report this with the network's name"
        )


def write_onnx(
    module: nn.Module,
    path: Path,
    *,
    input_shape: tuple[int, ...],
    card: Mapping[str, Any] | None = None,
    link: str = "",
) -> None:
    """Write ``onnx_bytes`` to ``path`` in one step."""
    write_whole(path, onnx_bytes(module, input_shape=input_shape, card=card, link=link))


def onnx_bytes(
    module: nn.Module,
    *,
    input_shape: tuple[int, ...],
    card: Mapping[str, Any] | None = None,
    link: str = "",
) -> bytes:
    """Return the network as an ONNX model.

    Args:
        module: A network of ``models.networks``.
        input_shape: As given to ``build``, without the batch.
        card: The model card, kept in the file's metadata as JSON.
        link: What turns logits into probabilities, in words.

    Raises:
        ExportDiffers: The graph does not compute what the network computes.
    """
    import onnx  # noqa: PLC0415 - a second's import that training does without

    twin = _exportable(module)
    generator = torch.Generator().manual_seed(17)
    example = torch.randn(TRACED_BATCH, *input_shape, generator=generator)
    buffer = io.BytesIO()
    batch = {0: "batch"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based ONNX export")
        warnings.filterwarnings("ignore", "The feature will be removed. Please remove usage")
        # MONAI and the stem compare sizes that are fixed by ``input_shape``.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        torch.onnx.export(
            twin, (example,), buffer, dynamo=False, opset_version=OPSET, input_names=[INPUT],
            output_names=[OUTPUT], dynamic_axes={INPUT: batch, OUTPUT: batch},
        )  # fmt: skip
    graph = onnx.load_from_string(buffer.getvalue())
    graph.producer_name = PRODUCER
    described = {"link": link, "card": json.dumps(card, sort_keys=True)} if card else {"link": link}
    onnx.helper.set_model_props(graph, described)
    onnx.checker.check_model(graph, full_check=True)
    content = graph.SerializeToString(deterministic=True)
    for size in CHECKED_BATCHES:
        records = torch.randn(size, *input_shape, generator=generator)
        with torch.no_grad():
            expected = _evaluating(module)(records).numpy()
        found = run_onnx(content, records.numpy())
        difference = (
            float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
        )
        if not difference <= ATOL:
            raise ExportDiffers(difference)
    return content


def run_onnx(content: bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits that onnxruntime computes on one thread of the CPU."""
    import onnxruntime  # noqa: PLC0415 - a second's import that training does without

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([OUTPUT], {INPUT: x})[0])


def _exportable(module: nn.Module) -> nn.Module:
    """Return a copy for evaluation, its stem in real arithmetic."""
    twin = _evaluating(module)
    stem = getattr(twin, "stem", None)
    if isinstance(stem, SonogramStem):
        stem.wavelets = RealWaveletStem((1, SIDE, SIDE))
    if isinstance(stem, WaveletStem):
        height, width = stem.filters.shape[-2:]
        twin.stem = RealWaveletStem((1, height, width))
    return twin


def _evaluating(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).eval()
