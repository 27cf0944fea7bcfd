"""Interleaved-lane rANS."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frconvert.coding import rans
from frconvert.coding.bits import ByteReader, varint
from frconvert.coding.models import CLASSES, adaptation, built_in_table, normalise
from frconvert.errors import DamagedError

sizes = st.one_of(
    st.integers(1, 300), st.sampled_from([2047, 2048, 2049, 4095, 4096, 4097, 6143, 6144, 6145, 20000])
)


def coded(symbols, table):
    return rans.encode(rans.to_lanes(symbols), None, table[None])


@settings(max_examples=30, deadline=None)
@given(size=sizes, alphabet=st.integers(2, 256), skew=st.floats(0.1, 8), seed=st.integers(0, 99))
def test_symbols_come_back_whatever_their_number_and_distribution(size, alphabet, skew, seed):
    rng = np.random.default_rng(seed)
    symbols = np.minimum(rng.random(size) ** skew * alphabet, alphabet - 1).astype(np.uint8)
    table = normalise(np.bincount(symbols, minlength=alphabet))
    reader = ByteReader(coded(symbols, table) + b"behind")
    assert rans.decode(reader, size, table[None], None).tolist() == symbols.tolist()
    assert bytes(reader.rest()) == b"behind"


@settings(max_examples=20, deadline=None)
@given(size=sizes, start=st.integers(0, 65535), scale=st.floats(0.1, 500), seed=st.integers(0, 99))
def test_symbols_come_back_with_contexts_that_follow_them(size, start, scale, seed):
    alphabet = 40
    rng = np.random.default_rng(seed)
    symbols = np.minimum(rng.exponential(scale, size), alphabet - 1).astype(np.uint8)
    rule = adaptation(start)
    grid = rans.to_lanes(symbols)
    tables = np.stack([built_in_table(context, alphabet) for context in range(CLASSES)])
    payload = rans.encode(grid, rans.trace_contexts(grid, rule), tables)
    assert rans.decode(ByteReader(payload), size, tables, rule).tolist() == symbols.tolist()


def test_contexts_depend_only_on_earlier_symbols_of_the_lane():
    symbols = np.random.default_rng(0).integers(0, 30, 5000).astype(np.uint8)
    grid = rans.to_lanes(symbols)
    contexts = rans.trace_contexts(grid, adaptation(1000))
    changed = grid.copy()
    changed[100:, 0] = 0
    again = rans.trace_contexts(changed, adaptation(1000))
    np.testing.assert_array_equal(again[:101], contexts[:101])
    np.testing.assert_array_equal(again[:, 1:], contexts[:, 1:])
    assert (again[101:, 0] != contexts[101:, 0]).any()


@pytest.mark.parametrize(
    ("symbols", "lanes"), [(1, 1), (2047, 1), (2048, 1), (4095, 1), (4096, 2), (6144, 3), (2**21, 1024)]
)
def test_the_number_of_lanes_follows_from_the_number_of_symbols(symbols, lanes):
    assert rans.lane_count(symbols) == lanes


def test_lanes_are_filled_one_after_another_and_padded_with_the_last_symbol():
    symbols = (np.arange(4097) % 251).astype(np.uint8)
    grid = rans.to_lanes(symbols)
    assert grid.shape == (2049, 2)
    np.testing.assert_array_equal(grid.T.reshape(-1)[:4097], symbols)
    assert grid.T.reshape(-1)[4097:].tolist() == [symbols[-1]]


def test_the_length_is_close_to_the_entropy():
    symbols = np.minimum(np.random.default_rng(0).geometric(0.3, 100_000), 30).astype(np.uint8)
    counts = np.bincount(symbols, minlength=31)
    share = counts[counts > 0] / symbols.size
    entropy_bytes = -(share * np.log2(share)).sum() * symbols.size / 8
    assert entropy_bytes < len(coded(symbols, normalise(counts))) < 1.01 * entropy_bytes


@pytest.fixture
def stream():
    symbols = np.random.default_rng(3).integers(0, 5, 3000).astype(np.uint8)
    table = normalise(np.bincount(symbols, minlength=5))
    return coded(symbols, table), table


def test_missing_words_are_noticed(stream):
    payload, table = stream
    reader = ByteReader(payload)
    words = reader.varint()
    body = bytes(reader.rest())
    with pytest.raises(DamagedError, match="end too early"):
        rans.decode(ByteReader(varint(words - 1) + body[:-2]), 3000, table[None], None)


def test_words_too_many_are_noticed(stream):
    payload, table = stream
    reader = ByteReader(payload)
    words = reader.varint()
    body = bytes(reader.rest())
    with pytest.raises(DamagedError, match="do not end"):
        rans.decode(ByteReader(varint(words + 1) + body + b"\0\0"), 3000, table[None], None)


def test_every_truncation_is_noticed(stream):
    payload, table = stream
    for length in range(0, len(payload), 7):
        with pytest.raises(DamagedError):
            rans.decode(ByteReader(payload[:length]), 3000, table[None], None)


def test_a_wrong_number_of_symbols_is_noticed(stream):
    payload, table = stream
    for count in (2999, 3001):
        with pytest.raises(DamagedError):
            rans.decode(ByteReader(payload), count, table[None], None)


@pytest.mark.parametrize("row", [[4096, 0], [4095, 0], [4095, 2], [-1, 4097], [0, 0]], ids=str)
def test_a_table_that_does_not_sum_to_4096_or_holds_a_certainty_is_refused(stream, row):
    with pytest.raises(DamagedError, match="does not sum"):
        rans.decode(ByteReader(stream[0]), 3000, np.array([row]), None)
