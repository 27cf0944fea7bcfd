"""Interleaved-lane rANS with tables of 12 bits: symbols and the table of each, to words and back.

States have 32 bits and stay in [2^16, 2^32); renormalisation moves one 16-bit word, and all lanes share one
stream of words. `lane_count(count)` lanes of `count // lanes` symbols each take the sequence one after
another; the symbols left over, fewer than lanes, make one more step of the first lanes. A step codes its
lanes in order; the decoder runs forward. Every lane ends (in the decoder) in 2^16 plus 16 bits of foreign
data, and the zeros at the top of the states that it starts with are left out, so that a lane costs four or
five bits instead of 24. Integers only. (Duda, "Asymmetric numeral systems", arXiv 1311.2540; lanes and words
as in Giesen, "Interleaved entropy coders", arXiv 1402.3392.)

Bytes: varint number of words; low 16 bits of each state; for each state, in a field of 2 bits, how many
groups of 4 bits its high 16 bits take, less 1; fields of those high bits, of all states with one group, then
of those with two, three, four; the words in the order they are read.

Law: decoding gives back the symbols and the foreign data, for tables whose rows sum to 4096 and give every
coded symbol a frequency of 1 to 4095.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import fields
from frconvert.coding.bits import ByteReader, varint
from frconvert.coding.native import native
from frconvert.errors import DamagedError

PROBABILITY_BITS = 12
TOTAL = 1 << PROBABILITY_BITS  # the frequencies of a table sum to this
LOWER_BOUND = 1 << 16
_SYMBOLS_PER_LANE = 256
_MOST_LANES = 4032  # no power of two: the cells of a column would compete for few places in the cache
_TILE = 64


def lane_count(count: int) -> int:
    """Number of lanes for that many symbols."""
    return min(max(1, count // _SYMBOLS_PER_LANE), _MOST_LANES)


def capacity(count: int) -> int:
    """Number of foreign bytes that a stream of so many symbols carries."""
    return 2 * lane_count(count)


def to_grid(symbols: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[count] -> [steps, lanes]; cells of the last step that no symbol fills are zero."""
    lanes = lane_count(symbols.size)
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


def encode(
    grid: NDArray[np.uint8],
    classes: NDArray[np.uint8],
    row_of: NDArray[np.intp],
    tables: NDArray[np.int64],
    count: int,
    carried: bytes,
) -> bytes:
    """Bytes of symbols.

    Args:
        grid: [steps, lanes] symbols, see `to_grid`.
        classes: [steps, lanes] of them.
        row_of: for each class 256 times the number of its table.
        tables: [tables, 256] frequencies.
        count: number of symbols.
        carried: 2 foreign bytes a lane.
    """
    lanes = grid.shape[1]
    if native is not None:
        rows = np.zeros(256, np.uint16)
        rows[: row_of.size] = row_of >> 8
        symbols, selectors = grid.reshape(-1)[:count], np.ascontiguousarray(classes).reshape(-1)
        states = np.frombuffer(carried, "<u2").astype(np.uint32) + np.uint32(LOWER_BOUND)
        starts = (np.cumsum(tables, axis=1) - tables).astype(np.uint32).reshape(-1)
        room = np.empty(count + 1, np.uint16)
        frequencies = tables.astype(np.uint32).reshape(-1)
        used = native.encode(symbols, selectors, rows, frequencies, starts, states, len(grid), room)
        return _joined(states, room[room.size - used :])
    frequency = tables.astype(np.float64).reshape(-1)
    begin = (np.cumsum(tables, axis=1) - tables).astype(np.float64).reshape(-1)
    # States are float64 here, which holds them exactly and divides faster than integers.
    state = np.frombuffer(carried, "<u2").astype(np.float64) + LOWER_BOUND
    words: list[NDArray[np.uint16]] = []
    scratch: list[NDArray[Any]] = [np.empty(lanes, dtype) for dtype in ("intp", "f8", "f8", "bool")]
    for step in range(len(grid) - 1, -1, -1):
        width = min(lanes, count - step * lanes)
        x = state[:width]
        row, f, limit, full = (array[:width] for array in scratch)
        if len(tables) > 1:
            row_of.take(classes[step, :width], out=row, mode="clip")
            row += grid[step, :width]
        else:
            row[:] = grid[step, :width]
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
    return _joined(state.astype(np.uint32), np.concatenate(words[::-1]))


def _joined(states: NDArray[np.uint32], words: NDArray[np.uint16]) -> bytes:
    packed = [part.tobytes() for part in _pack_states(states)]
    return b"".join([varint(words.size), *packed, words.astype("<u2").tobytes()])


def _pack_states(states: NDArray[np.uint32]) -> list[NDArray[Any]]:
    high = (states >> 16).astype(np.uint16)
    groups = np.searchsorted([1 << 4, 1 << 8, 1 << 12], high, side="right").astype(np.uint8)
    parts = [states.astype("<u2"), *fields.pack(groups, 2)]
    for group in range(4):
        parts += fields.pack(high[groups == group], 4 * group + 4)
    return parts


def _unpack_states(reader: ByteReader, lanes: int) -> NDArray[np.uint32]:
    low = np.frombuffer(reader.take(2 * lanes), "<u2")
    groups = np.empty(lanes, np.uint8)
    fields.unpack(reader.take, groups, 2)
    states = np.empty(lanes, np.uint32)
    for group in range(4):
        chosen = (groups == group).nonzero()[0]
        high = np.empty(chosen.size, np.uint32)
        fields.unpack(reader.take, high, 4 * group + 4)
        states[chosen] = high
    states <<= 16
    states |= low
    return states


