"""A signer in a process of its own: a Unix socket's path or a port, and how it misbehaves.

It answers ``eth_signTransaction`` under the key of the tests' settlement account. ``honest`` signs
what was asked, ``other-key`` under another key, ``other-payee`` another transaction, ``refusing``
nothing.
"""

from __future__ import annotations

import json
import socketserver
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from ledger.chain.signer import LocalSigner, Transaction
from ledger.contracts.tree import keccak256
from tests.ledger.chain.world import SIGNER

MANNER = sys.argv[2] if __name__ == "__main__" else "honest"


class Answers(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = {"jsonrpc": "2.0", "id": asked["id"]}
        if MANNER == "refusing":
            body["error"] = {"code": -32000, "message": "the person said no"}
        else:
            body["result"] = signed(asked["params"][0])
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_about):
        pass

    def address_string(self):
        return "unix"


class UnixServer(socketserver.UnixStreamServer):
    def get_request(self):
        link, _ = super().get_request()
        return link, ("unix", 0)


def signed(asked):
    signer = LocalSigner(keccak256(b"another")) if MANNER == "other-key" else SIGNER
    to = bytes.fromhex(asked["to"][2:]) if "to" in asked else None
    if MANNER == "other-payee":
        to = keccak256(b"thief")[:20]
    numbers = {name: int(asked[name], 16) for name in ("nonce", "gas", "chainId")}
    fees = (int(asked["maxFeePerGas"], 16), int(asked["maxPriorityFeePerGas"], 16))
    place = (numbers["chainId"], numbers["nonce"], to, bytes.fromhex(asked["data"][2:]))
    raw = "0x" + signer.sign(Transaction(*place, numbers["gas"], *fees)).raw.hex()
    return {"raw": raw, "tx": {}} if MANNER == "honest" else raw


def main(where):
    if where.startswith("/"):
        server = UnixServer(where, Answers)
    else:
        server = HTTPServer(("127.0.0.1", int(where)), Answers)
    sys.stdout.write(f"{server.server_address}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
