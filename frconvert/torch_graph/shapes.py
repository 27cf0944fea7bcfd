"""Operators that move values without changing them: shapes, order of axes, cutting, joining, padding."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from frconvert.errors import UnsupportedError
from frconvert.torch_graph.graph import Node
from frconvert.torch_graph.types import dtype_of, to_torch


def _numbers(node: Node, name: str, given: Tensor | None, default: Any = None) -> Any:
    """A list that newer operators take as an input and older ones as an attribute."""
    return node.get(name, default) if given is None else given.reshape(-1).tolist()


def _reshape(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """-1 is what is left; 0 the length that the axis had, unless `allowzero`."""
    wished = shape.tolist()
    if not node.get("allowzero", 0):
        wished = [x.shape[axis] if length == 0 else length for axis, length in enumerate(wished)]
    return x.reshape(wished)


def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.get("perm", list(range(x.dim()))[::-1]))


def _squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = _numbers(node, "axes", axes)
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


def _unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """The axes are those of the result."""
    chosen = _numbers(node, "axes", axes)
    rank = x.dim() + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def _concat(node: Node, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, node.get("axis", 1))


def _split(node: Node, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
    """Without lengths into equal parts, the last of which may be shorter."""
    axis = node.get("axis", 0)
    chosen = _numbers(node, "split", lengths)
    if chosen is None:
        count = node.get("num_outputs", len(node.outputs))
        each = -(-x.shape[axis] // count)
        chosen = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    return tuple(torch.split(x, chosen, axis))


def _cut(
    node: Node,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """Slice: as Python's slices, negative steps included."""
    begin, end = _numbers(node, "starts", starts), _numbers(node, "ends", ends)
    chosen = _numbers(node, "axes", axes, list(range(len(begin))))
    strides = [1] * len(begin) if steps is None else steps.tolist()
    for axis, first, last, stride in zip(chosen, begin, end, strides, strict=True):
        length = x.shape[axis]
        places = range(*slice(first, last, stride).indices(length))
        if stride > 0:
            parts: list[Any] = [slice(None)] * x.dim()
            parts[axis] = slice(places.start, max(places.start, places.stop), stride)
            x = x[tuple(parts)]
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=x.device))
    return x


def _pad(
    node: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """Negative counts cut; modes constant, reflect, edge and wrap."""
    flat = _numbers(node, "pads", pads)
    chosen = [axis % x.dim() for axis in (range(x.dim()) if axes is None else axes.tolist())]
    counts = [(0, 0)] * x.dim()
    for place, axis in enumerate(chosen):
        counts[axis] = flat[place], flat[place + len(chosen)]
    mode = node.get("mode", "constant")
    if mode == "constant":
        filler = (
            node.get("value", 0.0) if value is None else value.reshape(-1)[0].item() if value.numel() else 0
        )
        return functional.pad(x, [count for pair in reversed(counts) for count in pair], value=filler)
    for axis, (before, behind) in enumerate(counts):
        if before or behind:
            places = torch.arange(-before, x.shape[axis] + behind, device=x.device)
            x = x.index_select(axis, _inside(places, x.shape[axis], mode))
    return x


def _inside(places: Tensor, length: int, mode: str) -> Tensor:
    """Places in and around an axis -> those in it that have their values."""
    if mode == "edge":
        return places.clamp(0, length - 1)
    if mode == "wrap":
        return places % length
    if mode != "reflect":
        raise UnsupportedError(f"fine-tuning does not know the mode {mode!r} of Pad")
    if length == 1:
        return torch.zeros_like(places)
    around = places % (2 * length - 2)
    return torch.where(around < length, around, 2 * length - 2 - around)


def _expand(_: Node, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape.tolist())))


def _tile(_: Node, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(repeats.tolist())


def _shape(node: Node, x: Tensor) -> Tensor:
    lengths = list(x.shape)[node.get("start", 0) : node.get("end", None)]
    return torch.tensor(lengths, dtype=torch.int64, device=x.device)


def _size(_: Node, x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64, device=x.device)


def _constant_of_shape(node: Node, lengths: Tensor) -> Tensor:
    value = node.get("value", None)
    filler = torch.zeros(()) if value is None else to_torch(value.reshape(-1)[:1]).reshape(())
    return filler.to(lengths.device).expand(lengths.tolist()).contiguous()


def _range_(_: Node, first: Tensor, end: Tensor, step: Tensor) -> Tensor:
    """Range: first + n * step, as long as that is before the end."""
    count = max(0, int(torch.ceil((end - first).double() / step.double())))
    return first.reshape(()) + torch.arange(count, device=first.device).to(first.dtype) * step.reshape(())


def _eye_like(node: Node, x: Tensor) -> Tensor:
    dtype = dtype_of(node.attributes["dtype"]) if "dtype" in node.attributes else x.dtype
    rows, columns = (torch.arange(length, device=x.device) for length in x.shape)
    return (columns[None] - rows[:, None] == node.get("k", 0)).to(dtype)


def _triangle(node: Node, x: Tensor, diagonal: Tensor | None = None) -> Tensor:
    place = 0 if diagonal is None else int(diagonal)
    return torch.triu(x, place) if node.get("upper", 1) else torch.tril(x, place)


def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    """[batch, b * b * channels, height, width] -> [batch, channels, b * height, b * width]."""
    b = node.attributes["blocksize"]
    batch, depth, height, width = x.shape
    if node.get("mode", "DCR") == "DCR":
        blocks = x.reshape(batch, b, b, depth // b**2, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        blocks = x.reshape(batch, depth // b**2, b, b, height, width).permute(0, 1, 4, 2, 5, 3)
    return blocks.reshape(batch, depth // b**2, height * b, width * b)


def _space_to_depth(node: Node, x: Tensor) -> Tensor:
    b = node.attributes["blocksize"]
    batch, depth, height, width = x.shape
    order = (0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    blocks = x.reshape(batch, depth, height // b, b, width // b, b).permute(order)
    return blocks.reshape(batch, depth * b**2, height // b, width // b)


def _reverse_sequence(node: Node, x: Tensor, lengths: Tensor) -> Tensor:
    """The first so many steps of each sample backwards."""
    time, batch = node.get("time_axis", 0), node.get("batch_axis", 1)
    moved = x.movedim((time, batch), (0, 1))
    steps = torch.arange(len(moved), device=x.device)[:, None]
    places = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return moved[places, torch.arange(moved.shape[1], device=x.device)].movedim((0, 1), (time, batch))


OPERATORS: dict[str, Callable[..., Any]] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "EyeLike": _eye_like,
    "Flatten": _flatten,
    "Pad": _pad,
    "Range": _range_,
    "Reshape": _reshape,
    "ReverseSequence": _reverse_sequence,
    "Shape": _shape,
    "Size": _size,
    "Slice": _cut,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}
