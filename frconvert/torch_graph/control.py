"""If, Loop and Scan: they run subgraphs through `call(graph, *inputs)`, which gives the graph's outputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from frconvert.errors import UnsupportedError
from frconvert.torch_graph.graph import Graph, Node

Call = Callable[..., list[Any]]


def _choose(node: Node, call: Call, condition: Tensor) -> list[Any]:
    """If: only the branch that is taken runs."""
    return call(node.graphs["then_branch" if bool(condition) else "else_branch"])


def _loop(
    node: Node, call: Call, most: Tensor | None = None, condition: Tensor | None = None, *states: Any
) -> list[Any]:
    body = node.graphs["body"]
    device = next((part.device for part in (most, condition, *states) if isinstance(part, Tensor)), None)
    now, count = list(states), 0
    goes_on = condition is None or bool(condition)
    rows: list[list[Tensor]] = [[] for _ in body.outputs[1 + len(states) :]]
    while goes_on and (most is None or count < int(most)):
        number = torch.tensor(count, device=device)
        again, *results = call(body, number, torch.tensor(True, device=device), *now)
        now = results[: len(states)]
        for row, value in zip(rows, results[len(states) :], strict=True):
            row.append(value)
        goes_on, count = condition is None or bool(again), count + 1
    return [*now, *(torch.stack(row) if row else torch.zeros(0, device=device) for row in rows)]


def _scan(node: Node, call: Call, *inputs: Any) -> list[Any]:
    """Opset 9 and later."""
    body: Graph = node.graphs["body"]
    if node.version < 9:
        raise UnsupportedError("fine-tuning knows Scan of opset 9 and later")
    count = node.attributes["num_scan_inputs"]
    now, scanned = list(inputs[: len(inputs) - count]), inputs[len(inputs) - count :]
    kept = len(body.outputs) - len(now)
    zeros = [0] * max(count, kept)
    axes, ways = node.get("scan_input_axes", zeros), node.get("scan_input_directions", zeros)
    rows = [part.unbind(axis) for part, axis in zip(scanned, axes, strict=False)]
    rows = [row[::-1] if way else row for row, way in zip(rows, ways, strict=False)]
    found: list[list[Tensor]] = [[] for _ in range(kept)]
    for values in zip(*rows, strict=True):
        results = call(body, *now, *values)
        split = len(now)
        now = results[:split]
        for row, value in zip(found, results[split:], strict=True):
            row.append(value)
    axes, ways = node.get("scan_output_axes", zeros), node.get("scan_output_directions", zeros)
    return now + [
        torch.stack(row[::-1] if way else row, axis)
        for row, axis, way in zip(found, axes, ways, strict=False)
    ]  # fmt: skip


OPERATORS: dict[str, Callable[..., Any]] = {"If": _choose, "Loop": _loop, "Scan": _scan}
