"""Integer frequency tables of quantised coefficients whose scale is known: one per scale class and shape.

A coefficient's *class* c says how large it is expected to be: the mean magnitude of its symbols is about
2^((c - 16) / 4), four classes an octave. Its tensor's *shape* says how heavy the tails are: a mixture of up
to three Gaussians that approximates a generalised Gaussian with exponent 2 (Gaussian) down to 0.6 (beyond
Laplacian, whose exponent is 1). Class and shape together give a frequency table; nothing of it is stored.

From class 32 on symbols lose their low bits, one more every octave; these are stored raw, because within so
narrow a bin a density is flat.

Rows of `frequencies`: a class below `first` (the first class that the trellis serves) has one row, symmetric
about the symbol 0; a class from there to 31 has two, for the quantiser with points at integers and for the
one with points half-way between them (symmetric about -1/2); classes from 32 on share four rows, symmetric
about -1/2. A symbol s stands for the integer s - 128; the symbols 0 and 255 are escapes for an even and an
odd integer that is out of the table's range.

Everything here is integer arithmetic and part of the format, except `bits` and `score`, which serve encoders.
Law: every row sums to 4096 and gives each symbol of its range a frequency of at least 1.
"""

from functools import cache
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from frconvert.coding.bits import ByteReader, pack_table, unpack_table
from frconvert.coding.lanes import TOTAL
from frconvert.coding.portable import logarithm
from frconvert.errors import DamagedError

ALPHABET = 256
ZERO = 128  # symbol of the integer 0
CLASSES = 112
UNIT_CLASS = 16  # class whose mean magnitude is 1
FIRST_SERVED = 9  # the first class that the trellis serves
WIDE_CLASS = 32  # from here on low bits are raw
_TOP_CLASS = 28  # the classes of the octave 28..31 stand for all wider ones
_REACH = 126  # largest magnitude with a symbol of its own

# Weights and standard deviations of the Gaussians of each shape, both in 1/256, for a mean magnitude of 1.
SHAPES: tuple[tuple[tuple[int, int], ...], ...] = (
    ((256, 321),),
    ((17, 125), (125, 277), (114, 398)),
    ((34, 114), (143, 284), (79, 476)),
    ((45, 103), (146, 288), (65, 547)),
    ((51, 97), (144, 288), (61, 592)),
    ((56, 90), (143, 288), (56, 640)),
    ((63, 76), (139, 281), (53, 723)),
    ((69, 59), (134, 261), (53, 808)),
)

_GRID = 64  # grid cells for one mean magnitude
_CELLS = 16 * _GRID  # the density ends at 16 mean magnitudes
_LOG2_E = 94548  # 16 fractional bits


def _roots_of_half() -> list[int]:
    """2^(-1/2), 2^(-1/4), ... 2^(-1/65536), 30 fractional bits, each the square root of the one before."""
    roots, value = [], 1 << 29
    for _ in range(16):
        value = isqrt(value << 30)
        roots.append(value)
    return roots


_ROOTS = _roots_of_half()


def _power_of_half(exponent: NDArray[np.int64]) -> NDArray[np.int64]:
    """2^-e with 30 fractional bits, for e with 16 fractional bits; below 2^-30 it is 0."""
    result = np.full(exponent.shape, 1 << 30, np.int64)
    for bit, root in enumerate(_ROOTS):
        set_bits = (exponent >> (15 - bit) & 1).astype(bool)
        result[set_bits] = result[set_bits] * root >> 30
    shifted: NDArray[np.int64] = result >> np.minimum(exponent >> 16, 31)
    return shifted


@cache
def density(shape: int) -> NDArray[np.int64]:
    """Density of a shape in the middle of each of 1024 cells from 0 to 16 mean magnitudes, int64."""
    odd = 2 * np.arange(_CELLS, dtype=np.int64) + 1
    total = np.zeros(_CELLS, np.int64)
    for weight, deviation in SHAPES[shape]:
        # ((i + 1/2) / 64)^2 / (2 (s / 256)^2), times log2(e)
        exponent = odd * odd * (2 * _LOG2_E) // (deviation * deviation)
        total += weight * _power_of_half(exponent) // deviation
    return total


