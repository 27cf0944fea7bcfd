"""Variable-length integers, bit fields and packed frequency tables."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frconvert.coding.bits import ByteReader, pack_fields, pack_table, unpack_fields, unpack_table, varint
from frconvert.coding.models import normalise
from frconvert.errors import DamagedError


@given(st.lists(st.integers(0, 2**63 - 1), max_size=8))
def test_numbers_come_back_one_after_another(values):
    reader = ByteReader(b"".join(map(varint, values)))
    assert [reader.varint() for _ in values] == values
    assert not len(reader.rest())


@pytest.mark.parametrize(
    ("value", "text"), [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02"), (2**63 - 1, "ff" * 8 + "7f")]
)
def test_numbers_are_written_as_leb128(value, text):
    assert varint(value).hex() == text


@pytest.mark.parametrize("text", ["8000", "ff00", "80808000", "ff" * 9 + "01", "80" * 9 + "01"])
def test_a_number_that_is_no_shortest_leb128_is_refused(text):
    with pytest.raises(DamagedError, match="LEB128"):
        ByteReader(bytes.fromhex(text)).varint()


@pytest.mark.parametrize("text", ["", "80", "ffff"])
def test_a_number_that_is_cut_off_is_refused(text):
    with pytest.raises(DamagedError, match="1 bytes expected at byte"):
        ByteReader(bytes.fromhex(text)).varint()


def test_a_reader_gives_what_is_there_and_nothing_more():
    reader = ByteReader(b"abcdef")
    assert bytes(reader.take(2)) == b"ab"
    with pytest.raises(DamagedError, match="9 bytes expected at byte 2, 4 found"):
        reader.take(9)
    assert bytes(reader.rest()) == b"cdef"
    assert bytes(reader.rest()) == b""
    with pytest.raises(DamagedError):
        reader.take(1 << 62)


@given(st.integers(1, 24), st.lists(st.integers(0, 2**24 - 1), max_size=20))
def test_fields_come_back(width, values):
    fields = np.array(values, np.int32) & ((1 << width) - 1)
    bits = pack_fields(fields, width)
    assert bits.dtype == np.uint8
    assert bits.size == width * fields.size
    assert unpack_fields(bits, width).tolist() == fields.tolist()


def test_fields_have_their_most_significant_bit_first():
    assert pack_fields(np.array([5, 1]), 3).tolist() == [1, 0, 1, 0, 0, 1]


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=256).filter(any), st.binary(max_size=4))
def test_tables_come_back_and_the_reader_stands_behind_them(counts, behind):
    table = normalise(np.array(counts))
    packed = pack_table(table)
    reader = ByteReader(packed + behind)
    assert unpack_table(reader, len(counts)).tolist() == table.tolist()
    assert bytes(reader.rest()) == behind


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=40).filter(any), st.integers(1, 8))
def test_a_cut_off_table_is_refused(counts, missing):
    packed = pack_table(normalise(np.array(counts)))
    with pytest.raises(DamagedError):
        unpack_table(ByteReader(packed[:-missing]), len(counts))


@pytest.mark.parametrize(("first", "last"), [(3, 2), (0, 16), (16, 16), (255, 255)])
def test_a_table_of_symbols_outside_the_alphabet_is_refused(first, last):
    with pytest.raises(DamagedError, match="frequency table names symbols"):
        unpack_table(ByteReader(bytes([first, last]) + bytes(40)), 16)
