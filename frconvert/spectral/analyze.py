"""Where the energy of a tensor is: candidate transforms, samples, compaction.

After training, the DCT pays on axes with neighbourhood (kernels, time, frequency bins) and costs on
permutable ones, so the axes are chosen per tensor by what coding would cost, see `coding/cost.py`.
"""

from itertools import combinations
from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

from frconvert.spectral import dct, zigzag

PREFIXES = (0.001, 0.01, 0.1, 0.25, 0.5)  # fractions of the zigzag order at which energy is reported
SAMPLE = 1 << 17  # elements looked at when choosing axes
_MAXIMUM_AXES = 5
_BLOCK = 1 << 18  # elements widened at a time; four times as many take five times as long, outside the cache


def candidate_axes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All subsets of the (first five) axes longer than 1, the empty one first."""
    axes = [axis for axis, length in enumerate(shape) if length > 1][:_MAXIMUM_AXES]
    return [subset for size in range(len(axes) + 1) for subset in combinations(axes, size)]


def crop(weights: NDArray[np.generic], size: int = SAMPLE) -> NDArray[np.generic]:
    """A central block of at most `size` elements, contiguous along every axis; short axes stay whole."""
    return weights[middle(weights.shape, size)]


def middle(shape: tuple[int, ...], size: int = SAMPLE) -> tuple[slice, ...]:
    """Where `crop` cuts."""
    lengths = list(shape)
    while prod(lengths) > size:
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        lengths[longest] = (lengths[longest] + 1) // 2
    starts = [(full - part) // 2 for full, part in zip(shape, lengths, strict=True)]
    return tuple(slice(start, start + part) for start, part in zip(starts, lengths, strict=True))


def all_finite(values: NDArray[np.generic]) -> bool:
    """True without any NaN or infinity."""
    with np.errstate(invalid="ignore"):  # signalling NaN of the narrow dtypes
        return bool(np.isfinite(values).all())


def sum_of_squares(values: NDArray[np.generic]) -> float:
    """Energy, accumulated in float64 block by block so that no wide copy is made; may be infinite."""
    flat, total = values.reshape(-1), 0.0
    with np.errstate(over="ignore"):
        for start in range(0, flat.size, _BLOCK):
            total += float(np.square(flat[start : start + _BLOCK].astype(np.float64)).sum())
    return total


def root_mean_square(values: NDArray[np.generic]) -> float:
    """Square root of the mean square; 0 for an empty array."""
    return sqrt(sum_of_squares(values) / values.size) if values.size else 0.0


def prefix_energy(weights: NDArray[np.generic], fractions: NDArray[np.floating]) -> NDArray[np.float64]:
    """Fraction of the energy in each fraction of the zigzag order, DCT over all axes."""
    coefficients = dct.forward(weights, tuple(range(weights.ndim))).reshape(-1)
    order = zigzag.prefix(weights.shape, weights.size)
    running = np.cumsum(np.square(coefficients[order].astype(np.float64)))
    counts = np.maximum(np.ceil(fractions * weights.size).astype(np.int64), 1)
    total = running[-1]
    return running[counts - 1] / total if total > 0 else np.ones(len(counts))


def energy_in_largest_tenth(coefficients: NDArray[np.floating]) -> float:
    """Fraction of the energy in the largest tenth of the coefficients."""
    energy = np.square(coefficients.reshape(-1).astype(np.float64))
    total = float(energy.sum())
    kept = max(energy.size // 10, 1)
    return float(np.partition(energy, energy.size - kept)[-kept:].sum()) / total if total > 0 else 1.0
