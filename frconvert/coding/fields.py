"""Equally wide bit fields as bytes, packed so that whole arrays are shifted at once.

A width is the sum of powers of two, from 32 down to 1. The fields are cut into parts of those widths, the
widest at the low end, and each part of all fields is stored before the next: parts of 8, 16 or 32 bits as
little-endian integers, parts of w = 4, 2 or 1 bits in ceil(count * w / 8) bytes. There byte i holds fields i,
i + n, i + 2n, ... from its low end, n being the number of bytes; what no field fills is zero.

Law: unpack(pack(values, width), width) == values, for values below 2^width.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.errors import DamagedError

_WIDE: dict[int, str] = {64: "<u8", 32: "<u4", 16: "<u2", 8: "|u1"}
_BLOCK = 1 << 15  # fields that are widened at a time, so that the copy stays in the cache


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


def unpack(take: Callable[[int], bytes | memoryview], values: NDArray[Any], width: int) -> None:
    """Fills `values`, of an unsigned type of at least `width` bits; `take(n)` gives the next n bytes.

    Raises:
        DamagedError: bits that no field fills are set.
    """
    pieces = []
    position = 0
    for part in _parts(width & ~7):
        pieces.append((position, np.frombuffer(take(values.size * part // 8), _WIDE[part])))
        position += part
    if width & 7:
        narrow = np.zeros(values.size, np.uint8)
        shift = 0
        for part in _parts(width & 7):
            _unpack_narrow(np.frombuffer(take(-(-values.size * part // 8)), np.uint8), narrow, part, shift)
            shift += part
        pieces.append((position, narrow))
    if not pieces:
        values[:] = 0
    for first in range(0, values.size, _BLOCK):
        block = values[first : first + _BLOCK]
        for position, piece in pieces:
            if position:
                block |= np.left_shift(piece[first : first + _BLOCK], position, dtype=values.dtype)
            else:
                block[:] = piece[first : first + _BLOCK]


def _parts(width: int) -> list[int]:
    return [part for part in (64, 32, 16, 8, 4, 2, 1) if width & part]


def _pack_narrow(values: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    size = -(-values.size * width // 8)
    packed = np.zeros(size, np.uint8)
    for position in range(8 // width):
        piece = values[position * size : (position + 1) * size] & np.uint8((1 << width) - 1)
        piece <<= np.uint8(position * width)
        packed[: piece.size] |= piece
    return packed


def _unpack_narrow(packed: NDArray[np.uint8], values: NDArray[np.uint8], width: int, shift: int) -> None:
    """Adds the fields to `values`, moved up by `shift` bits."""
    mask = np.uint8((1 << width) - 1)
    for position in range(8 // width):
        fields = packed >> np.uint8(position * width)
        fields &= mask
        part = values[position * packed.size : (position + 1) * packed.size]
        if fields[part.size :].any():
            raise DamagedError("a bit field is padded with something else than zeros")
        part |= fields[: part.size] << np.uint8(shift)
