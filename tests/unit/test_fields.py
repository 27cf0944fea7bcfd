"""Equally wide bit fields."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frconvert.coding import fields
from frconvert.coding.bits import ByteReader
from frconvert.errors import DamagedError


def packed(values, width):
    return b"".join(part.tobytes() for part in fields.pack(values, width))


@settings(max_examples=200, deadline=None)
@given(
    bits=st.sampled_from([8, 16, 32, 64]), data=st.data(), count=st.integers(0, 70), seed=st.integers(0, 99)
)
def test_fields_of_any_width_come_back(bits, data, count, seed):
    width = data.draw(st.integers(0, bits))
    words = np.random.default_rng(seed).integers(0, 1 << 63, count).astype(f"<u{bits // 8}")
    reader = ByteReader(packed(words, width) + b"behind")
    back = np.full_like(words, 99)
    fields.unpack(reader.take, back, width)
    assert back.tolist() == [int(word) % (1 << width) for word in words]
    assert bytes(reader.rest()) == b"behind"


def test_more_fields_than_a_block_come_back():
    words = np.random.default_rng(0).integers(0, 1 << 22, 100_001).astype(np.uint32)
    back = np.empty_like(words)
    fields.unpack(ByteReader(packed(words, 22)).take, back, 22)
    np.testing.assert_array_equal(back, words)


def test_a_part_begins_when_the_one_before_is_complete():
    words = np.array([0x1A5, 0x0B6, 0x1C7], np.uint16)  # 9 bits: a byte each, then one bit each
    assert packed(words, 9) == bytes([0xA5, 0xB6, 0xC7, 0b101])
    assert packed(np.array([1, 2, 3, 4, 5], np.uint8), 4) == bytes([0x41, 0x52, 0x03])


@pytest.mark.parametrize("width", [1, 2, 4, 7, 9])
def test_what_no_field_fills_must_be_zero(width):
    payload = bytearray(packed(np.zeros(3, np.uint16), width))
    payload[-1] |= 0x80
    with pytest.raises(DamagedError, match="padded"):
        fields.unpack(ByteReader(bytes(payload)).take, np.empty(3, np.uint16), width)
