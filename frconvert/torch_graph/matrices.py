"""Products, normalisations over channels or the last axes, and softmax."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from frconvert.torch_graph.graph import Node


def _matmul(_: Node, left: Tensor, right: Tensor) -> Tensor:
    return torch.matmul(left, right)


def _gemm(node: Node, left: Tensor, right: Tensor, added: Tensor | None = None) -> Tensor:
    """Alpha * A B + beta * C, A and B transposed where it says so."""
    left = left.t() if node.get("transA", 0) else left
    right = right.t() if node.get("transB", 0) else right
    product, alpha, beta = left @ right, node.get("alpha", 1.0), node.get("beta", 1.0)
    product = product if alpha == 1.0 else (alpha * product).to(product.dtype)
    if added is None or not beta:
        return product
    return product + (added if beta == 1.0 else (beta * added).to(product.dtype))


def _einsum(node: Node, *inputs: Tensor) -> Tensor:
    return torch.einsum(node.attributes["equation"], *inputs)


def _determinant(_: Node, x: Tensor) -> Tensor:
    return torch.linalg.det(x)


def _along_axis(function: Callable[[Tensor, int], Tensor]) -> Callable[[Node, Tensor], Tensor]:
    """Before opset 13 such functions saw [all axes before the axis, all others], by default of axis 1."""

    def run(node: Node, x: Tensor) -> Tensor:
        if node.version >= 13:
            return function(x, node.get("axis", -1))
        axis = node.get("axis", 1) % max(x.dim(), 1)
        return function(x.flatten(axis), axis).reshape(x.shape) if x.dim() else function(x, -1)

    return run


def _hardmax(x: Tensor, axis: int) -> Tensor:
    """1 at the first maximum, 0 elsewhere."""
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


def _batch_normalization(
    node: Node, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor
) -> Tensor | tuple[Tensor, ...]:
    """By the given statistics, or in training mode by the batch's, which the running ones then follow."""
    epsilon = node.get("epsilon", 1e-5)
    if not node.get("training_mode", 0):
        return functional.batch_norm(x, mean, variance, scale, shift, False, 0.0, epsilon)
    axes = tuple(axis for axis in range(x.dim()) if axis != 1)
    now, spread = x.mean(axes), x.var(axes, correction=0)
    momentum = node.get("momentum", 0.9)
    result = functional.batch_norm(x, now, spread, scale, shift, False, 0.0, epsilon)
    return (
        result, mean * momentum + now * (1 - momentum), variance * momentum + spread * (1 - momentum)
    )  # fmt: skip


def _layer_normalization(
    node: Node, x: Tensor, scale: Tensor, shift: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Also returns the means and the reciprocals of the standard deviations."""
    axes = tuple(range(node.get("axis", -1) % x.dim(), x.dim()))
    epsilon = node.get("epsilon", 1e-5)
    if len(node.outputs) == 1:
        normed = functional.layer_norm(x, x.shape[axes[0] :], eps=epsilon) * scale
        return (normed if shift is None else normed + shift,)
    mean = x.mean(axes, keepdim=True)
    inverse = torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + epsilon)
    normed = (x - mean) * inverse * scale
    return normed if shift is None else normed + shift, mean, inverse


def _rms_normalization(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    axes = tuple(range(node.get("axis", -1) % x.dim(), x.dim()))
    return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + node.get("epsilon", 1e-5)) * scale


def _instance_normalization(node: Node, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    axes = tuple(range(2, x.dim()))
    centred = x - x.mean(axes, keepdim=True)
    inverse = torch.rsqrt(centred.square().mean(axes, keepdim=True) + node.get("epsilon", 1e-5))
    ends = (-1, *[1] * len(axes))
    return centred * inverse * scale.reshape(ends) + shift.reshape(ends)


def _group_normalization(node: Node, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Before opset 21 scale and shift had a number for each group, since then for each channel."""
    groups = node.attributes["num_groups"]
    normed = functional.group_norm(x, groups, eps=node.get("epsilon", 1e-5))
    if scale.numel() != x.shape[1]:
        scale, shift = (part.repeat_interleave(x.shape[1] // groups) for part in (scale, shift))
    ends = (-1, *[1] * (x.dim() - 2))
    return normed * scale.reshape(ends) + shift.reshape(ends)


def _local_response_normalization(node: Node, x: Tensor) -> Tensor:
    """Over `size` channels around each, of which at even sizes one more lies behind it."""
    size = node.attributes["size"]
    squares = x.square().movedim(1, -1)
    summed = functional.pad(squares, ((size - 1) // 2, size // 2)).unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    base = node.get("bias", 1.0) + node.get("alpha", 1e-4) / size * summed
    return x / base.pow(node.get("beta", 0.75))


def _mean_variance_normalization(node: Node, x: Tensor) -> Tensor:
    axes = tuple(node.get("axes", [0, 2, 3]))
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)


def _lp_normalization(node: Node, x: Tensor) -> Tensor:
    """Vectors of norm 0 stay 0."""
    axis = node.get("axis", -1)
    norm = x.abs().sum(axis, keepdim=True)
    if node.get("p", 2) == 2:
        norm = x.square().sum(axis, keepdim=True).sqrt()
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


OPERATORS: dict[str, Callable[..., Any]] = {
    "BatchNormalization": _batch_normalization,
    "Det": _determinant,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GroupNormalization": _group_normalization,
    "Hardmax": _along_axis(_hardmax),
    "InstanceNormalization": _instance_normalization,
    "LRN": _local_response_normalization,
    "LayerNormalization": _layer_normalization,
    "LogSoftmax": _along_axis(torch.log_softmax),
    "LpNormalization": _lp_normalization,
    "MatMul": _matmul,
    "MeanVarianceNormalization": _mean_variance_normalization,
    "RMSNormalization": _rms_normalization,
    "Softmax": _along_axis(torch.softmax),
}
