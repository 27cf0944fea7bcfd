"""Equally wide bit fields as bytes, packed so that whole arrays are shifted at once.

A width is the sum of powers of two, from 32 down to 1. The fields are cut into parts of those widths, the
widest at the low end, and each part of all fields is stored before the next: parts of 8, 16 or 32 bits as
little-endian integers, parts of w = 4, 2 or 1 bits in ceil(count * w / 8) bytes. There byte i holds fields i,
i + n, i + 2n, ... from its low end, n being the number of bytes; what no field fills is zero.

Law: unpack(pack(values, width), values.size, width) == values, for values below 2^width.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.errors import DamagedError

_WIDE: dict[int, str] = {64: "<u8", 32: "<u4", 16: "<u2", 8: "|u1"}


def pack(values: NDArray[Any], width: int) -> list[NDArray[Any]]:
    """Contents of each part of unsigned integers, whose bits from `width` on are ignored."""
    pieces = []
    position = 0
    for part in _parts(width & ~7):
        piece = np.empty(values.size, _WIDE[part])
        np.right_shift(values, position, out=piece, dtype=values.dtype, casting="unsafe")
        pieces.append(piece)
        position += part
    if width & 7:
        narrow = np.empty(values.size, np.uint8)
        np.right_shift(values, position, out=narrow, dtype=values.dtype, casting="unsafe")
        for part in _parts(width & 7):
            pieces.append(_pack_narrow(narrow, part))
            narrow >>= part
    return pieces


def unpack(
    take: Callable[[int], bytes | memoryview], count: int, width: int, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Fields as `dtype`, an unsigned type of at least `width` bits; `take(n)` gives the next n bytes.

    Raises:
        DamagedError: bits that no field fills are set.
    """
    values = np.zeros(count, dtype)
    position = 0
    for part in _parts(width & ~7):
        piece = np.frombuffer(take(count * part // 8), _WIDE[part])
        values |= np.left_shift(piece, position, dtype=dtype)
        position += part
    if width & 7:
        narrow = np.zeros(count, np.uint8)
        shift = 0
        for part in _parts(width & 7):
            packed = np.frombuffer(take(-(-count * part // 8)), np.uint8)
            narrow |= _unpack_narrow(packed, count, part) << np.uint8(shift)
            shift += part
        values |= np.left_shift(narrow, position, dtype=dtype)
    return values


def _parts(width: int) -> list[int]:
    return [part for part in (64, 32, 16, 8, 4, 2, 1) if width & part]


def _pack_narrow(values: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    size = -(-values.size * width // 8)
    packed = np.zeros(size, np.uint8)
    for position in range(8 // width):
        piece = values[position * size : (position + 1) * size] & np.uint8((1 << width) - 1)
        packed[: piece.size] |= piece << np.uint8(position * width)
    return packed


def _unpack_narrow(packed: NDArray[np.uint8], count: int, width: int) -> NDArray[np.uint8]:
    fields = np.empty((8 // width, packed.size), np.uint8)
    for position in range(8 // width):
        np.right_shift(packed, position * width, out=fields[position])
    fields &= (1 << width) - 1
    flat = fields.reshape(-1)
    if flat[count:].any():
        raise DamagedError("a bit field is padded with something else than zeros")
    return flat[:count]
