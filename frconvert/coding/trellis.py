"""Trellis (dependent) quantisation: one of two quantisers for each value, chosen by the symbols before it.

Values are measured in half steps. A symbol j, with the quantiser bit q that the state gives, stands for the
integer 2 j + q: quantiser 0 has the even integers, quantiser 1 the odd ones. The state then moves by the
parity of j. Integers that are equal modulo 4 form a coset, and the two branches that leave a state carry
cosets that are 2 apart, as in Ungerboeck's codes for amplitude modulation ("Channel coding with
multilevel/phase signals", IEEE Trans. Inf. Theory 28, 1982), whose parity-check polynomials these are. Used
with entropy coding (Fischer and Wang, "Entropy-constrained trellis-coded quantization", IEEE Trans. Inf.
Theory 38, 1992), 64 states come within 0.3 dB of the rate-distortion function of a Gaussian at two bits and
more.

Values lie in lanes that are quantised side by side, [steps, lanes], each lane from state 0 on. The encoder's
search is the Viterbi algorithm over all lanes at once, in float32 without any reordering of sums, so that its
result is the same on every machine.

A compiled twin of the search is used where there is one (`native.py`).

Law: `states(parities(search(x)))` gives the quantiser bits of the search; no path through the trellis has a
smaller sum of squared distances.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from frconvert.coding.native import native

# Octal parity-check polynomials h0 and h1 by the number of state bits.
POLYNOMIALS = {3: (0o13, 0o4), 4: (0o23, 0o4), 5: (0o45, 0o10), 6: (0o103, 0o24), 7: (0o235, 0o126)}
_BLOCK = 512  # lanes searched at a time: the decisions of a block fit into some megabytes


def move(state: int, parity: int, state_bits: int) -> int:
    """The state after a symbol of that parity; its quantiser bit is its lowest bit."""
    always, chosen = POLYNOMIALS[state_bits]
    return state >> 1 ^ (state & 1) * (always >> 1) ^ parity * (chosen >> 1)


@cache
def moves(state_bits: int) -> NDArray[np.uint8]:
    """`move` as a table: uint8 by 2 * state + parity."""
    count = 2 << state_bits
    return np.array([move(number >> 1, number & 1, state_bits) for number in range(count)], np.uint8)


@dataclass(frozen=True, slots=True)
class Prices:
    """What an encoder that counts bits adds to squared distances.

    Attributes:
        values: [steps, lanes] float32: distances are measured to these, in half steps.
        entries: [steps, lanes] int32: where the price list of each value begins.
        prices: flat float32: a price list has 256 prices for symbols -128..127 of quantiser 0, then 256 for
            those of quantiser 1; symbols beyond cost what the outermost do.
    """

    values: NDArray[np.float32]
    entries: NDArray[np.int32]
    prices: NDArray[np.float32]


def search(
    targets: NDArray[np.float32], state_bits: int, prices: Prices | None = None
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """The best path for each lane.

    Of each coset the integer nearest to the target is a candidate; the path with the least sum of squared
    distances and prices wins.

    Args:
        targets: [steps, lanes] values in half steps, magnitudes below 2^21.
        state_bits: a key of `POLYNOMIALS`.
        prices: None for squared distances to the targets alone.

    Returns:
        Symbols j, int32, and quantiser bits q, uint8, both [steps, lanes].
    """
    symbols = np.empty(targets.shape, np.int32)
    quantisers = np.empty(targets.shape, np.uint8)
    if native is not None:
        always, chosen = (polynomial >> 1 for polynomial in POLYNOMIALS[state_bits])
        parts = (prices.values, prices.entries, prices.prices) if prices else (b"", b"", b"")
        shape = (*targets.shape, state_bits, always, chosen)
        native.search(targets, *parts, *shape, symbols, quantisers)
        return symbols, quantisers
    for first in range(0, targets.shape[1], _BLOCK):
        lanes = slice(first, first + _BLOCK)
        block = np.ascontiguousarray(targets[:, lanes])
        costs = np.empty((4, *block.shape), np.float32)
        for coset in range(4):
            integer = nearest(block, np.float32(coset))
            costs[coset] = (
                np.square(block - integer) if prices is None else _priced(prices, lanes, integer, coset)
            )
        chosen_cosets = _best_cosets(costs, state_bits)
        quantiser = chosen_cosets & 1
        integer = nearest(block, chosen_cosets.astype(np.float32))
        symbols[:, lanes] = (integer.astype(np.int32) - quantiser) >> 1
        quantisers[:, lanes] = quantiser
    return symbols, quantisers


def _priced(prices: Prices, lanes: slice, integer: NDArray[np.float32], coset: int) -> NDArray[np.float32]:
    half_way = coset & 1
    entry = ((integer - np.float32(half_way)) * np.float32(0.5)).astype(np.int32)
    np.clip(entry, -128, 127, out=entry)
    entry += prices.entries[:, lanes]
    entry += 128 + 256 * half_way
    cost = prices.values[:, lanes] - integer
    cost *= cost
    cost += prices.prices.take(entry)
    return cost


def nearest(targets: NDArray[np.float32], coset: NDArray[np.float32] | np.float32) -> NDArray[np.float32]:
    """The integers nearest to the targets that are equal to `coset` modulo 4."""
    integer = targets - coset
    integer *= np.float32(0.25)
    np.rint(integer, out=integer)
    integer *= np.float32(4)
    integer += coset
    return integer


def _best_cosets(costs: NDArray[np.float32], state_bits: int) -> NDArray[np.uint8]:
    """The coset of each value on the best path of its lane, from the costs [4, steps, lanes]; uint8."""
    _, steps, lanes = costs.shape
    half = 1 << (state_bits - 1)
    always, chosen = (polynomial >> 1 for polynomial in POLYNOMIALS[state_bits])
    axes = (2,) * (state_bits - 1) + (lanes,)
    flip = _flip(chosen, state_bits)  # r -> r ^ chosen
    place = _flip(always & (half - 1), state_bits)  # r -> (r ^ always) without its highest bit
    cost = np.full((2 * half, lanes), 1e30, np.float32)
    cost[0] = 0
    turned = np.empty((steps, 2, half, lanes), bool)  # whether the branch of odd parity is the better one
    straight, other = np.empty((half, lanes), np.float32), np.empty((half, lanes), np.float32)
    following = np.empty_like(cost)
    low, high = following[:half], following[half:].reshape(axes)[place]
    for step in range(steps):
        # States of quantiser 0 lead to the lower half of the states, those of quantiser 1 to the upper half.
        for quantiser, goal in ((0, low), (1, high)):
            np.add(cost[quantiser::2], costs[quantiser, step], out=straight)
            np.add(cost[quantiser::2], costs[quantiser + 2, step], out=other)
            crossed = other.reshape(axes)[flip]
            np.less(crossed, straight.reshape(axes), out=turned[step, quantiser].reshape(axes))
            np.minimum(crossed, straight.reshape(axes), out=goal.reshape(axes) if quantiser == 0 else goal)
        cost, following = following, cost
        low, high = following[:half], following[half:].reshape(axes)[place]
    return _trace_back(cost, turned, always, chosen)


def _trace_back(
    cost: NDArray[np.float32], turned: NDArray[np.bool_], always: int, chosen: int
) -> NDArray[np.uint8]:
    steps, _, half, lanes = turned.shape
    flat = turned.reshape(-1)
    lane = np.arange(lanes)
    state = np.argmin(cost, axis=0)
    cosets = np.empty((steps, lanes), np.uint8)
    for step in range(steps - 1, -1, -1):
        quantiser = state >= half
        state = np.where(quantiser, state ^ always, state)
        where = (step * 2 + quantiser) * (half * lanes) + state * lanes + lane
        parity = flat[where]
        cosets[step] = quantiser + 2 * parity
        state = 2 * (state ^ parity * chosen) + quantiser
    return cosets


def _flip(mask: int, state_bits: int) -> tuple[slice, ...]:
    """Index that turns position r of (2,) * (state_bits - 1) axes into position r ^ mask, as a view."""
    return tuple(
        slice(None, None, -1) if mask >> (state_bits - 2 - axis) & 1 else slice(None)
        for axis in range(state_bits - 1)
    )
