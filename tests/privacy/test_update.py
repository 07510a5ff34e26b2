"""A skipped stage does not type-check, and only a stated reason lets an update pass un-noised."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from privacy.update import NoisedUpdate, Update, declare_public

ROOT = Path(__file__).resolve().parents[2]

ALLOWED = """
import numpy as np
from privacy.bfv import encrypt, SecretKey
from privacy.masks import apply
from privacy.packing import pack
from privacy.parameters import parameter_set
from privacy.quantisation import quantise
from privacy.update import IntegerUpdate, NoisedUpdate, Update

def seal(
    raw: Update, update: NoisedUpdate, integers: IntegerUpdate, key: SecretKey
) -> None:
    preset = parameter_set("packed-bfv-8")
    quantised = quantise(update, 0.1)
    packed = pack(quantised, 1, preset)
    masked = apply(packed, [])
    encrypt(masked, key)
    pack(integers, 1, preset)
"""

SKIPPED = [
    "quantise(raw, 0.1)",
    "pack(update, 1, preset)",
    "pack(raw, 1, preset)",
    "quantise(integers, 0.1)",
    "apply(quantised, [])",
    "encrypt(packed, key)",
    "encrypt(update, key)",
    "encrypt(raw, key)",
]


def test_declaring_public_needs_a_reason_and_keeps_it():
    update = Update(np.zeros(2, dtype=np.float32))
    assert declare_public(update, "a published table").public_because == "a published table"
    assert NoisedUpdate(update.vector).public_because == ""
    with pytest.raises(AssertionError):
        declare_public(update, " ")


@pytest.mark.slow
def test_mypy_refuses_every_skipped_stage(tmp_path):
    lines = ALLOWED.count("\n")
    source = tmp_path / "skipped.py"
    source.write_text(ALLOWED + "".join(f"    {call}\n" for call in SKIPPED))
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml"]
    command += ["--cache-dir", tmp_path / "cache", source]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    refused = [line for line in checked.stdout.splitlines() if "[arg-type]" in line]
    assert len(refused) == len(SKIPPED), checked.stdout + checked.stderr
    for number, call in enumerate(SKIPPED, start=lines + 1):
        assert any(f"skipped.py:{number}: " in line for line in refused), call
    assert f"Found {len(SKIPPED)} errors" in checked.stdout
