"""What a CRC-32 tells of damage."""

import random
import zlib
from itertools import islice

import pytest

from frconvert.container.repair import candidates, flip, flipped_bit

RNG = random.Random(0)  # noqa: S311


@pytest.mark.parametrize("length", [0, 1, 2, 5, 64, 301])
def test_every_single_flipped_bit_is_found_in_the_message_and_in_its_checksum(length):
    message = RNG.randbytes(length)
    codeword = message + zlib.crc32(message).to_bytes(4, "little")
    for bit in range(8 * len(codeword)):
        broken = flip(codeword, bit)
        syndrome = zlib.crc32(broken[:length]) ^ int.from_bytes(broken[length:], "little")
        assert flipped_bit(length, syndrome) == bit


def test_a_flipped_bit_of_a_long_message_behind_a_prefix_is_found():
    prefix, message = b"prefix", bytearray(RNG.randbytes(3_000_000))
    right = zlib.crc32(prefix + message)
    for bit in (0, 7, 8, 11_999_999, 8 * len(message) - 1):
        broken = flip(message, bit)
        assert flipped_bit(len(message), zlib.crc32(prefix + broken) ^ right) == bit


def test_what_no_single_bit_explains_is_none():
    message = RNG.randbytes(100)
    right = zlib.crc32(message)
    assert flipped_bit(100, 0) is None
    for first in range(0, 800, 37):
        for second in range(first + 1, 800, 41):
            broken = flip(flip(message, first), second)
            assert flipped_bit(100, zlib.crc32(broken) ^ right) is None


def test_a_change_of_four_bytes_side_by_side_is_among_the_candidates():
    message = RNG.randbytes(60)
    right = zlib.crc32(message)
    for start in range(61):
        broken = message[:start] + RNG.randbytes(len(message[start : start + 4])) + message[start + 4 :]
        found = list(candidates(broken, zlib.crc32(broken) ^ right))
        assert message in found
        assert len(found) <= 62


def test_the_single_flipped_bit_comes_before_the_other_candidates():
    message = RNG.randbytes(60)
    broken = flip(message, 123)
    assert message in list(islice(candidates(broken, zlib.crc32(broken) ^ zlib.crc32(message)), 2))
