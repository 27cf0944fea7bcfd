"""Byte symbols in classes, and the lanes that code them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frconvert.coding import lanes, symbols
from frconvert.coding.bits import ByteReader, pack_table, varint
from frconvert.errors import DamagedError

counts = st.one_of(st.integers(1, 600), st.sampled_from([767, 768, 769, 5000, 5120]))


def there_and_back(values, alphabet, foreign=b"", classes=None):
    stream = symbols.encode(values, alphabet, foreign, classes)
    reader = ByteReader(stream + b"behind")
    back, carried = symbols.decode(reader, values.size, alphabet, classes)
    np.testing.assert_array_equal(back, values)
    room = lanes.capacity(values.size)
    assert carried == foreign[:room].ljust(room, b"\0")
    assert bytes(reader.rest()) == b"behind"
    return stream


def drifting(count, alphabet, seed):
    """Symbols whose level wanders, so that their past tells about them."""
    rng = np.random.default_rng(seed)
    level = np.cumsum(rng.standard_normal(count)) % (2 * alphabet)
    level = np.minimum(level, 2 * alphabet - level)
    return np.clip(level + rng.standard_normal(count), 0, alphabet - 1).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(count=counts, alphabet=st.integers(2, 256), seed=st.integers(0, 99), foreign=st.binary(max_size=50))
def test_symbols_and_foreign_bytes_come_back(count, alphabet, seed, foreign):
    there_and_back(drifting(count, alphabet, seed), alphabet, foreign)
    there_and_back(np.full(count, seed % alphabet, np.uint8), alphabet, foreign)


@settings(max_examples=40, deadline=None)
@given(count=counts, seed=st.integers(0, 99), foreign=st.binary(max_size=50))
def test_symbols_of_given_classes_come_back(count, seed, foreign):
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 32, count).astype(np.uint8)
    there_and_back(((classes + rng.integers(0, 3, count)) * 7).astype(np.uint8), 256, foreign, classes)


def test_more_symbols_than_the_most_lanes_take_in_a_step_come_back():
    there_and_back(drifting((1 << 21) - 5, 70, 0), 70, bytes(range(256)) * 40)


def test_the_past_of_a_lane_is_worth_what_it_tells():
    values = drifting(50_000, 64, 0)
    shuffled = np.random.default_rng(1).permutation(values)
    assert len(there_and_back(values, 64)) < 0.6 * len(there_and_back(shuffled, 64))


def test_given_classes_that_tell_everything_leave_nothing():
    classes = np.random.default_rng(0).integers(0, 16, 50_000).astype(np.uint8)
    assert len(there_and_back(classes * 3, 256, b"", classes)) < 1500
    assert len(there_and_back(np.random.default_rng(1).permutation(classes), 256, b"", classes)) > 25_000


@pytest.mark.parametrize("count", [300, 5000, 100_000])
def test_a_stream_without_past_is_near_its_entropy(count):
    values = np.random.default_rng(0).binomial(60, 0.3, count).astype(np.uint8)
    used = np.bincount(values)[np.unique(values)]
    entropy = float((used * np.log2(count / used)).sum()) / 8
    stream = len(there_and_back(values, 61)) - lanes.capacity(count)
    # A table takes 1 to 2 bytes a symbol, a lane less than a byte, rounding of frequencies a thousandth.
    assert stream < 1.003 * entropy + 1.5 * used.size + 0.7 * lanes.lane_count(count) + 12


@pytest.mark.parametrize("count", [1, 255, 256, 511, 512, 1 << 20, 1 << 24])
def test_lanes_follow_from_the_count(count):
    assert lanes.lane_count(count) == max(1, min(count // 256, 4032))


@settings(max_examples=100, deadline=None)
@given(data=st.lists(st.integers(0, 10**6), min_size=2, max_size=256).filter(any))
def test_a_table_sums_to_4096_and_serves_every_symbol(data):
    weights = np.array(data, np.int64)
    if np.count_nonzero(weights) * 16 > 4096:
        return
    table = symbols._normalise(weights)
    assert table.sum() == 4096
    assert (table[weights > 0] >= 1).all()
    assert table.max() <= 4095


def test_prices_are_those_of_streams():
    for count in (2000, 100_000):
        values = np.random.default_rng(0).binomial(60, 0.3, count).astype(np.uint8)
        price = symbols.exact_cost(np.bincount(values, minlength=61)) / 4096 / 8
        stream = len(there_and_back(values, 61)) - lanes.capacity(count)
        assert stream == pytest.approx(price, rel=0.01, abs=10)


def test_logarithms_are_not_near_a_rounding_edge():
    # Tables of logarithms are rounded from floats: no platform's last digit may decide.
    exact = 4096 * np.log2(1 + np.arange(1, 4096) / 4096)
    assert np.abs(exact % 1 - 0.5).min() > 1e-6


def table(*frequencies):
    return pack_table(np.array(frequencies, np.int64))


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (varint(1 << 31), "more than 32 classes"),
        (b"\1\0\0", "parameters"),
        (b"\1\11\0", "parameters"),
        (b"\1\1\4", "parameters"),
        (b"\0\0\4", "names symbols 0 to 4 of 4"),
        (b"\0" + table(2048, 2047) + b"\0\0\0\0\0\0\0", "sum to 4096"),
        (b"\0" + table(2048, 2048) + b"\1\0\0\0\2", "expected"),
        (b"\0" + table(2048, 2048) + b"\0\0\0\0\1", "end too early"),
        (b"\0" + table(2048, 2048) + b"\1\0\0\3\377\1\0\0", "end where they should"),
    ],
)
def test_streams_that_no_encoder_makes_are_refused(stream, words):
    with pytest.raises(DamagedError, match=words):
        symbols.decode(ByteReader(stream), 20, 4)


@settings(max_examples=200, deadline=None)
@given(stream=st.binary(max_size=80), count=st.integers(1, 1000), given=st.booleans())
def test_random_bytes_are_symbols_or_a_damage(stream, count, given):
    classes = np.zeros(count, np.uint8) if given else None
    try:
        back, _ = symbols.decode(ByteReader(stream), count, 16, classes)
    except DamagedError:
        return
    assert back.size == count
    assert (back < 16).all()
