"""RNN, GRU and LSTM, step by step; the products with the inputs of all steps are made at once.

Shapes: X [steps, batch, inputs], W [directions, gates * hidden, inputs], R [directions, gates * hidden,
hidden], B [directions, 2 * gates * hidden], states [directions, batch, hidden]; with `layout` 1 the batch
comes first in all but the weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from frconvert.errors import UnsupportedError
from frconvert.torch_graph.graph import Node

# Activation -> function of x, alpha, beta, and their defaults.
_ACTIVATIONS: dict[str, tuple[Callable[[Tensor, float, float], Tensor], float, float]] = {
    "affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "elu": (lambda x, a, _: functional.elu(x, a), 1.0, 0.0),
    "hardsigmoid": (lambda x, a, b: (a * x + b).clamp(0, 1), 0.2, 0.5),
    "leakyrelu": (lambda x, a, _: functional.leaky_relu(x, a), 0.01, 0.0),
    "relu": (lambda x, _, __: torch.relu(x), 0.0, 0.0),
    "scaledtanh": (lambda x, a, b: a * torch.tanh(b * x), 1.0, 1.0),
    "sigmoid": (lambda x, _, __: torch.sigmoid(x), 0.0, 0.0),
    "softplus": (lambda x, _, __: functional.softplus(x), 0.0, 0.0),
    "softsign": (lambda x, _, __: functional.softsign(x), 0.0, 0.0),
    "tanh": (lambda x, _, __: torch.tanh(x), 0.0, 0.0),
    "thresholdedrelu": (lambda x, a, _: torch.where(x > a, x, torch.zeros_like(x)), 1.0, 0.0),
}
# These take a number from `activation_alpha`, and the second ones from `activation_beta` too.
_TAKE_ALPHA = ("affine", "elu", "hardsigmoid", "leakyrelu", "scaledtanh", "thresholdedrelu")
_TAKE_BETA = ("affine", "hardsigmoid", "scaledtanh")

Activation = Callable[[Tensor], Tensor]
States = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class _Cell:
    """One direction: what a step needs.

    Attributes:
        recurrent: R of the direction; bias: the part of B that goes with it; peepholes: P, or None.
        activations: in the operator's order.
        node: for its settings.
    """

    recurrent: Tensor
    bias: Tensor
    peepholes: Tensor | None
    activations: Sequence[Activation]
    node: Node


Step = Callable[[_Cell, Tensor, States], States]  # cell, product with the input, states -> states


def _activations(node: Node, default: Sequence[str], directions: int) -> list[Activation]:
    names = node.get("activations", list(default) * directions)
    alphas, betas = list(node.get("activation_alpha", [])), list(node.get("activation_beta", []))
    limit = node.get("clip", None)
    found: list[Activation] = []
    for name in names:
        key = name.lower()
        if key not in _ACTIVATIONS:
            raise UnsupportedError(f"fine-tuning does not know the activation {name!r} of {node.operator}")
        function, alpha, beta = _ACTIVATIONS[key]
        alpha = alphas.pop(0) if alphas and key in _TAKE_ALPHA else alpha
        beta = betas.pop(0) if betas and key in _TAKE_BETA else beta

        def run(x: Tensor, function: Any = function, alpha: float = alpha, beta: float = beta) -> Tensor:
            found: Tensor = function(x if limit is None else x.clamp(-limit, limit), alpha, beta)
            return found

        found.append(run)
    return found


def _recurrence(step: Step, gates: int, default: Sequence[str], states: int) -> Callable[..., Any]:
    """An operator of cells with so many gates and states."""

    def run(  # noqa: PLR0913, PLR0917  (the operator's inputs)
        node: Node,
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None = None,
        lengths: Tensor | None = None,
        h: Tensor | None = None,
        c: Tensor | None = None,
        p: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        directions, hidden = r.shape[0], r.shape[2]
        is_batched = bool(node.get("layout", 0))
        x = x.transpose(0, 1) if is_batched else x
        steps, batch = x.shape[:2]
        activations = _activations(node, default, directions)
        each = len(activations) // directions
        empty = x.new_zeros(directions, batch, hidden)
        first = [
            empty if part is None else part.transpose(0, 1) if is_batched else part
            for part in (h, c)[:states]
        ]
        bias = x.new_zeros(directions, 2 * gates * hidden) if b is None else b
        kind = node.get("direction", "forward")
        outputs, last = [], []
        for direction in range(directions):
            is_backward = kind == "reverse" or direction == 1
            w_bias, r_bias = bias[direction].split(gates * hidden)
            cell = _Cell(
                r[direction], r_bias, None if p is None else p[direction],
                activations[direction * each : (direction + 1) * each], node,
            )  # fmt: skip
            products = functional.linear(x, w[direction], w_bias)
            now: States = tuple(part[direction] for part in first)
            made: list[Tensor] = []
            for number in reversed(range(steps)) if is_backward else range(steps):
                new = step(cell, products[number], now)
                if lengths is not None:  # sequences that have ended keep their states
                    alive = (number < lengths)[:, None]
                    made.append(torch.where(alive, new[0], torch.zeros_like(new[0])))
                    new = tuple(torch.where(alive, a, b) for a, b in zip(new, now, strict=True))
                else:
                    made.append(new[0])
                now = new
            outputs.append(torch.stack(made[::-1] if is_backward else made))
            last.append(now)
        y = torch.stack(outputs, 1)
        ends = [torch.stack([each[n] for each in last]) for n in range(states)]
        if is_batched:
            y, ends = y.permute(2, 0, 1, 3), [part.transpose(0, 1) for part in ends]
        return y, *ends

    return run


def _rnn_step(cell: _Cell, product: Tensor, states: States) -> States:
    return (cell.activations[0](product + functional.linear(states[0], cell.recurrent, cell.bias)),)


def _gru_step(cell: _Cell, product: Tensor, states: States) -> States:
    (h,) = states
    hidden = h.shape[1]
    f, g = cell.activations
    both = product[:, : 2 * hidden] + functional.linear(
        h, cell.recurrent[: 2 * hidden], cell.bias[: 2 * hidden]
    )
    update, reset = f(both).split(hidden, 1)
    weight, bias, entered = cell.recurrent[2 * hidden :], cell.bias[2 * hidden :], product[:, 2 * hidden :]
    if cell.node.get("linear_before_reset", 0):
        new = g(entered + reset * functional.linear(h, weight, bias))
    else:
        new = g(entered + functional.linear(reset * h, weight, bias))
    return ((1 - update) * new + update * h,)


def _lstm_step(cell: _Cell, product: Tensor, states: States) -> States:
    h, c = states
    f, g, out = cell.activations
    i, o, forget, new = (product + functional.linear(h, cell.recurrent, cell.bias)).chunk(4, 1)
    if cell.peepholes is not None:
        p_i, p_o, p_f = cell.peepholes.chunk(3)
        i, forget = i + p_i * c, forget + p_f * c
    i = f(i)
    forget = 1 - i if cell.node.get("input_forget", 0) else f(forget)
    c = forget * c + i * g(new)
    if cell.peepholes is not None:
        o = o + p_o * c
    return f(o) * out(c), c


OPERATORS: dict[str, Callable[..., Any]] = {
    "GRU": _recurrence(_gru_step, 3, ("Sigmoid", "Tanh"), 1),
    "LSTM": _recurrence(_lstm_step, 4, ("Sigmoid", "Tanh", "Tanh"), 2),
    "RNN": _recurrence(_rnn_step, 1, ("Tanh",), 1),
}
