"""Rate-distortion bounds, in bits and squared errors, of Gaussians and of frconvert's tail shapes.

A tail shape is a mixture of Gaussians. While the error is below the variance of the narrowest of them the
Shannon lower bound is exact: the source is then a sum of another mixture and Gaussian noise. Above that the
Blahut-Arimoto algorithm gives the bound on a grid.
"""

from functools import cache
from math import e, pi, sqrt

import numpy as np

from frconvert.coding import tables

_CELL = 1 / 16  # of the grid, in mean magnitudes
_REACH = 16
_SLOPES = 25
_ROUNDS = 300
_CLASS_MEANS = np.exp2((np.arange(tables.CLASSES) - tables.UNIT_CLASS) / 4)  # in steps


def gaussian_rate(variances: np.ndarray, counts: np.ndarray, error: float) -> float:
    """Bits that independent Gaussians take at a total squared error: reverse water-filling."""
    low, high = 1e-40, float(variances.max())
    for _ in range(200):
        level = sqrt(low * high)
        if float((counts * np.minimum(level, variances)).sum()) > error:
            high = level
        else:
            low = level
    return float((counts * np.log2(np.maximum(variances / low, 1))).sum()) / 2


@cache
def shape_curve(tail: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bound of a shape with a mean magnitude of 1, by ascending slope -dR/dD in nats.

    Returns:
        Slopes, rates in bits, squared errors, up to where the Shannon lower bound is exact.
    """
    if len(tables.SHAPES[tail]) == 1:  # a Gaussian: nothing below the slope at its variance
        variance = (tables.SHAPES[tail][0][1] / 256) ** 2
        return np.array([0.5 / variance]), np.zeros(1), np.array([variance])
    points = np.arange(-_REACH, _REACH, _CELL) + _CELL / 2
    parts = [(weight / 256, deviation / 256) for weight, deviation in tables.SHAPES[tail]]
    source = sum(w / d * np.exp(-np.square(points / d) / 2) for w, d in parts)
    source /= source.sum()
    distance = np.square(points[:, None] - points[None, :])
    variance = float(source @ np.square(points))
    exact_from = 1 / (2 * min(d for _, d in parts) ** 2)
    slopes = np.geomspace(0.1 / variance, exact_from, _SLOPES)
    rates, errors = np.empty(_SLOPES), np.empty(_SLOPES)
    output = source.copy()
    for number, slope in reversed(list(enumerate(slopes))):
        kernel = np.exp(-slope * distance)
        for _ in range(_ROUNDS):
            output *= kernel.T @ (source / (kernel @ output))
        norm = kernel @ output
        errors[number] = source @ ((kernel * distance) @ output / norm)
        rates[number] = max(-(source @ np.log(norm)) - slope * errors[number], 0) / np.log(2)
        output = np.maximum(output, 1e-30)
    return slopes, rates, errors


@cache
def entropy(tail: int) -> float:
    """Differential entropy of a shape with a mean magnitude of 1, in bits."""
    points = np.arange(-_REACH, _REACH, 1 / 256) + 1 / 512
    parts = [(weight / 256, deviation / 256) for weight, deviation in tables.SHAPES[tail]]
    density = sum(w / (d * sqrt(2 * pi)) * np.exp(-np.square(points / d) / 2) for w, d in parts)
    density /= density.sum() / 256
    return float(-(density * np.log2(np.maximum(density, 1e-300))).sum()) / 256


def _of_shape(tail: int, slope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rates and errors of a shape at any slopes."""
    slopes, rates, errors = shape_curve(tail)
    place = np.log(np.maximum(slope, slopes[0]))
    rate = np.interp(place, np.log(slopes), rates)
    error = np.exp(np.interp(place, np.log(slopes), np.log(errors)))
    noise = 1 / (2 * np.maximum(slope, 1e-300))
    exact = slope >= slopes[-1]
    rate = np.where(exact, entropy(tail) - np.log2(2 * pi * e * noise) / 2, rate)
    return rate, np.where(exact, noise, error)


def class_rate(tails: np.ndarray, steps: np.ndarray, counts: np.ndarray, error: float) -> float:
    """Bits that coefficients take at a total squared error if they are what their classes say.

    Args:
        tails, steps: tail shape and quantiser step of each tensor.
        counts: coefficients of each tensor in each class, [tensors, classes].
        error: of all of them.
    """
    means = steps[:, None] * _CLASS_MEANS

    def at(slope: float) -> tuple[float, float]:
        bits = total = 0.0
        for tail, mean, count in zip(tails.tolist(), means, counts, strict=True):
            rate, squares = _of_shape(tail, slope * np.square(mean))
            bits += float(count @ rate)
            total += float(count @ (squares * np.square(mean)))
        return bits, total

    low, high = 1e-12, 1e40
    for _ in range(200):
        slope = sqrt(low * high)
        if at(slope)[1] > error:
            low = slope
        else:
            high = slope
    return at(high)[0]
