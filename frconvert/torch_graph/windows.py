"""Operators whose outputs each see a window of the input: convolutions and pooling."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from frconvert.errors import UnsupportedError
from frconvert.torch_graph.graph import Node

Pads = list[tuple[int, int]]  # before and behind each spatial axis


def _pads(node: Node, lengths: Sequence[int], spans: Sequence[int], strides: Sequence[int]) -> Pads:
    """What is put around an input for windows of these spans (dilation included)."""
    automatic = node.get("auto_pad", "NOTSET")
    if automatic == "VALID":
        return [(0, 0)] * len(lengths)
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        found = []
        for length, span, stride in zip(lengths, spans, strides, strict=True):
            total = max(0, (-(-length // stride) - 1) * stride + span - length)
            half = (total // 2, total - total // 2)
            found.append(half if automatic == "SAME_UPPER" else half[::-1])
        return found
    flat = node.get("pads", [0] * 2 * len(lengths))
    return list(zip(flat[: len(lengths)], flat[len(lengths) :], strict=True))


def _padded(x: Tensor, pads: Pads, value: float) -> Tensor:
    if not any(any(pair) for pair in pads):
        return x
    return functional.pad(x, [count for pair in reversed(pads) for count in pair], value=value)


def _rank(x: Tensor) -> int:
    rank: int = x.dim() - 2
    if not 1 <= rank <= 3:
        raise UnsupportedError(f"fine-tuning knows windows over one to three axes, not over {rank}")
    return rank


def _settings(node: Node, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and spans."""
    ones = [1] * len(kernel)
    dilations = list(node.get("dilations", ones))
    return list(node.get("strides", ones)), dilations, [
        d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)
    ]  # fmt: skip


