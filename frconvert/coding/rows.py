"""Interleaved rANS for symbols whose table row is known beforehand, up to the trellis' quantiser bit.

The coder is that of `lanes.py` (32-bit states, 16-bit words, 12-bit probabilities), with two differences.
Symbol i belongs to lane i % lanes and step i // lanes, so that a decoded step lies in memory as the sequence
does. And lanes end cheaply: in the last few steps, the first to be encoded, a state takes no words in or out,
so that these symbols fill what would otherwise be the empty half of a state. The encoder chooses how many
steps, and for each lane the smallest power of two to start from that brings its state above 2^16 by then.

The first symbols of a sequence are those that the trellis serves: their row is a base plus the quantiser bit
of their lane's trellis state, which moves by the parity of each symbol (its lowest bit, or a raw bit where
low bits are stored raw).

Law: decode(encode(symbols, rows)) == symbols, with the quantiser bits of the encoder.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frconvert.coding.bits import ByteReader, varint
from frconvert.coding.lanes import LOWER_BOUND, PROBABILITY_BITS, TOTAL
from frconvert.coding.native import native
from frconvert.coding.trellis import moves
from frconvert.errors import DamagedError

SYMBOLS_PER_LANE = 2048
_MOST_DRAINED = 16
_SLOT = np.uint32(TOTAL - 1)
_BITS = np.uint32(PROBABILITY_BITS)
_ALPHABET = 256


@dataclass(frozen=True, slots=True)
class Trellis:
    """What decoding needs of the trellis.

    Attributes:
        state_bits: logarithm of the number of states.
        count: symbols that it serves, from the first on.
        two_rows: uint8 per served symbol, 1 where the quantiser bit is added to the row.
        raw_parity: uint8 per served symbol: 0 or 1 is its parity; 2, the symbol's own lowest bit is. None:
            all 2.
    """

    state_bits: int
    count: int
    two_rows: NDArray[np.uint8]
    raw_parity: NDArray[np.uint8] | None


def lane_count(count: int) -> int:
    """Number of lanes for that many symbols."""
    return max(1, count // SYMBOLS_PER_LANE)


def encode(symbols: NDArray[np.uint8], rows: NDArray[np.uint16], frequencies: NDArray[np.int64]) -> bytes:
    """Codes `symbols`, each by its row of `frequencies` ([rows, 256], each summing to 4096).

    Returns:
        Number of drained steps (one byte), varint number of words, state of each lane (uint32), words
        (uint16).
    """
    lanes = lane_count(symbols.size)
    steps = -(-symbols.size // lanes)
    start = (np.cumsum(frequencies, axis=1) - frequencies).astype(np.uint32).reshape(-1)
    frequency = frequencies.astype(np.uint32).reshape(-1)

    def cells(step: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        here = slice(step * lanes, (step + 1) * lanes)
        chosen = rows[here].astype(np.uint32) * np.uint32(_ALPHABET) + symbols[here]
        return frequency.take(chosen), start.take(chosen)

    drained, state = _drain(cells, steps, lanes)
    if native is not None:
        words_of_all = np.empty(symbols.size + 1, np.uint16)
        written = native.encode(symbols, rows, b"", frequency, start, state, steps - drained, words_of_all)
        return _joined(drained, state, words_of_all[words_of_all.size - written :])
    words: list[NDArray[np.uint16]] = []
    for step in range(steps - drained - 1, -1, -1):
        f, first = cells(step)
        active = state[: f.size]
        full = np.flatnonzero(active >= f << np.uint32(32 - PROBABILITY_BITS))
        spill = active[full]
        words.append(spill.astype(np.uint16))
        active[full] = spill >> np.uint32(16)
        # (x // f) * 4096 + x % f + start, with one division
        active += (active // f) * (np.uint32(TOTAL) - f)
        active += first
    return _joined(drained, state, np.concatenate(words[::-1]) if words else np.empty(0, np.uint16))


def _joined(drained: int, state: NDArray[np.uint32], stream: NDArray[np.uint16]) -> bytes:
    head = bytes([drained]) + varint(stream.size)
    return head + state.astype("<u4").tobytes() + stream.astype("<u2").tobytes()


_Cells = Callable[[int], tuple[NDArray[np.uint32], NDArray[np.uint32]]]  # step -> frequencies, starts


def _drain(cells: _Cells, steps: int, lanes: int) -> tuple[int, NDArray[np.uint32]]:
    """How many last steps go without words, and the states after (before, for a decoder) them."""

    def push(start: NDArray[np.uint64], count: int) -> NDArray[np.uint64]:
        state = start.copy()
        for step in range(steps - 1, steps - count - 1, -1):
            f, first = (part.astype(np.uint64) for part in cells(step))
            active = state[: f.size]
            active += (active // f) * (np.uint64(TOTAL) - f) + first
            np.minimum(active, 1 << 40, out=active)  # too large is too large
        return state

    ones = np.ones(lanes, np.uint64)
    count = 0
    while count < min(_MOST_DRAINED, steps) and int(push(ones, count + 1).max()) < 1 << 32:
        count += 1
    start = ones
    state = push(start, count)
    for _ in range(17):
        small = state < LOWER_BOUND
        if not small.any():
            break
        start = np.where(small, start << np.uint64(1), start)
        state = push(start, count)
    if int(state.max()) >= 1 << 32:  # a doubled start may overshoot where a step costs 16 bits or more
        return 0, np.full(lanes, LOWER_BOUND, np.uint32)
    return count, state.astype(np.uint32)


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream that has been cut out of its chunk.

    Attributes:
        drained: number of drained steps.
        state: uint32 of each lane.
        words: uint16.
    """

    drained: int
    state: NDArray[np.uint32]
    words: NDArray[np.uint16]


