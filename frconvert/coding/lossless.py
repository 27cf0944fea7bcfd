"""Exact storage of a sequence of equally wide elements: byte planes through the same rANS.

Every element is taken as an unsigned little-endian word of 1, 2, 4 or 8 bytes (complex numbers as two words).
Words of floats are rotated left by one bit, so that the exponent fills the top byte and the sign joins the
lowest, which is noise anyway. Plane 0 holds the top bytes. Each plane is coded by itself: raw, one constant,
or rANS with one explicit table, whichever is shortest.

Law: decode(encode(values), dtype, values.size) has the same bytes as values, NaN payloads included.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import rans
from frconvert.coding.bits import ByteReader, pack_table, unpack_table
from frconvert.coding.models import normalise
from frconvert.dtypes import ITEM_BYTES, numpy_dtype
from frconvert.errors import DamagedError

_RAW, _CONSTANT, _CODED = 0, 1, 2


def word_layout(dtype: str) -> tuple[int, int, bool]:
    """Bytes a word, words an element, and whether words are floats, of a dtype's name."""
    if dtype.startswith("complex"):
        return ITEM_BYTES[dtype] // 2, 2, True
    return ITEM_BYTES[dtype], 1, "float" in dtype


def encode(values: NDArray[np.generic], dtype: str) -> bytes:
    """Bytes of a 1-D sequence of elements of `dtype`; empty for an empty one."""
    width, _, is_float = word_layout(dtype)
    words = np.ascontiguousarray(values).view(f"<u{width}")
    if not words.size:
        return b""
    if is_float:
        words = _rotate_left(words)
    planes = words.view(np.uint8).reshape(-1, width)
    return b"".join(
        _encode_plane(np.ascontiguousarray(planes[:, column])) for column in range(width - 1, -1, -1)
    )


def decode(payload: bytes | memoryview, dtype: str, count: int) -> NDArray[np.generic]:
    """The `count` elements of a payload.

    Raises:
        DamagedError: the payload does not decode to exactly that many elements.
    """
    width, words_per_element, is_float = word_layout(dtype)
    reader = ByteReader(payload)
    word_count = count * words_per_element
    planes = np.empty((word_count, width), np.uint8)
    if word_count:
        for column in range(width - 1, -1, -1):
            planes[:, column] = _decode_plane(reader, word_count)
    if len(reader.rest()):
        raise DamagedError("bytes after the last byte plane")
    words = planes.reshape(-1).view(f"<u{width}")
    if is_float:
        words = _rotate_right(words)
    if dtype == "bool" and (words > 1).any():
        raise DamagedError("a bool that is neither 0 nor 1")
    return words.view(numpy_dtype(dtype))


def narrowest(values: NDArray[np.generic]) -> str:
    """The narrowest of float16, float32 and the values' own dtype that holds them all without loss."""
    for name in {"float64": ("float16", "float32"), "float32": ("float16",)}.get(values.dtype.name, ()):
        with np.errstate(over="ignore", invalid="ignore"):
            back = values.astype(name).astype(values.dtype)
        if back.tobytes() == values.tobytes():
            return name
    return values.dtype.name


def _encode_plane(plane: NDArray[np.uint8]) -> bytes:
    counts = np.bincount(plane, minlength=256)
    if counts.max() == plane.size:
        return bytes([_CONSTANT, plane[0]])
    used = counts[counts > 0]
    entropy_bytes = float((used * np.log2(plane.size / used)).sum()) / 8
    if entropy_bytes < 0.995 * plane.size:
        table = normalise(counts)
        coded = pack_table(table) + rans.encode(rans.to_lanes(plane), None, table[None])
        if len(coded) < plane.size:
            return bytes([_CODED]) + coded
    return bytes([_RAW]) + plane.tobytes()


def _decode_plane(reader: ByteReader, count: int) -> NDArray[np.uint8]:
    mode = reader.take(1)[0]
    if mode == _RAW:
        return np.frombuffer(reader.take(count), np.uint8)
    if mode == _CONSTANT:
        return np.full(count, reader.take(1)[0], np.uint8)
    if mode != _CODED:
        raise DamagedError(f"byte plane coded in unknown mode {mode}")
    return rans.decode(reader, count, unpack_table(reader, 256)[None], None)


def _rotate_left(words: NDArray[Any]) -> NDArray[Any]:
    return words << 1 | words >> (8 * words.itemsize - 1)


def _rotate_right(words: NDArray[Any]) -> NDArray[Any]:
    return words >> 1 | words << (8 * words.itemsize - 1)