def _convolution(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X [batch, channels, ...], weight [out, channels / group, kernel ...]."""
    rank = _rank(x)
    strides, dilations, spans = _settings(node, weight.shape[2:])
    pads = _pads(node, x.shape[2:], spans, strides)
    padding: Any = [before for before, _ in pads]
    if any(before != behind or before < 0 for before, behind in pads):
        x, padding = _padded(x, pads, 0.0), 0
    run = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    return run(x, weight, bias, strides, padding, dilations, node.get("group", 1))


def _transposed_convolution(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X [batch, channels, ...], weight [channels, out / group, kernel ...].

    All is computed without padding; padding then means to cut, or to extend by zeros, before the bias.
    """
    rank = _rank(x)
    strides, dilations, spans = _settings(node, weight.shape[2:])
    extra = list(node.get("output_padding", [0] * rank))
    whole = [
        s * (n - 1) + span + more for s, n, span, more in zip(strides, x.shape[2:], spans, extra, strict=True)
    ]
    automatic = node.get("auto_pad", "NOTSET")
    wished = node.get("output_shape", None)
    if wished is None and automatic in ("SAME_UPPER", "SAME_LOWER"):
        wished = [s * n for s, n in zip(strides, x.shape[2:], strict=True)]
    if wished is None:
        pads = _pads(node, x.shape[2:], spans, strides)
    else:
        pads = []
        for length, out in zip(whole, wished[-rank:], strict=True):
            half = (length - out) // 2
            pads.append(
                (half, length - out - half) if automatic == "SAME_UPPER" else (length - out - half, half)
            )
    run = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[rank - 1]
    made = run(x, weight, None, strides, 0, 0, node.get("group", 1), dilations)
    cuts = [(-before, more - behind) for (before, behind), more in zip(pads, extra, strict=True)]
    made = _padded(made, cuts, 0.0)
    return made if bias is None else made + bias.reshape(-1, *[1] * rank)


def _pooled_pads(node: Node, x: Tensor, strides: list[int], spans: list[int]) -> tuple[Pads, Pads]:
    """Padding, and what lies behind it because lengths are rounded up."""
    pads = _pads(node, x.shape[2:], spans, strides)
    more = []
    for length, (before, behind), stride, span in zip(x.shape[2:], pads, strides, spans, strict=True):
        free = length + before + behind - span
        count = free // stride + 1
        if node.get("ceil_mode", 0):
            count = -(-free // stride) + 1
            # A window must begin in the input or in the padding before it.
            count -= (count - 1) * stride >= length + before
        more.append((0, max(0, (count - 1) * stride - free)))
    return pads, more


def _max_pool(node: Node, x: Tensor) -> tuple[Tensor, ...]:
    """The second output has the places of the maxima in the flat input."""
    rank = _rank(x)
    strides, dilations, spans = _settings(node, node.attributes["kernel_shape"])
    pads, more = _pooled_pads(node, x, strides, spans)
    around = [(before, behind + rest) for (before, behind), (_, rest) in zip(pads, more, strict=True)]
    wide = x if x.is_floating_point() else x.double()
    padded = _padded(wide, around, -torch.inf)
    run = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[rank - 1]
    kernel = list(node.attributes["kernel_shape"])
    if len(node.outputs) < 2:
        return (run(padded, kernel, strides, 0, dilations).to(x.dtype),)
    found, flat = run(padded, kernel, strides, 0, dilations, return_indices=True)
    lengths = list(x.shape[2:])
    places = [
        place - before
        for place, (before, _) in zip(torch.unravel_index(flat, padded.shape[2:]), pads, strict=True)
    ]
    if node.get("storage_order", 0):
        places, lengths = places[::-1], lengths[::-1]
    indices = places[0]
    for place, length in zip(places[1:], lengths[1:], strict=True):
        indices = indices * length + place
    planes = torch.arange(prod(x.shape[:2]), device=x.device) * prod(lengths)
    return found.to(x.dtype), indices + planes.reshape(*x.shape[:2], *[1] * rank)


def _windows(x: Tensor, kernel: Sequence[int], strides: list[int], dilations: list[int]) -> Tensor:
    """[batch, channels, positions ..., kernel ...]."""
    for axis, (k, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True), 2):
        x = x.unfold(axis, dilation * (k - 1) + 1, stride)[..., ::dilation]
    return x


def _average_pool(node: Node, x: Tensor) -> Tensor:
    """Means over what lies in the input, or with `count_include_pad` in the padding too."""
    rank = _rank(x)
    kernel = list(node.attributes["kernel_shape"])
    strides, dilations, spans = _settings(node, kernel)
    pads, more = _pooled_pads(node, x, strides, spans)
    if not any(map(any, (*pads, *more))) and set(dilations) == {1}:
        run = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[rank - 1]
        return run(x, kernel, strides)
    axes = tuple(range(-rank, 0))
    summed = _windows(_padded(_padded(x, pads, 0.0), more, 0.0), kernel, strides, dilations).sum(axes)
    counted = float(node.get("count_include_pad", 0))
    ones = _padded(_padded(torch.ones_like(x[:1, :1]), pads, counted), more, 0.0)
    return summed / _windows(ones, kernel, strides, dilations).sum(axes)


def _lp_pool(node: Node, x: Tensor) -> Tensor:
    rank, order = _rank(x), node.get("p", 2)
    kernel = list(node.attributes["kernel_shape"])
    strides, dilations, spans = _settings(node, kernel)
    pads, more = _pooled_pads(node, x, strides, spans)
    parts = _windows(_padded(_padded(x, pads, 0.0), more, 0.0), kernel, strides, dilations)
    return parts.abs().pow(order).sum(tuple(range(-rank, 0))).pow(1 / order)


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


def _global_average_pool(_: Node, x: Tensor) -> Tensor:
    return x.mean(_spatial(x), keepdim=True)


def _global_max_pool(_: Node, x: Tensor) -> Tensor:
    return x.amax(_spatial(x), keepdim=True)


OPERATORS: dict[str, Callable[..., Any]] = {
    "AveragePool": _average_pool,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": _global_max_pool,
    "LpPool": _lp_pool,
    "MaxPool": _max_pool,
}
