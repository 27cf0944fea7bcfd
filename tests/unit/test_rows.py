"""Interleaved rANS with known rows, and the trellis walk while decoding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frconvert.coding import rows, trellis
from frconvert.coding.bits import ByteReader, varint
from frconvert.coding.lanes import TOTAL, lookup
from frconvert.coding.models import normalise
from frconvert.coding.rows import Trellis
from frconvert.errors import DamagedError

SIZES = st.one_of(
    st.integers(1, 300), st.sampled_from([2047, 2048, 4095, 4096, 4097, 6143, 6144, 6145, 20001])
)


def outcome(function, *arguments):
    """What a call gives, or the message of its refusal."""
    try:
        return function(*arguments)
    except DamagedError as error:
        return str(error)


def on_numpy(function, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "native", None)
        return outcome(function, *arguments)


def encode(symbols, table_rows, frequencies):
    """Bytes, the same from the compiled loops (where there are any) and from numpy's."""
    payload = rows.encode(symbols, table_rows, frequencies)
    assert on_numpy(rows.encode, symbols, table_rows, frequencies) == payload
    return payload


def decode(payload, table_rows, frequencies, walk=None):
    """Symbols, quantiser bits and the bytes behind, or the refusal."""

    def run():
        reader = ByteReader(payload)
        stream = rows.read(reader, table_rows.size)
        symbols, quantisers = rows.decode(stream, table_rows, lookup(frequencies), walk)
        return symbols.tolist(), quantisers.tolist(), bytes(reader.rest())

    return outcome(run)


def tables_of(count, alphabet, seed):
    """Tables from nearly even to nearly certain."""
    rng = np.random.default_rng(seed)
    found = np.zeros((count, 256), np.int64)
    for row in range(count):
        weight = rng.random(alphabet) ** rng.choice([0.2, 3, 40])
        found[row, :alphabet] = normalise((weight * 1e6).astype(np.int64) + (rng.random(alphabet) < 0.5))
    return found


def symbols_for(table_rows, frequencies, seed):
    """A symbol for each row, drawn as its table says."""
    slots = np.random.default_rng(seed).integers(0, TOTAL, table_rows.size)
    cumulated = np.cumsum(frequencies, axis=1)
    return (slots[:, None] >= cumulated[table_rows]).sum(axis=1).astype(np.uint8)


@st.composite
def cases(draw):
    size, seed = draw(SIZES), draw(st.integers(0, 999))
    count = draw(st.integers(1, 12))
    frequencies = tables_of(count, draw(st.integers(2, 256)), seed)
    table_rows = np.random.default_rng(seed + 1).integers(0, count, size).astype(np.uint16)
    return symbols_for(table_rows, frequencies, seed + 2), table_rows, frequencies


@settings(max_examples=60, deadline=None)
@given(cases())
def test_symbols_come_back_whatever_their_number_and_tables(case):
    symbols, table_rows, frequencies = case
    payload = encode(symbols, table_rows, frequencies) + b"behind"
    assert decode(payload, table_rows, frequencies) == (symbols.tolist(), [], b"behind")


@settings(max_examples=30, deadline=None)
@given(cases())
def test_rare_symbols_come_back_too(case):
    _, table_rows, frequencies = case
    used = frequencies > 0
    rarest = np.where(used, frequencies, 5000).argmin(axis=1)
    symbols = rarest[table_rows].astype(np.uint8)  # up to twelve bits each
    payload = encode(symbols, table_rows, frequencies)
    assert decode(payload, table_rows, frequencies) == (symbols.tolist(), [], b"")


def walked(symbols, trellis_of, lanes):
    """Quantiser bits by `move`, one symbol after another."""
    place, bits = [0] * lanes, []
    for number in range(trellis_of.count):
        lane = number % lanes
        bits.append(place[lane] & 1)
        parity = int(symbols[number]) & 1
        if trellis_of.raw_parity is not None and trellis_of.raw_parity[number] < 2:
            parity = int(trellis_of.raw_parity[number])
        place[lane] = trellis.move(place[lane], parity, trellis_of.state_bits)
    return bits


