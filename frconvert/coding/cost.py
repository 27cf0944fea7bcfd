"""What coefficients would cost: bits and squared error at any step, without quantising them.

Scale classes are relative to the step, so the classes of a tensor at one step give those at every other by a
shift. What a coefficient of a class costs on average, and how wrong it will be, is measured once for each
tail shape on a sample of exactly that distribution: of the mean magnitude in the middle of the class and at
both its ends, as the step is finer than the classes. A histogram of classes then answers for a whole tensor.

Nothing here is part of the format. Law: estimated bits fall and the estimated error grows with the step.
"""

from dataclasses import dataclass, field, replace
from functools import cache
from math import log2, sqrt
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import coefficients, tables
from frconvert.coding.fit import Fit, fit
from frconvert.coding.portable import logarithm, power_of_two
from frconvert.coding.rows import SYMBOLS_PER_LANE
from frconvert.coding.scales import Scales
from frconvert.spectral import dct
from frconvert.spectral.analyze import SAMPLE, candidate_axes, crop, middle, root_mean_square

REFERENCE_STEP = 0.5  # of the root mean square: about three bits, where lossy archives are used
_LEAST_GAIN_BITS = 0.005  # a transform must save this per weight; less is noise of the estimate
_LOUDEST = 1e30  # coefficients of louder tensors might leave the range of float32
_SAMPLE = SYMBOLS_PER_LANE
_LEAST_PART = 1 << 13
_MEASURED_CLASSES = tables.WIDE_CLASS  # beyond, four classes more are one raw bit more
_PHASES = (-0.5, 0.0, 0.5)  # quarter octaves from the middle of a class
_measuring = Lock()


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """How many coefficients a fit puts into each class, relative to its base.

    Attributes:
        offsets: quarter octaves above the base, int64 ascending; counts: coefficients with that offset.
        table_bits: about what the tables of the fit cost.
        bits_factor, error_factor: what a part that was really quantised had of the estimates.
    """

    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    table_bits: float
    bits_factor: float = 1.0
    error_factor: float = 1.0


def count_classes(found: Fit, shape: tuple[int, ...]) -> ClassCounts:
    """Histogram of the offsets, without visiting every coefficient where few axes have tables."""
    counts = np.ones(1, np.int64)
    low, table_bits = 0, 24.0
    for axis, table in enumerate(found.offsets):
        if table is None:
            counts = counts * shape[axis]
            continue
        # Sums of independent offsets: their histograms convolve.
        own = np.bincount(table.astype(np.int64) - int(table.min()))
        counts = np.convolve(counts, own)
        low += int(table.min())
        steps = np.minimum(np.abs(np.diff(table.astype(np.int64), prepend=0)), np.abs(table.astype(np.int64)))
        table_bits += float((1.5 + logarithm(1 + 2 * steps)).sum())
    used = np.flatnonzero(counts)
    return ClassCounts(used + low, counts[used], table_bits)


def estimated_bits(found: Fit, counted: ClassCounts, step: float, state_bits: int) -> float:
    """Bits of all coefficients at that step."""
    rate, _ = curve(found.shape, state_bits)
    return (
        float(counted.counts @ _look_up(rate, found, counted, step)) * counted.bits_factor
        + counted.table_bits
    )


def estimated_error(found: Fit, counted: ClassCounts, step: float, state_bits: int) -> float:
    """Sum of squared errors at that step."""
    _, error = curve(found.shape, state_bits)
    share = counted.counts * power_of_two(4 * counted.offsets)
    sum_of_all = float(share @ _look_up(error, found, counted, step))
    return sum_of_all * counted.error_factor * found.mean * found.mean


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a tensor's coefficients that tells how far estimates are off.

    Attributes:
        values: the coefficients.
        fit: of the tensor, for the part.
    """

    values: NDArray[np.floating] = field(repr=False)
    fit: Fit


def part_size(size: int) -> int:
    """How many coefficients the part of a tensor with so many has; 0 if it needs none."""
    wanted = min(max(size // 64, _LEAST_PART), SAMPLE)
    return wanted if size >= 2 * wanted else 0


def part_of(transformed: NDArray[np.floating], found: Fit) -> Part | None:
    """The middle of a tensor; None if it is too small for a part to stand for it."""
    size = part_size(transformed.size)
    if not size:
        return None
    cut = middle(transformed.shape, size)
    return Part(transformed[cut].copy(), found.part(cut))


def calibrated(counted: ClassCounts, part: Part, step: float) -> ClassCounts:
    """The same counts with factors from a part of the tensor, quantised by the trellis at that step."""
    values = part.values / part.values.dtype.type(step)
    bits, squares = coefficients.measure(values, part.fit.scales(step), coefficients.STATE_BITS)
    of_part = count_classes(part.fit, values.shape)
    expected_bits = estimated_bits(part.fit, of_part, step, coefficients.STATE_BITS) - of_part.table_bits
    expected_error = estimated_error(part.fit, of_part, step, coefficients.STATE_BITS) / (step * step)
    # Factors far from 1 mean that the part is unlike the rest, not that the estimate is that wrong.
    return replace(
        counted,
        bits_factor=min(max(float(bits.sum()) / max(expected_bits, 1.0), 0.9), 1.1),
        error_factor=min(max(float(squares.sum()) / max(expected_error, 1e-30), 0.9), 1.1),
    )


def _look_up(
    values: NDArray[np.float64], found: Fit, counted: ClassCounts, step: float
) -> NDArray[np.float64]:
    """What a curve says of each offset, linear between the phases."""
    base = found.scales(step).base
    number = np.clip(base + counted.offsets, 0, tables.CLASSES - 1)
    position = 4 * log2(found.mean / step) + tables.UNIT_CLASS + counted.offsets - number
    phase = np.clip(position, _PHASES[0], _PHASES[-1])
    before = (phase >= 0).astype(np.int64)
    part = 2 * phase + 1 - before
    between: NDArray[np.float64] = (1 - part) * values[number, before] + part * values[number, before + 1]
    return between


def curve(tail: int, state_bits: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bits, and squared error in squared mean magnitudes, of a coefficient: [112 classes, 3 phases] each."""
    with _measuring:  # threads that need the same curve at once would all measure it
        return _curve(tail, state_bits)


