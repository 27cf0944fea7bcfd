"""What coefficients would cost: bits and squared error at any step, without quantising them.

Scale classes are relative to the step, so the classes of a tensor at one step give those at every other by a
shift. What a coefficient of a class costs on average, and how wrong it will be, is measured once for each
tail shape on a sample of exactly that distribution. A histogram of classes then answers for a whole tensor.

Nothing here is part of the format. Law: estimated bits fall and the estimated error grows with the step.
"""

from dataclasses import dataclass, replace
from functools import cache
from math import log2

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import coefficients, tables
from frconvert.coding.fit import Fit, fit
from frconvert.coding.scales import Scales
from frconvert.spectral import dct
from frconvert.spectral.analyze import SAMPLE, candidate_axes, crop, middle, root_mean_square

REFERENCE_STEP = 0.5  # of the root mean square: about three bits, where lossy archives are used
_LEAST_GAIN_BITS = 0.005  # a transform must save this per weight; less is noise of the estimate
_LOUDEST = 1e30  # coefficients of louder tensors might leave the range of float32
_SAMPLE = 512
_LEAST_PART = 1 << 13
_MEASURED_CLASSES = 40
_SMOOTH_CLASS = 20  # from here on the error hardly depends on the class


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
        table_bits += float((1.5 + np.log2(1 + 2 * steps)).sum())
    used = np.flatnonzero(counts)
    return ClassCounts(used + low, counts[used], table_bits)


def estimated_bits(found: Fit, counted: ClassCounts, step: float, state_bits: int) -> float:
    """Bits of all coefficients at that step."""
    rate, _ = curve(found.shape, state_bits)
    return _summed(found, counted, step, rate) * counted.bits_factor + counted.table_bits


def estimated_error(found: Fit, counted: ClassCounts, step: float, state_bits: int) -> float:
    """Sum of squared errors at that step."""
    _, error = curve(found.shape, state_bits)
    return _summed(found, counted, step, error) * counted.error_factor * step * step


def calibrated(coefficients_: NDArray[np.floating], found: Fit, counted: ClassCounts) -> ClassCounts:
    """The same counts with factors from a part of the tensor, quantised by the trellis at a usual step."""
    size = min(max(coefficients_.size // 64, _LEAST_PART), SAMPLE)
    if coefficients_.size < 2 * size:
        return counted
    cut = middle(coefficients_.shape, size)
    step = REFERENCE_STEP * root_mean_square(coefficients_)
    part = found.part(cut)
    values = coefficients_[cut] / coefficients_.dtype.type(step)
    bits, squares = coefficients.measure(values, part.scales(step), coefficients.STATE_BITS)
    of_part = count_classes(part, values.shape)
    rate, error = curve(found.shape, coefficients.STATE_BITS)
    bits_factor = float(bits.sum()) / max(_summed(part, of_part, step, rate), 1.0)
    error_factor = float(squares.sum()) / max(_summed(part, of_part, step, error), 1e-30)
    # Factors far from 1 mean that the part is unlike the rest, not that the estimate is that wrong.
    return replace(
        counted,
        bits_factor=min(max(bits_factor, 0.9), 1.1),
        error_factor=min(max(error_factor, 0.9), 1.1),
    )


def _summed(found: Fit, counted: ClassCounts, step: float, by_class: NDArray[np.float64]) -> float:
    """Sum over the coefficients of what is given by class, between two classes in proportion."""
    place = 4 * log2(found.mean / step) + tables.UNIT_CLASS + counted.offsets
    return float(counted.counts @ np.interp(place, np.arange(tables.CLASSES), by_class))


@cache
def curve(tail: int, state_bits: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bits, and squared error in squared steps, of a coefficient of each class; both of length 112."""
    cumulated = np.cumsum(tables.density(tail))
    order = np.arange(_SAMPLE) * 617 % _SAMPLE
    places = np.searchsorted(cumulated, (order + 0.5) / _SAMPLE * int(cumulated[-1]))
    sample = (places + 0.5) / 64 * np.where(order % 2, 1, -1)
    number = np.arange(_MEASURED_CLASSES)
    values = sample[:, None] * np.exp2((number - tables.UNIT_CLASS) / 4)
    scales = Scales(tail, 0, (None, number.astype(np.int16)))
    bits, squares = coefficients.measure(values, scales, state_bits)
    rate, error = np.empty(tables.CLASSES), np.empty(tables.CLASSES)
    rate[:_MEASURED_CLASSES], error[:_MEASURED_CLASSES] = bits.mean(axis=0), squares.mean(axis=0)
    if state_bits:  # a sample of the trellis is noisy, what it measures is not
        known = slice(coefficients.FIRST_SERVED, _MEASURED_CLASSES)
        padded = np.pad(error[known], 1, mode="edge")
        error[known] = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
        error[_SMOOTH_CLASS:_MEASURED_CLASSES] = error[_SMOOTH_CLASS:_MEASURED_CLASSES].mean()
    for wide in range(_MEASURED_CLASSES, tables.CLASSES):
        rate[wide], error[wide] = rate[wide - 4] + 1, error[wide - 4]
    return np.maximum.accumulate(rate), error


def choose_axes(weights: NDArray[np.generic]) -> tuple[int, ...]:
    """The subset of axes in which a finite tensor is cheapest to code; () where no transform pays."""
    sample = crop(weights)
    rms = root_mean_square(sample)
    if not 0 < REFERENCE_STEP * rms < _LOUDEST:
        return ()
    return cheapest(bits_by_axes(sample, REFERENCE_STEP * rms))


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


def cheapest(bits: dict[tuple[int, ...], float]) -> tuple[int, ...]:
    """The subset that costs least, or one with fewer axes that costs hardly more."""
    least = min(bits.values())
    if bits[()] - least < _LEAST_GAIN_BITS:
        return ()
    near = [axes for axes, cost in bits.items() if cost < least + _LEAST_GAIN_BITS / 2]
    return min(near, key=lambda axes: (len(axes), bits[axes], axes))
