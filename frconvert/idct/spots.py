"""Where the tensors of an ONNX model are that nodes may make instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

_QUANTISING = ("QuantizeLinear", "DequantizeLinear")

Path = tuple[tuple[int, str, int], ...]


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a tensor of a model is.

    Attributes:
        name: of the checkpoint's entry.
        path: node, attribute and number in it, of each graph from the main one down to its own.
        graph: its own.
        tensor: the message.
        index: among the initializers of that graph, or among its nodes.
        node: its Constant node, None for an initializer.
        value: the name by which nodes know it.
    """

    name: str
    path: Path
    graph: GraphProto
    tensor: TensorProto
    index: int
    node: NodeProto | None
    value: str


def opset_of(model: ModelProto) -> int:
    """The version of the standard operators that a model uses."""
    return max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=1)


def free_prefix(model: ModelProto) -> str:
    """A prefix that no name in the model begins with."""
    names = set(_names(model.graph))
    for number in count():
        prefix = f"q{number or ''}/"
        if not any(name.startswith(prefix) for name in names):
            return prefix
    raise AssertionError


def _names(graph: GraphProto) -> Iterator[str]:
    for value in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        yield value.name
    for node in graph.node:
        yield from node.input
        yield from node.output
        for attribute in node.attribute:
            for inner in graphs_of(attribute):
                yield from _names(inner)


def spots(model: ModelProto, mark_of: Callable[[TensorProto], str | None]) -> Iterator[Spot]:
    """The tensors that nodes may make: marked initializers and Constant nodes of the graph and its subgraphs.

    Left out is what a graph gives as its result, and what a node of quantisation takes.
    """
    yield from _spots_in(model.graph, (), mark_of)


def _spots_in(graph: GraphProto, path: Path, mark_of: Callable[[TensorProto], str | None]) -> Iterator[Spot]:
    fixed = {output.name for output in graph.output}
    fixed.update(name for node in graph.node if node.op_type in _QUANTISING for name in node.input)
    for index, tensor in enumerate(graph.initializer):
        name = mark_of(tensor)
        if name is not None and tensor.name not in fixed:
            yield Spot(name, path, graph, tensor, index, None, tensor.name)
    for index, node in enumerate(graph.node):
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and not node.domain:
                name = mark_of(attribute.t)
                if name is not None and node.output[0] not in fixed:
                    yield Spot(name, path, graph, attribute.t, index, node, node.output[0])
            for place, inner in enumerate(graphs_of(attribute)):
                yield from _spots_in(inner, (*path, (index, attribute.name, place)), mark_of)


def graphs_of(attribute: Any) -> list[GraphProto]:
    """The subgraphs in an attribute of a node."""
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
