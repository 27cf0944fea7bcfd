"""Operators that read from, or write to, places that other tensors say."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from frconvert.torch_graph.graph import Node

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _positive(indices: Tensor, length: int) -> Tensor:
    """Indices from the back become such from the front."""
    indices = indices.long()
    return torch.where(indices < 0, indices + length, indices)


def _gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0) % x.dim()
    taken = x.index_select(axis, _positive(indices, x.shape[axis]).reshape(-1))
    return taken.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0)
    return x.gather(axis, _positive(indices, x.shape[axis]))


def _gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """The last axis of the indices has coordinates behind the batch axes."""
    batch = node.get("batch_dims", 0)
    shared = x.shape[:batch]
    count = prod(shared)
    flat, places = x.reshape(count, *x.shape[batch:]), indices.reshape(count, -1, indices.shape[-1])
    coordinates = [_positive(places[..., n], flat.shape[1 + n]) for n in range(places.shape[-1])]
    taken = flat[(torch.arange(count, device=x.device)[:, None], *coordinates)]
    return taken.reshape([*indices.shape[:-1], *taken.shape[2:]])


def _scatter_elements(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis = node.get("axis", 0)
    places, how = _positive(indices, x.shape[axis]), node.get("reduction", "none")
    if how == "none":
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _REDUCTIONS[how], include_self=True)


def _scatter_nd(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    depth = indices.shape[-1]
    flat = x.reshape(prod(x.shape[:depth]), -1)
    rows = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=x.device)
    for n in range(depth):
        rows = rows * x.shape[n] + _positive(indices[..., n], x.shape[n])
    places = rows.reshape(-1, 1).expand(-1, flat.shape[1])
    values, how = updates.reshape(places.shape), node.get("reduction", "none")
    if how == "none":
        return flat.scatter(0, places, values).reshape(x.shape)
    return flat.scatter_reduce(0, places, values, _REDUCTIONS[how], include_self=True).reshape(x.shape)


def _one_hot(node: Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """Indices beyond the depth give off-values only."""
    count, axis = int(depth), node.get("axis", -1)
    places = _positive(indices, count).unsqueeze(axis)
    axis %= places.dim()
    numbers = torch.arange(count, device=indices.device).reshape(-1, *[1] * (places.dim() - 1 - axis))
    return torch.where(places == numbers, values[1], values[0])


def _non_zero(_: Node, x: Tensor) -> Tensor:
    return x.nonzero().t()


def _compress(node: Node, x: Tensor, condition: Tensor) -> Tensor:
    axis = node.get("axis", None)
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    return x.index_select(axis, condition.nonzero().reshape(-1))


OPERATORS: dict[str, Callable[..., Any]] = {
    "Compress": _compress,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "NonZero": _non_zero,
    "OneHot": _one_hot,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
}
