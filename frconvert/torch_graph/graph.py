"""An ONNX model as plain data: nodes in order with decoded attributes, subgraphs, the keys of its tensors.

Tensors are apart from the graph: each has a key, which is the name of the checkpoint's entry where it has
one. Constant nodes are tensors too. A call of a model-local function is a node whose subgraph is the body,
with the attributes of the call in it. What is not supported is refused here, before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frconvert.errors import DamagedError, UnsupportedError, one_line, quoted
from frconvert.exporters.onnx import mark_of

if TYPE_CHECKING:
    from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

FUNCTION = "function"  # operator of a node that calls one of the model's own
BODY = "body"  # the subgraph of such a node

_OLDEST_OPSET = 7
# Functions that call functions could make any number of nodes out of a small file.
_MOST_NODES = 1_000_000
_DEEPEST = 64  # graphs within graphs


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One node.

    Attributes:
        operator: its name, or `FUNCTION`; domain: "" for ONNX's own; label: its name in messages.
        version: of the domain's operators.
        inputs, outputs: names of values, "" for those left out.
        attributes: name -> int, float, str, list of these, or array.
        graphs: name of an attribute -> subgraph.
        run: the function that computes it, see `table.py`; None for `FUNCTION`.
    """

    operator: str
    domain: str
    label: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    graphs: Mapping[str, Graph]
    run: Callable[..., Any] | None = field(default=None, repr=False)

    def get(self, name: str, default: Any) -> Any:
        """An attribute, or what it is by default."""
        return self.attributes.get(name, default)

    @property
    def consumed(self) -> set[str]:
        """Names of the values it takes, for its subgraphs from around them too."""
        names = {name for name in self.inputs if name}
        if self.operator != FUNCTION:
            for graph in self.graphs.values():
                names |= graph.free
        return names


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A graph.

    Attributes:
        inputs, outputs: names of values.
        nodes: in order.
        tensors: name of a value -> key of the tensor.
        free: names that it takes from the graphs around it.
        dropped: for each node, the values that nothing needs any more once it has run.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    tensors: Mapping[str, str]
    free: frozenset[str]
    dropped: tuple[tuple[str, ...], ...]


Read = Callable[[str], NDArray[Any]]  # name of an entry -> its values


class _Reader:
    """Reads one model; collects its tensors by key."""

    def __init__(self, model: ModelProto, find: Callable[[str, str], Callable[..., Any] | None], read: Read):
        self.find, self.read = find, read
        self.tensors: dict[str, NDArray[Any]] = {}
        self.entries: set[str] = set()
        self.functions = {(f.domain, f.name, getattr(f, "overload", "")): f for f in model.functions}
        self.versions = _versions(model.opset_import)
        self.left = _MOST_NODES

    def graph(self, graph: GraphProto, versions: Mapping[str, int], given: Mapping[str, Any]) -> Graph:
        if graph.sparse_initializer:
            raise UnsupportedError("the graph has sparse initializers, which cannot be fine-tuned")
        named = [(tensor.name, tensor) for tensor in graph.initializer]
        own = {name for name, _ in named}
        inputs = [item.name for item in graph.input if item.name not in own]
        outputs = [item.name for item in graph.output]
        return self._graph(inputs, outputs, graph.node, named, versions, given, 0)

    def _graph(
        self,
        inputs: list[str],
        outputs: list[str],
        protos: Iterable[NodeProto],
        named: list[tuple[str, TensorProto]],
        versions: Mapping[str, int],
        given: Mapping[str, Any],
        depth: int,
    ) -> Graph:
        if depth > _DEEPEST:
            raise UnsupportedError(f"the graph has functions or subgraphs more than {_DEEPEST} deep")
        tensors = {name: self._tensor(tensor) for name, tensor in named}
        nodes: list[Node] = []
        for number, proto in enumerate(protos):
            self.left -= 1
            if self.left < 0:
                raise UnsupportedError(f"the graph has over {_MOST_NODES:,} nodes once functions are inlined")
            if proto.op_type == "Constant" and proto.domain in ("", "ai.onnx"):
                tensors[proto.output[0]] = self._constant(proto, given)
            else:
                nodes.append(self._node(proto, number, versions, given, depth))
        return made(inputs, outputs, nodes, tensors)

    def _node(
        self, proto: NodeProto, number: int, versions: Mapping[str, int], given: Mapping[str, Any], depth: int
    ) -> Node:
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        label = proto.name or (proto.output[0] if proto.output else f"number {number}")
        attributes: dict[str, Any] = {}
        graphs: dict[str, Graph] = {}
        for attribute in proto.attribute:
            if attribute.HasField("g"):
                graph = attribute.g
                own = [(tensor.name, tensor) for tensor in graph.initializer]
                names = [item.name for item in graph.input], [item.name for item in graph.output]
                graphs[attribute.name] = self._graph(*names, graph.node, own, versions, given, depth + 1)
            elif attribute.ref_attr_name:
                if attribute.ref_attr_name in given:
                    attributes[attribute.name] = given[attribute.ref_attr_name]
            else:
                attributes[attribute.name] = self._value(attribute, label)
        function = self.functions.get((proto.domain, proto.op_type, getattr(proto, "overload", "")))
        if function is not None:
            body = self._body(function, attributes, depth)
            return Node(FUNCTION, domain, label, 0, tuple(proto.input), tuple(proto.output), {}, {BODY: body})
        run = self.find(domain, proto.op_type)
        if run is None:
            raise UnsupportedError(
                f"fine-tuning does not know the operator {quoted(proto.op_type)} of the domain "
                f"{quoted(domain or 'ai.onnx')}, node {quoted(label)}; convert --calib does without"
            )
        version = versions.get(domain, 0)
        if domain == "" and version < _OLDEST_OPSET:
            raise UnsupportedError(
                f"the model is of opset {version}; fine-tuning needs {_OLDEST_OPSET} or later"
            )
        ends = tuple(proto.input), tuple(proto.output)
        return Node(proto.op_type, domain, label, version, *ends, attributes, graphs, run)

    def _body(self, function: FunctionProto, attributes: Mapping[str, Any], depth: int) -> Graph:
        defaults = {item.name: self._value(item, function.name) for item in function.attribute_proto}
        return self._graph(
            list(function.input), list(function.output), function.node, [],
            self.versions | _versions(function.opset_import), defaults | dict(attributes), depth + 1,
        )  # fmt: skip

    def _value(self, attribute: AttributeProto, label: str) -> Any:
        """A decoded attribute that is no graph."""
        kind = attribute.AttributeType.Name(attribute.type)
        if kind == "STRING":
            return attribute.s.decode("utf-8", "backslashreplace")
        if kind in ("INT", "FLOAT"):
            return attribute.i if kind == "INT" else attribute.f
        if kind in ("INTS", "FLOATS"):
            return list(attribute.ints if kind == "INTS" else attribute.floats)
        if kind == "STRINGS":
            return [text.decode("utf-8", "backslashreplace") for text in attribute.strings]
        if kind == "TENSOR":
            return self.tensors[self._tensor(attribute.t)]
        raise UnsupportedError(
            f"fine-tuning does not know attributes of kind {kind}, such as {quoted(attribute.name)} "
            f"of the node {quoted(label)}"
        )

    def _constant(self, node: NodeProto, given: Mapping[str, Any]) -> str:
        attribute = node.attribute[0] if node.attribute else None
        if attribute is not None and attribute.name == "value" and attribute.HasField("t"):
            return self._tensor(attribute.t)
        label = node.name or node.output[0]
        if attribute is None or attribute.name in ("sparse_value", "value_string", "value_strings"):
            raise UnsupportedError(f"fine-tuning takes no constants like that of the node {quoted(label)}")
        if attribute.ref_attr_name:
            value = given.get(attribute.ref_attr_name)
            if value is None:
                raise DamagedError(f"the node {quoted(label)} has no value")
        else:
            value = self._value(attribute, label)
        if isinstance(value, np.ndarray):
            return self._fixed(value)
        first = value[0] if isinstance(value, list) and value else value
        is_float = isinstance(first, float) or "float" in attribute.name
        return self._fixed(np.array(value, np.float32 if is_float else np.int64))

    def _tensor(self, tensor: TensorProto) -> str:
        """The key of a tensor."""
        from onnx import numpy_helper  # noqa: PLC0415

        name = mark_of(tensor)
        if name is not None:
            if name not in self.tensors:
                self.tensors[name] = self.read(name)
            self.entries.add(name)
            return name
        try:
            return self._fixed(numpy_helper.to_array(tensor))
        except Exception as error:  # numpy's and protobuf's are many
            raise UnsupportedError(f"the tensor {quoted(tensor.name)}: {one_line(error)}") from error

    def _fixed(self, values: NDArray[Any]) -> str:
        key = f"\0{len(self.tensors)}"  # no name of an entry, as those are printable
        self.tensors[key] = values
        return key


