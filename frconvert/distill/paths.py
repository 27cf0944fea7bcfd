"""The trellis with error feedback: paths that make little output error, not little weight error.

A trellis codes the coefficients of a tensor in lanes: coefficient i of the C order belongs to lane i % lanes
(`coding/rows.py`). Lanes are searched one after another. What a lane does wrong is made good by the columns
of the same rows that later lanes hold, and inside a lane by the survivors' own later symbols: each survivor
of the Viterbi search carries the errors of its row. The order of a row's columns is thus by lane, and each
pattern in which lanes may fall on a row has its own factor of the Gram matrix.

A compiled twin of the search is used where there is one.

Law: the result lies on a path of the trellis, so that coding it without regard to bits gives it back exactly.
"""

from collections.abc import Iterator
from functools import cache
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import rows, tables, trellis
from frconvert.coding.coefficients import STATE_BITS
from frconvert.coding.fit import Fit, fit
from frconvert.coding.scales import classes
from frconvert.coding.segments import SEGMENT
from frconvert.distill.feedback import inverse_factor, prices_of_tail

try:
    from frconvert.distill import _paths
except ImportError:  # no compiler was there when the package was installed
    _paths = None  # type: ignore[assignment]

MOST_PATTERNS = 32
_MOST_FACTOR_WORK = 1 << 34  # multiplications for the factors of all patterns of a tensor
_FAR = np.float32(1e30)


