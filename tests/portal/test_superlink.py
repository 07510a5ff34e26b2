"""The same study runs on a real SuperLink with a resident node and an agent per site, over TLS."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.superlink
@pytest.mark.parametrize("sites", [3, pytest.param(6, marks=pytest.mark.exhaustive)])
def test_sites_train_prove_and_are_paid(tmp_path, sites):
    command = [sys.executable, "-m", "portal", "demo", "--engine", "superlink", "--json"]
    sizes = ["--sites", str(sites), "--patients", "12", "--rounds", "1", "--circuit", "cover8"]
    home = tmp_path / "home"
    done = subprocess.run(
        [*command, *sizes, "--home", str(home)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    logs = "\n".join(log.read_text()[-1500:] for log in (home / "flower").glob("*.log"))
    assert done.returncode == 0, done.stderr + logs
    report = json.loads(done.stdout)
    assert report["engine"] == "superlink"
    assert report["sum_exact"] is True
    assert report["supply_base_units"] == 210_000_000 * 10**18
    assert report["receipts"] + report["updates_refused"] == sites
    assert report["proofs_verified"] >= sites
    assert (home / "flower" / "superlink.log").stat().st_size > 0
    still = subprocess.run(["pgrep", "-f", str(home)], capture_output=True, check=False)
    assert still.stdout == b""
