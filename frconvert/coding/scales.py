"""Scale classes: how large each coefficient of a tensor is expected to be, known to both sides.

The class of the coefficient at (i, j, ...) is base + a[i] + b[j] + ..., one short table of quarter octaves
for each axis along which the scale varies: rows and columns of a matrix have their own loudness, and so have
frequencies. It is clipped to the classes that there are.

A table is stored as it is or as differences, whichever is shorter.

Law: `unpack(pack(scales), shape)` gives equal scales; `classes` depends on nothing but its arguments.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from frconvert.coding.bits import ByteReader, varint
from frconvert.coding.tables import CLASSES, SHAPES
from frconvert.errors import DamagedError

_NONE, _PLAIN, _DIFFERENCES = 0, 1, 2
LARGEST_OFFSET = 127
MOST_AXES = 31  # whose modes, two bits each, fit into a varint
_LARGEST_BASE = 1 << 10


@dataclass(frozen=True, slots=True)
class Scales:
    """Scales of one tensor.

    Attributes:
        shape: number of the tail shape, see `tables.SHAPES`.
        base: class of a coefficient whose offsets are all 0.
        offsets: for each axis int16 quarter octaves within +-127, one for each index, or None.
    """

    shape: int
    base: int
    offsets: tuple[NDArray[np.int16] | None, ...]


def classes(scales: Scales, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Scale class of every element, of that shape."""
    total = np.full((1,) * len(shape), scales.base, np.int16)
    for axis, table in enumerate(scales.offsets):
        if table is not None:
            total = total + table.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    np.clip(total, 0, CLASSES - 1, out=total)
    return np.broadcast_to(total.astype(np.uint8), shape)


def classes_of_range(scale: Scales, shape: tuple[int, ...], start: int, end: int) -> NDArray[np.uint8]:
    """Classes of the elements start..end in C order, without those of any others in memory."""
    if end - start == prod(shape):
        return classes(scale, shape).reshape(-1)
    inner = prod(shape[1:])
    table, others = scale.offsets[0], scale.offsets[1:]

    def within(index: int, low: int, high: int) -> NDArray[np.uint8]:
        base = scale.base + (0 if table is None else int(table[index]))
        return classes_of_range(Scales(scale.shape, base, others), shape[1:], low, high)

    # Whole slices along the first axis, and what is before and after them, each a part of one slice.
    first, last = -(-start // inner), end // inner
    if first > last:
        return within(last, start - last * inner, end - last * inner)
    pieces = []
    if start < first * inner:
        pieces.append(within(first - 1, start - (first - 1) * inner, inner))
    if first < last:
        cut = None if table is None else table[first:last]
        whole = Scales(scale.shape, scale.base, (cut, *others))
        pieces.append(classes(whole, (last - first, *shape[1:])).reshape(-1))
    if last * inner < end:
        pieces.append(within(last, 0, end - last * inner))
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def pack(scales: Scales) -> tuple[bytes, list[NDArray[np.int32]]]:
    """Head bytes of one tensor's scales, and the values of its tables, to be coded with those of others."""
    modes, values = 0, []
    for axis, table in enumerate(scales.offsets):
        if table is None:
            continue
        plain = table.astype(np.int32)
        differences = np.diff(plain, prepend=0)
        smooth = int(np.abs(differences).sum()) < int(np.abs(plain).sum())
        modes |= (_DIFFERENCES if smooth else _PLAIN) << (2 * axis)
        values.append(differences if smooth else plain)
    signed = 2 * scales.base if scales.base >= 0 else -2 * scales.base - 1
    return bytes([scales.shape]) + varint(signed) + varint(modes), values


def read_head(reader: ByteReader, shape: tuple[int, ...]) -> tuple[int, int, list[int]]:
    """Tail shape, base, and the mode of each axis; all checked.

    Raises:
        DamagedError: a number that the format does not allow.
    """
    tail = reader.take(1)[0]
    signed, modes = reader.varint(), reader.varint()
    base = -(signed + 1 >> 1) if signed & 1 else signed >> 1
    if tail >= len(SHAPES) or abs(base) > _LARGEST_BASE or modes >> (2 * len(shape)):
        raise DamagedError("the scales of a tensor are out of range")
    listed = [modes >> (2 * axis) & 3 for axis in range(len(shape))]
    if 3 in listed:
        raise DamagedError("the scales of a tensor are stored in an unknown mode")
    return tail, base, listed


def from_values(tail: int, base: int, modes: list[int], tables: list[NDArray[np.int32]]) -> Scales:
    """Puts a head and the values of the tables (one for each axis that has a mode) together."""
    waiting = iter(tables)
    offsets: list[NDArray[np.int16] | None] = []
    for mode in modes:
        if mode == _NONE:
            offsets.append(None)
            continue
        values = next(waiting)
        table = np.cumsum(values, dtype=np.int64) if mode == _DIFFERENCES else values
        if np.abs(table).max(initial=0) > LARGEST_OFFSET:
            raise DamagedError("the scales of a tensor are out of range")
        offsets.append(table.astype(np.int16))
    return Scales(tail, base, tuple(offsets))
