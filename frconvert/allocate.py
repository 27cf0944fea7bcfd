"""From a target to one plan per tensor.

A survey reads every tensor once and keeps the scales that fit its coefficients (of a prefix, a histogram of
magnitudes), from which size and error at any step are estimated without touching the data again. All steps
hang on one number, the coarseness, whose square over 12 is about the relative error of the whole model; the
importance decides how the tensors share it. Size falls and error grows with the coarseness, so any target is
found by bisection on it; the caller then encodes, compares, and corrects.

Law: for any surveys the estimated size falls and the estimated error grows with each doubling of coarseness.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, log2, prod, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import cost
from frconvert.coding.coefficients import LARGEST_TARGET
from frconvert.coding.difference import DIFFERENCE, OWN
from frconvert.coding.fit import Fit, fit
from frconvert.coding.models import MAXIMUM_MAGNITUDE
from frconvert.coding.portable import logarithm
from frconvert.coding.quantize import storable_step
from frconvert.coding.record import INTEGERS, STATE_BITS, TRELLIS, Plan
from frconvert.coding.scales import MOST_AXES
from frconvert.dtypes import ITEM_BYTES, is_float
from frconvert.spectral import analyze, dct, zigzag

FINEST, COARSEST = 2.0**-40, 64.0
FLOOR_DB = 6.0  # no tensor falls further than about this below the total
_BIN_SHIFT = 19  # float32 bits dropped in a histogram: 16 bins an octave

_BINS = (0xFF << 23) >> _BIN_SHIFT  # up to infinity's bit pattern

_EDGES = (np.arange(_BINS + 1, dtype=np.uint32) << np.uint32(_BIN_SHIFT)).view(np.float32).astype(np.float64)
_EDGES[-1] = 2.0**128
_CENTRE, _WIDTH = (_EDGES[:-1] + _EDGES[1:]) / 2, np.diff(_EDGES)

_QUIETEST, _LOUDEST = 1e-30, 1e30  # root mean squares that can be quantised

_BLOCK = 1 << 20  # elements widened at a time, to keep memory near the tensor's own

# Bits an exact element costs: sign and mantissa do not compress, exponents of weights take about 2.7 bits.
_EXACT_BITS = {"float64": 55.7, "float32": 26.7, "float16": 13.7, "bfloat16": 10.7}


@dataclass(frozen=True, slots=True)
class Survey:
    """What planning knows of a tensor that may be quantised.

    Attributes:
        axes, keep: the transform and support chosen for it.
        size: number of elements; count: number of stored coefficients.
        energy: sum of squares of all coefficients; kept_energy: of the stored ones.
        largest: magnitude of the largest stored coefficient.
        scales: fit and class histogram of the coefficients; None for a prefix, which has
        bins, counts: histogram of the stored magnitudes: bin numbers and int64 counts, zero bins left out.
        exact_bits: estimated bits per stored coefficient when stored exactly.
        exact: the plan that stores it exactly.
        signal: where the coefficients are those of a difference, the sum of squares of the tensor itself.
        part: what estimates can be corrected by at a given step, see `recalibrated`.
    """

    axes: tuple[int, ...]
    keep: int | None
    size: int
    count: int
    energy: float
    kept_energy: float
    largest: float
    scales: tuple[Fit, cost.ClassCounts] | None
    bins: NDArray[np.int64]
    counts: NDArray[np.int64]
    exact_bits: float
    exact: Plan
    signal: float | None = None
    part: cost.Part | None = None

    @property
    def tensor_energy(self) -> float:
        """Sum of squares of the tensor, which its error is relative to."""
        return self.energy if self.signal is None else self.signal

    @property
    def scale(self) -> float:
        """Root mean square of the stored coefficients, or of the tensor where they are a difference's."""
        energy = self.kept_energy if self.signal is None else self.signal
        return float(np.sqrt(energy / self.count)) if self.count else 0.0


def survey(
    weights: NDArray[np.generic],
    dtype: str,
    *,
    keep_fraction: float | None = None,
    axes: tuple[int, ...] | None = None,
    signal: float | None = None,
) -> Survey | None:
    """Looks at one tensor of real floats; None if only exact storage is possible.

    That is: NaN, infinity, all zero, so loud or quiet that steps or squares would leave the float range, or
    more axes than the scales of a tensor can name.

    Args:
        weights: with two or more axes and at least one element; may be overwritten.
        dtype: the name of its dtype.
        keep_fraction: keep that fraction of the zigzag order of the DCT over all axes, as the paper does.
        axes: transform these; None chooses.
        signal: see `Survey`.
    """
    if weights.ndim > MOST_AXES:
        return None
    if not analyze.all_finite(weights) or not _QUIETEST < analyze.root_mean_square(weights) < _LOUDEST:
        return None
    if keep_fraction is not None:
        axes = tuple(range(weights.ndim))
    elif axes is None:
        axes = cost.choose_axes(weights)
    coefficients = dct.forward(weights, axes, reuse=True)
    keep = None if keep_fraction is None else kept_count(keep_fraction, weights.size)
    del weights  # where they are not the same array
    found = survey_coefficients(coefficients, dtype, axes, keep)
    return replace(found, signal=signal) if found else None


