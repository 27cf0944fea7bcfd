"""Unsigned machine words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frconvert.coding import words
from frconvert.coding.bits import ByteReader
from frconvert.errors import DamagedError

dtypes = st.sampled_from(["<u1", "<u2", "<u4", "<u8"])


@settings(max_examples=100, deadline=None)
@given(dtype=dtypes, seed=st.integers(0, 999))
def test_turning_and_folding_are_undone(dtype, seed):
    array = np.frombuffer(np.random.default_rng(seed).bytes(80), dtype)
    np.testing.assert_array_equal(words.turn_right(words.turn_left(array)), array)
    np.testing.assert_array_equal(words.unfold(words.fold(array, int(array[3])), int(array[3])), array)


def test_folding_counts_outwards_from_the_centre():
    array = np.array([7, 6, 8, 5, 9, 255], np.uint8)
    assert words.fold(array, 7).tolist() == [0, 1, 2, 3, 4, 15]


@settings(max_examples=200, deadline=None)
@given(dtype=dtypes, value=st.integers(-(2**63), 2**64 - 1))
def test_a_word_takes_no_more_bytes_than_it_needs(dtype, value):
    bits = 8 * np.dtype(dtype).itemsize
    value %= 1 << bits
    packed = words.pack_word(value, np.dtype(dtype))
    assert words.unpack_word(ByteReader(packed), np.dtype(dtype)) == value
    near_zero = min(value, (1 << bits) - 1 - value)
    assert len(packed) <= 2 + near_zero.bit_length() // 8


def test_a_word_that_is_too_wide_is_refused():
    with pytest.raises(DamagedError, match="a word of 3 bytes in a piece of 2-byte words"):
        words.unpack_word(ByteReader(b"\3\0\0\0"), np.dtype("<u2"))
