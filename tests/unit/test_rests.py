"""Low bits of words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frconvert.coding import rests
from frconvert.coding.bits import ByteReader
from frconvert.errors import DamagedError


def there_and_back(rest, shift, signed, classes=None, carried=5):
    heads, raw = rests.encode(rest, shift, signed, classes)
    first = rests.take_first(raw, carried)
    payload = b"".join([*heads, *raw])
    reader = ByteReader(payload + b"behind")
    back = np.full_like(rest, 77)
    rests.decode(reader, first, back, shift, signed, classes)
    np.testing.assert_array_equal(back, rest)
    assert bytes(reader.rest()) == b"behind"
    return len(payload) + len(first)


@settings(max_examples=100, deadline=None)
@given(
    width=st.sampled_from([1, 2, 4, 8]),
    data=st.data(),
    signed=st.booleans(),
    count=st.integers(0, 700),
    seed=st.integers(0, 99),
)
def test_rests_of_any_width_come_back(width, data, signed, count, seed):
    shift = data.draw(st.integers(0, 8 * width - signed))
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << 63, count).astype(f"<u{width}") & np.array(
        (1 << (shift + signed)) - 1, f"<u{width}"
    )
    words[: count // 2] &= np.array(
        -1 << data.draw(st.integers(0, 8 * width - 1)) & (1 << 8 * width) - 1, f"<u{width}"
    )
    there_and_back(words, shift, signed)
    there_and_back(words, shift, signed, rng.integers(0, 32, count).astype(np.uint8))


def test_zeros_at_either_end_are_dropped():
    rng = np.random.default_rng(0)
    words = (rng.integers(0, 1 << 8, 12_800) << 10).astype(np.uint32)
    assert there_and_back(words, 22, True) == 12_800 + 3
    words |= 1 << 22  # a sign above 4 bits that are never set
    assert there_and_back(words, 22, True) == 12_800 * 13 // 8 + 3


def test_a_run_with_more_zeros_is_cut_out_if_it_saves_enough():
    fine = np.random.default_rng(0).integers(0, 1 << 20, 64 * 128).astype(np.uint32) | 1
    long, short = fine.copy(), fine.copy()
    long[20 * 128 : 40 * 128] &= 0xFFF00
    short[20 * 128 : 21 * 128] &= 0xFFFFE
    plain = there_and_back(fine, 20, False)
    assert there_and_back(long, 20, False) == plain - 20 * 128 + 6
    assert there_and_back(short, 20, False) == plain


def test_a_low_byte_that_the_class_tells_is_coded():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 8, 20_000).astype(np.uint8)
    words = rng.integers(0, 1 << 20, 20_000).astype(np.uint32)
    plain = there_and_back(words, 20, True, classes)
    words &= (0xFFFFFF << classes.astype(np.uint32)).astype(np.uint32)
    saved = plain - there_and_back(words, 20, True, classes)
    assert 0.8 < saved / (20_000 * 3.5 / 8) <= 1  # eight tables take a kilobyte


def test_carried_bytes_that_no_field_takes_must_be_zero():
    rest = np.empty(1, np.uint8)
    rests.decode(ByteReader(b"\1\0\10"), b"\7\0\0", rest, 8, False, None)
    assert rest.tolist() == [7]
    with pytest.raises(DamagedError, match="more than there are fields"):
        rests.decode(ByteReader(b"\1\0\10"), b"\7\0\1", rest, 8, False, None)
