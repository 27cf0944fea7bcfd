"""A tensor as coefficients, and how a graph stores them: in which order, which corner of them.

Laws: `restored(arranged(coefficients)) == coefficients`, bit for bit; `weights(coefficients)` is what the
nodes that are made of it compute, within float32 rounding.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import quantize
from frconvert.dtypes import ITEM_BYTES, largest_finite, numpy_dtype
from frconvert.idct.storage import Packed, corner_box, pack, unpack
from frconvert.spectral import dct, zigzag

FOLD_BYTES = 1 << 30  # onnxruntime folds no node with a larger output
BASIS_BYTES = 1 << 28  # larger bases take more time and memory than they are worth
_INDEX_NODES_BYTES = 400  # about what the nodes that make a zigzag order take


@dataclass(frozen=True, slots=True)
class Coefficients:
    """A tensor as coefficients.

    Attributes:
        shape, dtype: of the tensor.
        axes: the transformed axes, ascending.
        keep: how many coefficients there are, a prefix of the zigzag order; None is all, in C order.
        step: what integers are multiples of; None for floats.
        values: 1-D, int32 with a step, else float16, float32 or float64.
    """

    shape: tuple[int, ...]
    dtype: str
    axes: tuple[int, ...]
    keep: int | None
    step: float | None
    values: NDArray[np.generic] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Arranged:
    """Coefficients as a graph stores them.

    Attributes:
        shape, dtype, axes, keep, step: as in `Coefficients`.
        order: the stored order of the axes, values being in C order of a box with its axes so permuted; None
            is a prefix of the zigzag order.
        box: extents, axis by axis of the tensor, outside of which all is zero.
        packed: the values.
    """

    shape: tuple[int, ...]
    dtype: str
    axes: tuple[int, ...]
    keep: int | None
    step: float | None
    order: tuple[int, ...] | None
    box: tuple[int, ...]
    packed: Packed


@dataclass(frozen=True, slots=True)
class Fill:
    """A tensor of one value, which is no coefficient but stored as compactly.

    Attributes:
        shape, dtype: of the tensor.
        value: the bytes of an element, little-endian.
    """

    shape: tuple[int, ...]
    dtype: str
    value: bytes

    def read(self) -> NDArray[np.generic]:
        """The tensor."""
        return np.full(self.shape, np.frombuffer(self.value, numpy_dtype(self.dtype))[0])


def fill_of(values: NDArray[np.generic], dtype: str) -> Fill | None:
    """A tensor of floats as a fill, if all its elements have the same bits."""
    item = ITEM_BYTES[dtype]
    words = np.ascontiguousarray(values).astype(numpy_dtype(dtype), copy=False).reshape(-1).view(f"V{item}")
    return Fill(values.shape, dtype, words[0].tobytes()) if words.size and (words == words[0]).all() else None


def working_dtype(dtype: str) -> type[np.floating]:
    """The float type in which a tensor is computed."""
    return dct.working_dtype(numpy_dtype(dtype))


def arranged(coefficients: Coefficients, *, plain: bool = False) -> Arranged:
    """The smallest of some arrangements; with `plain`, for old operator sets, plain runs in C order."""
    return _boxed(coefficients) if plain else min(_candidates(coefficients), key=_size_bytes)


def restored(stored: Arranged) -> Coefficients:
    """Inverse of `arranged`."""
    sequence = unpack(stored.packed)
    shape, keep = stored.shape, stored.keep
    if stored.order is None:
        count = prod(shape) if keep is None else keep
        values = np.zeros(count, sequence.dtype)
        if keep is None:
            values[zigzag.prefix(shape, sequence.size)] = sequence
        else:
            values[: sequence.size] = sequence
    else:
        block = sequence.reshape([stored.box[axis] for axis in stored.order])
        dense = np.zeros(shape, sequence.dtype)
        dense[tuple(map(slice, stored.box))] = block.transpose(np.argsort(stored.order))
        values = dense.reshape(-1)
        if keep is not None:
            values = values[zigzag.prefix(shape, keep)]
    return Coefficients(shape, stored.dtype, stored.axes, keep, stored.step, values)


def weights(coefficients: Coefficients) -> NDArray[np.generic]:
    """The dense tensor, C-contiguous."""
    shape, working = coefficients.shape, working_dtype(coefficients.dtype)
    if coefficients.step is None:
        sequence: NDArray[np.floating] = coefficients.values.astype(working)
    else:
        integers = coefficients.values.astype(np.int32, copy=False)
        sequence = quantize.dequantise(integers, coefficients.step, working)
    if coefficients.keep is None:
        transformed = sequence.reshape(shape)
    else:
        transformed = np.zeros(prod(shape), working)
        transformed[zigzag.prefix(shape, coefficients.keep)] = sequence
        transformed = transformed.reshape(shape)
    dense = dct.inverse(transformed, coefficients.axes)
    target = numpy_dtype(coefficients.dtype)
    if target != working:
        largest = largest_finite(coefficients.dtype)
        np.clip(dense, -largest, largest, out=dense)
    return np.asarray(dense.astype(target, copy=False), order="C")


def obstacle(stored: Arranged) -> str | None:
    """Why a runtime could not fold the nodes of a tensor into a constant, or only at great cost."""
    item = np.dtype(working_dtype(stored.dtype)).itemsize
    if prod(stored.shape) * max(item, ITEM_BYTES[stored.dtype]) >= FOLD_BYTES:
        return f"it takes {prod(stored.shape) * item / 2**30:.1f} GiB"
    for axis in stored.axes:
        length, extent = stored.shape[axis], stored.box[axis]
        if length * extent * item > BASIS_BYTES:
            return f"axis {axis} needs a basis of {length} x {extent}"
    if stored.order is None and max(8 * stored.packed.count, item * prod(stored.box)) >= FOLD_BYTES:
        return f"a zigzag order of {stored.packed.count} takes {stored.packed.count / 2**27:.1f} GiB"
    return None


def _candidates(coefficients: Coefficients) -> Iterator[Arranged]:
    shape, axes, keep = coefficients.shape, coefficients.axes, coefficients.keep
    values = coefficients.values
    if keep is not None or (len(axes) == len(shape) and 8 * values.size < FOLD_BYTES):
        sequence = values if keep is not None else values[zigzag.prefix(shape, values.size)]
        nonzero = np.flatnonzero(_is_something(sequence))
        sequence = sequence[: int(nonzero[-1]) + 1 if nonzero.size else 1]
        box = corner_box(shape, axes, sequence.size)
        common = (shape, coefficients.dtype, axes, keep, coefficients.step)
        yield Arranged(*common, None, box, pack(sequence))
    if keep is None or keep == prod(shape):
        others = tuple(axis for axis in range(len(shape)) if axis not in axes)
        for order in dict.fromkeys([tuple(range(len(shape))), axes + others]):
            yield _boxed(coefficients, order)


def _boxed(coefficients: Coefficients, order: tuple[int, ...] | None = None) -> Arranged:
    """All coefficients of the corner box in C order of its permuted axes; without an order, and plain."""
    shape, axes, keep = coefficients.shape, coefficients.axes, coefficients.keep
    dense = coefficients.values
    if keep is not None:
        dense = np.zeros(prod(shape), coefficients.values.dtype)
        dense[zigzag.prefix(shape, keep)] = coefficients.values
    dense = dense.reshape(shape)
    box = _bounding_box(dense, axes)
    order, plain = order or tuple(range(len(shape))), order is None
    sequence = dense[tuple(map(slice, box))].transpose(order).reshape(-1)
    common = (shape, coefficients.dtype, axes, keep, coefficients.step)
    return Arranged(*common, order, box, pack(sequence, plain=plain))


def _bounding_box(dense: NDArray[np.generic], axes: tuple[int, ...]) -> tuple[int, ...]:
    """Extents of the corner outside of which all is zero; axes that are not transformed are whole."""
    box = list(dense.shape)
    something = _is_something(dense)
    for axis in axes:
        others = tuple(other for other in range(dense.ndim) if other != axis)
        nonzero = np.flatnonzero(something.any(axis=others))
        box[axis] = int(nonzero[-1]) + 1 if nonzero.size else 1
    return tuple(box)


def _is_something(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Whether a number is anything but +0."""
    found: NDArray[np.bool_] = values != 0
    if values.dtype.kind == "f":
        found |= np.signbit(values)
    return found


def _size_bytes(stored: Arranged) -> float:
    """What it takes in a file; a zigzag order, which takes a runtime time and memory, must save something."""
    size = stored.packed.size_bytes
    return size if stored.order is not None else size + _INDEX_NODES_BYTES + stored.packed.count / 16
