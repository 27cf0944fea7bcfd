"""Weights as matrices: how a tensor is used in a layer, and the columns that its rows are multiplied with.

Whatever the layer, its output is M x for matrices M [groups, rows, columns] that hold the weights and columns
x that hold the inputs: those of a convolution are its input's patches, those of a transposed one the patches
of the input spread out by the stride. The sum of x x' is the Gram matrix, from which the output error of any
change of M follows.

Law: `matrix(weights) @ columns(inputs)` is the layer's output without its bias, at the chosen positions.
"""

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

LINEAR, TRANSPOSED, CONVOLUTION, TRANSPOSED_CONVOLUTION, LOOKUP = (
    "linear",
    "transposed",
    "conv",
    "deconv",
    "lookup",
)

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Use:
    """How one tensor is used.

    Attributes:
        weight: name of the tensor.
        kind: `LINEAR` for [rows, columns], `TRANSPOSED` for [columns, rows], `CONVOLUTION` for [rows,
            columns, kernel ...], `TRANSPOSED_CONVOLUTION` for [columns, rows, kernel ...], `LOOKUP` for a
            table whose rows are looked up.
        bias: name of the vector that is added to the output, if there is one.
        groups, stride, padding, dilation: of a convolution; per kernel axis.
    """

    weight: str
    kind: str
    bias: str | None = None
    groups: int = 1
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalisation: its output is scale * normalised + shift, a number each per channel.

    Attributes:
        scale, shift: names of the vectors.
        channel_axis: of its output.
    """

    scale: str
    shift: str
    channel_axis: int


def column_axes(use: Use, rank: int) -> tuple[int, ...]:
    """The axes of the tensor that its columns run over, in the columns' order."""
    if use.kind in (CONVOLUTION, LINEAR):
        return tuple(range(1, rank))
    if use.kind == LOOKUP:
        return ()
    return (0, *range(2, rank))


def matrices(use: Use, tensor: Array) -> Array:
    """[groups, rows, columns] of a tensor."""
    if use.kind == LOOKUP:
        return tensor.reshape(1, len(tensor), -1)
    if use.kind in (LINEAR, CONVOLUTION):
        return tensor.reshape(use.groups, len(tensor) // use.groups, -1)
    grouped = tensor.reshape(use.groups, len(tensor) // use.groups, *tensor.shape[1:])
    moved = np.moveaxis(grouped, 2, 1)
    return moved.reshape(*moved.shape[:2], -1)


def tensor_of(use: Use, found: Array, shape: tuple[int, ...]) -> Array:
    """Inverse of `matrices`."""
    if use.kind in (LINEAR, CONVOLUTION, LOOKUP):
        return found.reshape(shape)
    moved = found.reshape(use.groups, shape[1], shape[0] // use.groups, *shape[2:])
    return np.ascontiguousarray(np.moveaxis(moved, 1, 2)).reshape(shape)


def columns(use: Use, inputs: Array, kernel: tuple[int, ...], most: int, offset: int = 0) -> Array:
    """The columns that the matrices are multiplied with: [groups, positions, columns] float32.

    Args:
        use: of the tensor.
        inputs: of the layer: features last for `LINEAR` and `TRANSPOSED`, [batch, channels, ...] for
            convolutions.
        kernel: lengths of the kernel axes.
        most: about so many positions are taken, evenly spread, where there are more.
        offset: where they begin.
    """
    if use.kind in (LINEAR, TRANSPOSED):
        flat = inputs.reshape(-1, inputs.shape[-1])
        return flat[_every(len(flat), most, offset)][None].astype(np.float32, copy=False)
    if use.kind == TRANSPOSED_CONVOLUTION:
        inputs = _spread(inputs, use.stride)
        padding = tuple(
            (d * (k - 1) - low, d * (k - 1) - high)
            for d, k, (low, high) in zip(use.dilation, kernel, use.padding, strict=True)
        )
        stride = (1,) * len(kernel)
    else:
        padding, stride = use.padding, use.stride
    padded = np.pad(inputs, ((0, 0), (0, 0), *((max(low, 0), max(high, 0)) for low, high in padding)))
    cut = tuple(slice(max(-low, 0), -max(-high, 0) or None) for low, high in padding)
    padded = padded[:, :, *cut]
    spans = tuple(d * (k - 1) + 1 for d, k in zip(use.dilation, kernel, strict=True))
    axes = tuple(range(2, 2 + len(kernel)))
    windows = sliding_window_view(padded, spans, axis=axes)
    windows = windows[:, :, *(slice(None, None, s) for s in stride)]
    steps: Any = (..., *(slice(None, None, d) for d in use.dilation))
    windows = windows[steps]
    if use.kind == TRANSPOSED_CONVOLUTION:
        windows = np.flip(windows, tuple(range(-len(kernel), 0)))
    batch = len(windows)
    places = windows.shape[2 : 2 + len(kernel)]
    chosen = np.unravel_index(_every(batch * prod(places), most, offset), (batch, *places))
    # Advanced indices around a slice go to the front: [positions, channels, kernel ...].
    places_taken: Any = (chosen[0], slice(None), *chosen[1:])
    taken = windows[places_taken]
    grouped = taken.reshape(len(taken), use.groups, -1)
    return np.ascontiguousarray(grouped.swapaxes(0, 1), dtype=np.float32)


def _every(count: int, most: int, offset: int) -> NDArray[np.intp]:
    step = max(1, count // most)
    return np.arange(offset % step, count, step)


def _spread(inputs: Array, stride: tuple[int, ...]) -> Array:
    """The inputs with zeros between them."""
    lengths = [s * (n - 1) + 1 for s, n in zip(stride, inputs.shape[2:], strict=True)]
    result = np.zeros((*inputs.shape[:2], *lengths), inputs.dtype)
    result[(slice(None), slice(None), *(slice(None, None, s) for s in stride))] = inputs
    return result


def transformed_gram(gram: Array, use: Use, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """The Gram matrices [groups, columns, columns] of columns whose transformed axes are DCT coefficients."""
    inner = column_axes(use, len(shape))
    lengths = [shape[axis] for axis in inner]
    if inner and inner[0] == 0:
        lengths[0] //= use.groups
    places = [place for place, axis in enumerate(inner) if axis in axes]
    if not places:
        return gram
    from scipy import fft  # noqa: PLC0415  (a quarter of a second)

    count = len(lengths)
    shaped = gram.reshape(len(gram), *lengths, *lengths)
    both = [1 + place for place in places] + [1 + count + place for place in places]
    result: Array = fft.dctn(shaped, axes=both, norm="ortho").reshape(gram.shape)
    return result
