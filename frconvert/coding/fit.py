"""Scales that fit a tensor's coefficients: what an encoder tells the decoder about their size.

The mean magnitude of the coefficients is modelled as a product of one factor for each index of each axis,
found by iterative proportional fitting; each axis keeps its table only if it saves more bits than it costs.
The tail shape is the one under which a sample is likeliest.

Nothing here is part of the format. All decisions compare plain sums and exact constants, so that they fall
the same way on every machine.
"""

from dataclasses import dataclass
from functools import cache
from math import log2

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import tables
from frconvert.coding.portable import logarithm, power_of_two
from frconvert.coding.scales import LARGEST_OFFSET, Scales, classes
from frconvert.spectral.analyze import middle

_ROUNDS = 2
_TABLE_BITS = 2.5  # what an entry costs in the file, about
_EDGES = power_of_two(2 * np.arange(-LARGEST_OFFSET, LARGEST_OFFSET) + 1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Fit:
    """Scales without a step.

    Attributes:
        shape: number of the tail shape.
        mean: mean magnitude of a coefficient whose offsets are all 0; positive.
        offsets: as in `Scales`.
    """

    shape: int
    mean: float
    offsets: tuple[NDArray[np.int16] | None, ...]

    def part(self, cut: tuple[slice, ...]) -> "Fit":
        """The fit of a block of the tensor."""
        pairs = zip(self.offsets, cut, strict=True)
        return Fit(self.shape, self.mean, tuple(None if o is None else o[place] for o, place in pairs))

    def scales(self, step: float) -> Scales:
        """The scales of symbols at that step."""
        return Scales(self.shape, round(4 * log2(self.mean / step)) + tables.UNIT_CLASS, self.offsets)


def fit(coefficients: NDArray[np.floating]) -> Fit:
    """Fits finite coefficients that are not all zero."""
    axes = [axis for axis, length in enumerate(coefficients.shape) if 1 < length < coefficients.size]
    offsets = _offsets(coefficients, axes)
    kept = [axis for axis in axes if _saves(offsets[axis], coefficients.size)]
    if kept != axes:
        offsets = _offsets(coefficients, kept)
    tables_of_axes = tuple(offsets.get(axis) for axis in range(coefficients.ndim))
    mean = _normalised_mean(coefficients, tables_of_axes)
    return Fit(_likeliest(coefficients, tables_of_axes, mean), mean, tables_of_axes)


def _offsets(coefficients: NDArray[np.floating], axes: list[int]) -> dict[int, NDArray[np.int16]]:
    factors = {axis: np.ones(coefficients.shape[axis], np.float32) for axis in axes}
    for _ in range(_ROUNDS if len(axes) > 1 else 1):
        for axis in axes:
            others = tuple(other for other in range(coefficients.ndim) if other != axis)
            # One slab along the first axis after another: no copy of the whole tensor.
            means = _scaled_means(coefficients, {a: f for a, f in factors.items() if a != axis}, axis, others)
            middle = float(means.mean())
            factors[axis] = np.maximum(means / np.float32(middle or 1), np.float32(2.0**-31)).astype(
                np.float32
            )
    return {axis: _quarter_octaves(factor) for axis, factor in factors.items()}


def _scaled_means(
    coefficients: NDArray[np.floating],
    factors: dict[int, NDArray[np.float32]],
    axis: int,
    others: tuple[int, ...],
) -> NDArray[np.floating]:
    """Mean over all other axes of the magnitudes divided by those axes' factors."""
    slab = max(1, (1 << 18) // max(1, coefficients.size // len(coefficients)))
    total = np.zeros(coefficients.shape[axis], np.float64)
    for start in range(0, len(coefficients), slab):
        block = np.abs(coefficients[start : start + slab])
        for other, factor in factors.items():
            part = factor[start : start + slab] if other == 0 else factor
            block *= (1 / part).reshape([-1 if a == other else 1 for a in range(coefficients.ndim)])
        sums = block.sum(axis=others)
        if axis == 0:
            total[start : start + slab] = sums
        else:
            total += sums
    means: NDArray[np.float64] = total / (coefficients.size // coefficients.shape[axis])
    return means


def _quarter_octaves(factors: NDArray[np.float32]) -> NDArray[np.int16]:
    """4 log2 of the factors, rounded, by comparison with exact constants."""
    return (np.searchsorted(_EDGES, factors) - LARGEST_OFFSET).astype(np.int16)


def _saves(table: NDArray[np.int16], size: int) -> bool:
    """Whether knowing these factors saves more bits than they cost.

    Coding with the mean where the scale varies wastes the logarithm of the ratio of their arithmetic mean to
    their geometric one, for each coefficient.
    """
    wasted = log2(float(power_of_two(2 * table).mean())) - float(table.mean()) / 4
    return wasted * size > _TABLE_BITS * table.size + 8


def _normalised_mean(
    coefficients: NDArray[np.floating], offsets: tuple[NDArray[np.int16] | None, ...]
) -> float:
    used = {a: power_of_two(2 * t).astype(np.float32) for a, t in enumerate(offsets) if t is not None}
    axis = 0
    others = tuple(range(1, coefficients.ndim))
    rows = _scaled_means(coefficients, {a: f for a, f in used.items() if a != axis}, axis, others)
    if axis in used:
        rows = rows / used[axis]
    return max(float(rows.mean()), 1e-37)


def _likeliest(
    coefficients: NDArray[np.floating], offsets: tuple[NDArray[np.int16] | None, ...], mean: float
) -> int:
    cut = middle(coefficients.shape)
    sample = coefficients[cut]
    # With the base in the middle no class is clipped that matters.
    found = Fit(0, mean, offsets).part(cut)
    number = classes(Scales(0, tables.CLASSES // 2, found.offsets), sample.shape)
    scale = (64 / mean * power_of_two(tables.CLASSES - 2 * np.arange(tables.CLASSES))).astype(np.float32)
    cell = np.minimum(np.abs(sample) * scale.take(number), 1023).astype(np.int32)
    counts = np.bincount(cell.reshape(-1), minlength=1024)
    return min(range(len(tables.SHAPES)), key=lambda tail: (round(float(counts @ _surprise(tail))), tail))


@cache
def _surprise(tail: int) -> NDArray[np.float64]:
    """-log2 of the probability of each cell under a tail shape."""
    cells = np.maximum(tables.density(tail), 1)
    return logarithm(2 * cells.sum() / cells)
