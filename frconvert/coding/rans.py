"""Interleaved-lane rANS: many independent coder states side by side, so that each step is a few numpy calls.

Symbols are laid out as [steps, lanes]; step t of all lanes is coded at once. State is 32 bits in
[2^16, 2^32), probabilities have 12 bits, renormalisation moves one 16-bit word. All lanes share one word
stream; within a step the words are in lane order. The encoder runs from the last step to the first, the
decoder forward. Integers only. (Duda, "Asymmetric numeral systems", arXiv 1311.2540; the word-wise
renormalisation and lanes as in Giesen, "Interleaved entropy coders", arXiv 1402.3392.)

Law: decode(encode(symbols, contexts)) == symbols, for any tables whose rows sum to 4096 and give every coded
symbol a frequency of 1 to 4095.

The context (which row of the table codes a symbol) is either fixed or a function of the symbols decoded so
far in the same lane; `Adaptation` says how.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frconvert.coding.bits import ByteReader, varint
from frconvert.errors import DamagedError

PROBABILITY_BITS = 12
TOTAL = 1 << PROBABILITY_BITS
LOWER_BOUND = 1 << 16  # states live in [LOWER_BOUND, LOWER_BOUND << 16)
SYMBOLS_PER_LANE = 2048  # the 4 bytes of a lane's state are then 1/64 bit a symbol


@dataclass(frozen=True, slots=True)
class Adaptation:
    """How a lane's context follows its symbols: a += (pull[symbol] - a) >> 4; context = class_of[a].

    Attributes:
        pull: int32 per symbol, 0..65535.
        class_of: uint8 of length 65536.
        start: the state before the first symbol of every lane, 0..65535.
    """

    pull: NDArray[np.int32]
    class_of: NDArray[np.uint8]
    start: int


def lane_count(symbols: int) -> int:
    """Number of lanes for a stream of that many symbols; part of the format, so never stored."""
    return max(1, symbols // SYMBOLS_PER_LANE)


def to_lanes(symbols: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[count] -> [steps, lanes], lane after lane, the tail filled with the last symbol."""
    lanes = lane_count(symbols.size)
    steps = -(-symbols.size // lanes)
    padded = np.full(lanes * steps, symbols[-1], np.uint8)  # a symbol that surely has a frequency
    padded[: symbols.size] = symbols
    return np.ascontiguousarray(padded.reshape(lanes, steps).T)


def trace_contexts(grid: NDArray[np.uint8], adaptation: Adaptation) -> NDArray[np.uint8]:
    """Context of every symbol of `grid` [steps, lanes] as the decoder will derive it: uint8, same shape."""
    contexts = np.empty(grid.shape, np.uint8)
    state = np.full(grid.shape[1], adaptation.start, np.int32)
    change = np.empty_like(state)
    for step in range(grid.shape[0]):
        np.take(adaptation.class_of, state, out=contexts[step], mode="clip")
        np.take(adaptation.pull, grid[step], out=change, mode="clip")
        change -= state
        change >>= 4
        state += change
    return contexts


def encode(
    grid: NDArray[np.uint8], contexts: NDArray[np.uint8] | None, frequencies: NDArray[np.int64]
) -> bytes:
    """Codes symbols with the table row that each one's context names.

    Args:
        grid: [steps, lanes] symbols.
        contexts: [steps, lanes], or None for row 0 throughout.
        frequencies: [rows, alphabet], each row summing to 4096.

    Returns:
        varint number of words, final state of each lane (uint32), words (uint16) in the order they are read.
    """
    alphabet = frequencies.shape[1]
    frequency = frequencies.astype(np.uint64).reshape(-1)
    start = (np.cumsum(frequencies, axis=1) - frequencies).astype(np.uint64).reshape(-1)
    state = np.full(grid.shape[1], LOWER_BOUND, np.uint64)
    words: list[NDArray[np.uint16]] = []
    for step in range(grid.shape[0] - 1, -1, -1):
        row = grid[step].astype(np.intp)
        if contexts is not None:
            row += contexts[step].astype(np.intp) * alphabet
        f = frequency.take(row)
        full = np.flatnonzero(state >= f << np.uint64(32 - PROBABILITY_BITS))
        if full.size:
            spill = state[full]
            words.append(spill.astype(np.uint16))
            state[full] = spill >> np.uint64(16)
        # (x // f) * 4096 + x % f + start, with one division
        state += (state // f) * (np.uint64(TOTAL) - f)
        state += start.take(row)
    stream = np.concatenate(words[::-1]) if words else np.empty(0, np.uint16)
    return varint(stream.size) + state.astype("<u4").tobytes() + stream.astype("<u2").tobytes()


def decode(
    reader: ByteReader, count: int, frequencies: NDArray[np.int64], adaptation: Adaptation | None
) -> NDArray[np.uint8]:
    """The `count` symbols of a stream that begins where `reader` stands.

    Raises:
        DamagedError: the words run out or are left over, or a lane does not end in its starting state.
    """
    lookup = decoding_table(frequencies).astype(np.int64)
    lanes = lane_count(count)
    steps = -(-count // lanes)
    word_count = reader.varint()
    states = np.frombuffer(reader.take(4 * lanes), "<u4")
    words = np.frombuffer(reader.take(2 * word_count), "<u2")
    grid = np.empty((steps, lanes), np.uint8)
    state = states.astype(np.int64)
    context = np.zeros(lanes, np.int64)
    if adaptation is not None:
        row_of = adaptation.class_of.astype(np.int64) << PROBABILITY_BITS
        activity = np.full(lanes, adaptation.start, np.int32)
        change = np.empty(lanes, np.int32)
        context += row_of[adaptation.start]
    slot, cell, low = np.empty(lanes, np.int64), np.empty(lanes, np.int64), np.empty(lanes, bool)
    position = 0
    for step in range(steps):
        np.bitwise_and(state, TOTAL - 1, out=slot)
        slot += context
        np.take(lookup, slot, out=cell, mode="clip")
        symbol = cell >> 24
        grid[step] = symbol
        state >>= PROBABILITY_BITS
        np.right_shift(cell, 12, out=slot)
        slot &= 0xFFF
        state *= slot
        cell &= 0xFFF
        state += cell
        np.less(state, LOWER_BOUND, out=low)
        empty = np.flatnonzero(low)
        refill = words[position : position + empty.size]
        if refill.size != empty.size:
            raise DamagedError("the coded words end too early")
        position += empty.size
        state[empty] = (state[empty] << 16) | refill
        if adaptation is not None:
            np.take(adaptation.pull, symbol, out=change, mode="clip")
            change -= activity
            change >>= 4
            activity += change
            np.take(row_of, activity, out=context, mode="clip")
    if position != words.size or (state != LOWER_BOUND).any():
        raise DamagedError("the coded words do not end where they should")
    return np.ascontiguousarray(grid.T).reshape(-1)[:count]


def decoding_table(frequencies: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Flat [rows * 4096] of symbol << 24 | frequency << 12 | offset of the slot inside its symbol."""
    rows, alphabet = frequencies.shape
    if (frequencies < 0).any() or (frequencies > TOTAL - 1).any() or (frequencies.sum(axis=1) != TOTAL).any():
        raise DamagedError("a frequency table does not sum to 4096")
    start = np.cumsum(frequencies, axis=1) - frequencies
    symbol = np.tile(np.arange(alphabet), rows)
    cell = (symbol << 24) | (frequencies.reshape(-1) << 12)
    slots = np.repeat(cell, frequencies.reshape(-1))
    offset = np.tile(np.arange(TOTAL), rows) - np.repeat(start.reshape(-1), frequencies.reshape(-1))
    return (slots | offset).astype(np.uint32)
