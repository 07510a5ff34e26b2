# ruff: noqa: PLC0415 - a command loads only what it needs: `--help` in a second, not in ten
"""``bithive ceremony``: hospitals make the proving key together, so that none can forge proofs.

One of them opens the ceremony in a folder. The folder goes round; each adds its secret. Then the
public beacon, announced in the opening, ends the phase. Anybody can verify the whole; the
verification key that comes out names the transcript it came from. See docs/spec/ceremony.md.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

if TYPE_CHECKING:  # a command loads only what it needs
    from zk.ceremony_folder import Workplace
    from zk.transcript_lines import Announcement, Entry

app = typer.Typer(no_args_is_help=True, help="Several hospitals make the proving key together.")

Folder = Annotated[Path, typer.Argument(help="The ceremony's folder.", file_okay=False)]
PublicPhase1 = Annotated[
    Path | None,
    typer.Option(
        "--phase-1",
        dir_okay=False,
        help="A public powersOfTau28_hez_final_N.ptau; its hash is pinned in BitHive.",
    ),
]
Keys = Annotated[
    Path,
    typer.Option(dir_okay=False, help="The file of the hospital's own keys."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
VERIFICATION_KEY: Final = "verification_key.json"
words = Console(stderr=True)


@app.command(
    epilog="Example:  bithive ceremony init ceremony --phase-1 powersOfTau28_hez_final_16.ptau "
    "--site north=KEY --site south=KEY --site east=KEY "
    "--beacon 'drand quicknet/14000000/2026-12-01T12:00:00Z'  (KEY: 64 hexadecimal digits, as "
    "`bithive ceremony key` prints them)"
)
def init(
    folder: Folder,
    *,
    site: Annotated[
        list[str], typer.Option(help="NAME=KEY of a hospital that may contribute; at least two.")
    ],
    beacon: Annotated[
        list[str],
        typer.Option(
            help="SOURCE/ROUND/TIME of a public random value that nobody knows yet; one for each "
            "phase that is run here."
        ),
    ],
    phase_1: PublicPhase1 = None,
    own_phase_1: Annotated[
        bool,
        typer.Option(
            "--own-phase-1",
            help="Make phase 1 here, by the same hospitals; takes about an hour for 2^16.",
        ),
    ] = False,
    circuit: Annotated[
        str, typer.Option(help="cover64 (production) or cover8 (small).")
    ] = "cover64",
    as_json: AsJson = False,
) -> None:
    """Open a ceremony: its circuit, its hospitals, its beacons, and the file to begin with."""
    from zk.ceremony import CeremonyInputInvalid, begin

    if own_phase_1 == (phase_1 is not None):
        raise CeremonyInputInvalid("phase 1", "give either --phase-1 FILE or --own-phase-1")
    sites = _sites(site)
    beacons = [_announcement(one) for one in beacon]
    at = _workplace(folder, circuit)
    transcript = begin(at, sites, beacons, phase_1=phase_1, now=_now())
    found = {
        "circuit": transcript.opening.circuit,
        "r1cs_sha256": transcript.opening.r1cs_sha256,
        "phase_1": transcript.opening.phase_1.source,
        "power": transcript.opening.phase_1.power,
        "sites": sorted(sites),
        "opening_sha256": transcript.head,
    }
    _show(found, f"opened; pass {folder} to the first site. Opening {transcript.head}", as_json)


@app.command(epilog="Example:  bithive ceremony key --keys bithive-home/sites/north/keys.json")
def key(*, keys: Keys, as_json: AsJson = False) -> None:
    """Print the public key that `init` invites this hospital with; make the keys if need be."""
    from privacy.keys import SiteKeys

    public = SiteKeys.load_or_make(keys).signing_public.hex()
    _show({"signing_key": public}, public, as_json)


@app.command(
    epilog="Example:  bithive ceremony contribute ceremony "
    "--keys bithive-home/sites/north/keys.json"
)
def contribute(folder: Folder, *, keys: Keys, as_json: AsJson = False) -> None:
    """Add this hospital's secret, made by the operating system, never written, then forgotten.

    Publish the hash it prints where the other hospitals see it. If interrupted, run it again.
    """
    from privacy.keys import SiteKeys
    from zk import ceremony

    entry = ceremony.contribute(_workplace(folder), SiteKeys.load(keys), clock=_now)
    sentence = (
        f"{entry.site} has contributed to phase {entry.phase}; pass {folder} on and publish\n"
        f"{entry.contribution}"
    )
    _show(_line(entry) | {"site": entry.site}, sentence, as_json)


@app.command(
    epilog="Example:  bithive ceremony beacon ceremony --source 'drand quicknet' "
    "--round 14000000 --value 64HEXDIGITS"
)
def beacon(
    folder: Folder,
    *,
    source: Annotated[str, typer.Option(help="Who published the value, as announced.")],
    number: Annotated[int, typer.Option("--round", min=0, help="The announced round.")],
    value: Annotated[str, typer.Option(help="Its value, in hexadecimal.")],
    as_json: AsJson = False,
) -> None:
    """End a phase with the public value announced for it; anybody may do it."""
    from zk.ceremony import apply_beacon

    entry = apply_beacon(
        _workplace(folder), source, number, _hexadecimal("--value", value), clock=_now
    )
    then = "phase 2 has begun" if entry.phase == 1 else "run `bithive ceremony verify`"
    _show(_line(entry), f"the beacon has ended phase {entry.phase}; {then}", as_json)


@app.command(
    epilog="Example:  bithive ceremony verify ceremony "
    "--phase-1 powersOfTau28_hez_final_16.ptau --beacon-value 64HEXDIGITS"
)
def verify(
    folder: Folder,
    *,
    beacon_value: Annotated[
        list[str],
        typer.Option(
            help="The value of each beacon, in order, as you fetched it from its publisher."
        ),
    ],
    phase_1: PublicPhase1 = None,
    as_json: AsJson = False,
) -> None:
    """Recompute a finished ceremony and write its verification key beside the transcript."""
    from zk import ceremony_check

    values = [_hexadecimal("--beacon-value", one) for one in beacon_value]
    done = ceremony_check.verify(_workplace(folder), values, phase_1=phase_1)
    key_file = folder / VERIFICATION_KEY
    done.verification_key.save(key_file)
    transcript = done.transcript
    found = {
        "circuit": transcript.opening.circuit,
        "r1cs_sha256": transcript.opening.r1cs_sha256,
        "transcript_sha256": transcript.sha256,
        "key_hash": done.verification_key.hash,
        "verification_key": str(key_file),
        "proving_key": str(folder / done.proving_key.name),
        "contributed": {
            f"phase_{phase}": transcript.sites_of(phase) for phase in transcript.opening.phases
        },
    }
    sites = ", ".join(transcript.sites_of(2))
    _show(
        found,
        f"sound: made by {sites} for {transcript.opening.circuit}; one honest one suffices\n"
        f"verification key {done.verification_key.hash}\ntranscript       {transcript.sha256}",
        as_json,
    )


def _workplace(folder: Path, circuit_name: str | None = None) -> Workplace:
    """Return the ceremony in ``folder``, for the circuit that its opening names."""
    from zk.ceremony_folder import Workplace, load_transcript
    from zk.circuit import circuit
    from zk.snarkjs import Snarkjs

    found = circuit(circuit_name or load_transcript(folder).opening.circuit)
    return Workplace(folder, found, Snarkjs.find(), _say)


def _sites(options: list[str]) -> dict[Any, bytes]:
    from protocol.ids import SiteId
    from zk.ceremony import CeremonyInputInvalid

    sites = {}
    for option in options:
        name, _, public = option.partition("=")
        if name in sites:
            raise CeremonyInputInvalid("--site", f"{name} is named twice")
        sites[SiteId(name)] = _hexadecimal("--site", public)
    return sites


def _announcement(option: str) -> Announcement:
    from zk.ceremony import CeremonyInputInvalid, announcement

    parts = option.split("/")
    if len(parts) != 3 or not (parts[1].isascii() and parts[1].isdigit() and len(parts[1]) <= 16):
        raise CeremonyInputInvalid(
            "--beacon", "write it as SOURCE/ROUND/TIME, TIME as 2026-12-01T12:00:00Z"
        )
    return announcement(parts[0], int(parts[1]), parts[2])


def _hexadecimal(option: str, text: str) -> bytes:
    from zk.ceremony import CeremonyInputInvalid

    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise CeremonyInputInvalid(option, "it is not written in hexadecimal") from error


def _line(entry: Entry) -> dict[str, Any]:
    return {
        "number": entry.number,
        "phase": entry.phase,
        "contribution": entry.contribution,
        "file_sha256": entry.file_sha256,
        "at": entry.at,
    }


def _now() -> datetime:
    return datetime.now(UTC)


def _say(progress: str) -> None:
    words.print(progress, highlight=False, markup=False, soft_wrap=True)


def _show(found: dict[str, Any], sentence: str, as_json: bool) -> None:  # noqa: FBT001  # the option's value
    sys.stdout.write((json.dumps(found) if as_json else sentence) + "\n")
