"""A torch module that computes an ONNX graph.

Its parameters are the graph's weights by their names in the checkpoint, see `roles.py`; the statistics of
batch normalisations are buffers. Names become paths of submodules at their dots, as in torch's own modules;
where torch does not allow one (an empty part, one that is taken), "~" is put behind the part that offends.

Law: outputs are those of other ONNX runtimes, up to float rounding; they depend on the inputs alone, whatever
mode the module is in (dropout and batch statistics work as in inference).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frconvert.checkpoint import Checkpoint
from frconvert.errors import DamagedError, FrqError, UnsupportedError, UsageError, one_line, quoted
from frconvert.exporters.onnx import match, open_skeleton
from frconvert.torch_graph.graph import BODY, FUNCTION, Graph, Node, Read, made, read_graph
from frconvert.torch_graph.roles import FIXED, STATISTIC, TRAINED, roles_of, tables_of
from frconvert.torch_graph.table import CONTROL, find
from frconvert.torch_graph.types import dtype_of, to_torch

if TYPE_CHECKING:
    from onnx import ModelProto

_MOST_PARTS = 32  # of a name; modules nested for thousands of dots would exhaust the stack


class _Part(nn.Module):  # type: ignore[misc]
    """Holds parameters whose names begin alike."""


class GraphModule(nn.Module):  # type: ignore[misc]
    """Runs a graph; called with its inputs, by position or by name.

    Args:
        graph: see `graph.py`.
        tensors: key -> values.
        roles: key -> role, see `roles.py`.
        input_types: torch types of the graph's inputs, in order; numbers of other types are cast to them.
        ranks: of the graph's outputs, as far as they are known.

    Attributes:
        names: of parameters and persistent buffers -> of the checkpoint's tensors.
        inputs: names of the graph's inputs.
        ends_in_softmax: whether each output is a softmax along its last axis.
        tables: names of the parameters of which rows are gathered.
        without_softmax: whether what goes into these softmaxes is returned instead.

    A value of the main graph is a submodule too, by its name: one whose output is that value.
    """

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, NDArray[Any]],
        roles: Mapping[str, str],
        input_types: Sequence[Any],
        ranks: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self._graph, self._input_types, self.inputs = graph, tuple(input_types), graph.inputs
        before = [_before_softmax(graph, name, (ranks or {}).get(name)) for name in graph.outputs]
        self.ends_in_softmax = all(name != output for name, output in zip(before, graph.outputs, strict=True))
        self.without_softmax = False
        self._shorter = made(graph.inputs, before, graph.nodes, graph.tensors)
        self._taps: dict[str, nn.Module] = {}
        self.names: dict[str, str] = {}
        self._places: dict[str, tuple[nn.Module, str]] = {}
        kept = [key for key in tensors if roles.get(key, FIXED) != FIXED]
        fixed = [key for key in tensors if roles.get(key, FIXED) == FIXED]
        for number, key in enumerate((*kept, *fixed)):
            values = to_torch(tensors[key])
            path, owner, leaf = self._place(key if number < len(kept) else f"fixed {number}")
            if roles.get(key) == TRAINED:
                owner.register_parameter(leaf, nn.Parameter(values))
            else:
                owner.register_buffer(leaf, values, persistent=roles.get(key) == STATISTIC)
            self._places[key] = owner, leaf
            if number < len(kept):
                self.names[path] = key
        gathered = tables_of(graph)
        self.tables = frozenset(path for path, key in self.names.items() if key in gathered)

    def _place(self, name: str) -> tuple[str, nn.Module, str]:
        """The path of a name, the module that is to hold it, and its name there."""
        *parts, leaf = name.split(".", _MOST_PARTS)
        owner: nn.Module = self
        path = ""
        for text in parts:
            part = text or "~"
            while hasattr(owner, part) and not isinstance(getattr(owner, part), _Part):
                part += "~"
            if not hasattr(owner, part):
                owner.add_module(part, _Part())
            owner = getattr(owner, part)
            path += part + "."
        leaf = leaf.replace(".", "~") or "~"
        # Parametrised weights are entries of a ModuleDict, whose own attributes are taken too.
        while hasattr(owner, leaf) or hasattr(nn.ModuleDict, leaf):
            leaf += "~"
        return path + leaf, owner, leaf

    def get_submodule(self, target: str) -> nn.Module:
        """As torch's; a value of the main graph counts as a submodule that returns it."""
        try:
            return super().get_submodule(target)
        except AttributeError:
            if not any(target in node.outputs for node in self._graph.nodes):
                raise
            return self._taps.setdefault(target, nn.Identity())

    def show(self, values: Mapping[str, Any], names: Sequence[str]) -> None:
        """Passes values through the submodules that stand for them, so that their hooks see them."""
        for name in self._taps.keys() & names:
            self._taps[name](values[name])

    def tensor(self, key: str) -> Tensor:
        """A tensor of the graph, on the module's device."""
        owner, leaf = self._places[key]
        return getattr(owner, leaf)

    def forward(self, /, *inputs: Any, **named: Any) -> Any:
        """The graph's only output, or a tuple of all.

        Raises:
            UsageError: an input is missing, or a node cannot compute what it is given.
        """
        given = dict(zip(self.inputs, inputs, strict=False)) | named
        missing = [name for name in self.inputs if name not in given]
        if missing or len(given) > len(self.inputs):
            wanted = ", ".join(map(quoted, self.inputs))
            raise UsageError(f"the graph has the inputs {wanted}; it was given {len(inputs) + len(named)}")
        arguments = [
            torch.as_tensor(given[name]).to(dtype)
            for name, dtype in zip(self.inputs, self._input_types, strict=True)
        ]
        results = _run(self, self._shorter if self.without_softmax else self._graph, arguments, None)
        return results[0] if len(results) == 1 else tuple(results)


