"""Frequency tables from scale class and tail shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from frconvert.coding import tables
from frconvert.coding.bits import ByteReader, pack_table
from frconvert.coding.lanes import TOTAL
from frconvert.errors import DamagedError

TAILS = range(len(tables.SHAPES))
ESCAPES = [0, 255]
EXPONENTS = (2.0, 1.6, 1.3, 1.1, 1.0, 0.9, 0.75, 0.6)  # of the generalised Gaussians that shapes approximate


def magnitudes(row, half_way):
    """The two sides of a row from the middle outwards, each of length 126 (127 half-way)."""
    right = row[tables.ZERO + (0 if half_way else 1) : 255]
    left = row[1 : tables.ZERO][::-1]
    return left, right


@pytest.mark.parametrize("half_way", [False, True])
@pytest.mark.parametrize("tail", TAILS)
def test_rows_of_all_classes_sum_to_4096_are_symmetric_and_have_no_gaps(tail, half_way):
    for number in range(tables.CLASSES):
        row = tables.frequencies(tail, number, half_way=half_way)
        assert row.shape == (tables.ALPHABET,)
        assert row.sum() == TOTAL
        assert row[0] == row[255] >= 1
        left, right = magnitudes(row, half_way or number >= tables.WIDE_CLASS)
        length = min(left.size, right.size)
        assert left[:length].tolist() == right[:length].tolist()
        assert not left[length:].any()
        assert not right[length:].any()
        used = np.flatnonzero(right)
        assert used.tolist() == list(range(used.size))
        assert used.size >= 1
        assert row[tables.ZERO] >= 1


@pytest.mark.parametrize("tail", TAILS)
def test_frequencies_fall_with_the_magnitude(tail):
    for number in range(0, tables.WIDE_CLASS, 3):
        side = tables.frequencies(tail, number, half_way=False)[tables.ZERO : 255]
        assert (np.diff(side[1:]) <= 0).all()
        assert side[0] >= side[1] - 8  # the middle takes what rounding leaves


@pytest.mark.parametrize("half_way", [False, True])
@pytest.mark.parametrize("tail", TAILS)
def test_the_spread_of_the_symbols_grows_with_the_class(tail, half_way):
    distance = np.abs(np.arange(256) - tables.ZERO + (0.5 if half_way else 0))
    mean = [
        float(tables.frequencies(tail, number, half_way=half_way) @ distance) / TOTAL for number in range(32)
    ]
    assert (np.diff(mean) >= 0).all()
    for number in range(20 if half_way else 14, 29):  # below, bins are too wide; above, the alphabet ends
        assert mean[number] == pytest.approx(2 ** ((number - tables.UNIT_CLASS) / 4), rel=0.12)


def test_classes_with_raw_bits_share_the_rows_of_their_quarter_octave():
    for number in range(tables.WIDE_CLASS, tables.CLASSES):
        same = tables.frequencies(2, 28 + number % 4, half_way=True)
        assert (tables.frequencies(2, number, half_way=False) == same).all()
    assert tables.RAW_BITS[:32].max() == 0
    assert tables.RAW_BITS[32:].tolist() == [1 + (number - 32) // 4 for number in range(32, tables.CLASSES)]


@pytest.mark.parametrize("number", range(tables.WIDE_CLASS))
def test_the_cells_of_a_symbol_are_64_times_a_power_of_the_fourth_root_of_two(number):
    exact = 64 * 2 ** ((tables.UNIT_CLASS - number) / 4) * 65536
    assert tables.cells_per_symbol(number) == pytest.approx(exact, rel=1e-6, abs=1)


@pytest.mark.parametrize("tail", TAILS)
def test_a_shape_has_a_mean_magnitude_of_1(tail):
    density = tables.density(tail)
    centre = (np.arange(density.size) + 0.5) / 64
    assert density @ centre / density.sum() == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("tail", TAILS)
def test_a_shape_is_a_generalised_gaussian_within_a_few_percent(tail):
    exponent = EXPONENTS[tail]
    mean = special.gamma(2 / exponent) / special.gamma(1 / exponent)
    borders = np.concatenate([np.arange(0, 4.01, 0.25), [6, 16]])
    exact = np.diff(stats.gennorm.cdf(borders * mean, exponent)) * 2
    cumulated = np.concatenate([[0], np.cumsum(tables.density(tail))])
    found = np.diff(cumulated[(borders * 64).astype(int)]) / cumulated[-1]
    assert np.abs(found - exact).sum() < 0.05  # twice the total variation
    # Coding the generalised Gaussian with the shape wastes less than a hundredth of a bit.
    assert (exact * np.log2(exact / found)).sum() < 0.01


def test_shapes_have_ever_heavier_tails():
    kurtosis = []
    for tail in TAILS:
        density, centre = tables.density(tail).astype(float), (np.arange(1024) + 0.5) / 64
        kurtosis.append((density @ centre**4) * density.sum() / (density @ centre**2) ** 2)
    assert kurtosis[0] == pytest.approx(3, rel=0.01)
    assert (np.diff(kurtosis) > 0.2).all()


@st.composite
def symbol_counts(draw):
    """Counts of the 256 symbols, few or many, narrow or wide, with or without escapes."""
    half_way = draw(st.booleans())
    reach = draw(st.integers(0, 126))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    counts = np.zeros(256, np.int64)
    low = tables.ZERO - reach - (1 if half_way else 0)
    inside = rng.integers(0, draw(st.sampled_from([2, 100, 10**9])), tables.ZERO + reach + 1 - low)
    counts[low : tables.ZERO + reach + 1] = inside
    counts[ESCAPES] = rng.integers(0, draw(st.sampled_from([1, 5, 10**6])), 2)
    counts[draw(st.integers(max(low, 1), tables.ZERO + reach))] += draw(st.sampled_from([1, 10**6, 10**12]))
    return counts, half_way


@settings(max_examples=150, deadline=None)
@given(symbol_counts())
def test_a_fitted_row_is_a_valid_one_that_serves_every_counted_symbol_and_survives_packing(case):
    counts, half_way = case
    folded = tables.fold(counts, half_way=half_way)
    assert folded.sum() == counts.sum()
    row = tables.symmetric(folded, half_way=half_way)
    assert row.sum() == TOTAL
    assert (row >= 0).all()
    assert (row < TOTAL).all()
    assert (row[counts > 0] > 0).all()
    assert row[0] == row[255] > 0
    packed = tables.pack(row)
    reader = ByteReader(packed + b"behind")
    assert tables.unpack(reader, half_way=half_way).tolist() == row.tolist()
    assert bytes(reader.rest()) == b"behind"


@pytest.mark.parametrize("half_way", [False, True])
@pytest.mark.parametrize("symbol", [0, 1, 2, 127, 128, 254, 255])
def test_a_row_of_a_single_symbol_has_it_or_an_escape_for_it(symbol, half_way):
    counts = np.zeros(256, np.int64)
    counts[symbol] = 7
    row = tables.symmetric(tables.fold(counts, half_way=half_way), half_way=half_way)
    assert row.sum() == TOTAL
    assert row.max() < TOTAL
    # The integer -127 has no mirror image in a table that is symmetric about 0.
    assert row[0 if symbol == 1 and not half_way else symbol] > 1000


@pytest.mark.parametrize("half_way", [False, True])
def test_a_fitted_row_follows_the_counts(half_way):
    rng = np.random.default_rng(0)
    symbols = np.clip(np.rint(rng.standard_normal(200_000) * 9 - (0.5 if half_way else 0)) + 128, 1, 254)
    counts = np.bincount(symbols.astype(int), minlength=256)
    row = tables.symmetric(tables.fold(counts, half_way=half_way), half_way=half_way)
    used = counts > 0
    entropy = -(counts[used] * np.log2(counts[used] / counts.sum())).sum()
    assert -(counts[used] * np.log2(row[used] / TOTAL)).sum() < 1.005 * entropy


@pytest.mark.parametrize(
    "half",
    [
        pytest.param([0] * 128, id="empty"),
        pytest.param([1, 4095] + [0] * 126, id="sums to 4097 unfolded"),
        pytest.param([0, 4096] + [0] * 126, id="no escape"),
        pytest.param([1, 4092] + [0] * 126, id="sums to 4094"),
    ],
)
@pytest.mark.parametrize("half_way", [False, True])
def test_a_packed_row_that_is_no_table_is_refused(half, half_way):
    packed = pack_table(np.array(half)) if any(half) else bytes([0, 0, 0])
    with pytest.raises(DamagedError, match="does not sum to 4096"):
        tables.unpack(ByteReader(packed), half_way=half_way)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_are_a_table_or_refused(data, half_way):
    reader = ByteReader(data)
    try:
        row = tables.unpack(reader, half_way=half_way)
    except DamagedError:
        return
    assert row.sum() == TOTAL
    assert row.min() >= 0
    assert row.max() < TOTAL
    assert reader.position <= len(data)


@pytest.mark.parametrize("first", [0, 9, 31, 32])
def test_every_class_has_its_row_among_those_of_the_shape(first):
    rows, place = tables.rows_of_shape(3, first), tables.row_of_class(first)
    assert len(rows) == tables.row_count(first)
    for number in range(tables.CLASSES):
        assert (rows[place[number]] == tables.frequencies(3, number, half_way=False)).all()
        if first <= number < tables.WIDE_CLASS:
            assert (rows[place[number] + 1] == tables.frequencies(3, number, half_way=True)).all()


def test_prices_are_the_logarithms_of_the_frequencies():
    row = tables.frequencies(1, 20, half_way=True)
    price = tables.bits(1, 20, half_way=True)
    assert np.isinf(price[row == 0]).all()
    assert price[row > 0] == pytest.approx(-np.log2(row[row > 0] / TOTAL), abs=1 / 4096)


def test_the_score_of_a_gaussian_is_its_value_over_the_variance():
    slope = tables.score(0)
    inside = np.arange(8, 56)
    assert slope[inside] == pytest.approx(inside / 16 / (321 / 256) ** 2, rel=0.03)
    assert (tables.score(7) >= 0).all()


@pytest.mark.parametrize("tail", TAILS)
def test_a_sample_is_spread_as_its_shape_and_without_order(tail):
    sample = tables.sample(tail, 4096)
    assert np.abs(sample).mean() == pytest.approx(1, rel=0.01)
    assert sample.mean() == pytest.approx(0, abs=1e-9)
    for lag in (1, 2, 3, 7):
        assert abs(np.corrcoef(sample[lag:], sample[:-lag])[0, 1]) < 0.06
