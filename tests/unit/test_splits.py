"""How words are cut."""

import numpy as np
import pytest

from frconvert.coding import splits

MANTISSA = {"float16": 10, "float32": 23, "float64": 52}


def split_of(values):
    words = values.view(f"<u{values.dtype.itemsize}")
    return splits.split_floats(words, MANTISSA[values.dtype.name])


@pytest.mark.parametrize("dtype", MANTISSA)
def test_many_weights_show_exponent_and_two_or_three_bits_of_the_mantissa(dtype):
    split = split_of(np.random.default_rng(0).standard_normal(100_000).astype(dtype))
    assert MANTISSA[dtype] - split.shift in (2, 3)
    assert split.alphabet <= 256


def test_few_weights_show_little_or_nothing():
    some, none = (split_of(np.random.default_rng(0).standard_normal(n).astype(np.float32)) for n in (400, 12))
    assert 21 < some.shift <= 23
    assert none.alphabet == 1


def test_zeros_and_strays_escape():
    values = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    values[::2] = 0
    values[1] = 1e-38
    values[3] = np.inf
    split = split_of(values)
    assert split.escapes
    assert split.alphabet < 100


def test_a_base_is_a_multiple_of_its_unit():
    for scale in (1e-3, 1, 2, 700):
        values = (np.random.default_rng(0).random(9) * scale + scale).astype(np.float32)
        split = split_of(values)
        assert split.base % (1 << splits.base_unit(split.shift)) == 0


@pytest.mark.parametrize(
    ("values", "dtype", "base", "span"),
    [
        ([-3, 4], "int8", 253, 7),
        ([200, 250], "uint8", 200, 50),
        ([0, 255], "uint8", 255, 1),
        ([5], "uint64", 5, 0),
    ],
)
def test_a_span_is_taken_where_it_is_narrower(values, dtype, base, span):
    words = np.array(values, dtype).view(f"<u{np.dtype(dtype).itemsize}")
    assert splits.span_of(words) == (base, span)


def test_integers_with_strays_keep_the_many_in_range():
    values = np.random.default_rng(0).integers(0, 50, 5000).astype(np.uint32)
    assert splits.split_integers(values, True)[1] == splits.Split(int(values.min()), 0, 50)
    values[7] = 10**9
    assert splits.split_integers(values, True)[1].escapes
    assert not splits.split_integers(values, False)[1].escapes


@pytest.mark.parametrize(
    ("values", "dtype"), [([-9, -2, 1, 5, 9], "int8"), ([150, 200, 255], "uint8"), ([7], "uint64")]
)
def test_the_median_is_one_of_the_words(values, dtype):
    words = np.array(values, dtype).view(f"<u{np.dtype(dtype).itemsize}")
    assert splits.median(words) == int(words[len(values) // 2])


def test_repeated_words_are_noticed_but_not_zeros_or_narrow_ranges():
    values = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    assert splits.repeats(values[:1000].repeat(5).view(np.uint32), is_float=True)
    assert not splits.repeats(values.view(np.uint32), is_float=True)
    assert not splits.repeats(values.astype(np.float16).view(np.uint16), is_float=True)
    values[::2] = 0
    assert not splits.repeats(values.view(np.uint32), is_float=True)
    integers = np.arange(5000, dtype=np.uint32) % 100
    assert not splits.repeats(integers, is_float=False)
    assert splits.repeats(integers * 10**7, is_float=False)
