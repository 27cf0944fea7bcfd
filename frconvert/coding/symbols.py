"""A sequence of byte symbols as bytes: interleaved-lane rANS with one of several tables for each symbol.

Coder: states of 32 bits in [2^16, 2^32), probabilities of 12 bits, renormalisation by 16-bit words that all
lanes share. `lane_count(count)` lanes of `steps = count // lanes` symbols each take the sequence one after
another; the symbols left over (fewer than lanes) make one more step of the first lanes. A step codes its
lanes in order. Every lane's last state (of the decoder) carries 16 bits of foreign data, and of the first
states high zeros are left out, so that a lane costs four or five bits instead of 24.

Which table: symbols come in up to 32 *classes*, and neighbouring classes may share a table. The class of a
symbol is either given (something the decoder knows already) or follows the lane's own past: a running mean of
its symbols, a += ((symbol << (12 - f)) - a) >> rate, whose value a >> 12 is the class, f being
`class_shift(alphabet)`.

Stream: varint of a bit field, in which bit i says that class i + 1 starts a new table; if it is not zero and
the classes follow the past: a byte for the rate, one for the symbol that the mean starts from; the tables;
varint number of words; the states, see `_pack_states`; the words in the order they are read.

Law: decode(encode(symbols)) == symbols, and the carried bytes come back.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import fields
from frconvert.coding.bits import ByteReader, pack_table, unpack_table, varint
from frconvert.errors import DamagedError

TOTAL = 4096  # the frequencies of a table sum to this
CLASSES = 32
_LOWER_BOUND = 1 << 16
_SYMBOLS_PER_LANE = 256
_MOST_LANES = 4032  # no power of two: the cells of a column would compete for few places in the cache
_RATES = (1, 2, 4)
_MAXIMUM_RATE = 8
_SAMPLE_LANES, _SAMPLE_STEPS, _WARM_UP_STEPS = 192, 96, 16
_TILE = 64
_HEAD_BITS = 64  # of a stream, tables aside: class runs, number of words, what a state wastes


def lane_count(count: int) -> int:
    """Number of lanes for that many symbols."""
    return min(max(1, count // _SYMBOLS_PER_LANE), _MOST_LANES)


def capacity(count: int) -> int:
    """Number of foreign bytes that a stream of so many symbols carries."""
    return 2 * lane_count(count)


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
        carried: foreign bytes, the first `capacity(count)` of which are carried, zeros if there are fewer.
        classes: [count] given classes below 32, or None for those of the running mean.
    """
    lanes = lane_count(symbols.size)
    grid = _to_grid(symbols, lanes)
    head = b""
    if classes is None:
        shift = 12 - class_shift(alphabet)
        start = int(grid[0].sum(dtype=np.int64)) // lanes  # the last lanes may lack the last step, never this
        rate = _best_rate(grid[: symbols.size // lanes], shift, start)
        class_grid = _trace(grid, shift, start, np.array([rate], np.int32))[:, 0]
        head = bytes([rate, start])
    else:
        class_grid = _to_grid(classes, lanes)
    groups = _group(_histogram(grid, class_grid, symbols.size))
    starts = sum(1 << (first - 1) for first, _ in groups[1:])
    tables = np.stack([_normalise(counts) for _, counts in groups])
    table_of = np.zeros(CLASSES, np.uint16)
    for first, _ in groups[1:]:
        table_of[first:] += 1
    parts = [varint(starts), head if starts else b"", *(pack_table(table) for table in tables)]
    rows = grid if len(tables) == 1 else (table_of << 8).take(class_grid) | grid
    carried = bytes(carried[: 2 * lanes]).ljust(2 * lanes, b"\0")
    return b"".join([*parts, _encode_words(rows, symbols.size, tables, carried)])


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
    table_of = np.cumsum([0] + [starts >> i & 1 for i in range(CLASSES - 1)]).astype(np.uint32)
    lanes = lane_count(count)
    decoder = _Decoder(_lookup(tables), lanes, reader)
    grid = np.empty((-(-count // lanes), lanes), np.uint8)
    if not starts:
        decoder.run_fixed(grid, count)
    elif classes is None:
        decoder.run_running(grid, count, table_of << 12, _Mean(12 - class_shift(alphabet), rate, start))
    else:
        decoder.run_given(grid, count, table_of << 12, _to_grid(classes, lanes))
    return _from_grid(grid, count), decoder.finish()


def cost(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bits, in 1/4096, that symbols with these counts take at best, table included: [..., n] -> [...]."""
    total = counts.sum(axis=-1)
    content = total * _log2(total) - (counts * _log2(counts)).sum(axis=-1)
    return np.asarray(np.where(total > 0, content + _table_cost(counts * TOTAL // np.maximum(total, 1)[..., None]), 0))


def exact_cost(counts: NDArray[np.int64]) -> int:
    """Bits, in 1/4096, of a stream with one table for symbols with these counts, [n]."""
    frequencies = _normalise(counts)
    return (_HEAD_BITS << 12) + int((counts * (12 << 12) - counts * _log2(frequencies)).sum() + _table_cost(frequencies))


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


def _to_grid(symbols: NDArray[np.uint8], lanes: int) -> NDArray[np.uint8]:
    """[count] -> [steps, lanes]; the lanes that the last step lacks hold zeros."""
    steps, left = divmod(symbols.size, lanes)
    grid = np.zeros((steps + (left > 0), lanes), np.uint8)
    grid[:steps] = symbols[: steps * lanes].reshape(lanes, steps).T
    grid[steps:, :left] = symbols[steps * lanes :]
    return grid


def _from_grid(grid: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    lanes = grid.shape[1]
    steps, left = divmod(count, lanes)
    symbols = np.empty(count, np.uint8)
    whole = symbols[: steps * lanes].reshape(lanes, steps)
    for first in range(0, lanes, _TILE):  # transposed in pieces that stay in the cache
        whole[first : first + _TILE] = grid[:steps, first : first + _TILE].T
    symbols[steps * lanes :] = grid[steps:, :left].reshape(-1)
    return symbols


def _trace(grid: NDArray[np.uint8], shift: int, start: int, rates: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Classes of all symbols for each rate: [steps, rates, lanes]."""
    steps, lanes = grid.shape
    classes = np.empty((steps, rates.size, lanes), np.uint8)
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
    rows = max(1, (1 << 16) // grid.shape[1])
    for first in range(0, len(grid), rows):
        block = classes[first : first + rows].astype(np.intp) << 8
        block |= grid[first : first + rows]
        counts += np.bincount(block.reshape(-1)[: count - first * grid.shape[1]], minlength=counts.size)
    return counts.reshape(CLASSES, 256)


def _encode_words(
    rows: NDArray[np.unsignedinteger[Any]], count: int, tables: NDArray[np.int64], carried: bytes
) -> bytes:
    """Number of words, states, words.

    States are float64 here, which holds them exactly and divides faster than integers.

    Args:
        rows: [steps, lanes] of symbol + 256 * table.
        count: number of symbols.
        tables: [tables, 256] frequencies.
        carried: 2 bytes a lane.
    """
    lanes = rows.shape[1]
    frequency = tables.astype(np.float64).reshape(-1)
    begin = (np.cumsum(tables, axis=1) - tables).astype(np.float64).reshape(-1)
    state = np.frombuffer(carried, "<u2").astype(np.float64) + _LOWER_BOUND
    words: list[NDArray[np.uint16]] = []
    frequencies, limits, high = np.empty(lanes), np.empty(lanes), np.empty(lanes, bool)
    for step in range(len(rows) - 1, -1, -1):
        width = min(lanes, count - step * lanes)
        row, x, f, limit, full = rows[step, :width], state[:width], frequencies[:width], limits[:width], high[:width]
        frequency.take(row, out=f, mode="clip")
        np.multiply(f, 1 << 20, out=limit)
        np.greater_equal(x, limit, out=full)
        spilling = full.nonzero()[0]
        spill = x.take(spilling).astype(np.uint32)
        words.append(spill.astype(np.uint16))
        x[spilling] = spill >> 16
        # (x // f) * 4096 + x % f + begin, with one division
        np.divide(x, f, out=limit)
        np.floor(limit, out=limit)
        np.subtract(TOTAL, f, out=f)
        limit *= f
        x += limit
        begin.take(row, out=f, mode="clip")
        x += f
    stream = np.concatenate(words[::-1])
    return b"".join([varint(stream.size), *_pack_states(state.astype(np.uint32)), stream.astype("<u2").tobytes()])


def _pack_states(states: NDArray[np.uint32]) -> list[NDArray[Any]]:
    """Low halves; how many groups of 4 bits the high half takes, less 1; those bits, shortest halves first."""
    high = (states >> 16).astype(np.uint16)
    groups = np.searchsorted([1 << 4, 1 << 8, 1 << 12], high, side="right").astype(np.uint8)
    parts = [states.astype("<u2"), *fields.pack(groups, 2)]
    for group in range(4):
        parts += fields.pack(high[groups == group], 4 * group + 4)
    return parts


def _unpack_states(reader: ByteReader, lanes: int) -> NDArray[np.uint32]:
    low = np.frombuffer(reader.take(2 * lanes), "<u2")
    groups = fields.unpack(reader.take, lanes, 2, np.dtype(np.uint8))
    states = np.zeros(lanes, np.uint32)
    for group in range(4):
        chosen = (groups == group).nonzero()[0]
        states[chosen] = fields.unpack(reader.take, chosen.size, 4 * group + 4, states.dtype)
    states <<= 16
    states |= low
    return states


def _lookup(tables: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Flat [tables * 4096] of frequency << 20 | offset of the slot inside its symbol << 8 | symbol."""
    if (tables < 0).any() or (tables > TOTAL - 1).any() or (tables.sum(axis=1) != TOTAL).any():
        raise DamagedError("a frequency table does not sum to 4096")
    flat = tables.reshape(-1)
    begin = (np.cumsum(tables, axis=1) - tables).reshape(-1)
    cells = np.repeat((flat << 20) - (begin << 8) + np.tile(np.arange(tables.shape[1]), len(tables)), flat)
    cells += np.tile(np.arange(TOTAL) << 8, len(tables))
    return cells.astype(np.uint32)


@dataclass(frozen=True, slots=True)
class _Mean:
    shift: int
    rate: int
    start: int


class _Decoder:
    """States and words of a stream that is being decoded, and the one step that all kinds of classes share."""

    def __init__(self, lookup: NDArray[np.uint32], lanes: int, reader: ByteReader) -> None:
        word_count = reader.varint()
        self.lookup = lookup
        self.state = _unpack_states(reader, lanes)
        self.words = np.frombuffer(reader.take(2 * word_count), "<u2")
        self.position = 0
        self.slot, self.cell = np.empty(lanes, np.uint32), np.empty(lanes, np.uint32)
        self.low = np.empty(lanes, bool)

    def _step(self, out: NDArray[np.uint8], table: NDArray[np.uint32] | None) -> NDArray[np.uint32]:
        """Decodes one symbol of the first `out.size` lanes; returns cells whose low byte is the symbol."""
        width = out.size
        state, slot, cell, low = self.state[:width], self.slot[:width], self.cell[:width], self.low[:width]
        np.bitwise_and(state, TOTAL - 1, out=slot)
        if table is not None:
            slot |= table
        self.lookup.take(slot, out=cell, mode="clip")
        np.copyto(out, cell, casting="unsafe")
        state >>= 12
        np.right_shift(cell, 20, out=slot)
        state *= slot
        np.right_shift(cell, 8, out=slot)
        slot &= TOTAL - 1
        state += slot
        np.less(state, _LOWER_BOUND, out=low)
        empty = low.nonzero()[0]
        refill = self.words[self.position : self.position + empty.size]
        if refill.size != empty.size:
            raise DamagedError("the coded words end too early")
        self.position += empty.size
        state[empty] = (state.take(empty) << 16) | refill
        return cell

    def run_fixed(self, grid: NDArray[np.uint8], count: int) -> None:
        """All symbols by one table."""
        for out in _steps(grid, count):
            self._step(out, None)

    def run_given(
        self, grid: NDArray[np.uint8], count: int, row_of: NDArray[np.uint32], classes: NDArray[np.uint8]
    ) -> None:
        """Symbols by the tables of given classes."""
        for out, given in zip(_steps(grid, count), _steps(classes, count), strict=True):
            self._step(out, row_of.take(given, mode="clip"))

    def run_running(
        self, grid: NDArray[np.uint8], count: int, row_of: NDArray[np.uint32], mean: _Mean
    ) -> None:
        """Symbols by the tables of the classes that the running means of their lanes fall into."""
        lanes = grid.shape[1]
        value = np.full(lanes, mean.start << mean.shift, np.int32)
        number, table = np.empty(lanes, np.int32), np.empty(lanes, np.uint32)
        for out in _steps(grid, count):
            np.right_shift(value, 12, out=number)
            row_of.take(number, out=table, mode="clip")
            self._step(out, table[: out.size])
            if out.size == lanes:
                number[:] = out
                number <<= mean.shift
                number -= value
                number >>= mean.rate
                value += number

    def finish(self) -> bytes:
        """The carried bytes, once all words are used up."""
        if self.position != self.words.size or (self.state >> 16 != 1).any():
            raise DamagedError("the coded words do not end where they should")
        return (self.state - _LOWER_BOUND).astype("<u2").tobytes()


def _steps(grid: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
    lanes = grid.shape[1]
    return [row[: count - step * lanes] for step, row in enumerate(grid)]