@cache
def _distribution(shape: int) -> NDArray[np.int64]:
    """Sum of the density below each cell border: int64 of length 1025."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(density(shape))])


def _below(shape: int, position: NDArray[np.int64]) -> NDArray[np.int64]:
    """The distribution at positions in cells with 16 fractional bits, linear within a cell."""
    cumulated = _distribution(shape)
    position = np.minimum(position, (_CELLS << 16) - 1)
    cell = position >> 16
    low = cumulated[cell]
    below: NDArray[np.int64] = low + ((cumulated[cell + 1] - low) * (position & 0xFFFF) >> 16)
    return below


def cells_per_symbol(scale_class: int) -> int:
    """Cells that one symbol spans in a class below 32, 16 fractional bits: 64 * 2^((16 - class) / 4)."""
    octave, quarter = divmod(UNIT_CLASS - scale_class, 4)
    # 2^(quarter / 4) with 30 fractional bits
    root = (1 << 30, isqrt(isqrt(2 << 60) << 30), isqrt(2 << 60), isqrt(isqrt(8 << 60) << 30))[quarter]
    return root << (octave + 4) >> 12 if octave >= -4 else root >> (12 - octave - 4)


@cache
def frequencies(shape: int, scale_class: int, *, half_way: bool) -> NDArray[np.int64]:
    """One row, int64 of length 256; of a class from 32 on, that of its quarter octave in 28..31."""
    if scale_class >= WIDE_CLASS:
        scale_class, half_way = _TOP_CLASS + scale_class % 4, True
    span = cells_per_symbol(scale_class)
    # Borders of the bins on the positive side: 1/2, 3/2, ... or 1, 2, ...; the first bin starts at 0. They
    # are moved outwards, as an encoder that counts bits prefers small symbols, the more the fewer bits there
    # are.
    border = span * np.arange(1, _REACH + 2, dtype=np.int64)
    outwards = min((span >> 8) ** 2 >> 10, span >> 1)
    below = _below(shape, border + outwards - (0 if half_way else span >> 1))
    total = int(_distribution(shape)[-1])
    mass = np.diff(below, prepend=0)  # of the bins 0, 1, ... _REACH on the positive side
    share = (mass * TOTAL + total) // (2 * total)
    reach = max(int(np.count_nonzero(share)) - 1, 1)
    side = np.maximum(share[1 : reach + 1], 1)  # each of the bins 1..reach, on either side
    escape = max(int((total - int(below[reach])) * TOTAL + total) // (2 * total), 1)
    row = np.zeros(ALPHABET, np.int64)
    row[0] = row[255] = escape
    if half_way:
        row[ZERO + 1 : ZERO + reach + 1] = side
        row[ZERO - 1 - reach : ZERO - 1] = side[::-1]
        row[ZERO] = row[ZERO - 1] = TOTAL // 2 - escape - int(side.sum())
    else:
        row[ZERO + 1 : ZERO + reach + 1] = side
        row[ZERO - reach : ZERO] = side[::-1]
        row[ZERO] = TOTAL - 2 * escape - 2 * int(side.sum())
    return row


def fold(counts: NDArray[np.int64], *, half_way: bool) -> NDArray[np.int64]:
    """Counts of [escapes, then magnitudes 0, 1, ... 126] from those of the symbols: int64 of length 128."""
    folded = np.zeros(_REACH + 2, np.int64)
    folded[0] = counts[0] + counts[255]
    folded[1:] = counts[ZERO : ZERO + _REACH + 1]
    if half_way:
        folded[1:] += counts[ZERO - 1 - _REACH : ZERO][::-1]
    else:
        folded[0] += counts[ZERO - 1 - _REACH]  # it has no mirror image, so no table has it
        folded[2:] += counts[ZERO - _REACH : ZERO][::-1]
    return folded


def symmetric(folded: NDArray[np.int64], *, half_way: bool) -> NDArray[np.int64]:
    """The row whose frequencies are near-proportional to folded counts."""
    reach = max(int(np.flatnonzero(folded)[-1]), 1)
    total = int(folded.sum())
    share = (folded[: reach + 1] * TOTAL + total) // (2 * total)
    share = np.maximum(share, 1)  # of a symbol and of its mirror image
    if half_way:
        _take_excess(share, int(share.sum()) - TOTAL // 2)
    else:
        # The symbol 0 has no mirror image: it takes what the others leave.
        middle = TOTAL - 2 * int(share.sum() - share[1])
        if middle < 1:
            others = np.delete(share, 1)
            _take_excess(others, int(others.sum()) - (TOTAL // 2 - 1))
            share = np.insert(others, 1, 1)
            middle = TOTAL - 2 * int(others.sum())
        share[1] = middle
    return unfold(share, half_way=half_way)


def _take_excess(share: NDArray[np.int64], excess: int) -> None:
    while excess:
        largest = int(np.argmax(share))
        change = min(excess, max(1, int(share[largest]) // 16)) if excess > 0 else excess
        share[largest] -= change
        excess -= change


def unfold(share: NDArray[np.int64], *, half_way: bool) -> NDArray[np.int64]:
    """A row from the frequencies of [either escape, then either symbol of magnitude 0, 1, ...]."""
    row = np.zeros(ALPHABET, np.int64)
    row[0] = row[255] = share[0]
    side = share[1:]
    row[ZERO : ZERO + side.size] = side
    if half_way:
        row[ZERO - side.size : ZERO] = side[::-1]
    else:
        row[ZERO - side.size + 1 : ZERO] = side[:0:-1]
    return row


def pack(row: NDArray[np.int64]) -> bytes:
    """A symmetric row as bytes, half of it."""
    return pack_table(np.concatenate([row[:1], row[ZERO : ZERO + _REACH + 1]]))


def unpack(reader: ByteReader, *, half_way: bool) -> NDArray[np.int64]:
    """Inverse of `pack`.

    Raises:
        DamagedError: the row does not sum to 4096 or lacks an escape.
    """
    share = unpack_table(reader, _REACH + 2)
    row = unfold(share[: int(np.flatnonzero(share)[-1]) + 1], half_way=half_way) if share.any() else share
    if row.size != ALPHABET or row.sum() != TOTAL or not row[0]:
        raise DamagedError("a frequency table does not sum to 4096")
    return row


def row_count(first: int) -> int:
    """Rows of one shape when the trellis serves the classes from `first` (at most 32) on."""
    return first + 2 * (WIDE_CLASS - first) + 4


def rows_of_shape(shape: int, first: int) -> NDArray[np.int64]:
    """All rows of a shape, [row_count(first), 256]."""
    rows = [frequencies(shape, number, half_way=False) for number in range(first)]
    for number in range(first, WIDE_CLASS):
        rows += [frequencies(shape, number, half_way=False), frequencies(shape, number, half_way=True)]
    rows += [frequencies(shape, WIDE_CLASS + quarter, half_way=True) for quarter in range(4)]
    return np.stack(rows)


@cache
def row_of_class(first: int) -> NDArray[np.uint16]:
    """Row of each class (of its integer points where it has two), uint16 of length 112."""
    number = np.arange(CLASSES)
    narrow = np.where(number < first, number, 2 * number - first)
    return np.where(number < WIDE_CLASS, narrow, row_count(first) - 4 + number % 4).astype(np.uint16)


RAW_BITS = np.maximum((np.arange(CLASSES) - _TOP_CLASS) // 4, 0).astype(np.uint8)  # of each class


@cache
def bits(shape: int, scale_class: int, *, half_way: bool) -> NDArray[np.float64]:
    """Bits of each symbol, infinite without a frequency; rounded so that no platform decides otherwise."""
    row = frequencies(shape, scale_class, half_way=half_way)
    with np.errstate(divide="ignore"):
        return logarithm(TOTAL / row)


def sample(shape: int, count: int) -> NDArray[np.float64]:
    """So many values that are spread as a shape is, in mean magnitudes, in an order without order."""
    mixed = np.arange(count, dtype=np.uint32) * np.uint32(2654435761)
    mixed = (mixed ^ mixed >> np.uint32(15)) * np.uint32(2246822519)
    order = np.argsort(mixed ^ mixed >> np.uint32(13), kind="stable")
    share = (2 * order + 1) / count - 1  # evenly over -1..1
    cumulated = _distribution(shape)
    places = np.interp(np.abs(share) * cumulated[-1], cumulated, np.arange(_CELLS + 1))
    values: NDArray[np.float64] = np.copysign(places / _GRID, share)
    return values


@cache
def score(shape: int) -> NDArray[np.float32]:
    """-d ln(density) / dx of a shape at 0, 1/16, 2/16, ... mean magnitudes: float32 of length 256."""
    cells = np.maximum(density(shape), 1)
    middle = np.arange(256) * (_GRID // 16)
    before, after = cells[np.maximum(middle - 2, 0)], cells[np.minimum(middle + 1, _CELLS - 1)]
    slope = (before - after) / ((before + after) / 2) / (3 / _GRID)
    slope[0] = slope[1] / 2
    # Where the density has run out of digits the tail goes on as steep as it was.
    known = int(np.count_nonzero(cells[middle] > 64))
    slope[known:] = slope[known - 1]
    return slope.astype(np.float32)
