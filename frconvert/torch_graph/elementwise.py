"""Operators that work on each element by itself: arithmetic, functions, comparisons, types."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from frconvert.torch_graph.graph import Node
from frconvert.torch_graph.types import dtype_of


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that needs nothing of the node."""
    return lambda _, *inputs: function(*inputs)


def _many(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    """A function of two, for any number of inputs."""
    return lambda _, *inputs: functools.reduce(function, inputs)


def _divide(_: Node, left: Tensor, right: Tensor) -> Tensor:
    """Integers are divided towards 0."""
    return torch.div(left, right, rounding_mode=None if left.is_floating_point() else "trunc")


def _modulo(node: Node, left: Tensor, right: Tensor) -> Tensor:
    """The sign is the divisor's, or with `fmod` the dividend's."""
    return torch.fmod(left, right) if node.get("fmod", 0) else torch.remainder(left, right)


def _power(_: Node, base: Tensor, exponent: Tensor) -> Tensor:
    """The result is of the base's type."""
    return torch.pow(base, exponent).to(base.dtype)


def _clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Bounds are inputs, before opset 11 attributes."""
    least = node.get("min", None) if low is None else low.to(x.dtype)
    most = node.get("max", None) if high is None else high.to(x.dtype)
    x = x if least is None else torch.maximum(x, torch.as_tensor(least, dtype=x.dtype, device=x.device))
    return x if most is None else torch.minimum(x, torch.as_tensor(most, dtype=x.dtype, device=x.device))


def _prelu(_: Node, x: Tensor, slope: Tensor) -> Tensor:
    """The slope is broadcast to x."""
    return torch.where(x < 0, x * slope, x)


def _leaky_relu(node: Node, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, node.get("alpha", 0.01))


def _elu(node: Node, x: Tensor) -> Tensor:
    return functional.elu(x, node.get("alpha", 1.0))


def _celu(node: Node, x: Tensor) -> Tensor:
    return functional.celu(x, node.get("alpha", 1.0))


def _selu(node: Node, x: Tensor) -> Tensor:
    """The defaults are those of the specification."""
    alpha, gamma = node.get("alpha", 1.67326319217681884765625), node.get("gamma", 1.05070102214813232421875)
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return (node.get("alpha", 0.2) * x + node.get("beta", 0.5)).clamp(0, 1)


def _thresholded_relu(node: Node, x: Tensor) -> Tensor:
    return torch.where(x > node.get("alpha", 1.0), x, torch.zeros_like(x))


def _shrink(node: Node, x: Tensor) -> Tensor:
    bound, bias = node.get("lambd", 0.5), node.get("bias", 0.0)
    shrunk = torch.where(x < -bound, x + bias, torch.where(x > bound, x - bias, torch.zeros_like(x)))
    return shrunk.to(x.dtype)


def _gelu(node: Node, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=node.get("approximate", "none"))


def _swish(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.get("alpha", 1.0) * x)


def _softplus(_: Node, x: Tensor) -> Tensor:
    """log(1 + e^x) without torch's threshold, above which it is x."""
    return torch.logaddexp(x, torch.zeros_like(x))


def _is_infinite(node: Node, x: Tensor) -> Tensor:
    positive, negative = bool(node.get("detect_positive", 1)), bool(node.get("detect_negative", 1))
    return (torch.isposinf(x) & positive) | (torch.isneginf(x) & negative)


def _bit_shift(node: Node, x: Tensor, count: Tensor) -> Tensor:
    return x << count if node.get("direction", "") == "LEFT" else x >> count


def _cast(node: Node, x: Tensor) -> Tensor:
    """Floats become integers towards 0."""
    return x.to(dtype_of(node.get("to", 1)))


def _cast_like(_: Node, x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)


def _dropout(_: Node, x: Tensor, *__: Any) -> tuple[Tensor, Tensor]:
    """Works as in inference: nothing is dropped."""
    return x, torch.ones_like(x, dtype=torch.bool)


def _mean(_: Node, *inputs: Tensor) -> Tensor:
    return functools.reduce(torch.add, inputs) / len(inputs)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": _plain(torch.abs),
    "Acos": _plain(torch.acos),
    "Acosh": _plain(torch.acosh),
    "Add": _plain(torch.add),
    "And": _plain(torch.logical_and),
    "Asin": _plain(torch.asin),
    "Asinh": _plain(torch.asinh),
    "Atan": _plain(torch.atan),
    "Atanh": _plain(torch.atanh),
    "BitShift": _bit_shift,
    "BitwiseAnd": _plain(torch.bitwise_and),
    "BitwiseNot": _plain(torch.bitwise_not),
    "BitwiseOr": _plain(torch.bitwise_or),
    "BitwiseXor": _plain(torch.bitwise_xor),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _plain(torch.ceil),
    "Celu": _celu,
    "Clip": _clip,
    "Cos": _plain(torch.cos),
    "Cosh": _plain(torch.cosh),
    "Div": _divide,
    "Dropout": _dropout,
    "Elu": _elu,
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Floor": _plain(torch.floor),
    "Gelu": _gelu,
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(functional.hardswish),
    "Identity": _plain(lambda x: x),
    "IsInf": _is_infinite,
    "IsNaN": _plain(torch.isnan),
    "LeakyRelu": _leaky_relu,
    "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le),
    "Log": _plain(torch.log),
    "Max": _many(torch.maximum),
    "Mean": _mean,
    "Min": _many(torch.minimum),
    "Mish": _plain(functional.mish),
    "Mod": _modulo,
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Not": _plain(torch.logical_not),
    "Or": _plain(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": _plain(torch.reciprocal),
    "Relu": _plain(torch.relu),
    "Round": _plain(torch.round),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": _plain(torch.sigmoid),
    "Sign": _plain(torch.sign),
    "Sin": _plain(torch.sin),
    "Sinh": _plain(torch.sinh),
    "Softplus": _softplus,
    "Softsign": _plain(functional.softsign),
    "Sqrt": _plain(torch.sqrt),
    "Sub": _plain(torch.sub),
    "Sum": _many(torch.add),
    "Swish": _swish,
    "Tan": _plain(torch.tan),
    "Tanh": _plain(torch.tanh),
    "ThresholdedRelu": _thresholded_relu,
    "Where": _plain(torch.where),
    "Xor": _plain(torch.logical_xor),
}
