"""How the words of a lossless piece are cut into a symbol and the low bits: the encoder's choices.

A word of w bits, less `base` and modulo 2^w, has its bits from `shift` on coded as a symbol and those below
stored as they are; words of floats have lost their sign before that. So a float's symbol is its exponent and
up to three bits of its mantissa. Any split is valid; those found here are short.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import symbols

_FINE_BITS = 3  # of the mantissa may join the exponent; a fourth gains nothing
_RARE = 14  # octaves at either end that hold less than one in 2^14 words become escapes
_UNIT = 4  # a float's base is a multiple of 2^(shift - 4), so that it takes few bytes


@dataclass(frozen=True, slots=True)
class Split:
    """A way to cut words.

    Attributes:
        base: subtracted from words.
        shift: the symbol of a word is (word - base) >> shift, plus 1 if there are escapes.
        alphabet: symbols are below this, 1..256; 1 means that there is nothing to code.
        escapes: whether symbol 0 stands for words whose own symbol is out of range.
    """

    base: int
    shift: int
    alphabet: int
    escapes: bool = False


def base_unit(shift: int) -> int:
    """A float's base is a multiple of 2 to this power."""
    return max(0, shift - _UNIT)


def split_magnitudes(magnitudes: NDArray[Any], mantissa: int) -> Split:
    """The cheapest split by exponent and mantissa bits, for words of floats without their sign."""
    word_bits = 8 * magnitudes.dtype.itemsize
    fine = min(_FINE_BITS, mantissa)
    cells = 1 << (word_bits - 1 - mantissa + fine)
    counts = np.bincount((magnitudes >> (mantissa - fine)).astype(np.uint16), minlength=cells)
    zeros = magnitudes.size - int(np.count_nonzero(magnitudes))
    counts[0] -= zeros
    octaves = counts.reshape(-1, 1 << fine).sum(axis=1)
    if not octaves.any():
        return Split(0, 0, 1)
    below = np.concatenate([[0], np.cumsum(octaves)])
    rare = int(below[-1]) >> _RARE
    low = int(np.flatnonzero(below[1:] > rare)[0])
    high = int(np.flatnonzero(below[-1] - below[:-1] > rare)[-1]) + 1
    choices = []
    for bits in range(fine + 1):
        most = 255 >> bits
        first = low
        if high - low > most:
            first = low + int(np.argmax(below[low + most : high + 1] - below[low : high + 1 - most]))
        window = counts.reshape(-1, 1 << (fine - bits)).sum(axis=1)[first << bits : min(high, first + most) << bits]
        used = np.flatnonzero(window)
        window = window[used[0] : used[-1] + 1]
        lost = magnitudes.size - int(window.sum())
        price = int(symbols.cost(np.concatenate([[lost], window])))
        price += 4096 * (int(window.sum()) * (mantissa - bits) + (lost - zeros) * (word_bits - 1))
        base = (first << bits) + int(used[0]) << (mantissa - bits)
        choices.append((price, Split(base, mantissa - bits, window.size + (lost > 0), lost > 0)))
    return min(choices, key=lambda choice: choice[0])[1]


def bare_split_magnitudes(magnitudes: NDArray[Any]) -> Split:
    """A split without symbols: the fewest low bits that tell the words apart."""
    low, high = int(magnitudes.min()), int(magnitudes.max())
    shift = (high - low).bit_length()
    while (high - (low >> base_unit(shift) << base_unit(shift))).bit_length() > shift:
        shift += 1
    return Split(low >> base_unit(shift) << base_unit(shift), shift, 1)


def split_integers(words: NDArray[Any], may_escape: bool) -> list[Split]:
    """Splits worth trying for words of integers: all in range, no symbols, or the lowest 255 values in range."""
    base, span = span_of(words)
    shift = max(0, span.bit_length() - 8)
    splits = [Split(base, shift, (span >> shift) + 1), Split(base, span.bit_length(), 1)]
    if shift and may_escape and 2 * int(np.count_nonzero(words - words.dtype.type(base) < 255)) >= words.size:
        splits.append(Split(base, 0, 256, escapes=True))
    return splits


def span_of(words: NDArray[Any]) -> tuple[int, int]:
    """Least word and range, as unsigned or as two's complement integers, whichever range is narrower."""
    signed = words.view(f"<i{words.dtype.itemsize}")
    spans = [(int(view.min()), int(view.max()) - int(view.min())) for view in (signed, words)]
    base, span = min(spans, key=lambda pair: pair[1])
    return base % (1 << 8 * words.dtype.itemsize), span


def estimate(words: NDArray[Any], split: Split) -> int:
    """Bits, in 1/4096, that integers take when cut like this."""
    inside = words - words.dtype.type(split.base)
    if split.escapes:
        inside = inside[inside < 255]
    lost = words.size - inside.size
    counts = np.bincount((inside >> split.shift).astype(np.uint8), minlength=256)
    price = int(symbols.cost(np.concatenate([[lost], counts]))) if split.alphabet > 1 else 0
    return price + 4096 * (inside.size * split.shift + lost * 8 * words.dtype.itemsize)


def repeats(words: NDArray[Any]) -> bool:
    """Whether less than half of a sample of the words that are not zero are distinct."""
    sample = words[:: max(1, words.size >> 12)]
    sample = sample[sample << 1 != 0]
    return words.itemsize > 1 and sample.size >= 64 and 2 * np.unique(sample).size < sample.size
