"""What a wrong CRC-32 says about the damage: which bit was flipped, or which four bytes may be wrong.

A CRC is linear: the difference between the checksum that is stored and the one that is computed, the
syndrome, depends on what was changed alone. The polynomial is primitive, so every single flipped bit of a
message below 512 MiB has a syndrome of its own; and at any given place exactly one change of 32 bits explains
a syndrome. "Codeword" is the message followed by its stored CRC-32.
"""

import zlib
from collections.abc import Iterator
from math import isqrt

_ONES = 0xFFFFFFFF
_LONGEST = 1 << 29  # bytes; longer messages have bits of equal syndrome


def _advance(state: int, count: int) -> int:
    """The effect of `count` zero bytes on a difference of states."""
    return zlib.crc32(bytes(count), state ^ _ONES) ^ _ONES


_TABLE = [_advance(value, 1) for value in range(256)]
_INDEX_BY_TOP = {value >> 24: index for index, value in enumerate(_TABLE)}


def _retreat(state: int) -> int:
    """Inverse of `_advance(state, 1)`."""
    index = _INDEX_BY_TOP[state >> 24]
    return (state ^ _TABLE[index]) << 8 & _ONES | index


def flipped_bit(length: int, syndrome: int) -> int | None:
    """The single bit of a codeword that explains a syndrome, or None.

    Args:
        length: of the message, in bytes.
        syndrome: computed XOR stored checksum.

    Returns:
        8 * byte + bit in that byte (0 is the lowest); bytes from `length` on are those of the stored CRC-32.
    """
    if syndrome == 0 or length > _LONGEST:
        return None
    if syndrome.bit_count() == 1:
        return 8 * length + syndrome.bit_length() - 1
    # The syndrome of bit b at byte p is 1 << b, advanced length - p times: giant steps from there in a table,
    # single steps back from the syndrome until one of them is met.
    stride = isqrt(length) + 1
    giants: dict[int, tuple[int, int]] = {}
    states = [1 << bit for bit in range(8)]
    for advanced in range(0, length + 1, stride):
        giants.update({state: (advanced, bit) for bit, state in enumerate(states)})
        states = [_advance(state, stride) for state in states]
    state = syndrome
    for steps in range(stride):
        advanced, bit = giants.get(state, (-1, 0))
        if advanced >= 0 and 1 <= advanced + steps <= length:
            return 8 * (length - advanced - steps) + bit
        state = _retreat(state)
    return None


def flip(data: bytes, bit: int) -> bytes:
    """`data` with one bit changed, counted as by `flipped_bit`."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def candidates(message: bytes, syndrome: int) -> Iterator[bytes]:
    """All messages that differ from this one in four bytes side by side and would explain the syndrome.

    The message itself comes first (its stored checksum may be what is wrong), then the one with a single
    flipped bit. Which one is right the caller must find out by other means.
    """
    yield message
    bit = flipped_bit(len(message), syndrome)
    if bit is not None and bit < 8 * len(message):
        yield flip(message, bit)
    state = syndrome
    for start in range(len(message) - 1, -1, -1):
        state = _retreat(state)
        end = min(start + 4, len(message))
        change = state.to_bytes(4, "little")
        piece = bytes(a ^ b for a, b in zip(message[start:end], change, strict=False))
        yield message[:start] + piece + message[end:]