def lookup(tables: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Flat [tables * 4096] of frequency << 20 | offset of the slot inside its symbol << 8 | symbol."""
    if (tables < 0).any() or (tables > TOTAL - 1).any() or (tables.sum(axis=1) != TOTAL).any():
        raise DamagedError("a frequency table does not sum to 4096")
    flat = tables.astype(np.uint32).reshape(-1)
    begin = (np.cumsum(tables, axis=1) - tables).astype(np.uint32).reshape(-1)
    symbols = np.tile(np.arange(tables.shape[1], dtype=np.uint32), len(tables))
    cells = np.repeat((flat << 20) - (begin << 8) + symbols, flat)
    cells.reshape(-1, TOTAL)[:] += np.arange(TOTAL, dtype=np.uint32) << 8
    return cells


@dataclass(frozen=True, slots=True)
class Mean:
    """A running mean of a lane's symbols, and which table it chooses.

    Before each symbol the table is row_of[a >> down]; after it, a += (pull[symbol] - a) >> rate.

    Attributes:
        pull: int32 of length 256.
        row_of: uint16, numbers of tables.
        down, rate: shifts.
        start: the value before the first symbol of every lane.
    """

    pull: NDArray[np.int32]
    row_of: NDArray[np.uint16]
    down: int
    rate: int
    start: int


class Decoder:
    """A stream that is being decoded: make it, call one of the three `run` methods, then `finish`."""

    def __init__(self, reader: ByteReader, count: int, tables: NDArray[np.int64]) -> None:
        """Reads states and words of `count` >= 1 symbols.

        Raises:
            DamagedError: they are cut off, or a table is none.
        """
        lanes = lane_count(count)
        self.lookup = lookup(tables)
        word_count = reader.varint()
        self.state = _unpack_states(reader, lanes)
        self.words = np.frombuffer(reader.take(2 * word_count), "<u2")
        self.position = 0
        self.count = count
        self.grid = np.empty((-(-count // lanes), lanes), np.uint8)
        self.slot, self.cell = np.empty(lanes, np.uint32), np.empty(lanes, np.uint32)
        self.low = np.empty(lanes, bool)

    def run_fixed(self) -> None:
        """All symbols by the first table."""
        if native is not None:
            self._run_rows(np.zeros(self.count, np.uint8), np.zeros(1, np.uint16))
            return
        for out in self._steps(self.grid):
            self._step(out, None)

    def run_given(self, row_of: NDArray[np.uint16], classes: NDArray[np.uint8]) -> None:
        """Symbols by the tables of given classes, [count]; `row_of` is the table of each class."""
        grid = to_grid(classes)
        if native is not None:
            self._run_rows(grid.reshape(-1)[: self.count], row_of)
            return
        places = row_of.astype(np.uint32) << np.uint32(PROBABILITY_BITS)
        for out, given in zip(self._steps(self.grid), self._steps(grid), strict=True):
            self._step(out, places.take(given, mode="clip"))

    def run_running(self, mean: Mean) -> None:
        """Symbols by the tables that the running means of their lanes choose."""
        if native is not None:
            self._took(
                native.decode_running(
                    self.words,
                    self.state,
                    self.lookup,
                    mean.pull,
                    mean.row_of,
                    mean.down,
                    mean.rate,
                    mean.start,
                    self.grid.reshape(-1)[: self.count],
                )
            )
            return
        value = np.full(self.state.size, mean.start, np.int32)
        places = mean.row_of.astype(np.uint32) << np.uint32(PROBABILITY_BITS)
        for out in self._steps(self.grid):
            here = value[: out.size]
            self._step(out, places.take(here >> mean.down, mode="clip"))
            here += (mean.pull.take(out) - here) >> mean.rate

    def _run_rows(self, classes: NDArray[np.uint8], row_of: NDArray[np.uint16]) -> None:
        if native is None:
            raise ValueError("the compiled twin is missing")
        symbols = self.grid.reshape(-1)[: self.count]
        row_of_all = np.concatenate([row_of, np.repeat(row_of[-1:], 256 - row_of.size)])
        self._took(native.decode(self.words, self.state, classes, row_of_all, self.lookup, symbols))

    def _took(self, words: int) -> None:
        if words < 0:
            raise DamagedError("the coded words end too early")
        self.position = words

    def finish(self) -> tuple[NDArray[np.uint8], bytes]:
        """The symbols and the foreign bytes.

        Raises:
            DamagedError: words are left over, or a state is none to end in.
        """
        if self.position != self.words.size or (self.state >> 16 != 1).any():
            raise DamagedError("the coded words do not end where they should")
        return _from_grid(self.grid, self.count), self.state.astype("<u2").tobytes()

    def _steps(self, grid: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Rows of a grid, the last one as short as the sequence makes it."""
        lanes = grid.shape[1]
        return [row[: self.count - step * lanes] for step, row in enumerate(grid)]

    def _step(self, out: NDArray[np.uint8], table: NDArray[np.uint32] | None) -> None:
        """Decodes one symbol of each of the first `out.size` lanes."""
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
        np.less(state, LOWER_BOUND, out=low)
        empty = low.nonzero()[0]
        refill = self.words[self.position : self.position + empty.size]
        if refill.size != empty.size:
            raise DamagedError("the coded words end too early")
        self.position += empty.size
        state[empty] = (state.take(empty) << 16) | refill
