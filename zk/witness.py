"""Compute a circuit's witness by running its compiled calculator in a WebAssembly sandbox.

The calculator checks every constraint as it goes, so inputs that do not satisfy the statement are
refused here. That protects an honest prover from wasting a proof; a verifier needs no such trust.

Reading 57,603 wires one call at a time would take seconds, so a few lines of WebAssembly copy them
inside the sandbox and one read brings them out. The witness holds every secret of the statement:
it goes to a file only for the prover, private, in memory where the system has such a place, and
removed at once.

References:
    circom 2 documentation, Computing the witness, and the interface of the wasm it generates.
    iden3, Witness binary format (wtns), version 2.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Protocol

from protocol.errors import ProofError, storage_error
from zk.keys import ProverMissing
from zk.poseidon import FIELD

NUMBER_BYTES: Final = 32
WORDS: Final = NUMBER_BYTES // 4
PAGE_BYTES: Final = 65_536
IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the file there is made by mkstemp, mode 0600

# wires(n) writes wires 0..n-1 to its own memory, 32 bytes each, little-endian.
_COPIER: Final = """
(module
  (import "circuit" "getWitness" (func $get (param i32)))
  (import "circuit" "readSharedRWMemory" (func $read (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "wires") (param $n i32)
    (local $wire i32) (local $word i32) (local $to i32)
    (loop $next_wire
      (call $get (local.get $wire))
      (local.set $word (i32.const 0))
      (loop $next_word
        (i32.store (local.get $to) (call $read (local.get $word)))
        (local.set $to (i32.add (local.get $to) (i32.const 4)))
        (local.set $word (i32.add (local.get $word) (i32.const 1)))
        (br_if $next_word (i32.lt_u (local.get $word) (i32.const 8))))
      (local.set $wire (i32.add (local.get $wire) (i32.const 1)))
      (br_if $next_wire (i32.lt_u (local.get $wire) (local.get $n))))))
"""


class WitnessRefused(ProofError):
    """The inputs do not satisfy the circuit, so there is nothing to prove."""

    code = "witness-refused"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"the slots do not satisfy the statement: {reason}; use only slots whose grants are "
            "live, open to their leaves and allow the scope"
        )


class Calculated(Protocol):
    """A circuit with its compiled calculator: ``zk.circuit.Circuit``, Semaphore's. Hashable."""

    def wasm_bytes(self) -> bytes:
        """Read the calculator, after checking that it is the committed one."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class _Calculator:
    """What is compiled once per process and circuit; a run instantiates it afresh."""

    engine: Any
    module: Any
    copier: Any


def prepare(circuit: Calculated) -> None:
    """Compile the circuit's calculator, once per process, so that no witness waits for it.

    Raises:
        ProverMissing: wasmtime is not installed.
    """
    _calculator(circuit)


def witness(circuit: Calculated, inputs: Mapping[str, int | Sequence[int]]) -> bytes:
    """Return the circuit's wires as a wtns file; it holds every secret.

    Args:
        circuit: The circuit.
        inputs: Every input signal by name, numbers taken modulo the field.

    Raises:
        WitnessRefused: A constraint fails, or signals are missing or have other lengths.
        ProverMissing: wasmtime is not installed.
    """
    import wasmtime  # noqa: PLC0415 - optional: only whoever proves needs it

    calculator = _calculator(circuit)
    store = wasmtime.Store(calculator.engine)
    instance, messages = _instantiate(calculator, store)
    call = instance.exports(store)
    try:
        call["init"](store, 1)  # 1: check constraints too, not only explicit assertions
        _set_inputs(call, store, inputs)
        count = call["getWitnessSize"](store)
        copier = wasmtime.Instance(
            store, calculator.copier, [call["getWitness"], call["readSharedRWMemory"]]
        ).exports(store)
        copier["memory"].grow(store, count * NUMBER_BYTES // PAGE_BYTES)
        copier["wires"](store, count)
        wires = bytes(copier["memory"].read(store, 0, count * NUMBER_BYTES))
    except _CalculatorStopped as stop:
        raise WitnessRefused(_place(messages) or str(stop)) from None
    except (wasmtime.WasmtimeError, wasmtime.Trap) as error:
        raise WitnessRefused("the calculator failed") from error
    return _wtns(wires)


@contextmanager
def witness_file(circuit: Calculated, inputs: Mapping[str, int | Sequence[int]]) -> Iterator[Path]:
    """Give the witness as a private file, in memory if possible, gone when the block ends.

    Raises:
        WitnessRefused: As in ``witness``.
        StorageError: The file cannot be written.
    """
    content = witness(circuit, inputs)
    folder = IN_MEMORY if IN_MEMORY.is_dir() and os.access(IN_MEMORY, os.W_OK) else None
    try:
        # mkstemp opens with O_EXCL and mode 0600.
        descriptor, name = tempfile.mkstemp(prefix="bithive-", suffix=".wtns", dir=folder)
    except OSError as error:
        raise storage_error(error, "the witness") from error
    path = Path(name)
    try:
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
        except OSError as error:
            raise storage_error(error, "the witness") from error
        yield path
    finally:
        path.unlink(missing_ok=True)


class _CalculatorStopped(Exception):
    """The calculator called its exception handler."""


REASONS: Final = {
    1: "a signal is unknown",
    2: "too many signals were set",
    3: "a signal was set twice",
    4: "a constraint fails",
    5: "the calculator ran out of memory",
    6: "too many values for a signal",
    7: "an index is out of bounds",
}


def _instantiate(calculator: _Calculator, store: Any) -> tuple[Any, list[str]]:
    """Return a fresh instance and the list its error messages go to."""
    import wasmtime  # noqa: PLC0415 - optional: only whoever proves needs it

    messages: list[str] = []
    started: list[Any] = []

    def message() -> str:
        next_character = started[0].exports(store)["getMessageChar"]
        characters = []
        while character := next_character(store):
            characters.append(chr(character))
        return "".join(characters)

    def stop(code: int) -> None:
        raise _CalculatorStopped(REASONS.get(code, "the calculator stopped"))

    number = wasmtime.ValType.i32()
    linker = wasmtime.Linker(calculator.engine)
    handlers = {
        "exceptionHandler": ([number], stop),
        "printErrorMessage": ([], lambda: messages.append(message())),
        "writeBufferMessage": ([], message),
        "showSharedRWMemory": ([], lambda: None),
    }
    for name, (parameters, handler) in handlers.items():
        linker.define_func("runtime", name, wasmtime.FuncType(parameters, []), handler)
    started.append(linker.instantiate(store, calculator.module))
    return started[0], messages


def _set_inputs(call: Any, store: Any, inputs: Mapping[str, int | Sequence[int]]) -> None:
    shared = call["getSharedRWMemoryStart"](store)
    total = 0
    for name, value in inputs.items():
        values = [value] if isinstance(value, int) else value
        high, low = _name_hash(name)
        size = call["getInputSignalSize"](store, high, low)
        if size != len(values):
            raise WitnessRefused(f"signal {name} takes {size} values, not {len(values)}")
        for index, one in enumerate(values):
            number = (one % FIELD).to_bytes(NUMBER_BYTES, "little")
            call["memory"].write(store, number, shared)
            call["setInputSignal"](store, high, low, index)
        total += size
    if total != call["getInputSize"](store):
        raise WitnessRefused("an input signal is missing")


def _name_hash(name: str) -> tuple[int, int]:
    """Return the 64-bit FNV-1a hash by which the calculator knows a signal, as two signed halves.

    References:
        Fowler, Noll, Vo, Eastlake, RFC 9923, section 2 and its 64-bit constants.
    """
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    halves = value.to_bytes(8, "big")
    high = int.from_bytes(halves[:4], "big", signed=True)
    low = int.from_bytes(halves[4:], "big", signed=True)
    return high, low


def _place(messages: list[str]) -> str:
    """Say which line of the circuit failed; the messages name templates and lines, no values."""
    lines = [part.strip() for message in messages for part in message.splitlines() if part.strip()]
    return "; ".join(dict.fromkeys(lines))


def _wtns(wires: bytes) -> bytes:
    """Wrap wires in the wtns format: a header section and a section of numbers."""
    count = len(wires) // NUMBER_BYTES
    header = (
        NUMBER_BYTES.to_bytes(4, "little")
        + FIELD.to_bytes(NUMBER_BYTES, "little")
        + count.to_bytes(4, "little")
    )
    sections = b"".join(
        number.to_bytes(4, "little") + len(section).to_bytes(8, "little") + section
        for number, section in ((1, header), (2, wires))
    )
    return b"wtns" + (2).to_bytes(4, "little") + (2).to_bytes(4, "little") + sections


@lru_cache(maxsize=4)
def _calculator(circuit: Calculated) -> _Calculator:
    try:
        import wasmtime  # noqa: PLC0415 - optional: only whoever proves needs it
    except ImportError as error:
        raise ProverMissing("wasmtime") from error
    # Freed before the interpreter takes the library apart, which it would complain about.
    atexit.register(_calculator.cache_clear)
    engine = wasmtime.Engine()
    return _Calculator(
        engine=engine,
        module=wasmtime.Module(engine, circuit.wasm_bytes()),
        copier=wasmtime.Module(engine, _COPIER),
    )
