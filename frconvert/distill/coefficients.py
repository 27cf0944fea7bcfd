"""Weights that are trained as quantised DCT coefficients: a parametrisation of a torch module.

A parametrised weight is the inverse orthonormal DCT-II, over chosen axes, of step * rounded(q). The trained
numbers are q, coefficients in units of the step, and the logarithm of the step, one for each tensor. Since q
is counted in steps, one learning rate serves tensors of any scale. Rounding is straight-through: its gradient
is that of the identity.

Laws: in mode EXACT the weight is the one that the parametrisation was registered on, within float rounding;
the weight in mode ROUND is what a `.frq` of `symbols` and `step` restores; gradients are those of finite
differences in mode EXACT (checked in float64).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import pi, prod, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from frconvert.coding.quantize import storable_step
from frconvert.errors import UsageError

ROUND, NOISE, EXACT = "round", "noise", "exact"


@dataclass(frozen=True, slots=True)
class Basis:
    """In which form a tensor is trained.

    Attributes:
        axes: the transformed ones, of the view if there is one, ascending.
        view: lengths of the axes as which the tensor is seen, with the same product as its own; None is its
            own shape. A linear layer on 4 x 4 maps of 50 channels, say, may be (500, 50, 4, 4).
    """

    axes: tuple[int, ...] = ()
    view: tuple[int, ...] | None = None


@lru_cache(maxsize=64)
def _matrix(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal DCT-II of that length: [frequency, place]."""
    frequency = torch.arange(length, dtype=torch.float64)[:, None]
    place = torch.arange(length, dtype=torch.float64)[None]
    matrix = torch.cos(pi * (2 * place + 1) * frequency / (2 * length)) * sqrt(2 / length)
    matrix[0] /= sqrt(2)
    return matrix.to(dtype=dtype, device=device)


def forward_dct(weights: Tensor, axes: Sequence[int]) -> Tensor:
    """Coefficients of weights, differentiable; as `frconvert.spectral.dct.forward`."""
    for axis in axes:
        matrix = _matrix(weights.shape[axis], weights.dtype, weights.device)
        weights = (weights.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return weights


def inverse_dct(coefficients: Tensor, axes: Sequence[int], shape: Sequence[int] | None = None) -> Tensor:
    """Weights of coefficients, differentiable.

    Args:
        coefficients: all of them, or the first few along each axis, the others being 0.
        axes: the transformed ones.
        shape: of the weights, None if there are as many coefficients.
    """
    shape = coefficients.shape if shape is None else shape
    for axis in axes:
        matrix = _matrix(shape[axis], coefficients.dtype, coefficients.device)
        moved = coefficients.movedim(axis, -1)
        coefficients = (moved @ matrix[: moved.shape[-1]]).movedim(-1, axis)
    return coefficients


class _Rounded(torch.autograd.Function):  # type: ignore[misc]
    """Rounded q times the step; the gradient of rounding is that of the identity.

    Rounds again on the way back, so that nothing but q itself, which is there anyway, has to be kept.
    """

    @staticmethod
    def forward(context: Any, q: Tensor, step: Tensor) -> Tensor:
        context.save_for_backward(q, step)
        return q.round().mul_(step)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        q, step = context.saved_tensors
        return gradient * step, q.round().mul_(gradient).sum()


class Coefficients(nn.Module):  # type: ignore[misc]
    """A parametrisation for `torch.nn.utils.parametrize`: q -> weight.

    Args:
        weight: the tensor to start from.
        basis: how it is transformed.
        step: of the quantiser at the start.
        support: bool mask over the (viewed) coefficients; others are 0 for good. None is all.
    """

    def __init__(self, weight: Tensor, basis: Basis, step: float, support: Tensor | None = None) -> None:
        super().__init__()
        if basis.view is not None and prod(basis.view) != weight.numel():
            raise UsageError(f"a tensor of shape {tuple(weight.shape)} cannot be seen as {basis.view}")
        if any(not 0 <= axis < len(basis.view or weight.shape) for axis in basis.axes):
            raise UsageError(f"axes {basis.axes} of a tensor of shape {tuple(basis.view or weight.shape)}")
        self.basis = basis
        self.shape = tuple(weight.shape)
        self.mode = ROUND
        self.log_step = nn.Parameter(torch.tensor(step, dtype=weight.dtype, device=weight.device).log())
        self.register_buffer("support", None, persistent=False)
        if support is not None:
            self.limit(support)

    def limit(self, support: Tensor) -> None:
        """Only these coefficients count from now on, and only the box that holds them is transformed."""
        self.support = support
        ends = support.nonzero().amax(0).tolist() if support.any() else [0] * support.ndim
        self._box = tuple(
            slice(0, end + 1 if axis in self.basis.axes else None) for axis, end in enumerate(ends)
        )

    def forward(self, q: Tensor) -> Tensor:
        """The weight."""
        step = self.log_step.exp()
        if self.mode != EXACT:  # as it will be stored; the gradient is that of the step itself
            step = step + (self.step - step.detach())
        if self.support is not None:
            q = q[self._box]
        if self.mode == ROUND:
            scaled = _Rounded.apply(q, step)
        elif self.mode == NOISE:  # cells that round to 0 stay 0: noise in all of them would drown the rest
            alive = (q.detach().abs() >= 0.5).to(q.dtype)
            scaled = (q + (torch.rand_like(q) - 0.5) * alive) * step
        else:
            scaled = q * step
        if self.support is not None:
            scaled = scaled * self.support[self._box]
        return inverse_dct(scaled, self.basis.axes, self.basis.view or self.shape).reshape(self.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Q of a weight."""
        coefficients = forward_dct(weight.reshape(self.basis.view or self.shape), self.basis.axes)
        return coefficients / self.log_step.detach().exp()

    @property
    def step(self) -> float:
        """The step as it will be stored: the next one below, or itself but for rounding of the logarithm."""
        return storable_step(float(self.log_step.detach().exp()) * (1 + 1e-6))


def register(
    module: nn.Module, name: str, basis: Basis, step: float, support: Tensor | None = None
) -> Coefficients:
    """Trains `module.<name>`, a dotted name of a parameter, as coefficients from now on."""
    owner, leaf = _owner(module, name)
    weight = getattr(owner, leaf).detach()
    made = Coefficients(weight, basis, step, support)
    parametrize.register_parametrization(owner, leaf, made)
    return made


def trained(module: nn.Module, name: str) -> nn.Parameter:
    """The q of a registered parameter."""
    owner, leaf = _owner(module, name)
    found: nn.Parameter = owner.parametrizations[leaf].original
    return found


def set_mode(module: nn.Module, mode: str) -> None:
    """ROUND, NOISE or EXACT for all registered parameters."""
    for part in module.modules():
        if isinstance(part, Coefficients):
            part.mode = mode


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return (module.get_submodule(path) if path else module), leaf
