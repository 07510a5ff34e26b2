"""The committed bundle proves in a browser that may talk to its own server only.

The page is served under a strict content security policy; whoever serves it for good needs no more
than this one allows: WebAssembly, and workers from blobs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from zk import fast, groth16
from zk.artefacts import FOLDER
from zk.semaphore import SemaphoreProof, check, number_for

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "zk" / "semaphore_grants.json").read_text()
)
SECRETS = json.loads((Path(__file__).parents[1] / "vectors" / "zk" / "semaphore.json").read_text())[
    "secrets"
]
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; worker-src blob:"
)
SCRIPT = """
import { identityOf, proveGrant, verifyProof } from "./semaphore.js"
try {
    const input = await (await fetch("./input.json")).json()
    const secret = Uint8Array.from(input.secret.match(/../g), (pair) => parseInt(pair, 16))
    const files = { wasm: "./semaphore-16.wasm", zkey: "./semaphore-16.zkey" }
    const times = [performance.now()]
    const me = identityOf(secret)
    const proofs = []
    for (let k = 0; k < 2; k++) {
        proofs.push(await proveGrant(me, input.members, input.grant, files))
        times.push(performance.now())
    }
    const holds = await verifyProof(proofs[0])
    await say({ commitment: me.commitment.toString(), proof: proofs[0], times, holds })
} catch (error) {
    await say({ error: String(error) })
}
async function say(result) {
    await fetch("./result", { method: "POST", body: JSON.stringify(result) })
}
"""


class Served:
    """What the page gets, and the one answer it gives."""

    def __init__(self, pages):
        self.pages = pages
        self.answer = None
        self.done = threading.Event()


def handler_of(served):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            kind, body = served.pages.get(self.path, ("text/plain", None))
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Security-Policy", POLICY)
            self.end_headers()
            self.wfile.write(body or b"")

        def do_POST(self):
            served.answer = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()
            served.done.set()

        def log_message(self, *_arguments):
            pass

    return Handler


@pytest.mark.slow
def test_a_browser_proves_a_grant_with_the_committed_files(tmp_path, record_property):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed here")
    grant = VECTORS["by_self"]["grant"]
    given = {"secret": SECRETS[1], "members": VECTORS["members_before"], "grant": grant}
    served = Served(
        {
            "/": ("text/html", b'<!doctype html><script type="module" src="./page.js"></script>'),
            "/page.js": ("text/javascript", SCRIPT.encode()),
            "/input.json": ("application/json", json.dumps(given).encode()),
            "/semaphore.js": ("text/javascript", (FOLDER / "semaphore.js").read_bytes()),
            **{
                f"/{name}": ("application/octet-stream", (FOLDER / name).read_bytes())
                for name in ("semaphore-16.wasm", "semaphore-16.zkey")
            },
        }
    )
    with HTTPServer(("127.0.0.1", 0), handler_of(served)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
        shown = subprocess.Popen(
            [browser, *arguments, f"http://127.0.0.1:{server.server_port}/"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert served.done.wait(120), "the page gave no answer"
        finally:
            shown.kill()
            shown.wait()
            server.shutdown()
    answer = served.answer
    assert "error" not in answer, answer
    start, first, second = answer["times"]
    record_property("first_grant_ms", round(first - start))
    record_property("next_grant_ms", round(second - first))
    assert answer["commitment"] == VECTORS["commitments"][1]
    assert answer["holds"] is True
    proof = SemaphoreProof.from_json(json.dumps(answer["proof"]))
    parts = [
        grant["registry"],
        grant["leaf"],
        grant["lane"],
        grant["payoutId"],
        grant["revokeHash"],
    ]
    for verifier in (fast.verify, groth16.verify):
        nullifier = check(
            proof,
            root=int(VECTORS["by_self"]["proof"]["merkleTreeRoot"]),
            scope=number_for("bithive-grant-scope-1", grant["study"]),
            message=number_for("bithive-grant-1", *parts),
            verifier=verifier,
        )
    assert nullifier == int(VECTORS["nullifiers"][1])