@settings(max_examples=40, deadline=None)
@given(
    size=SIZES,
    share=st.sampled_from([0.0, 0.3, 0.99, 1.0]),
    state_bits=st.sampled_from(sorted(trellis.POLYNOMIALS)),
    raw=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_trellis_chooses_the_row_of_served_symbols(size, share, state_bits, raw, seed):
    rng = np.random.default_rng(seed)
    count = round(size * share)
    frequencies = tables_of(9, 40, seed)
    base = rng.integers(0, 8, size).astype(np.uint16)
    two_rows = rng.integers(0, 2, count).astype(np.uint8)
    raw_parity = rng.integers(0, 3, count).astype(np.uint8) if raw else None
    served = Trellis(state_bits, count, two_rows, raw_parity)
    lanes = rows.lane_count(size)
    # Every row may code every symbol below 40, so that the walk may lead to either.
    frequencies[:, :40] += 1
    frequencies[:, 0] += TOTAL - frequencies.sum(axis=1)
    frequencies[frequencies[:, 0] < 1] = normalise(np.r_[np.full(40, 5), np.zeros(216, int)])
    symbols = rng.integers(0, 40, size).astype(np.uint8)
    bits = walked(symbols, served, lanes)
    table_rows = base.copy()
    table_rows[:count] += (np.array(bits, np.uint8) & two_rows).astype(np.uint16)
    payload = encode(symbols, table_rows, frequencies)
    assert decode(payload, base, frequencies, served) == (symbols.tolist(), bits, b"")


@pytest.mark.parametrize(
    ("size", "share"), [(1, 1.0), (100, 0.9), (2000, 0.9), (100_000, 0.9), (100_000, 0.3)]
)
def test_the_length_is_close_to_what_the_tables_say_even_of_few_symbols(size, share):
    table = normalise(np.r_[[share * 1000], np.full(20, (1 - share) * 50), np.zeros(235)].astype(int))[None]
    table_rows = np.zeros(size, np.uint16)
    symbols = symbols_for(table_rows, table, 0)
    ideal_bytes = -np.log2(table[0, symbols] / TOTAL).sum() / 8
    payload = rows.encode(symbols, table_rows, table)
    lanes = rows.lane_count(size)
    assert len(payload) <= ideal_bytes * 1.002 + 2 + 3 + 2.8 * lanes  # head, word count, half-empty states


def test_drained_states_save_about_two_bytes_a_lane():
    table = normalise(np.full(256, 3))[None]
    table_rows = np.zeros(40_960, np.uint16)
    symbols = symbols_for(table_rows, table, 0)
    payload = rows.encode(symbols, table_rows, table)
    ideal_bytes = symbols.size * 12 / 8 - np.log2(table[0, symbols]).sum() / 8
    assert payload[0] > 0
    assert len(payload) < ideal_bytes * 1.0005 + 3 + 2.4 * rows.lane_count(symbols.size)


@pytest.fixture
def stream():
    frequencies = tables_of(5, 30, 3)
    table_rows = np.random.default_rng(0).integers(0, 5, 700).astype(np.uint16)
    symbols = symbols_for(table_rows, frequencies, 1)
    return rows.encode(symbols, table_rows, frequencies), table_rows, frequencies, symbols


def parts(payload):
    reader = ByteReader(payload)
    drained, words = reader.take(1)[0], reader.varint()
    return drained, words, bytes(reader.rest())


def test_missing_and_surplus_words_are_noticed(stream):
    payload, table_rows, frequencies, _ = stream
    drained, words, body = parts(payload)
    head = bytes([drained])
    missing = head + varint(words - 1) + body[:-2]
    assert "end too early" in decode(missing, table_rows, frequencies)
    surplus = head + varint(words + 1) + body + b"\0\0"
    assert "do not end" in decode(surplus, table_rows, frequencies)
    impossible = head + varint(1 << 62) + body
    assert "bytes expected" in decode(impossible, table_rows, frequencies)


def test_more_drained_steps_than_there_are_steps_or_may_be_are_refused(stream):
    payload, table_rows, frequencies, _ = stream
    for drained in (17, 255):
        assert f"{drained} drained steps" in decode(bytes([drained]) + payload[1:], table_rows, frequencies)
    assert "2 drained steps of 1" in decode(b"\2\0\0\0\1\0", table_rows[:1], frequencies)


def test_every_truncation_is_noticed(stream):
    payload, table_rows, frequencies, _ = stream
    for length in range(0, len(payload), 7):
        assert isinstance(decode(payload[:length], table_rows, frequencies), str)


def test_a_flipped_bit_is_mostly_noticed_or_gives_as_many_symbols(stream):
    payload, table_rows, frequencies, symbols = stream
    rng, noticed = np.random.default_rng(0), 0
    for position in rng.integers(0, 8 * len(payload), 100).tolist():
        broken = bytearray(payload)
        broken[position // 8] ^= 1 << position % 8
        result = decode(bytes(broken), table_rows, frequencies)
        noticed += isinstance(result, str)
        assert isinstance(result, str) or len(result[0]) == symbols.size
    assert noticed > 80


@pytest.mark.parametrize("state", [0, 1, 0xFFFF, 0xFFFFFFFF])
def test_any_state_to_begin_with_is_refused_or_read(stream, state):
    payload, table_rows, frequencies, _ = stream
    drained, words, body = parts(payload)
    lanes = rows.lane_count(table_rows.size)
    states = np.full(lanes, state, "<u4").tobytes()
    broken = bytes([drained]) + varint(words) + states + body[4 * lanes :]
    result = decode(broken, table_rows, frequencies)
    # The last state is small, and one in a few small numbers is a power of two: a checksum sees the rest.
    assert isinstance(result, str) or len(result[0]) == table_rows.size
    assert state or isinstance(result, str)


def test_a_table_that_does_not_sum_to_4096_is_refused(stream):
    payload, table_rows, frequencies, _ = stream
    for change in (1, -1, 4096):
        broken = frequencies.copy()
        broken[2, np.argmax(broken[2])] += change
        assert "does not sum" in decode(payload, table_rows, broken)