def made(
    inputs: Iterable[str], outputs: Iterable[str], nodes: Iterable[Node], tensors: Mapping[str, str]
) -> Graph:
    """A graph of these parts."""
    nodes, inputs, outputs = tuple(nodes), tuple(inputs), tuple(outputs)
    local = {*inputs, *tensors, *(name for node in nodes for name in node.outputs)}
    consumed = [node.consumed for node in nodes]
    free = {name for names in (*consumed, outputs) for name in names if name and name not in local}
    last: dict[str, int] = {}
    for number, (node, names) in enumerate(zip(nodes, consumed, strict=True)):
        last |= dict.fromkeys((*names, *node.outputs), number)
    dropped: list[list[str]] = [[] for _ in nodes]
    for name, number in last.items():
        if name in local and name not in outputs:
            dropped[number].append(name)
    return Graph(inputs, outputs, nodes, tensors, frozenset(free), tuple(map(tuple, dropped)))


def read_graph(
    model: ModelProto, find: Callable[[str, str], Callable[..., Any] | None], read: Read
) -> tuple[Graph, dict[str, NDArray[Any]], set[str]]:
    """The main graph, its tensors by key, and which of the keys are names of entries.

    Args:
        model: a skeleton, see `importers/onnx.py`, or a whole model without external data.
        find: domain ("" for ONNX's own), operator -> what computes it, None if nothing does.
        read: gives the values of an entry of the checkpoint.

    Raises:
        UnsupportedError: an operator, or something else in the graph, is not known; the message says which.
        DamagedError: the graph breaks the rules of ONNX.
    """
    reader = _Reader(model, find, read)
    graph = reader.graph(model.graph, reader.versions, {})
    if graph.free:
        raise DamagedError(f"nothing in the graph makes the value {quoted(min(graph.free))}")
    return graph, reader.tensors, reader.entries


def _versions(imports: Iterable[Any]) -> dict[str, int]:
    return {"" if item.domain == "ai.onnx" else item.domain: item.version for item in imports}


def all_nodes(graph: Graph) -> Iterator[tuple[Graph, Node]]:
    """Every node, those of subgraphs and functions included, with the graph that it is in."""
    for node in graph.nodes:
        yield graph, node
        for inner in node.graphs.values():
            yield from all_nodes(inner)
