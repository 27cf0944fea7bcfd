"""A sequence of byte symbols as bytes: rANS with a table for each class of symbols.

Symbols come in up to 32 *classes*, and neighbouring classes may share a table. The class of a symbol is
either given, something the decoder knows already, or follows the past of its lane (`lanes`): a running mean
of its symbols, a += ((symbol << (12 - f)) - a) >> rate, whose value a >> 12 is the class, f being
`class_shift(alphabet)`. The last step, of fewer lanes, follows the same rule.

Stream: varint of a bit field, in which bit i says that class i + 1 starts a new table; if it is not zero and
the classes follow the past: a byte for the rate, one for the symbol that the mean starts from; the tables;
the symbols, as in `lanes`, which also carry foreign bytes.

Law: decode(encode(symbols)) == symbols, and the carried bytes come back.
"""

import math

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import lanes
from frconvert.coding.bits import ByteReader, pack_table, unpack_table, varint
from frconvert.coding.lanes import TOTAL
from frconvert.coding.native import native
from frconvert.errors import DamagedError

CLASSES = 32
_RATES = (1, 2, 4)
_MAXIMUM_RATE = 8
_SAMPLE_LANES, _SAMPLE_STEPS, _WARM_UP_STEPS = 192, 96, 16
_HEAD_BITS = 64  # of a stream, tables aside: class runs, number of words, what a state wastes


def class_shift(alphabet: int) -> int:
    """By how many bits a symbol below `alphabet` (1..256) must be shifted to become a class."""
    return max(0, (alphabet - 1).bit_length() - 5)