def survey_coefficients(
    coefficients: NDArray[Any],
    dtype: str,
    axes: tuple[int, ...],
    keep: int | None,
    exact: Plan | None = None,
) -> Survey | None:
    """As `survey`, for coefficients that are already there (dense, or only the kept prefix)."""
    if not analyze.all_finite(coefficients):
        return None
    energy = analyze.sum_of_squares(coefficients)
    stored, kept_energy = coefficients.reshape(-1), energy
    if keep is not None and keep != stored.size:
        stored = stored[zigzag.prefix(coefficients.shape, keep)]
        kept_energy = analyze.sum_of_squares(stored)
    if not _QUIETEST < sqrt(kept_energy / stored.size) < _LOUDEST:
        return None
    largest = max(float(stored.max()), -float(stored.min()))
    scales, part, histogram = None, None, np.zeros(0, np.int64)
    if keep is None:
        found = fit(coefficients)
        counted = cost.count_classes(found, coefficients.shape)
        part = cost.part_of(coefficients, found)
        if part is not None:
            counted = cost.calibrated(counted, part, cost.REFERENCE_STEP * sqrt(energy / coefficients.size))
        scales = found, counted
    else:
        histogram = _histogram(stored)
    bins = np.flatnonzero(histogram)
    exact_bits = _EXACT_BITS.get(dtype, 8.0 * ITEM_BYTES[dtype])
    return Survey(
        axes,
        keep,
        coefficients.size,
        stored.size,
        energy,
        kept_energy,
        largest,
        scales,
        bins,
        histogram[bins],
        exact_bits,
        exact or Plan(),
        part=part,
    )


def recalibrated(item: Survey, step: float | None) -> Survey:
    """The survey with estimates that are right near a step, and without the part that showed it.

    Args:
        item: is returned as it is if it has no part.
        step: None, for a tensor that will not be quantised, changes no estimate.
    """
    if item.part is None or item.scales is None:
        return item
    found, counted = item.scales
    scales = item.scales if step is None else (found, cost.calibrated(counted, item.part, step))
    return replace(item, scales=scales, part=None)


def _histogram(stored: NDArray[Any]) -> NDArray[np.int64]:
    if stored.dtype == np.float64:
        stored = np.clip(stored, -3e38, 3e38)
    histogram = np.zeros(_BINS, np.int64)
    for first in range(0, stored.size, _BLOCK):
        block = np.abs(stored[first : first + _BLOCK]).astype(np.float32, copy=False)
        histogram += np.bincount(block.view(np.uint32) >> np.uint32(_BIN_SHIFT), minlength=_BINS)
    return histogram


def kept_count(fraction: float, size: int) -> int:
    """Number of coefficients that a fraction keeps: rounded half up, at least 1, at most all."""
    return min(max(int(fraction * size + 0.5), 1), size)


def plan_tensor(item: Survey | None, step: float, kind: str = TRELLIS) -> Plan:
    """The plan of a surveyed tensor: about that step, or exact values where those are no dearer.

    Args:
        item: None for a tensor that can only be stored exactly.
        step: becomes the next storable step below.
        kind: `TRELLIS` or `UNIFORM`; a prefix, or a very fine step, is coded as `INTEGERS` all the same.
    """
    if item is None:
        return Plan()
    step = storable_step(step)
    if (
        item.largest / step > MAXIMUM_MAGNITUDE
        or estimated_bits(item, step, kind) > item.exact_bits * item.count
    ):
        return item.exact
    relation = OWN if item.signal is None else DIFFERENCE
    if item.scales is None or 2 * item.largest / step > LARGEST_TARGET:
        return Plan(item.axes, item.keep, step, INTEGERS, relation=relation)
    return Plan(item.axes, None, step, kind, item.scales[0], relation=relation)


