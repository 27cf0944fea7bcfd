"""Tables whose rows are looked up, some more often than others: the trellis with a price for each row.

There is nothing to feed back, as only one row is used at a time; but the error of a row counts as often as it
is looked up. Symbols lie in segments and lanes as `coding/coefficients.py` has them, those of classes that
the trellis does not serve behind the others.

Law: the result lies on a path, so that coding it with the given scales gives it back exactly.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import choice, rows, tables, trellis
from frconvert.coding.coefficients import STATE_BITS
from frconvert.coding.fit import Fit
from frconvert.coding.scales import classes_of_range
from frconvert.coding.segments import SEGMENT
from frconvert.distill.feedback import cheapest, prices_of_tail

_LEVELS = 8  # half octaves of the rows' weights on either side of the mean
_PRICED = np.float32(0.35)  # what a bit is worth to `choice.shrunk`, in squared half steps


def search_rows(
    values: NDArray[np.floating], counts: NDArray[np.float64], step: float, found: Fit, worth: float
) -> NDArray[np.int32]:
    """Integers n, of a path, for which n * step / 2 makes little error in rows that count, and few bits.

    Args:
        values: [rows, ...] as they are coded.
        counts: how often each row counts.
        step: of the quantiser.
        found: the scales that the result will be coded with.
        worth: squared error, in squared steps of a row of mean count, that a bit is worth.
    """
    scale = found.scales(step)
    levels = (
        np.clip(np.rint(2 * np.log2(counts / counts.mean())), -_LEVELS, _LEVELS).astype(np.int32) + _LEVELS
    )
    # In squared half steps, by level.
    worths = (4 * worth * 2.0 ** (-(np.arange(2 * _LEVELS + 1) - _LEVELS) / 2)).astype(np.float32)
    bits = prices_of_tail(scale.shape)
    prices = (worths[:, None, None, None] * bits).astype(np.float32).reshape(-1)
    flat, inner = values.reshape(-1), values.size // len(values)
    result = np.empty(values.size, np.int32)
    for first in range(0, values.size, SEGMENT):
        last = min(first + SEGMENT, values.size)
        of = classes_of_range(scale, values.shape, first, last)
        level = levels[np.arange(first, last) // inner]
        halves = (flat[first:last] * (2 / step)).astype(np.float32)
        served = of >= tables.FIRST_SERVED
        symbols = np.empty(last - first, np.int32)
        symbols[served] = _path(
            halves[served], of[served], level[served], scale.shape, worths, prices, last - first
        )
        others = ~served
        row = of[others].astype(np.int32) * 256 + 128
        uniform = np.ascontiguousarray(bits[:, 0])
        symbols[others] = 2 * cheapest(
            halves[others] * np.float32(0.5), row, uniform, worths[level[others]] / 4
        )
        result[first:last] = symbols
    return result.reshape(values.shape)


def _path(
    halves: NDArray[np.float32],
    of: NDArray[np.uint8],
    level: NDArray[np.int32],
    tail: int,
    worths: NDArray[np.float32],
    prices: NDArray[np.float32],
    size: int,
) -> NDArray[np.int32]:
    """The best path through the served symbols of a segment of that size, in half steps."""
    lanes = rows.lane_count(size)
    steps = -(-halves.size // lanes)
    # A target moves further towards zero where bits are worth more, but not past it.
    moved = choice.shrunk(halves, of, tail, tables.FIRST_SERVED) - halves
    moved *= worths[level] / _PRICED
    targets = halves + np.clip(moved, -np.abs(halves), np.abs(halves))

    def grid(array: NDArray[Any]) -> NDArray[Any]:
        filled = np.zeros(steps * lanes, array.dtype)
        filled[: array.size] = array
        return filled.reshape(steps, lanes)

    entries = (level * tables.CLASSES + of.astype(np.int32)) * (2 * tables.ALPHABET)
    priced = trellis.Prices(grid(halves), grid(entries), prices)
    symbols, quantisers = trellis.search(grid(targets), STATE_BITS, priced)
    found: NDArray[np.int32] = (2 * symbols + quantisers).reshape(-1)[: halves.size]
    return found
