"""The encoder's choice of symbols: error against bits. Nothing here is part of the format.

A symbol is judged by its squared error and the price of its bits. Candidates are found near a target, which
is the value moved towards zero by what its bits are worth; the trellis then weighs them.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import tables, trellis
from frconvert.coding.native import native
from frconvert.coding.portable import power_of_two

# Bits are worth this much squared error, in half steps: the slope of the trellis at high rates.
_BIT_WORTH = 0.35
_LOG2_E = 1.4426950408889634


def search(
    targets: NDArray[np.float32],
    values: NDArray[np.float32],
    prices: NDArray[np.int32],
    lanes: int,
    state_bits: int,
    *,
    aware: bool,
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """The trellis' choice; candidates are those near the targets, judged by their distance to the values."""
    steps = -(-targets.size // lanes)

    def grid(array: NDArray[Any]) -> NDArray[Any]:
        if array.size == steps * lanes:
            return array.reshape(steps, lanes)
        filled = np.zeros(steps * lanes, array.dtype)
        filled[: array.size] = array
        return filled.reshape(steps, lanes)

    charged = trellis.Prices(grid(values), grid(prices), _all_prices()) if aware else None
    symbols, halves = trellis.search(grid(targets), state_bits, charged)
    return symbols.reshape(-1)[: targets.size], halves.reshape(-1)[: targets.size]


def price_list(tail: int) -> int:
    """Where the prices of a tail shape begin in `_all_prices`: [class, quantiser bit, symbol]."""
    return tail * 512 * tables.CLASSES


@cache
def _all_prices() -> NDArray[np.float32]:
    """What each symbol is worth in squared half steps, float32, by tail shape, class, quantiser bit, symbol.

    Classes with raw bits have none: there all neighbours cost the same.
    """
    prices = np.zeros((len(tables.SHAPES), tables.CLASSES, 2, tables.ALPHABET), np.float32)
    for tail, by_class in enumerate(prices):
        for number in range(tables.FIRST_SERVED, tables.WIDE_CLASS):
            for half_way in (False, True):
                bits = np.minimum(tables.bits(tail, number, half_way=half_way), 24)
                by_class[number, int(half_way)] = _BIT_WORTH * bits
    return prices.reshape(-1)


@cache
def _shrinkage(tail: int, first: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """What `shrunk` needs by class.

    That is: sixteenths of the mean magnitude in a half step, the worth of a unit of score in half steps, and
    the constant shrinkage of classes that the trellis does not serve.

    Minimising (u - n)^2 + worth * bits(n) near u moves the target down the slope of the bits, by half the
    worth times that slope: for a Gaussian that is exact.
    """
    number = np.arange(tables.CLASSES)
    mean = power_of_two(2 * (number - tables.UNIT_CLASS))  # in steps
    index = (8 / mean).astype(np.float32)
    worth = (_BIT_WORTH / 2 * _LOG2_E / (2 * mean)).astype(np.float32)
    constant = np.zeros(tables.CLASSES, np.float32)
    for scale_class in range(min(first, tables.WIDE_CLASS)):
        bits = tables.bits(tail, scale_class, half_way=False)
        dearer = float(bits[tables.ZERO + 1] - bits[tables.ZERO])
        # The squared error of a symbol is 4 in half steps.
        constant[scale_class] = max(_BIT_WORTH * dearer / 4, 0.0)
    return index, worth, constant


def shrunk(
    values: NDArray[np.float32], classes: NDArray[np.uint8], tail: int, first: int
) -> NDArray[np.float32]:
    """The values in half steps, moved towards zero by what their bits are worth."""
    index, worth, constant = _shrinkage(tail, first)
    slope = tables.score(tail)
    result = np.empty_like(values)
    if native is not None:
        native.shrink(values, classes, slope, index, worth, constant, first, result)
        return result
    block = 1 << 16  # stays in the cache
    for low in range(0, values.size, block):
        value, of = values[low : low + block], classes[low : low + block]
        magnitude = np.abs(value)
        place = (magnitude * index.take(of)).astype(np.int32)
        shrink = slope.take(place, mode="clip")
        shrink *= worth.take(of)
        np.copyto(shrink, constant.take(of), where=of < first)
        magnitude -= shrink
        np.maximum(magnitude, 0, out=magnitude)
        np.copysign(magnitude, value, out=result[low : low + block])
    return result