def step_count(count: int) -> int:
    """Number of steps for that many symbols."""
    return -(-count // lane_count(count))


def read(reader: ByteReader, count: int) -> Stream:
    """The stream of so many symbols that begins where `reader` stands.

    Raises:
        DamagedError: it is cut off, or its head is out of range.
    """
    lanes, steps = lane_count(count), step_count(count)
    drained = reader.take(1)[0]
    if drained > min(_MOST_DRAINED, steps):
        raise DamagedError(f"{drained} drained steps of {steps}")
    word_count = reader.varint()
    state = np.frombuffer(reader.take(4 * lanes), "<u4")
    return Stream(drained, state, np.frombuffer(reader.take(2 * word_count), "<u2"))


def decode(
    stream: Stream, rows: NDArray[np.uint16], table: NDArray[np.uint32], trellis: Trellis | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Symbols of a stream and the quantiser bits of the served ones; `table` is `lanes.lookup` of the rows.

    Raises:
        DamagedError: the words run out or are left over, or a lane does not end as it began.
    """
    count, words, state = rows.size, stream.words, stream.state.astype(np.uint32)
    lanes, steps, drained = state.size, step_count(rows.size), stream.drained
    symbols = np.empty(count, np.uint8)
    served = trellis.count if trellis else 0
    quantisers = np.zeros(served, np.uint8)
    position = 0
    place = np.zeros(lanes, np.uint8)  # trellis states
    if trellis:
        table_of_moves = moves(trellis.state_bits)
    with np.errstate(over="ignore"):  # states of a damaged file
        for step in range(steps):
            first, last = step * lanes, min((step + 1) * lanes, count)
            active = state[: last - first]
            slot = active & _SLOT
            row = rows[first:last].astype(np.uint32)
            end = min(last, served)
            if first < end:
                bit = place[: end - first] & 1
                quantisers[first:end] = bit
                row[: end - first] += bit & trellis.two_rows[first:end]  # type: ignore[union-attr]
            row <<= _BITS
            slot += row
            cell = table.take(slot)
            symbol = cell.astype(np.uint8)
            symbols[first:last] = symbol
            active >>= _BITS
            active *= cell >> np.uint32(20)
            active += (cell >> np.uint32(8)) & _SLOT
            if step < steps - drained:
                empty = np.flatnonzero(active < LOWER_BOUND)
                refill = words[position : position + empty.size]
                if refill.size != empty.size:
                    raise DamagedError("the coded words end too early")
                position += empty.size
                active[empty] = (active[empty] << np.uint32(16)) | refill
            if first < end:
                parity = symbol[: end - first] & 1
                if trellis.raw_parity is not None:  # type: ignore[union-attr]
                    raw = trellis.raw_parity[first:end]  # type: ignore[union-attr]
                    parity = np.where(raw < 2, raw, parity)
                moving = place[: end - first].astype(np.uint16) * 2 + parity
                table_of_moves.take(moving, out=place[: end - first])
    check_end(stream, state, position)
    return symbols, quantisers


def check_end(stream: Stream, state: NDArray[np.uint32], position: int) -> None:
    """Refuses a stream whose decoding has ended in those states, after so many words; -1 if they ran out.

    Raises:
        DamagedError: words are left over or missing, or a lane does not end as it began.
    """
    if position < 0:
        raise DamagedError("the coded words end too early")
    is_power = (state & (state - np.uint32(1))) == 0
    if position != stream.words.size or not is_power.all() or (state == 0).any():
        raise DamagedError("the coded words do not end where they should")