def _before_softmax(graph: Graph, name: str, rank: int | None) -> str:
    """What goes into the softmax along the last axis that makes an output; the output if nothing does."""
    makers = {output: node for node in graph.nodes for output in node.outputs}
    node = makers.get(name)
    while node is not None and node.operator == "Identity":
        node = makers.get(node.inputs[0])
    if node is None or node.operator != "Softmax":
        return name
    axis = node.get("axis", -1 if node.version >= 13 else 1)
    is_last = axis == -1 or (rank is not None and axis == rank - 1)
    return node.inputs[0] if is_last else name


class _Scope:
    """The values of a graph that is being run, and those of the graphs around it."""

    def __init__(self, module: GraphModule, graph: Graph, outer: _Scope | None) -> None:
        self.module, self.graph, self.outer = module, graph, outer
        self.values: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        """A value; None for the name of an input that is left out."""
        if not name:
            return None
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            if name in scope.graph.tensors:
                return scope.module.tensor(scope.graph.tensors[name])
            scope = scope.outer
        raise DamagedError(f"nothing before it in the graph makes the value {quoted(name)}")


def _run(module: GraphModule, graph: Graph, inputs: Sequence[Any], outer: _Scope | None) -> list[Any]:
    scope = _Scope(module, graph, outer)
    scope.values.update(zip(graph.inputs, inputs, strict=False))
    scope.values.update(dict.fromkeys(graph.inputs[len(inputs) :]))  # optional ones of a function
    for node, dropped in zip(graph.nodes, graph.dropped, strict=True):
        results = _results(node, scope)
        scope.values.update((name, value) for name, value in zip(node.outputs, results, strict=False) if name)
        if outer is None:
            module.show(scope.values, node.outputs)
        for name in dropped:
            scope.values.pop(name, None)
    return [scope.get(name) for name in graph.outputs]


def _results(node: Node, scope: _Scope) -> Sequence[Any]:
    inputs = [scope.get(name) for name in node.inputs]
    if node.operator == FUNCTION:
        return _run(scope.module, node.graphs[BODY], inputs, None)

    def call(graph: Graph, *arguments: Any) -> list[Any]:
        return _run(scope.module, graph, arguments, scope)

    first = (call,) if node.operator in CONTROL else ()
    try:
        found = cast("Callable[..., Any]", node.run)(node, *first, *inputs)
    except FrqError:
        raise
    except Exception as error:  # torch's are many
        raise UsageError(
            f"the node {quoted(node.label)} ({node.operator}) does not run: {one_line(error)}"
        ) from error
    return found if isinstance(found, tuple | list) else (found,)


def module_of(checkpoint: Checkpoint) -> GraphModule:
    """The graph that a checkpoint carries, with the checkpoint's values.

    Raises:
        UsageError: it carries no graph, or onnx is not installed.
        UnsupportedError: an operator is not known, see `graph.py`.
        DamagedError: the graph contradicts itself or the checkpoint.
    """
    model = open_skeleton(checkpoint)
    match(model, checkpoint)
    known = {entry.name: entry for entry in checkpoint}
    return _made(model, lambda name: known[name].read())


def module_of_graph(model: ModelProto) -> GraphModule:
    """A model that holds all its tensors itself, none of which is trained; errors as above."""

    def refuse(name: str) -> NDArray[Any]:
        raise DamagedError(f"the tensor {quoted(name)} is not in the model")

    return _made(model, refuse)


def _made(model: ModelProto, read: Read) -> GraphModule:
    graph, tensors, entries = read_graph(model, find, read)
    own = {tensor.name for tensor in model.graph.initializer}
    types = [_input_type(item) for item in model.graph.input if item.name not in own]
    shapes = {item.name: item.type.tensor_type for item in model.graph.output}
    ranks = {name: len(kind.shape.dim) for name, kind in shapes.items() if kind.HasField("shape")}
    return GraphModule(graph, tensors, roles_of(graph, tensors, entries), types, ranks)


def _input_type(item: Any) -> Any:
    if item.type.WhichOneof("value") != "tensor_type":
        raise UnsupportedError(f"fine-tuning takes tensors; the graph's input {quoted(item.name)} is none")
    return dtype_of(item.type.tensor_type.elem_type)