def patterns(shape: tuple[int, int]) -> int:
    """In how many ways lanes fall on the rows of a matrix that is coded alone; 0 where it is not servable."""
    row_count, columns = shape
    if row_count * columns > SEGMENT:
        return 0
    lanes = rows.lane_count(row_count * columns)
    found = min(lanes // gcd(lanes, columns), row_count)
    return found if found <= MOST_PATTERNS and found * columns**3 <= _MOST_FACTOR_WORK else 0


def served_fit(coefficients: NDArray[np.floating], step: float) -> Fit:
    """A fit under which the trellis serves every coefficient at that step, so that lanes stay whole."""
    found = fit(coefficients)
    tables_of_axes = [table for table in found.offsets if table is not None]
    least = min((int(table.min()) for table in tables_of_axes), default=0)
    for floor in range(least, 1):
        raised = tuple(None if table is None else np.maximum(table, floor) for table in found.offsets)
        low = sum(int(table.min()) for table in raised if table is not None)
        candidate = Fit(found.shape, found.mean, raised)
        if candidate.scales(step).base + low >= tables.FIRST_SERVED:
            return candidate
    smallest = step * 2.0 ** ((tables.FIRST_SERVED - tables.UNIT_CLASS) / 4)
    return Fit(found.shape, max(found.mean, smallest), (None,) * coefficients.ndim)


def search(
    weights: NDArray[np.floating], gram: NDArray[np.float64], step: float, found: Fit, worth: float
) -> NDArray[np.int32]:
    """Integers n, of a path, for which n * step / 2 makes little output error, and few bits.

    Args:
        weights: [rows, columns], as they are coded, with `patterns` above 0.
        gram: [columns, columns] symmetric, positive definite.
        step: of the quantiser.
        found: the scales, see `served_fit`, with offsets for these two axes.
        worth: squared error, in squared steps times the mean error weight of the columns, of a bit.
    """
    columns = weights.shape[1]
    lanes = rows.lane_count(weights.size)
    scale = found.scales(step)
    entry = (scale.shape * tables.CLASSES + classes(scale, weights.shape).reshape(-1).astype(np.int32)) * 512
    period = patterns(weights.shape)
    orders = [
        np.argsort((number * columns + np.arange(columns)) % lanes, kind="stable") for number in range(period)
    ]
    factors = [inverse_factor(gram[np.ix_(order, order)]).astype(np.float32) for order in orders]
    places = np.empty((period, columns), np.int64)
    for number, order in enumerate(orders):
        places[number, order] = np.arange(columns)
    worth *= 4 * float(np.mean([np.mean(1 / np.square(np.diag(f).astype(np.float64))) for f in factors]))
    halves = (weights * (2 / step)).astype(np.float32)
    # Rows of one pattern side by side, their columns in its order.
    working = [np.ascontiguousarray(halves[n::period][:, order]) for n, order in enumerate(orders)]
    result = np.empty(weights.size, np.int32)
    for lane in range(lanes):
        flat = np.arange(lane, weights.size, lanes)
        row, column = flat // columns, flat % columns
        pattern = row % period
        place = places[pattern, column]
        begins = np.concatenate([[True], row[1:] != row[:-1]])
        index = np.arange(len(flat))
        depth = (index - np.maximum.accumulate(np.where(begins, index, 0))).astype(np.int32)
        value = np.empty(len(flat), np.float32)
        weight = np.empty(len(flat), np.float32)
        pull = np.zeros((len(flat), int(depth.max()) + 1), np.float32)
        spans = list(_spans(pattern, place, period))
        for number, chosen, _, _ in spans:
            factor, here = factors[number], place[chosen]
            value[chosen] = working[number][row[chosen] // period, here]
            weight[chosen] = 1 / np.diag(factor)[here]
            for back in range(pull.shape[1] - 1):
                later = chosen[depth[chosen] > back]
                pull[later, back] = factor[place[later] - depth[later] + back, place[later]]
        symbols, errors = _search_lane(value, depth, pull, weight, entry[flat], worth)
        result[flat] = symbols
        for number, chosen, first, last in spans:
            if last < columns:
                error = np.zeros((len(working[number]), last - first), np.float32)
                error[row[chosen] // period, place[chosen] - first] = errors[chosen]
                working[number][:, last:] -= error @ factors[number][first:last, last:]
    return result.reshape(weights.shape)


def _spans(
    pattern: NDArray[np.int64], place: NDArray[np.int64], period: int
) -> Iterator[tuple[int, NDArray[np.intp], int, int]]:
    """Of each pattern in a lane: its number, which symbols have it, and the range of places they take."""
    for number in range(period):
        chosen = np.flatnonzero(pattern == number)
        if chosen.size:
            yield number, chosen, int(place[chosen].min()), int(place[chosen].max()) + 1


@cache
def _prices() -> NDArray[np.float32]:
    """Bits of each symbol: float32 by tail shape, class, quantiser bit, symbol."""
    return np.stack([prices_of_tail(tail) for tail in range(len(tables.SHAPES))]).reshape(-1)


def _search_lane(
    value: NDArray[np.float32],
    depth: NDArray[np.int32],
    pull: NDArray[np.float32],
    weight: NDArray[np.float32],
    entry: NDArray[np.int32],
    worth: float,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The best path of one lane, and the weighted errors along it.

    Args:
        value: in half steps, after the feedback of other lanes.
        depth: how many symbols of the same row this lane has before each one.
        pull: [count, depth] what the error of each of those takes from this one.
        weight: error weights.
        entry: where the prices of each begin.
        worth: squared error of a bit.
    """
    states = 1 << STATE_BITS
    always, chosen = (polynomial >> 1 for polynomial in trellis.POLYNOMIALS[STATE_BITS])
    symbols, errors = np.empty(len(value), np.int32), np.empty(len(value), np.float32)
    if _paths is not None:
        search_natively: Any = _paths.search
        entries = np.ascontiguousarray(entry, np.int32)
        search_natively(
            value, depth, pull, weight, entries, _prices(), worth, pull.shape[1], states, always, chosen,
            symbols, errors,
        )  # fmt: skip
        return symbols, errors
    _search_plainly(value, depth, pull, weight, entry, np.float32(worth), symbols, errors)
    return symbols, errors


def _search_plainly(
    value: NDArray[np.float32],
    depth: NDArray[np.int32],
    pull: NDArray[np.float32],
    weight: NDArray[np.float32],
    entry: NDArray[np.int32],
    worth: np.float32,
    symbols: NDArray[np.int32],
    errors: NDArray[np.float32],
) -> None:
    states = 1 << STATE_BITS
    state = np.arange(states)
    half = (state & 1).astype(np.float32)
    coset = half + np.float32(2) * np.arange(2, dtype=np.float32)[:, None]  # [parity, state]
    # The two branches into each state, in the order of the states that they leave.
    goal = np.array([[trellis.move(s, parity, STATE_BITS) for s in range(states)] for parity in (0, 1)])
    leaving = np.stack([np.sort(np.flatnonzero((goal == to).any(0))) for to in range(states)], axis=1)
    parity_of = np.array([[int(goal[1, s] == to) for to, s in enumerate(line)] for line in leaving])
    row = (128 + 256 * (state & 1)).astype(np.int32)
    cost = np.full(states, _FAR, np.float32)
    cost[0] = 0
    past = np.zeros((pull.shape[1], states), np.float32)
    source = np.empty((len(value), states), np.uint8)
    carried = np.empty((len(value), states), np.float32)
    prices = _prices()
    for t in range(len(value)):
        wish = np.full(states, value[t], np.float32)
        for back in range(depth[t]):
            wish -= past[back] * pull[t, back]
        near = np.rint((wish - coset) * np.float32(0.25)) * np.float32(4) + coset
        inner = near + np.where(wish > 0, np.float32(-4), np.float32(4))
        best, least = near, _cost(near, wish, half, row, weight[t], prices[entry[t] : entry[t] + 512], worth)
        other = _cost(inner, wish, half, row, weight[t], prices[entry[t] : entry[t] + 512], worth)
        best = np.where(other < least, inner, best)
        total = cost + np.minimum(other, least)
        arriving = total[parity_of, leaving]
        winner = (arriving[1] < arriving[0]).astype(np.int64)
        source[t] = leaving[winner, state]
        parity = parity_of[winner, state]
        carried[t] = best[parity, source[t]]
        if t + 1 < len(value) and depth[t + 1]:
            past[: depth[t]] = past[: depth[t], source[t]]
            past[depth[t]] = (wish[source[t]] - carried[t]) * weight[t]
        cost = np.minimum(arriving[0], arriving[1])
        cost -= cost.min()
    at = int(np.argmin(cost))
    for t in range(len(value) - 1, -1, -1):
        symbols[t] = carried[t, at]
        at = source[t, at]
    line = np.zeros(pull.shape[1], np.float32)
    for t in range(len(value)):
        wished = value[t]
        for back in range(depth[t]):
            wished -= line[back] * pull[t, back]
        errors[t] = line[depth[t]] = (wished - np.float32(symbols[t])) * weight[t]


def _cost(
    symbols: NDArray[np.float32],
    wish: NDArray[np.float32],
    half: NDArray[np.float32],
    row: NDArray[np.int32],
    weight: np.float32,
    prices: NDArray[np.float32],
    worth: np.float32,
) -> NDArray[np.float32]:
    place = np.clip(((symbols - half) * np.float32(0.5)).astype(np.int32), -126, 126)
    gap = (wish - symbols) * weight
    cost: NDArray[np.float32] = gap * gap + worth * prices.take(row + place)
    return cost
