"""Where the energy of a tensor is, and which axes to transform.

After training, the DCT pays on axes with neighbourhood (kernels, time, frequency bins) and costs on
permutable ones, so the axes are chosen per tensor by the bits that the coder would need. The estimate: order
the coefficients as they are stored, take the mean magnitude of each run of 16 as known scale (the coder's
context follows it), and charge each run the entropy of a two-sided geometric distribution of that mean.
"""

from dataclasses import dataclass
from itertools import combinations
from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

from frconvert.spectral import dct, zigzag

REFERENCE_STEP = 0.25  # of the root mean square: about 23 dB, where lossy archives are used
PREFIXES = (0.001, 0.01, 0.1, 0.25, 0.5)  # fractions of the zigzag order at which energy is reported
_SAMPLE = 1 << 17  # elements looked at when choosing axes
_RUN = 16
_LEAST_GAIN_BITS = 0.01  # a transform must save this per weight; less is noise of the estimate
_MAXIMUM_AXES = 5
_LOUDEST = 1e30  # coefficients of louder tensors might leave the range of float32


@dataclass(frozen=True, slots=True)
class TensorAnalysis:
    """What `analyze` knows of one tensor.

    Attributes:
        bits: subset of axes -> estimated bits per weight at `REFERENCE_STEP`.
        compaction: subset of axes -> fraction of the energy in the largest tenth of the coefficients.
        axes: the subset to choose.
        prefix_energy: fraction of the energy in each of `PREFIXES` of the zigzag order, DCT over all axes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bits: dict[tuple[int, ...], float]
    compaction: dict[tuple[int, ...], float]
    axes: tuple[int, ...]
    prefix_energy: tuple[float, ...]

    @property
    def coding_gain_db(self) -> float:
        """What the chosen axes gain over storing weights, in dB of error at equal bits (6.02 dB a bit)."""
        return 20 * float(np.log10(2)) * (self.bits[()] - self.bits[self.axes])


def analyze_tensor(name: str, dtype: str, weights: NDArray[np.generic]) -> TensorAnalysis:
    """Full analysis of a finite, non-empty tensor of real floats with two or more axes."""
    sample = crop(weights)
    coefficients = {axes: dct.forward(sample, axes) for axes in candidate_axes(sample.shape)}
    step = REFERENCE_STEP * root_mean_square(sample)
    bits = {axes: estimated_bits(values, axes, step) for axes, values in coefficients.items()}
    compaction = {axes: _energy_in_largest_tenth(values) for axes, values in coefficients.items()}
    curve = prefix_energy(weights, np.array(PREFIXES))
    return TensorAnalysis(
        name, weights.shape, dtype, bits, compaction, _cheapest(bits), tuple(float(v) for v in curve)
    )


def choose_axes(weights: NDArray[np.generic]) -> tuple[int, ...]:
    """The subset of axes in which a finite tensor is cheapest to code; () where no transform pays."""
    sample = crop(weights)
    step = REFERENCE_STEP * root_mean_square(sample)
    if not 0 < step < _LOUDEST:
        return ()
    return _cheapest(
        {axes: estimated_bits(dct.forward(sample, axes), axes, step) for axes in candidate_axes(sample.shape)}
    )


def candidate_axes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All subsets of the (first five) axes longer than 1, the empty one first."""
    axes = [axis for axis, length in enumerate(shape) if length > 1][:_MAXIMUM_AXES]
    return [subset for size in range(len(axes) + 1) for subset in combinations(axes, size)]


def crop(weights: NDArray[np.generic]) -> NDArray[np.generic]:
    """A central block of at most 131,072 elements, contiguous along every axis; short axes stay whole."""
    lengths = list(weights.shape)
    while prod(lengths) > _SAMPLE:
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        lengths[longest] = (lengths[longest] + 1) // 2
    starts = [(full - part) // 2 for full, part in zip(weights.shape, lengths, strict=True)]
    return weights[tuple(slice(start, start + part) for start, part in zip(starts, lengths, strict=True))]


def all_finite(values: NDArray[np.generic]) -> bool:
    """True without any NaN or infinity."""
    with np.errstate(invalid="ignore"):  # signalling NaN of the narrow dtypes
        return bool(np.isfinite(values).all())


def sum_of_squares(values: NDArray[np.generic]) -> float:
    """Energy, accumulated in float64 block by block so that no wide copy is made; may be infinite."""
    flat, total = values.reshape(-1), 0.0
    with np.errstate(over="ignore"):
        for start in range(0, flat.size, 1 << 20):
            total += float(np.square(flat[start : start + (1 << 20)].astype(np.float64)).sum())
    return total


def root_mean_square(values: NDArray[np.generic]) -> float:
    """Square root of the mean square; 0 for an empty array."""
    return sqrt(sum_of_squares(values) / values.size) if values.size else 0.0


def estimated_bits(coefficients: NDArray[np.floating], axes: tuple[int, ...], step: float) -> float:
    """Bits a coefficient that a coder with known local scale needs at that step."""
    if step <= 0:
        return 0.0
    magnitudes = np.abs(np.moveaxis(coefficients, axes, range(len(axes)))).reshape(-1)
    whole = magnitudes[: magnitudes.size // _RUN * _RUN] if magnitudes.size >= _RUN else magnitudes
    means = whole.reshape(-1, min(_RUN, whole.size)).mean(axis=1, dtype=np.float64) / step + 1e-9
    # Entropy of a geometric magnitude of that mean, and one sign bit for a non-zero one.
    bits = (1 + means) * np.log2(1 + means) - means * np.log2(means) + means / (1 + means)
    return float(bits.mean())


def prefix_energy(weights: NDArray[np.generic], fractions: NDArray[np.floating]) -> NDArray[np.float64]:
    """Fraction of the energy in each fraction of the zigzag order, DCT over all axes."""
    coefficients = dct.forward(weights, tuple(range(weights.ndim))).reshape(-1)
    order = zigzag.prefix(weights.shape, weights.size)
    running = np.cumsum(np.square(coefficients[order].astype(np.float64)))
    counts = np.maximum(np.ceil(fractions * weights.size).astype(np.int64), 1)
    total = running[-1]
    return running[counts - 1] / total if total > 0 else np.ones(len(counts))


def _energy_in_largest_tenth(coefficients: NDArray[np.floating]) -> float:
    energy = np.square(coefficients.reshape(-1).astype(np.float64))
    total = float(energy.sum())
    kept = max(energy.size // 10, 1)
    return float(np.partition(energy, energy.size - kept)[-kept:].sum()) / total if total > 0 else 1.0


def _cheapest(bits: dict[tuple[int, ...], float]) -> tuple[int, ...]:
    least = min(bits.values())
    if bits[()] - least < _LEAST_GAIN_BITS:
        return ()
    near = [axes for axes, cost in bits.items() if cost < least + _LEAST_GAIN_BITS / 2]
    return min(near, key=lambda axes: (len(axes), bits[axes], axes))