@cache
def _curve(tail: int, state_bits: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    sample = tables.sample(tail, _SAMPLE)
    number = np.arange(_MEASURED_CLASSES).repeat(len(_PHASES))
    eighths = (2 * np.tile(_PHASES, _MEASURED_CLASSES)).astype(np.int64)
    mean = power_of_two(2 * (number - tables.UNIT_CLASS) + eighths)  # in steps
    bits, squares = np.empty(number.size), np.empty(number.size)
    # A lane has as many symbols as the sample, so that each class has lanes of its own: apart from those that
    # the trellis does not serve.
    for chosen in (number < tables.FIRST_SERVED, number >= tables.FIRST_SERVED):
        scales = Scales(tail, 0, (None, number[chosen].astype(np.int16)))
        each = coefficients.measure(sample[:, None] * mean[chosen], scales, state_bits)
        bits[chosen], squares[chosen] = each[0].mean(axis=0), each[1].mean(axis=0)
    rate, error = np.empty((tables.CLASSES, len(_PHASES))), np.empty((tables.CLASSES, len(_PHASES)))
    rate[:_MEASURED_CLASSES] = bits.reshape(-1, len(_PHASES))
    error[:_MEASURED_CLASSES] = (squares / np.square(mean)).reshape(-1, len(_PHASES))
    for wide in range(_MEASURED_CLASSES, tables.CLASSES):
        rate[wide], error[wide] = rate[wide - 4] + 1, error[wide - 4] / 4
    # Fewer bits never make less error: what is left of the sample's noise must not contradict that.
    falling, growing = np.minimum.accumulate(error.reshape(-1)), np.maximum.accumulate(rate.reshape(-1))
    return growing.reshape(rate.shape), falling.reshape(error.shape)


def choose_axes(weights: NDArray[np.generic]) -> tuple[int, ...]:
    """The subset of axes in which a finite tensor is cheapest to code; () where no transform pays."""
    sample = crop(weights)
    rms = root_mean_square(sample)
    if not 0 < REFERENCE_STEP * rms < _LOUDEST:
        return ()
    return cheapest(bits_by_axes(sample, REFERENCE_STEP * rms), sample.size)


def bits_by_axes(sample: NDArray[np.generic], step: float) -> dict[tuple[int, ...], float]:
    """Subset of axes -> estimated bits per weight, from a part of a tensor."""
    bits = {}
    for axes in candidate_axes(sample.shape):
        transformed = dct.forward(sample, axes)
        found = fit(transformed)
        counted = count_classes(found, sample.shape)
        total = estimated_bits(found, counted, step, coefficients.STATE_BITS)
        bits[axes] = total / sample.size
    return bits


def cheapest(bits: dict[tuple[int, ...], float], size: int) -> tuple[int, ...]:
    """The subset that costs least, or one with fewer axes that costs hardly more.

    Args:
        bits: see `bits_by_axes`.
        size: weights that these were estimated from: white noise seems to gain about 1 / sqrt(size).
    """
    least = min(bits.values())
    if bits[()] - least < _LEAST_GAIN_BITS + 1 / sqrt(size):
        return ()
    near = [axes for axes, cost in bits.items() if cost < least + _LEAST_GAIN_BITS / 2]
    return min(near, key=lambda axes: (len(axes), bits[axes], axes))