def units(
    surveys: Sequence[Survey | None], importance: str, weights: Sequence[float] | None = None
) -> list[float]:
    """The step of each tensor at a coarseness of 1, at which total error equals total energy / 12.

    "mse" minimises the sum of squared errors: the same step for all tensors. "tensor" minimises the sum over
    tensors of error relative to energy: by Lagrange, with a rate of count / 2 * log2(energy / error), the
    relative error is proportional to the count, so small tensors, which cost little, get finer steps.

    With weights each tensor's error counts so many times as much, and becomes as much smaller.

    In both no tensor's relative error may exceed the total's by more than `FLOOR_DB`.
    """
    known = [item for item in surveys if item is not None]
    if not known:
        return [0.0] * len(surveys)
    count = np.array([item.count for item in known], np.float64)
    scale = np.array([item.scale for item in known], np.float64)
    pairs = zip(surveys, weights or [1.0] * len(surveys), strict=True)
    weight = np.array([value for item, value in pairs if item is not None])
    share = scale / scale.max()  # relative, so that its squares neither overflow nor vanish
    wish = np.square(share) * count / count.max() if importance == "tensor" else np.ones(len(known))
    wish = wish / weight
    total = (count * np.square(share)).sum()
    # The floor depends on the total error, which depends on the floor: iterate from above, where it falls.
    noise = (count * wish).sum() / total
    for _ in range(100):
        square = np.minimum(wish, np.square(share) * noise * 10 ** (FLOOR_DB / 10))
        latest, noise = noise, (count * square).sum() / total
        if noise == latest:
            break
    steps = iter((scale.max() * np.sqrt(square / noise)).tolist())
    return [0.0 if item is None else next(steps) for item in surveys]


def vector_mantissa_bits(coarseness: float, dtype: str) -> int | None:
    """Mantissa bits of values that are not quantised (biases, normalisation), None for all of them.

    Their relative error is then 20 to 26 dB below that of the weights: less would cost more quality than it
    saves bytes.
    """
    full = {"float32": 23, "float64": 52}.get(dtype)
    bits = max(ceil(-log2(coarseness)) + 3, 3)
    return bits if full and bits < full else None


def plan_exact(
    dtype: str, shape: tuple[int, ...], coarseness: float | None, mantissa_bits: int | None = None
) -> Plan:
    """The plan of a tensor that is not quantised; with a coarseness, floats lose their noise bits.

    Args:
        dtype: of the tensor.
        shape: of the tensor.
        coarseness: None keeps all bits.
        mantissa_bits: how many bits a float keeps, if not as many as go with the coarseness.
    """
    if coarseness is None or not is_float(dtype) or not prod(shape):
        return Plan()
    return Plan(mantissa_bits=mantissa_bits or vector_mantissa_bits(coarseness, dtype))


def estimated_bits(item: Survey, step: float, kind: str = TRELLIS) -> float:
    """Bits of all stored coefficients at that step; of a prefix, entropy of the histogram and signs."""
    if item.scales is not None:
        return cost.estimated_bits(*item.scales, step, STATE_BITS[kind])
    level = np.rint(_CENTRE[item.bins] / step)
    spread = logarithm(np.maximum(_WIDTH[item.bins] / step, 1))
    merged = np.bincount(np.cumsum(np.diff(level, prepend=level[:1]) != 0), weights=item.counts)
    share = merged / item.count
    entropy = float(-(share * logarithm(share)).sum())
    within = float((item.counts * spread).sum()) / item.count
    nonzero = float(item.counts[level > 0].sum()) / item.count
    return item.count * (entropy + within + nonzero)


def estimated_error(item: Survey, step: float, kind: str = TRELLIS) -> float:
    """Sum of squared errors at that step, what the support drops included.

    In a prefix, magnitudes are taken as even within a bin, over which the squared distance to the nearest
    multiple of the step integrates to the difference of n * step^3 / 12 + r^3 / 3 at its ends
    x = n * step + r.
    """
    if item.scales is not None:
        return cost.estimated_error(*item.scales, step, STATE_BITS[kind])
    low, high = _EDGES[item.bins], _EDGES[item.bins + 1]
    mean = (_squared_distance(high, step) - _squared_distance(low, step)) / (high - low)
    return float((item.counts * mean).sum()) + item.energy - item.kept_energy


def _squared_distance(edge: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    level = np.rint(edge / step)
    rest = edge - level * step
    return level * (step**3 / 12) + rest * rest * rest / 3


def bracket(becomes_true: Callable[[float], bool]) -> tuple[float, float]:
    """Two coarsenesses within 0.1 % of each other between which a property that stays true becomes true."""
    low, high = FINEST, COARSEST
    while high / low > 1.001:
        middle = sqrt(low * high)
        if becomes_true(middle):
            high = middle
        else:
            low = middle
    return low, high
