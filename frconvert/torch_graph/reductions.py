"""Operators that reduce along axes or order the values along one."""

from collections.abc import Callable
from math import inf, prod
from typing import Any

import torch
from torch import Tensor

from frconvert.torch_graph.graph import Node

Axes = tuple[int, ...]


def _reduction(function: Callable[[Tensor, Axes], Tensor]) -> Callable[..., Tensor]:
    """A function of a tensor and axes that keeps the axes, with length 1."""

    def run(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = node.get("axes", []) if axes is None else axes.tolist()
        if not chosen and node.get("noop_with_empty_axes", 0):
            return x if function not in _WITHOUT_AXES else function(x.unsqueeze(-1), (x.dim(),)).squeeze(-1)
        chosen = tuple(axis % x.dim() for axis in chosen) or tuple(range(x.dim()))
        if not x.dim():
            return function(x.reshape(1), (0,)).reshape(())
        found = function(x, chosen)
        kept = [length for axis, length in enumerate(found.shape) if axis not in chosen]
        return found if node.get("keepdims", 1) else found.reshape(kept)

    return run


def _l1(x: Tensor, axes: Axes) -> Tensor:
    return x.abs().sum(axes, keepdim=True, dtype=x.dtype)


def _sum(x: Tensor, axes: Axes) -> Tensor:
    return x.sum(axes, keepdim=True, dtype=x.dtype)


def _squares(x: Tensor, axes: Axes) -> Tensor:
    return (x * x).sum(axes, keepdim=True, dtype=x.dtype)


def _l2(x: Tensor, axes: Axes) -> Tensor:
    return _squares(x if x.is_floating_point() else x.double(), axes).sqrt().to(x.dtype)


def _log_sum(x: Tensor, axes: Axes) -> Tensor:
    return _sum(x, axes).log()


def _log_sum_exp(x: Tensor, axes: Axes) -> Tensor:
    return torch.logsumexp(x, axes, keepdim=True)


def _mean(x: Tensor, axes: Axes) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=True)
    return torch.div(_sum(x, axes), prod(x.shape[axis] for axis in axes), rounding_mode="trunc")


def _product(x: Tensor, axes: Axes) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True, dtype=x.dtype)
    return x


def _extreme(run: Callable[..., Tensor], empty: float) -> Callable[[Tensor, Axes], Tensor]:
    def function(x: Tensor, axes: Axes) -> Tensor:
        if not x.numel():
            shape = [1 if axis in axes else length for axis, length in enumerate(x.shape)]
            return x.new_full(shape, empty if x.dtype != torch.bool else empty > 0)
        if x.dtype == torch.bool:
            return run(x.to(torch.uint8), axes, keepdim=True).bool()
        return run(x, axes, keepdim=True)

    return function


# Without axes these still do something to each element.
_WITHOUT_AXES = (_l1, _l2, _log_sum, _log_sum_exp, _squares)


def _position(*, largest: bool) -> Callable[[Node, Tensor], Tensor]:
    def run(node: Node, x: Tensor) -> Tensor:
        axis = node.get("axis", 0)
        values = x if largest else -x
        if node.get("select_last_index", 0):
            found = x.shape[axis] - 1 - values.flip(axis).argmax(axis, keepdim=True)
        else:
            found = values.argmax(axis, keepdim=True)
        return found if node.get("keepdims", 1) else found.squeeze(axis)

    return run


def _top_k(node: Node, x: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Values and places, sorted; of equal values the first comes first."""
    axis = node.get("axis", -1)
    k = node.get("k", 0) if count is None else int(count)
    values, places = torch.sort(x, dim=axis, descending=bool(node.get("largest", 1)), stable=True)
    return values.narrow(axis, 0, k), places.narrow(axis, 0, k)


def _cumulative_sum(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    place = int(axis)
    x = x.flip(place) if node.get("reverse", 0) else x
    summed = x.cumsum(place, dtype=x.dtype)
    if node.get("exclusive", 0):
        first = torch.zeros_like(x.narrow(place, 0, min(1, x.shape[place])))
        summed = torch.cat([first, summed.narrow(place, 0, max(0, x.shape[place] - 1))], place)
    return summed.flip(place) if node.get("reverse", 0) else summed


OPERATORS: dict[str, Callable[..., Any]] = {
    "ArgMax": _position(largest=True),
    "ArgMin": _position(largest=False),
    "CumSum": _cumulative_sum,
    "ReduceL1": _reduction(_l1),
    "ReduceL2": _reduction(_l2),
    "ReduceLogSum": _reduction(_log_sum),
    "ReduceLogSumExp": _reduction(_log_sum_exp),
    "ReduceMax": _reduction(_extreme(torch.amax, -inf)),
    "ReduceMean": _reduction(_mean),
    "ReduceMin": _reduction(_extreme(torch.amin, inf)),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(_sum),
    "ReduceSumSquare": _reduction(_squares),
    "TopK": _top_k,
}
