"""The entropy model of quantised coefficients: tokens, scale classes, integer frequency tables.

A magnitude is split into a token (coded by rANS) and extra bits (stored raw), as in a hybrid-integer code:
magnitudes below 16 are their own token, above that a token holds the bit length and the two bits after the
leading one. Weights are locally Laplacian or Gaussian with a scale that drifts, so the context of a symbol is
the class of a running mean of the square roots of the magnitudes before it in its lane: four classes an
octave of that mean, two an octave of scale. Every class has a table: built in (geometric in the magnitude,
nothing stored) or explicit.

Everything that a decoder derives is integer arithmetic and part of the format.
"""

import itertools
from dataclasses import dataclass
from functools import cache
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from frconvert.coding.lanes import TOTAL

DIRECT = 16  # magnitudes below this are tokens of their own
MAXIMUM_MAGNITUDE = (1 << 24) - 1
TOKENS = DIRECT + 4 * (24 - 4)
CLASSES = 49
_PULL_CAP = 65535


def _token_bounds() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    lows, widths = list(range(DIRECT)), [0] * DIRECT
    for length in range(4, 24):
        lows += [(4 + quarter) << (length - 2) for quarter in range(4)]
        widths += [length - 2] * 4
    return np.array(lows, np.int64), np.array(widths, np.int64)


TOKEN_LOW, TOKEN_EXTRA_BITS = _token_bounds()  # smallest magnitude of each token, number of its extra bits


_TOKEN_OF_SMALL = (np.searchsorted(TOKEN_LOW, np.arange(1 << 12), side="right") - 1).astype(np.uint8)


def tokens_of(magnitudes: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Token of each magnitude, 0 to `MAXIMUM_MAGNITUDE`."""
    tokens = np.take(_TOKEN_OF_SMALL, magnitudes, mode="clip")
    large = np.flatnonzero(magnitudes >= _TOKEN_OF_SMALL.size)
    if large.size:
        tokens[large] = np.searchsorted(TOKEN_LOW, magnitudes[large], side="right") - 1
    return tokens


def _pull_of_token() -> NDArray[np.int32]:
    middle = TOKEN_LOW + ((1 << TOKEN_EXTRA_BITS) - 1) // 2
    return np.array([16 * isqrt(256 * min(int(m), _PULL_CAP)) for m in middle], np.int32)


def _class_of_mean() -> NDArray[np.uint8]:
    mean = np.arange(1 << 16)
    octave = np.zeros(1 << 16, np.int64)
    for exponent in range(4, 16):
        octave[1 << exponent :] = exponent
    classes = 4 * (octave - 4) + ((mean >> np.maximum(octave - 2, 0)) & 3) + 1
    return np.where(mean < 16, 0, classes).astype(np.uint8)


_PULL, _CLASS_OF = _pull_of_token(), _class_of_mean()


@dataclass(frozen=True, slots=True)
class Adaptation:
    """How a lane's class follows its symbols: a += (pull[symbol] - a) >> 4; class = class_of[a].

    Attributes:
        pull: int32 per symbol, 0..65535.
        class_of: uint8 of length 65536.
        start: the state before the first symbol of every lane, 0..65535.
    """

    pull: NDArray[np.int32]
    class_of: NDArray[np.uint8]
    start: int


def adaptation(start: int) -> Adaptation:
    """The context rule of quantised coefficients, its running mean starting at `start` (0..65535)."""
    return Adaptation(_PULL, _CLASS_OF, start)


def normalise(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Frequencies that sum to 4096, near-proportional to `counts`, at least 1 where a count is positive.

    At least two symbols get a frequency, because rANS here cannot code a certainty (frequency 4096).
    """
    counts = counts.astype(np.int64)
    if np.count_nonzero(counts) < 2:
        counts = counts * TOTAL
        spare = [symbol for symbol in (0, 1) if counts[symbol] == 0]
        counts[spare[-1] if counts.any() else spare] = 1
    total = int(counts.sum())
    frequencies = np.where(counts > 0, np.maximum(counts * TOTAL // total, 1), 0)
    excess = int(frequencies.sum()) - TOTAL
    while excess:
        # Give to or take from the largest, a sixteenth of it at a time at most, so that
        # small ones stay exact.
        largest = int(np.argmax(frequencies))
        change = min(excess, max(1, int(frequencies[largest]) // 16)) if excess > 0 else excess
        frequencies[largest] -= change
        excess -= change
    return frequencies


@cache
def built_in_table(context: int, alphabet: int) -> NDArray[np.int64]:
    """Frequencies of the first `alphabet` tokens in a scale class, when no table is stored.

    Magnitudes are geometric with a mean that follows from the class: for sparse symbols the running mean of
    square roots itself, for dense ones 5/4 of its square. Fixed point with 30 fractional bits, truncating.
    """
    if context == 0:
        centre = 8
    else:
        octave, quarter = divmod(context - 1, 4)
        centre = ((2 * (4 + quarter) + 1) << (octave + 4)) >> 3
    mean = max(centre << 8, 5 * centre * centre >> 2)  # of the magnitude, 16 fractional bits
    ratio = (mean << 30) // (mean + (1 << 16))
    tails = [_power(ratio, int(low)) for low in TOKEN_LOW[:alphabet]] + [0]
    weights = np.array([max(a - b, 1) for a, b in itertools.pairwise(tails)], np.int64)
    return normalise(weights)


def _power(ratio: int, exponent: int) -> int:
    """Ratio ** exponent in fixed point with 30 fractional bits, by squaring from the lowest bit up."""
    result = 1 << 30
    while exponent:
        if exponent & 1:
            result = result * ratio >> 30
        ratio = ratio * ratio >> 30
        exponent >>= 1
    return result
