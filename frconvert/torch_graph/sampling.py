"""Operators that interpolate: Resize, Upsample, GridSample, AffineGrid.

Resizing works on one axis after the other: each output is a weighted sum of a few inputs, whose places and
weights come from the coordinates alone.
"""

import functools
from collections.abc import Callable
from math import floor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from frconvert.errors import UnsupportedError
from frconvert.torch_graph.graph import Node

Floats = NDArray[np.float32]


def _resize(
    node: Node,
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    """Before opset 11 the second input has the scales, and coordinates are multiplied by them."""
    if node.version < 11:
        scales, roi = roi, None
    axes = [axis % x.dim() for axis in node.get("axes", range(x.dim()))]
    lengths = [x.shape[axis] for axis in axes]
    if sizes is not None and sizes.numel():
        outs, factors = _wished(node, lengths, sizes.tolist())
    elif scales is not None:
        factors = [np.float32(factor) for factor in scales.tolist()]
        outs = [floor(float(factor) * length) for factor, length in zip(factors, lengths, strict=True)]
    else:
        raise UnsupportedError("Resize has neither sizes nor scales")
    crops = node.get("coordinate_transformation_mode", "") == "tf_crop_and_resize" and roi is not None
    edges: list[float] = roi.tolist() if crops and roi is not None else [0.0] * len(axes) + [1.0] * len(axes)
    if crops and scales is not None and scales.numel():
        spans = [edges[n + len(axes)] - edges[n] for n in range(len(axes))]
        outs = [floor(n * span * float(f)) for n, span, f in zip(lengths, spans, factors, strict=True)]
    beyond = None
    for place, (axis, length, out, factor) in enumerate(zip(axes, lengths, outs, factors, strict=True)):
        if not crops and out == length and factor == 1:
            continue
        where = _coordinates(node, length, out, factor, (edges[place], edges[place + len(axes)]))
        x = _along(node, x, axis, where, factor)
        if crops:
            outside = torch.from_numpy((where < 0) | (where > length - 1)).to(x.device)
            outside = outside.reshape(-1, *[1] * (x.dim() - 1 - axis))
            beyond = outside if beyond is None else beyond | outside
    return x if beyond is None else torch.where(beyond, node.get("extrapolation_value", 0.0), x)


def _wished(node: Node, lengths: list[int], sizes: list[int]) -> tuple[list[int], list[np.float32]]:
    """Lengths of the output, and the scales that follow from them."""
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return sizes, [np.float32(out / length) for out, length in zip(sizes, lengths, strict=True)]
    choose = min if policy == "not_larger" else max
    factor = choose(out / length for out, length in zip(sizes, lengths, strict=True))
    return [floor(factor * length + 0.5) for length in lengths], [np.float32(factor)] * len(lengths)


def _coordinates(
    node: Node, length: int, out: int, factor: np.float32, region: tuple[float, float]
) -> Floats:
    """Where in the input each output lies; float32, as rounding to the nearest depends on it."""
    places = np.arange(out, dtype=np.float32)
    default = "half_pixel" if node.version >= 11 and node.operator == "Resize" else "asymmetric"
    mode = node.get("coordinate_transformation_mode", default)
    half = (places + np.float32(0.5)) / factor - np.float32(0.5)
    if mode == "asymmetric":
        found = places / factor
    elif mode == "half_pixel" or (mode == "pytorch_half_pixel" and out > 1):
        found = half
    elif mode == "pytorch_half_pixel":
        found = np.zeros_like(places)
    elif mode == "half_pixel_symmetric":
        found = np.float32(length / 2 * (1 - out / (float(factor) * length))) + half
    elif mode == "align_corners":
        found = places * np.float32((length - 1) / (out - 1)) if out > 1 else np.zeros_like(places)
    elif mode == "tf_half_pixel_for_nn":
        found = (places + np.float32(0.5)) / factor
    elif mode == "tf_crop_and_resize":
        first, last = (edge * (length - 1) for edge in region)
        found = first + places * ((last - first) / (out - 1)) if out > 1 else np.full(1, (first + last) / 2)
    else:
        raise UnsupportedError(f"fine-tuning does not know the mode {mode!r} of Resize")
    return found.astype(np.float32)


_ROUNDING: dict[str, Callable[[Floats], Floats]] = {
    "round_prefer_floor": lambda where: np.ceil(where - np.float32(0.5)),
    "round_prefer_ceil": lambda where: np.floor(where + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _along(node: Node, x: Tensor, axis: int, where: Floats, factor: np.float32) -> Tensor:
    length, mode = x.shape[axis], node.get("mode", "nearest")
    if mode == "nearest":
        simple = node.operator == "Upsample" or node.version < 11
        rounding = "floor" if simple else node.get("nearest_mode", "round_prefer_floor")
        places = np.clip(_ROUNDING[rounding](where), 0, length - 1).astype(np.int64)
        return x.index_select(axis, torch.from_numpy(places).to(x.device))
    if not where.size:  # a scale next to 0 would ask for taps without end
        return x.narrow(axis, 0, 0)
    places, weights = _taps(node, length, where, factor)
    inside = torch.from_numpy(places).to(x.device)
    shares = torch.from_numpy(weights).to(x.device, torch.promote_types(x.dtype, torch.float32))
    ends = (-1, *[1] * (x.dim() - 1 - axis))
    parts = (x.index_select(axis, inside[:, n]) * shares[:, n].reshape(ends) for n in range(inside.shape[1]))
    return functools.reduce(torch.add, parts).to(x.dtype)


def _taps(node: Node, length: int, where: Floats, factor: np.float32) -> tuple[NDArray[np.int64], Floats]:
    """Places in the input and their weights, [outputs, taps]; what is outside counts as the edge."""
    base = np.floor(where)
    shrink = min(1.0, float(factor)) if node.get("antialias", 0) else 1.0
    reach = 2 if node.get("mode", "") == "cubic" else 1
    first = floor(-reach / shrink) + 1
    taps = np.arange(first, 2 - first if shrink < 1 else reach + 1, dtype=np.float32)
    apart = (taps[None] - (where - base)[:, None]) * np.float32(shrink)
    weights = _cubic(apart, node.get("cubic_coeff_a", -0.75)) if reach == 2 else np.maximum(0, 1 - abs(apart))
    places = base[:, None] + taps[None]
    if node.get("exclude_outside", 0):
        weights = weights * ((places >= 0) & (places < length))
    if shrink < 1 or node.get("exclude_outside", 0):
        weights = weights / weights.sum(1, keepdims=True)
    return np.clip(places, 0, length - 1).astype(np.int64), weights.astype(np.float32)


def _cubic(apart: Floats, a: float) -> Floats:
    """Weights of cubic convolution at these distances (Keys, 1981)."""
    d = np.abs(apart)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    found: Floats = np.where(d <= 1, near, np.where(d < 2, far, 0)).astype(np.float32)
    return found


def _upsample(node: Node, x: Tensor, scales: Tensor | None = None) -> Tensor:
    given = torch.tensor(node.attributes["scales"]) if scales is None else scales
    return _resize(node, x, *((given,) if node.version < 11 else (None, given)))


def _grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(
        node.get("mode", "linear"), node.get("mode", "linear")
    )
    return functional.grid_sample(
        x, grid, mode, node.get("padding_mode", "zeros"), bool(node.get("align_corners", 0))
    )


def _affine_grid(node: Node, theta: Tensor, size: Tensor) -> Tensor:
    return functional.affine_grid(theta, size.tolist(), bool(node.get("align_corners", 0)))


OPERATORS: dict[str, Callable[..., Any]] = {
    "AffineGrid": _affine_grid,
    "GridSample": _grid_sample,
    "Resize": _resize,
    "Upsample": _upsample,
}
