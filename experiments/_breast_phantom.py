"""Draw synthetic breast ultrasound: layers, shadows, and lesions that look harmless or malignant.

Nothing here is measured. Each picture takes its numbers from wide ranges, so that what is common to
all of them is what textbooks agree on [1]: a benign mass is oval, wider than tall, smooth and sharp
at its edge, often with a capsule, brighter behind; a malignant one is irregular, taller, spiculated
or blurred at its edge, uneven inside, with a halo, and throws a shadow. A network that must tell
them apart under every drawn gain, texture and shadow learns outlines rather than machines [2].

Echo strengths are in decibels. A picture is made 64 by 64, in the frame and with the
standardisation of ``records.image``, a batch at a time.

    >>> drawn = draw(4, torch.Generator().manual_seed(1))
    >>> tuple(drawn.images.shape), tuple(drawn.masks.shape), tuple(drawn.signs.shape)
    ((4, 1, 64, 64), (4, 64, 64), (4, 8))

References:
    [1] Stavros et al., Solid Breast Nodules: Use of Sonography to Distinguish between Benign and
    Malignant Lesions, Radiology 196, 1995 (the signs of each).
    [2] Tobin et al., Domain Randomization for Transferring Deep Neural Networks from Simulation to
    the Real World, IROS 2017. arXiv:1703.06907
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

SIDE: Final = 64
CLASSES: Final = ("normal", "benign", "malignant")
SHARES: Final = (0.22, 0.39, 0.39)
SIGNS: Final = ("irregular", "wide", "blurred", "behind", "dark", "size", "spicules", "cyst")
"""What a trunk learns to tell of each lesion beside its class, each about -1 to 1."""


@dataclass(frozen=True)
class Drawn:
    """A batch of pictures and what is on them."""

    images: Tensor
    """``(batch, 1, 64, 64)``, mean 0 and variance 1 inside the frame, 0 outside."""
    classes: Tensor
    """``(batch,)`` 0 normal, 1 benign, 2 malignant."""
    masks: Tensor
    """``(batch, 64, 64)`` 1 inside the lesion."""
    signs: Tensor
    """``(batch, 8)`` in the order of ``SIGNS``; means something where there is a lesion."""


def draw(batch: int, generator: torch.Generator) -> Drawn:
    """Draw ``batch`` pictures; the generator decides all of them."""
    pen = _Pen(batch, generator)
    classes = torch.multinomial(torch.tensor(SHARES), batch, replacement=True, generator=generator)
    there = (classes > 0).float()[:, None, None]
    malignant = (classes == 2).float()[:, None, None]
    frame = _frame(pen)
    echo = _tissue(pen, frame)
    lesion = _lesion(pen, frame, malignant)
    echo = _put(pen, echo, lesion, frame, there, malignant)
    images = _shown(pen, echo, lesion, frame, there)
    mask = (lesion.reach < 1).float() * there * frame.inside
    return Drawn(images[:, None], classes, mask, lesion.signs)


class _Pen:
    """Random numbers, one of each for every picture of the batch: ``(batch, 1, 1)``."""

    def __init__(self, batch: int, generator: torch.Generator) -> None:
        self.batch = batch
        self._generator = generator
        turns = 2 * math.pi * torch.fft.fftfreq(SIDE)
        self._squares = turns.square()
        self.turns = turns

    def between(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(self.batch, 1, 1, generator=self._generator)

    def around(self, low: float, high: float) -> Tensor:
        return self.between(math.log(low), math.log(high)).exp()

    def coin(self, chance: float) -> Tensor:
        return (torch.rand(self.batch, 1, 1, generator=self._generator) < chance).float()

    def bell(self) -> Tensor:
        return torch.randn(self.batch, 1, 1, generator=self._generator)

    def dots(self) -> Tensor:
        """Independent uniform numbers in every pixel."""
        return torch.rand(self.batch, SIDE, SIDE, generator=self._generator)

    def field(self, axial: tuple[float, float], lateral: tuple[float, float]) -> Tensor:
        """Gaussian noise of unit spread, smoothed down and across by deviations in pixels."""
        down, across = self.between(*axial), self.between(*lateral)
        white = torch.randn(self.batch, SIDE, SIDE, generator=self._generator)
        passes = torch.exp(
            -(down.square() * self._squares[:, None] + across.square() * self._squares) / 2
        )
        smooth = torch.fft.ifft2(torch.fft.fft2(white) * passes).real
        return smooth / (smooth.flatten(1).std(dim=1)[:, None, None] + 1e-6)

    def either(self, first: Tensor, which: Tensor, second: Tensor) -> Tensor:
        """``first`` where ``which`` is 1, else ``second``."""
        return torch.where(which > 0, first, second)


@dataclass(frozen=True)
class _Frame:
    rows: Tensor
    columns: Tensor
    depth: Tensor
    """0 at the skin, 1 at the bottom of the picture."""
    across: Tensor
    top: Tensor
    left: Tensor
    high: Tensor
    wide: Tensor
    inside: Tensor


def _frame(pen: _Pen) -> _Frame:
    """The part of the square that a picture of some proportions fills."""
    line = torch.arange(SIDE).float()
    rows, columns = line[None, :, None], line[None, None, :]
    ratio = pen.either(pen.between(0.66, 0.95), pen.coin(0.85), pen.between(0.95, 1.25))
    high, wide = (SIDE * ratio).clamp(max=SIDE), (SIDE / ratio).clamp(max=SIDE)
    top, left = (SIDE - high) / 2, (SIDE - wide) / 2
    inside = (rows >= top.floor()) & (rows < (top + high).floor())
    inside = inside & (columns >= left.floor()) & (columns < (left + wide).floor())
    depth, across = (rows - top) / high, (columns - left) / wide
    return _Frame(rows, columns, depth, across, top, left, high, wide, inside.float())


def _tissue(pen: _Pen, frame: _Frame) -> Tensor:
    """Decibels of skin, fat, gland and muscle with fibres, septa, lobules and shadows."""
    waving = frame.depth + pen.field((20, 20), (6, 20)) * pen.between(0.005, 0.04)
    echo = pen.between(3, 12) * torch.sigmoid((pen.between(0.01, 0.06) - waving) * 120)
    fat_ends = pen.between(0.12, 0.4)
    muscle_begins = torch.maximum(fat_ends + 0.1, pen.between(0.45, 1.0))
    fat = torch.sigmoid((fat_ends - waving) * 40)
    muscle = torch.sigmoid((waving - muscle_begins) * 40)
    gland = (1 - fat) * (1 - muscle)
    echo = echo + fat * pen.between(-8, 2) + gland * pen.between(-2, 6)
    echo = echo + muscle * pen.between(-8, 1)
    echo = echo + pen.between(0, 8) * _ridge((waving - fat_ends) / 0.015)
    echo = echo + pen.between(0, 10) * _ridge((waving - muscle_begins) / 0.015)
    tilt = pen.between(-0.25, 0.25)
    strength = fat * pen.between(0.3, 3) + (gland + muscle) * pen.between(0.5, 5)
    echo = echo + strength * _slanted(pen, pen.field((0.5, 1.4), (1.5, 9)), tilt)
    echo = echo + pen.between(0.5, 4) * pen.field((2, 5), (3, 8))
    septa = _ridge(_slanted(pen, pen.field((1.5, 4), (4, 12)), tilt) / 0.2)
    echo = echo + pen.between(0, 9) * pen.coin(0.7) * septa * (fat + 0.5 * gland)
    for _ in range(2):  # lobules of fat, easily taken for lesions
        down = (frame.depth - pen.between(0.1, 0.6)) / pen.between(0.03, 0.09)
        aside = frame.across - pen.between(0, 1)
        aside = aside * frame.wide / frame.high / pen.between(0.06, 0.25)
        reach = torch.sqrt(down.square() + aside.square())
        echo = echo - pen.coin(0.35) * pen.between(2, 7) * torch.sigmoid(
            (1 - reach) * pen.between(2, 8)
        )
    dims = pen.between(0.25, 0.75)
    fading = torch.relu(frame.depth - dims) / (1 - dims) * pen.coin(0.8)
    echo = echo - pen.between(0, 25) * fading - pen.between(-4, 10) * frame.depth
    echo = echo + pen.between(0, 6) * torch.exp(-frame.depth / 0.1) * pen.coin(0.5)
    for _ in range(3):  # shadows of ligaments and of poor contact
        beam = pen.between(0, 1) + pen.between(-0.2, 0.2) * frame.depth
        shade = _ridge((frame.across - beam) / pen.between(0.02, 0.12))
        begins = torch.sigmoid((frame.depth - pen.between(0, 0.6)) * pen.between(8, 40))
        echo = echo - pen.coin(0.3) * pen.between(2, 12) * shade * begins
    murky = torch.sigmoid(pen.field((3, 6), (5, 12)) * 3 - pen.between(1, 4))
    return echo - pen.coin(0.4) * pen.between(2, 9) * murky


@dataclass(frozen=True)
class _Lesion:
    row: Tensor
    column: Tensor
    tall: Tensor
    wide: Tensor
    reach: Tensor
    """Below 1 inside."""
    depth: Tensor
    """Pixels inside the outline, about; negative outside."""
    edge: Tensor
    dark: Tensor
    behind: Tensor
    cyst: Tensor
    signs: Tensor


def _lesion(pen: _Pen, frame: _Frame, malignant: Tensor) -> _Lesion:
    """Decide place, shape, edge and echo of one lesion in each picture."""
    size = pen.around(0.06, 0.30) * frame.high
    size = pen.either(size * pen.between(1.1, 1.7), malignant, size).clamp(max=0.28 * SIDE)
    aspect = pen.either(pen.around(0.7, 1.45), malignant, pen.around(1.1, 2.3))  # wide over tall
    tall, wide = size / aspect.sqrt(), size * aspect.sqrt()
    row = frame.top + frame.high * pen.between(0.18, 0.65)
    column = frame.left + frame.wide * (0.5 + 0.2 * pen.bell().clamp(-1.8, 1.8))
    turn = pen.either(pen.between(-0.6, 0.6), malignant, pen.between(-0.3, 0.3))
    down, aside = frame.rows - row, frame.columns - column
    along = (down * turn.cos() - aside * turn.sin()) / tall
    beside = (down * turn.sin() + aside * turn.cos()) / wide
    angle = torch.atan2(along, beside)
    irregular = pen.either(pen.between(0.4, 1.0), malignant, pen.between(0, 0.35) * pen.coin(0.7))
    outline = (
        pen.between(0.03, 0.22) * malignant * pen.coin(0.6) * pen.field((1.5, 3.5), (1.5, 3.5))
    )
    for waves in range(2, 9):
        swing = irregular * 0.32 / waves**0.7 * pen.bell()
        outline = outline + swing * torch.cos(waves * angle + pen.between(0, 6.28))
    spicules = malignant * pen.coin(0.55) * pen.between(0.2, 0.7)
    for _ in range(5):
        away = torch.remainder(angle - pen.between(0, 6.28) + math.pi, 2 * math.pi) - math.pi
        spike = pen.coin(0.8) * pen.between(0.3, 1) * _ridge(away / pen.between(0.08, 0.25))
        outline = outline + spicules * spike
    lobes = 2 + pen.coin(0.5)
    lobed = (1 - malignant) * pen.coin(0.3) * pen.between(0, 0.12)
    outline = outline + lobed * torch.cos(lobes * angle + pen.between(0, 6.28))
    reach = torch.sqrt(along.square() + beside.square()) / torch.exp(outline.clamp(-0.8, 0.9))
    edge = pen.either(pen.between(0.7, 3.0), malignant, pen.between(0.4, 1.2))
    lost = torch.sigmoid(3 * torch.cos(angle - pen.between(0, 6.28)))  # on one side only
    edge = edge * (1 + malignant * pen.coin(0.5) * 1.5 * lost)
    cyst = (1 - malignant) * pen.coin(0.35)
    solid = pen.either(pen.between(7, 22), malignant, pen.between(3, 15))
    dark = pen.either(pen.between(16, 32), cyst, solid)
    shadow = pen.either(
        pen.coin(0.6) * pen.between(3, 20), malignant, pen.coin(0.08) * pen.between(2, 8)
    )
    brighter = pen.either(pen.between(3, 12), cyst, pen.coin(0.5) * pen.between(1, 8))
    brighter = pen.either(pen.coin(0.15) * pen.between(1, 6), malignant, brighter)
    behind = brighter - shadow
    told = (
        *(2 * irregular - 1, aspect.log(), edge.mean(dim=(1, 2), keepdim=True) - 1, behind / 8),
        *(dark / 10 - 1.2, 8 * size / frame.high - 1.2, (spicules > 0).float(), cyst),
    )
    signs = torch.stack([sign.flatten() for sign in told], dim=1)
    return _Lesion(
        row, column, tall, wide, reach, (1 - reach) * size, edge, dark, behind, cyst, signs
    )


def _put(  # noqa: PLR0917 - one picture's parts, in the order they are drawn
    pen: _Pen, echo: Tensor, lesion: _Lesion, frame: _Frame, there: Tensor, malignant: Tensor
) -> Tensor:
    """Draw the lesion into the tissue, with its rim and what it does to the echoes behind it."""
    inside = torch.sigmoid(1.5 * lesion.depth / lesion.edge) * there
    uneven = pen.either(pen.between(1, 5), malignant, pen.between(0, 3)) * (1 - lesion.cyst)
    texture = pen.field((0.8, 2.5), (0.8, 3.5)) * uneven
    own = echo * pen.between(0, 0.4) - lesion.dark + texture + pen.between(-3, 3)
    echo = echo * (1 - inside) + own * inside
    capsule = (1 - malignant) * pen.coin(0.5) * pen.between(1, 7)
    echo = echo + there * capsule * _ridge(lesion.depth / 0.8)
    halo, broad = malignant * pen.coin(0.5) * pen.between(1, 7), pen.between(1.5, 5)
    echo = echo + there * halo * _ridge((lesion.depth + broad) / broad)
    down, aside = frame.rows - lesion.row, frame.columns - lesion.column
    beam = torch.exp(-((aside / (lesion.wide * pen.between(0.6, 1.0))) ** 4))
    fades = torch.exp(-torch.relu(down - lesion.tall) / pen.between(15, 60))
    below = torch.sigmoid((down - 0.6 * lesion.tall) / 1.5) * beam * fades
    echo = echo + there * lesion.behind * below
    refracted = (1 - malignant) * pen.coin(0.3) * pen.between(2, 7) * torch.sigmoid(down / 2)
    for side in (-1, 1):
        line = _ridge((aside - side * lesion.wide) / pen.between(0.8, 2))
        echo = echo - there * refracted * line
    chalk = pen.either(pen.coin(0.35), malignant, pen.coin(0.05)) * (pen.dots() < 0.03)
    return echo + chalk * inside * pen.between(8, 20)


def _shown(pen: _Pen, echo: Tensor, lesion: _Lesion, frame: _Frame, there: Tensor) -> Tensor:
    """Add speckle, compress to grey, draw calipers and text, standardise inside the frame."""
    speckle = pen.field((0.3, 0.9), (0.4, 1.4))
    speckle = speckle - 0.15 * (speckle.square() - 1)  # a longer tail towards the dark
    echo = echo + speckle * pen.around(0.4, 3.0)
    grey = (0.45 + pen.between(-0.12, 0.15) + echo / pen.between(38, 75)).clamp(0, 1)
    grey = grey ** pen.between(0.8, 2.0)
    measured = there * pen.coin(0.3)
    for down, aside in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        row = (frame.rows - lesion.row - 1.1 * down * lesion.tall).abs()
        column = (frame.columns - lesion.column - 1.1 * aside * lesion.wide).abs()
        cross = ((row < 0.6) & (column < 1.1)) | ((column < 0.6) & (row < 1.1))
        grey = torch.maximum(grey, measured * cross * pen.between(0.4, 0.8))
    starts = pen.between(0.05, 0.5)
    text = (frame.depth - pen.between(0.6, 0.9)).abs() < 0.02
    text = text & (frame.across > starts) & (frame.across < starts + pen.between(0.06, 0.2))
    grey = torch.maximum(grey, pen.coin(0.35) * text * pen.dots() * 0.8)
    pixels = frame.inside.sum(dim=(1, 2), keepdim=True)
    centred = grey - (grey * frame.inside).sum(dim=(1, 2), keepdim=True) / pixels
    variance = (centred.square() * frame.inside).sum(dim=(1, 2), keepdim=True) / pixels
    return centred / (variance.sqrt() + 1e-4) * frame.inside


def _ridge(distance: Tensor) -> Tensor:
    return torch.exp(-distance.square())


def _slanted(pen: _Pen, field: Tensor, tilt: Tensor) -> Tensor:
    """Shift each column down in proportion to its place, wrapping around."""
    shift = tilt * (torch.arange(SIDE).float() - SIDE / 2)  # (batch, 1, 64)
    phase = torch.exp(-1j * pen.turns[:, None] * shift)
    return torch.fft.ifft(torch.fft.fft(field, dim=1) * phase, dim=1).real
