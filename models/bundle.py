"""Write a trained network as a MONAI bundle, which any MONAI installation can load.

::

    NAME/configs/inference.json   network_def: the constructor and its arguments, nothing else
    NAME/configs/metadata.json    what MONAI's schema asks for, and how to read the outputs
    NAME/models/model.pt          the weights, tensors only: loads with weights_only=True
    NAME/docs/README.md           the model card for people
    NAME/docs/model_card.json     the same for programs

The configuration holds no expression (``$``), reference (``@``) or macro (``%``), and text that
came from a study cannot start one: MONAI's parser would run it at whoever loads the bundle.
DenseNets, U-Nets and networks for tables are MONAI's own classes; ``wavelet``, ``cnn`` and
``resnet18`` name ours, so whoever loads them has this package installed.

What holds, each line a test in tests/models/test_bundle.py:

1. MONAI's ConfigParser builds the network, the weights fit it, and both compute what ours does.
2. MONAI's own check of inputs and outputs against the metadata passes.
3. What is written is read again by ``models.bundle_reader``.
4. No text of a study is an expression in the bundle.

References:
    MONAI Bundle Specification, version 0.1 (docs.monai.io, "mb_specification").
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import monai
import numpy as np
import torch

from models.card_page import markdown
from models.losses import loss_for
from models.networks import SEGMENTATION, TABLES, design_of
from protocol.errors import ConfigurationError
from storage.files import write_whole

if TYPE_CHECKING:
    from torch import nn

    from models.design import Design

CONFIG: Final = "configs/inference.json"
METADATA: Final = "configs/metadata.json"
WEIGHTS: Final = "models/model.pt"
PAGE: Final = "docs/README.md"
CARD: Final = "docs/model_card.json"
NETWORK: Final = "network_def"
VERSION: Final = "1.0.0"
SCHEMA: Final = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
"""Named for MONAI's ``verify_metadata``, which fetches it; nothing of ours opens it."""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # of every file in an archive, so equal bundles are equal


class ExportTaken(ConfigurationError):
    """Something is already where the export should go."""

    code = "model-export-taken"

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"{path} is already there; name a new file or folder")


def write_bundle(
    module: nn.Module,
    path: Path,
    *,
    network: str,
    input_shape: tuple[int, ...],
    card: Mapping[str, Any],
    outputs: int = 1,
) -> None:
    """Write the bundle as a folder, or as one archive where ``path`` ends in ``.zip``.

    Args:
        module: The trained network, as ``build`` made it.
        path: Where to; must not exist.
        network: As given to ``build``.
        input_shape: As given to ``build``.
        card: As ``models.card.model_card`` made it.
        outputs: As given to ``build``.

    Raises:
        ExportTaken: Something is there already.
        StorageError: The disk refused.
    """
    _write(
        bundle_files(module, network=network, input_shape=input_shape, card=card, outputs=outputs),
        path,
    )


def write_plain(module: nn.Module, path: Path, design: Design) -> None:
    """Write a bundle of a design and tensors alone: what is left of one that was read.

    Raises:
        ExportTaken: Something is there already.
        StorageError: The disk refused.
    """
    files = {CONFIG: _json({NETWORK: design.config()}), WEIGHTS: weights_of(module)}
    _write(files, path)


def bundle_files(
    module: nn.Module,
    *,
    network: str,
    input_shape: tuple[int, ...],
    card: Mapping[str, Any],
    outputs: int = 1,
) -> dict[str, bytes]:
    """Return the bundle's files by their names; see ``write_bundle``."""
    design = design_of(network, input_shape, outputs)
    metadata = _metadata(card, network=network, input_shape=input_shape, outputs=outputs)
    return {
        CONFIG: _json({NETWORK: design.config()}),
        METADATA: _json(metadata),
        WEIGHTS: weights_of(module),
        PAGE: markdown(card).encode(),
        CARD: _json(card),
    }


def weights_of(module: nn.Module) -> bytes:
    """Return the module's tensors by name, as ``torch.load(..., weights_only=True)`` reads them."""
    buffer = io.BytesIO()
    torch.save({name: one.detach().cpu() for name, one in module.state_dict().items()}, buffer)
    return buffer.getvalue()


def _metadata(
    card: Mapping[str, Any], *, network: str, input_shape: tuple[int, ...], outputs: int
) -> dict[str, Any]:
    training = card["training"]
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: "exported after training"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {},
        "name": _inert(card["name"]),
        "task": _inert(f"{training['positive']} against {training['negative']}"),
        "description": _inert(f"{network}, trained on: {training['title']}. {card['limits'][0]}"),
        "authors": "trained by a federation of hospitals with BitHive",
        "copyright": "see data_source and the model card",
        "data_source": _inert(f"{training['title']}; licence: {training['licence']}"),
        "intended_use": _inert(card["intended_use"]),
        "network_data_format": _data_format(network, input_shape, outputs),
        "bithive": {
            "network": network,
            "input_shape": list(input_shape),
            "outputs": outputs,
            "loss": loss_for(network, outputs).name,
        },
    }


def _data_format(network: str, input_shape: tuple[int, ...], outputs: int) -> dict[str, Any]:
    channels = {str(index): "logit" for index in range(outputs)}
    return {
        "inputs": {
            "image": {
                "type": "feature" if network in TABLES else "image",
                "format": "table" if network in TABLES else "magnitude",
                "num_channels": input_shape[0],
                "spatial_shape": list(input_shape[1:]),
                "dtype": "float32",
                "value_range": [],
                "is_patch_data": False,
                "channel_def": {str(index): "value" for index in range(input_shape[0])},
            }
        },
        "outputs": {
            "pred": {
                "type": "image" if network in SEGMENTATION else "probabilities",
                "format": "segmentation" if network in SEGMENTATION else "classes",
                "num_channels": outputs,
                "spatial_shape": list(input_shape[1:]) if network in SEGMENTATION else [],
                "dtype": "float32",
                "value_range": [],
                "is_patch_data": False,
                "channel_def": channels,
            }
        },
    }


def _write(files: Mapping[str, bytes], path: Path) -> None:
    if path.exists():
        raise ExportTaken(path)
    if path.suffix == ".zip":
        write_whole(path, _archive(files, path.stem))
        return
    for name, content in files.items():
        write_whole(path / name, content)


def _inert(text: str) -> str:
    """Return text on one line that MONAI's parser takes for nothing but text."""
    line = " ".join(str(text).split())
    return f"'{line}'" if line[:1] in {"$", "%", "@"} else line


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _archive(files: Mapping[str, bytes], name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in files.items():
            archive.writestr(zipfile.ZipInfo(f"{name}/{file}", _EPOCH), content)
    return buffer.getvalue()
