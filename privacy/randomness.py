"""Random numbers from an AES-256-CTR keystream, secret by default, repeatable when asked for.

Noise, rounding and masks protect patients only while nobody can predict them, so they come from
a block cipher keyed by the operating system and never from a statistical generator, whose state
follows from its output. A demonstration that must repeat takes a stream from a seed instead; such
a stream says so in ``secret``, and whoever promises privacy must look.

    >>> stream = RandomStream.from_seed(7, "rounding")
    >>> stream.secret
    False
    >>> stream.below(6, 4).tolist()
    [1, 3, 0, 1]

What holds, each line a test in tests/privacy/test_randomness.py:

1. The bytes are the AES-256-CTR keystream of the key, counter starting at zero (SP 800-38A).
2. Reading ``a`` then ``b`` bytes gives the first ``a + b`` bytes of the keystream, and so it is
   with the integers of ``below`` under one bound.
3. Equal seeds and labels give equal streams; any difference gives an unrelated stream.
4. ``below`` is exactly uniform: words that would favour small results are thrown away.
5. A stream is not continued in a forked process, where it would repeat its parent's numbers.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Any, Final, NoReturn, overload

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.errors import PrivacyError

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEY_BYTES: Final = 32
_SALT: Final = b"bithive/random-stream/v1"
_MANTISSA_BITS: Final = 53  # a float64 in [0, 1) on an even grid has no more


class StreamForked(PrivacyError):
    """A stream was read in another process than the one it was made in."""

    code = "random-stream-forked"

    def __init__(self, made_in: int, read_in: int) -> None:
        self.made_in = made_in
        self.read_in = read_in
        super().__init__(
            f"a random stream made in process {made_in} was read in process {read_in} and would "
            "repeat its numbers; make a stream in each process"
        )


class RandomStream:
    """A keystream that is read once, from the front.

    Args:
        key: 32 bytes. Two streams with one key are the same stream.
        secret: Whether nobody else can know ``key``.
    """

    def __init__(self, key: bytes, *, secret: bool) -> None:
        assert len(key) == KEY_BYTES
        self.secret = secret
        self._key = key
        self._process = os.getpid()
        self._keystream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    @classmethod
    def from_system(cls) -> RandomStream:
        """Return a stream keyed by the operating system; use it wherever privacy is promised."""
        return cls(secrets.token_bytes(KEY_BYTES), secret=True)

    @classmethod
    def from_seed(cls, seed: int, *labels: str) -> RandomStream:
        """Return the stream that ``seed`` and ``labels`` name, for demonstrations and tests.

        Whoever knows the seed knows every number, so ``secret`` is false.

        Args:
            seed: At least 0; the experiment's.
            labels: What the stream is for, from the general to the particular.
        """
        assert seed >= 0
        material = seed.to_bytes(max(KEY_BYTES, (seed.bit_length() + 7) // 8), "big")
        return cls(_derive(material, labels), secret=False)

    def child(self, *labels: str) -> RandomStream:
        """Return an independent stream named by ``labels``, as secret as this one.

        It depends on this stream's key alone, not on how far this one has been read; a label
        therefore names one purpose once.
        """
        return RandomStream(_derive(self._key, ("child", *labels)), secret=self.secret)

    def bytes(self, n: int) -> bytes:
        """Return the next ``n`` bytes of the keystream.

        Raises:
            StreamForked: The process was forked after the stream was made.
        """
        if os.getpid() != self._process:
            raise StreamForked(self._process, os.getpid())
        return self._keystream.update(bytes(n))

    def words(self, n: int) -> NDArray[np.uint64]:
        """Return ``(n,)`` uniform 64-bit words, read as little-endian."""
        return np.frombuffer(self.bytes(8 * n), dtype="<u8").astype(np.uint64, copy=False)

    def uniform(self, n: int) -> NDArray[np.float64]:
        """Return ``(n,)`` multiples of 2**-53, uniform over [0, 1)."""
        top: NDArray[np.uint64] = self.words(n) >> np.uint64(64 - _MANTISSA_BITS)
        return np.multiply(top, 2.0**-_MANTISSA_BITS, dtype=np.float64)

    @overload
    def normal(self, n: int) -> NDArray[np.float64]: ...
    @overload
    def normal(self, n: int, dtype: type[np.float32]) -> NDArray[np.float32]: ...
    def normal(self, n: int, dtype: type[Any] = np.float64) -> NDArray[Any]:
        """Return ``(n,)`` standard normal numbers by the Box-Muller transform [1].

        Floating point cannot hold a continuous distribution: which neighbouring doubles occur
        can betray the number a noise was added to [2]. Two things stand between that and a
        patient here: the noised update is rounded at random to 8 bits before it leaves, and only
        the sum over the sites is ever opened. Neither is a proof; noise drawn as integers after
        quantisation would be one. The largest magnitude that can occur is 8.58.

        Args:
            n: How many.
            dtype: ``np.float64``, or ``np.float32`` rounded from it.

        References:
            [1] Box and Muller, A Note on the Generation of Random Normal Deviates, 1958.
            [2] Mironov, On Significance of the Least Significant Bits for Differential
            Privacy, CCS 2012.
        """
        pairs = (n + 1) // 2
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(pairs)))  # 1 - u lies in (0, 1]
        angle = self.uniform(pairs) * (2.0 * np.pi)
        both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return both[:n].astype(dtype, copy=False)

    def below(self, bound: int, n: int) -> NDArray[np.uint64]:
        """Return ``(n,)`` integers, exactly uniform over 0 .. ``bound`` - 1.

        Words are cut to the bits ``bound`` needs and kept when they are below it, so each draw
        is kept with probability of at least one half. No word is read and not looked at: reading
        ``a`` then ``b`` integers gives the first ``a + b``, however a pad is cut into pieces.

        Args:
            bound: 1 to 2**64.
            n: How many.
        """
        assert 0 < bound <= 2**64
        shift = np.uint64(64 - max(1, (bound - 1).bit_length()))
        found: list[NDArray[np.uint64]] = []
        missing = n
        while missing > 0:
            drawn = self.words(missing) >> shift
            # One pass finds that nothing is to be thrown away, which close below a power of two
            # is nearly always so.
            if int(drawn.max()) >= bound:
                drawn = drawn[drawn < np.uint64(bound)]
            found.append(drawn)
            missing -= drawn.size
        if len(found) == 1:
            return found[0]
        return np.concatenate(found) if found else np.empty(0, dtype=np.uint64)

    def bernoulli(self, p: float, n: int) -> NDArray[np.bool_]:
        """Return ``(n,)`` flags, each true with probability ``p`` rounded up to 2**-53."""
        assert 0.0 <= p <= 1.0
        return self.uniform(n) < p

    def __reduce__(self) -> NoReturn:
        raise TypeError("a random stream is not copied or pickled: it would repeat its numbers")

    def __repr__(self) -> str:
        return f"RandomStream(secret={self.secret})"


def _derive(material: bytes, labels: tuple[str, ...]) -> bytes:
    """Return a key bound to ``labels`` by HKDF-SHA256 (RFC 5869); lengths keep labels apart."""
    info = b"".join(len(part).to_bytes(4, "big") + part for part in map(str.encode, labels))
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=_SALT, info=info).derive(material)
