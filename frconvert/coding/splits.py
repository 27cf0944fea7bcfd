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
_RARE = (11, 14)  # octaves at either end that hold less than one in 2^11 or 2^14 words may become escapes
_ESCAPE_BITS = 40  # more or less, for a word that escapes
_BLOCK = 1 << 16  # words that are counted at a time, to stay in the cache
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


def split_floats(words: NDArray[Any], mantissa: int) -> Split:
    """The cheapest split by exponent and mantissa bits."""
    top = 8 * words.itemsize - 1
    mask = words.dtype.type((1 << top) - 1)
    fine = min(_FINE_BITS, mantissa)
    counts = np.zeros(1 << (top - mantissa + fine), np.int64)
    zeros, low, high = words.size, (1 << top) - 1, 0
    for first in range(0, words.size, _BLOCK):
        block = words[first : first + _BLOCK] & mask
        zeros -= int(np.count_nonzero(block))
        low, high = min(low, int(block.min())), max(high, int(block.max()))
        block >>= mantissa - fine
        counts += np.bincount(block.astype(np.intp), minlength=counts.size)
    counts[0] -= zeros
    choices = [_bare(words.size, low, high)]
    if counts.any():
        choices += [
            _window(counts.reshape(-1, 1 << (fine - bits)).sum(axis=1), bits, mantissa, zeros, rare)
            for bits in range(fine + 1)
            for rare in _RARE
        ]
    return min(choices, key=lambda choice: choice[0])[1]


def _window(counts: NDArray[np.int64], bits: int, mantissa: int, zeros: int, rare: int) -> tuple[int, Split]:
    """Price, in 1/4096 bit, and split if symbols are octaves of 2^bits cells.

    Args:
        counts: of magnitudes in each cell, exact zeros aside.
        bits: of the mantissa in a symbol.
        mantissa: bits of the mantissa.
        zeros: number of exact zeros, which escape unless the symbols reach down to them.
        rare: octaves at either end that hold less than one word in 2^rare escape too.
    """
    below = np.concatenate([[0], np.cumsum(counts.reshape(-1, 1 << bits).sum(axis=1))])
    few = int(below[-1]) >> rare
    low = int(np.flatnonzero(below[1:] > few)[0])
    high = int(np.flatnonzero(below[-1] - below[:-1] > few)[-1]) + 1
    most = 255 >> bits
    if high - low > most:
        low += int(np.argmax(below[low + most : high + 1] - below[low : high + 1 - most]))
        high = low + most
    window = counts[low << bits : high << bits]
    used = np.flatnonzero(window)
    window = window[used[0] : used[-1] + 1].copy()
    lost = int(below[-1] - window.sum())
    base = (low << bits) + int(used[0]) << (mantissa - bits)
    if base == 0:  # as in a tensor with many subnormals
        window[0] += zeros
        zeros = 0
    inside = int(window.sum())
    price = symbols.exact_cost(np.concatenate([[lost + zeros], window]))
    price += (inside * (mantissa - bits) + lost * _ESCAPE_BITS) << 12
    escapes = lost + zeros > 0
    return price, Split(base, mantissa - bits, window.size + escapes, escapes)


def _bare(count: int, low: int, high: int) -> tuple[int, Split]:
    """Price and split without symbols: the fewest low bits that tell magnitudes from low to high apart."""
    shift = (high - low).bit_length()
    while (high - (low >> base_unit(shift) << base_unit(shift))).bit_length() > shift:
        shift += 1
    return count * shift << 12, Split(low >> base_unit(shift) << base_unit(shift), shift, 1)


def split_integers(words: NDArray[Any], may_escape: bool) -> tuple[int, Split]:
    """Price, in 1/4096 bit, and cheapest split of integers, whose high bits need not tell much."""
    base, span = span_of(words)
    shift = max(0, span.bit_length() - 8)
    left = words - words.dtype.type(base)
    counts = np.bincount((left >> shift).astype(np.uint8), minlength=256)
    choices = [
        (words.size * span.bit_length() << 12, Split(base, span.bit_length(), 1)),
        (symbols.exact_cost(counts) + (words.size * shift << 12), Split(base, shift, (span >> shift) + 1)),
    ]
    if shift and may_escape:
        for start in (base, (median(words) - 127) % (1 << 8 * words.itemsize)):
            left = words - words.dtype.type(start)
            small = left[left < 255]
            if 2 * small.size < words.size:  # pieces of escapes must shrink
                continue
            counts = np.bincount(small.astype(np.intp) + 1, minlength=256)
            counts[0] = words.size - small.size
            price = symbols.exact_cost(counts) + (int(counts[0]) * 8 * words.itemsize << 12)
            choices.append((price, Split(start, 0, 256, escapes=True)))
    return min(choices, key=lambda choice: choice[0])


def span_of(words: NDArray[Any]) -> tuple[int, int]:
    """Least word and range, as unsigned or as two's complement integers, whichever range is narrower."""
    signed = words.view(f"<i{words.dtype.itemsize}")
    spans = [(int(view.min()), int(view.max()) - int(view.min())) for view in (signed, words)]
    base, span = min(spans, key=lambda pair: pair[1])
    return base % (1 << 8 * words.dtype.itemsize), span


def median(words: NDArray[Any]) -> int:
    """A word that is in the middle of a sample of them."""
    base = words.dtype.type(span_of(words)[0])
    sample = np.sort(words[:: -(-words.size // 999)] - base)
    return (int(sample[sample.size // 2]) + int(base)) % (1 << 8 * words.dtype.itemsize)


def repeats(words: NDArray[Any], is_float: bool) -> bool:
    """Whether a dictionary is worth a trial: a sample, zeros aside, has few distinct words, far apart."""
    sample = words[:: max(1, words.size >> 12)]
    sample = sample[sample << 1 != 0]
    if sample.size < 64 or words.itemsize == 1 or not (is_float or span_of(words)[1] >> 16):
        return False
    return bool(np.unique(sample).size < min(sample.size // 2, 1 << (8 if words.itemsize == 2 else 16)))