def encode(
    symbols: NDArray[np.uint8],
    alphabet: int,
    carried: bytes | memoryview,
    classes: NDArray[np.uint8] | None = None,
) -> bytes:
    """Stream of at least one symbol, all below `alphabet`.

    Args:
        symbols: [count].
        alphabet: 1..256, known to the decoder.
        carried: foreign bytes: the first `lanes.capacity(count)`, with zeros after them if there are fewer.
        classes: [count] given classes below 32, or None for those of the running mean.
    """
    grid = lanes.to_grid(symbols)
    head = b""
    if classes is None:
        shift = 12 - class_shift(alphabet)
        start = int(grid[0].sum(dtype=np.int64)) // grid.shape[1]
        rate = _best_rate(grid[: symbols.size // grid.shape[1]], shift, start)
        class_grid = _trace(grid, shift, start, np.array([rate], np.int32))[:, 0]
        head = bytes([rate, start])
    else:
        class_grid = lanes.to_grid(classes)
    groups = _group(_histogram(grid, class_grid, symbols.size))
    starts = sum(1 << (first - 1) for first, _ in groups[1:])
    tables = np.stack([_normalise(counts) for _, counts in groups])
    table_of = np.zeros(CLASSES, np.intp)
    for first, _ in groups[1:]:
        table_of[first:] += 1
    parts = [varint(starts), head if starts else b"", *(pack_table(table) for table in tables)]
    room = lanes.capacity(symbols.size)
    foreign = bytes(carried[:room]).ljust(room, b"\0")
    return b"".join([*parts, lanes.encode(grid, class_grid, table_of << 8, tables, symbols.size, foreign)])


def decode(
    reader: ByteReader, count: int, alphabet: int, classes: NDArray[np.uint8] | None = None
) -> tuple[NDArray[np.uint8], bytes]:
    """The `count` >= 1 symbols of a stream that begins where `reader` stands, and the carried bytes.

    Raises:
        DamagedError: the stream is cut off, or nothing that `encode` makes.
    """
    starts = reader.varint()
    if starts >> (CLASSES - 1):
        raise DamagedError(f"tables for more than {CLASSES} classes")
    rate, start = reader.take(2) if starts and classes is None else (1, 0)
    if not 1 <= rate <= _MAXIMUM_RATE or start >= alphabet:
        raise DamagedError("the running mean's parameters are out of range")
    tables = np.stack([unpack_table(reader, alphabet) for _ in range(starts.bit_count() + 1)])
    table_of = np.cumsum([0] + [starts >> i & 1 for i in range(CLASSES - 1)])
    row_of = table_of.astype(np.uint16)
    decoder = lanes.Decoder(reader, count, tables)
    if not starts:
        decoder.run_fixed()
    elif classes is None:
        shift = 12 - class_shift(alphabet)
        pull = np.arange(256, dtype=np.int32) << np.int32(shift)
        decoder.run_running(lanes.Mean(pull, row_of, 12, rate, start << shift))
    else:
        decoder.run_given(row_of, classes)
    return decoder.finish()


def cost(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bits, in 1/4096, that symbols with these counts take at best, table included: [..., n] -> [...]."""
    total = counts.sum(axis=-1)
    content = total * _log2(total) - (counts * _log2(counts)).sum(axis=-1)
    return np.asarray(
        np.where(total > 0, content + _table_cost(counts * TOTAL // np.maximum(total, 1)[..., None]), 0)
    )


def exact_cost(counts: NDArray[np.int64]) -> int:
    """Bits, in 1/4096, of a stream with one table for symbols with these counts, [n]."""
    frequencies = _normalise(counts)
    return (_HEAD_BITS << 12) + int(
        (counts * (12 << 12) - counts * _log2(frequencies)).sum() + _table_cost(frequencies)
    )


def _table_cost(frequencies: NDArray[np.int64]) -> NDArray[np.int64]:
    used = frequencies > 0
    span = used.shape[-1] - used.argmax(axis=-1) - used[..., ::-1].argmax(axis=-1)
    return np.asarray(16 + 4 * span + (_log2(frequencies) >> 12).sum(axis=-1) << 12)


_LOG2_OF_FRACTION = np.array([round(4096 * math.log2(1 + i / 4096)) for i in range(4096)], np.int64)


def _log2(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Logarithm with 12 fractional bits, of 0 as of 1; from a table, so that every machine agrees."""
    fraction, exponent = np.frexp(np.maximum(values, 1).astype(np.float64))
    cell = (fraction * 8192).astype(np.int64) - 4096
    return (exponent.astype(np.int64) - 1 << 12) + _LOG2_OF_FRACTION[cell]


def _normalise(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Frequencies of 1 to 4095 where counts are positive, that sum to 4096: at least two symbols have one."""
    counts = counts.copy()
    if np.count_nonzero(counts) < 2:
        counts[0 if counts[0] == 0 else 1] = 1
        return _normalise(counts)
    total = int(counts.sum())
    used = counts > 0
    frequencies = np.where(used, np.clip((counts * TOTAL + total // 2) // total, 1, TOTAL - 1), 0)
    while excess := int(frequencies.sum()) - TOTAL:
        # One up or down where it gains most or costs least; divisions round alike on every machine.
        worth = counts / (frequencies - 0.5) if excess > 0 else -counts / (frequencies + 0.5)
        able = np.flatnonzero(used & (frequencies > 1) if excess > 0 else used & (frequencies < TOTAL - 1))
        chosen = able[np.argsort(worth[able], kind="stable")[: abs(excess)]]
        frequencies[chosen] -= 1 if excess > 0 else -1
    return frequencies


def _group(histogram: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """The cheapest division of classes 0..31 into runs with a table each: first class and counts of each."""
    # Classes that hold little join the next one before anything is tried.
    filled = np.cumsum(histogram.sum(axis=1))
    bounds = [0]
    for number in range(1, CLASSES):
        if filled[number - 1] - (filled[bounds[-1] - 1] if bounds[-1] else 0) > filled[-1] >> 8:
            bounds.append(number)
    columns = np.flatnonzero(histogram.any(axis=0))
    below = np.zeros((len(bounds) + 1, columns[-1] + 1 - columns[0]), np.int64)
    below[1:] = np.cumsum(np.add.reduceat(histogram[:, columns[0] : columns[-1] + 1], bounds), axis=0)
    best, origin = [0], [0]
    for end in range(1, len(below)):
        totals = [a + int(b) for a, b in zip(best, cost(below[end] - below[:end]), strict=True)]
        origin.append(min(range(end), key=totals.__getitem__))
        best.append(totals[origin[-1]])
    groups: list[tuple[int, NDArray[np.int64]]] = []
    end, stop = len(below) - 1, CLASSES
    while end:
        end, first = origin[end], bounds[origin[end]]
        groups.append((first, histogram[first:stop].sum(axis=0)))
        stop = first
    return groups[::-1]


def _trace(grid: NDArray[np.uint8], shift: int, start: int, rates: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Classes of all symbols for each rate: [steps, rates, lanes]."""
    steps, lanes = grid.shape
    classes = np.empty((steps, rates.size, lanes), np.uint8)
    if native is not None and rates.size == 1:
        native.trace(grid, lanes, shift, start, int(rates[0]), classes)
        return classes
    mean = np.full((rates.size, lanes), start << shift, np.int32)
    pull, change, rate = np.empty(lanes, np.int32), np.empty_like(mean), rates[:, None]
    for step in range(steps):
        np.right_shift(mean, 12, out=classes[step], casting="unsafe")
        pull[:] = grid[step]
        pull <<= shift
        np.subtract(pull, mean, out=change)
        change >>= rate
        mean += change
    return classes


def _best_rate(grid: NDArray[np.uint8], shift: int, start: int) -> int:
    """The rate at which the classes of some lanes tell most about their symbols."""
    sample = np.ascontiguousarray(grid[:_SAMPLE_STEPS, :: -(-grid.shape[1] // _SAMPLE_LANES)])
    classes = _trace(sample, shift, start, np.array(_RATES, np.int32))
    warm = slice(_WARM_UP_STEPS if len(sample) > 2 * _WARM_UP_STEPS else 0, None)
    costs = [int(cost(_histogram(sample[warm], x[warm], sample.size)).sum()) for x in classes.swapaxes(0, 1)]
    return _RATES[costs.index(min(costs))]


def _histogram(grid: NDArray[np.uint8], classes: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """How often each class has each symbol, [32, 256], among the first `count` cells."""
    counts = np.zeros(CLASSES * 256, np.int64)
    if native is not None:
        native.histogram(
            np.ascontiguousarray(classes), np.ascontiguousarray(grid).reshape(-1)[:count], counts
        )
        return counts.reshape(CLASSES, 256)
    rows = max(1, (1 << 16) // grid.shape[1])
    for first in range(0, len(grid), rows):
        block = classes[first : first + rows].astype(np.intp) << 8
        block |= grid[first : first + rows]
        counts += np.bincount(block.reshape(-1)[: count - first * grid.shape[1]], minlength=counts.size)
    return counts.reshape(CLASSES, 256)
