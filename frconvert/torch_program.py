"""Exported programs of torch (`.pt2` files) as ONNX, without torch's own loader.

That loader unpickles, evaluates expressions, imports modules that a file names, writes names into source code
and looks up any attribute of torch. Here a program is rebuilt from the list of its nodes: only operators of
`torch.ops.aten` and some arithmetic on sizes, called with constants and results of earlier nodes. Names that
come from the file are checked; expressions, code, pickled parts and classes in it are not looked at. The
module that results is traced anew with tensors that have no data, and exported like any other.
"""

from __future__ import annotations

import contextlib
import keyword
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.dtypes import ITEM_BYTES
from frconvert.errors import DamagedError, FrqError, UnsupportedError, UsageError, one_line, quoted
from frconvert.importers.pt2 import DTYPES, Archive, count
from frconvert.torch_export import exported

try:
    import torch
except ImportError as error:
    raise UsageError(
        "reading exported programs needs torch: pip install 'frconvert[torch,export]'"
    ) from error

_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_OPERATOR = re.compile(r"torch\.ops\.aten\.([A-Za-z_]\w*)\.(\w+)", re.ASCII)
_ARITHMETIC = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in (
            "add", "sub", "mul", "floordiv", "mod", "neg", "truediv", "eq", "ne", "lt", "le", "gt", "ge"
        )
    },
    "torch.sym_max": torch.sym_max,
    "torch.sym_min": torch.sym_min,
    "torch.sym_not": torch.sym_not,
}  # fmt: skip
_NUMBERS = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)
_CHECKS = re.compile(r"torch\.ops\.aten\.(_assert_\w+|sym_constrain_range\w*)\.\w+")  # compute nothing
_NO_GRADIENTS = "torch.ops.higher_order.wrap_with_set_grad_enabled"
_READS_FILES = "filename"  # an argument of such operators
_MOST_INPUT_BYTES = 1 << 30
_MOST_DEPTH = 20
_SYMBOLIC_LENGTH = 4  # of an axis whose length the file leaves open, for tracing

_LAYOUTS = {7: torch.strided}
_MEMORY_FORMATS = {
    1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format,
}  # fmt: skip
_PLAIN = {
    "as_int": int, "as_bool": bool, "as_string": str, "as_float": float,
    "as_ints": int, "as_bools": bool, "as_strings": str, "as_floats": float,
}  # fmt: skip


@contextlib.contextmanager
def as_onnx(path: Path) -> Iterator[Checkpoint]:
    """Gives a checkpoint with an ONNX graph that is made of a `.pt2` file, as long as the block lasts.

    Raises:
        UnsupportedError: the program has something that is not rebuilt, or torch cannot export it.
        DamagedError: the file is not sound.
        UsageError: onnx or onnxscript are not installed.
    """
    try:
        program = _traced(path)
    except FrqError:
        raise
    except Exception as error:  # whatever JSON of another shape leads to
        raise DamagedError(f"{path}: the program is not sound ({one_line(error)})") from error
    with exported(program, (), "dynamo", {}) as checkpoint:
        yield checkpoint


def _traced(path: Path) -> Any:
    with Archive(path) as archive:
        graph_module = archive.program()["graph_module"]
        builder = _Builder(path, [*archive.weights(), *archive.constants()])
    graph, signature = graph_module["graph"], graph_module["signature"]
    inputs, dynamic = builder.inputs(graph, signature["input_specs"])
    results = builder.nodes(graph)
    wanted = [
        result
        for result, spec in zip(results, signature["output_specs"], strict=True)
        if "user_output" in spec  # others are changes of the module itself
    ]
    builder.graph.output(tuple(wanted))
    module = torch.fx.GraphModule(builder.root, builder.graph)
    try:
        with torch.no_grad():
            return torch.export.export(module.eval(), tuple(inputs), dynamic_shapes=tuple(dynamic))
    except Exception as error:  # whatever torch's operators find wrong
        raise UnsupportedError(f"{path}: torch cannot trace the program: {one_line(error)}") from error


class _Builder:
    """The graph of a program as far as it is rebuilt."""

    def __init__(self, path: Path, entries: Sequence[TensorEntry]) -> None:
        self.path = path
        self.root = torch.nn.Module()
        self.graph = torch.fx.Graph()
        self._entries = {entry.name: entry for entry in entries}
        self._parameters: dict[str, Any] = {}
        self._values: dict[str, Any] = {}
        self._depth = 0

    # Inputs.

    def inputs(self, graph: Any, specs: Any) -> tuple[list[Any], list[Any]]:
        """Defines what the nodes take; also returns example inputs and which of their axes are dynamic."""
        examples, dynamic = [], []
        budget = _MOST_INPUT_BYTES
        for argument, spec in zip(graph["inputs"], specs, strict=True):
            (kind, said), (how, value) = _single(spec), _single(argument)
            if kind in ("parameter", "buffer", "tensor_constant"):
                self._values[value["name"]] = self._stored(said[f"{kind}_name"])
            elif kind == "user_input" and how == "as_tensor":
                name = value["name"]
                example, axes = self._example(name, graph["tensor_values"][name], budget)
                budget -= example.numel() * example.element_size()
                examples.append(example)
                dynamic.append(axes or None)
                self._values[name] = self.graph.placeholder(_identifier(name))
            elif kind == "constant_input" or how == "as_none":
                continue  # nodes have its value in them
            else:
                raise UnsupportedError(
                    f"{self.path}: an input of the program is a {kind} {how[3:]}, no tensor"
                )
        return examples, dynamic

    def _stored(self, name: str) -> Any:
        """A node that gets a weight or constant."""
        entry = self._entries.get(name)
        if entry is None:
            raise DamagedError(f"{self.path}: the program wants {quoted(name)}, which is not in the file")
        if name not in self._parameters:
            if not _NAME.fullmatch(name):  # it becomes part of source code
                raise UnsupportedError(
                    f"{self.path}: {quoted(name)} cannot be the name of a weight of a module"
                )
            self._parameters[name] = self._tensor(entry)
            *folders, last = name.split(".")
            module = self.root
            for folder in folders:
                if folder not in module._modules:
                    module.add_module(folder, torch.nn.Module())
                module = module._modules[folder]
            module.register_buffer(last, self._parameters[name])
        return self.graph.get_attr(name)

    def _tensor(self, entry: TensorEntry) -> Any:
        if entry.tied_to is not None:
            other = entry.tied_to
            if other not in self._parameters:
                self._parameters[other] = self._tensor(self._entries[other])
            return self._parameters[other]
        values = np.ascontiguousarray(entry.read()).reshape(-1)
        flat = torch.from_numpy(values.view(np.uint8)) if values.size else torch.zeros(0, dtype=torch.uint8)
        return flat.view(getattr(torch, entry.dtype)).reshape(entry.shape)

    def _example(self, name: str, meta: Any, budget: int) -> tuple[Any, dict[int, Any]]:
        shape, axes = [], {}
        for axis, size in enumerate(meta["sizes"]):
            kind, value = _single(size)
            if kind == "as_int":
                shape.append(count(value))
            else:  # of the expression only the example that it had in the first trace
                hint = value.get("hint")
                shape.append(count(hint) if hint else _SYMBOLIC_LENGTH)
                axes[axis] = torch.export.Dim.AUTO
        dtype = DTYPES[meta["dtype"]]
        if prod(shape) * ITEM_BYTES[dtype] > budget:
            raise UnsupportedError(f"{self.path}: input {quoted(name)} takes over 1 GiB")
        return torch.zeros(shape, dtype=getattr(torch, dtype)), axes

    # Nodes.

    def nodes(self, graph: Any) -> list[Any]:
        """Rebuilds all nodes; returns the values of the outputs."""
        for node in graph["nodes"]:
            self._node(node)
        return [self._argument(item) for item in graph["outputs"]]

    def _node(self, node: Any) -> None:
        target = node["target"]
        if _CHECKS.fullmatch(target):
            return
        if target == _NO_GRADIENTS:
            results: Any = self._inlined(node)
        elif target in _ARITHMETIC:
            arguments = [self._argument(item["arg"]) for item in node["inputs"]]
            results = self.graph.call_function(_compute, (target, *arguments))
        elif target == "_operator.getitem":
            value, index = (self._argument(item["arg"]) for item in node["inputs"])
            results = self.graph.call_function(operator.getitem, (value, int(index)))
        else:
            results = self._operation(target, node)
        self._define(node["outputs"], results)

    def _operation(self, target: str, node: Any) -> Any:
        overload = self._overload(target)
        given = {item["name"]: self._argument(item["arg"]) for item in node["inputs"]}
        arguments: list[Any] = []
        options: dict[str, Any] = {}
        for position, argument in enumerate(overload._schema.arguments):
            if argument.name not in given:
                continue
            value = given.pop(argument.name)
            if not argument.kwarg_only and position == len(arguments):
                arguments.append(value)
            else:
                options[argument.name] = value
        if given:
            raise DamagedError(f"{self.path}: {target} has no argument {quoted(min(given))}")
        return self.graph.call_function(overload, tuple(arguments), options)

    def _overload(self, target: str) -> Any:
        found = _OPERATOR.fullmatch(target)
        name = f"aten::{found[1]}" if found else ""
        overload_name = "" if found and found[2] == "default" else (found[2] if found else "")
        schemas = torch._C._jit_get_schemas_for_operator(name) if name else []
        if not any(schema.overload_name == overload_name for schema in schemas):
            raise UnsupportedError(
                f"{self.path}: the program calls {quoted(target)}; only operators of torch.ops.aten are known"
            )
        overload = getattr(getattr(torch.ops.aten, found[1]), found[2])  # type: ignore[index]
        schema = overload._schema
        if any(argument.name == _READS_FILES for argument in schema.arguments) or not schema.returns:
            raise UnsupportedError(f"{self.path}: the program calls {target}, which does more than compute")
        return overload

    def _inlined(self, node: Any) -> list[Any]:
        """The results of a subgraph that is called once, in a mode that means nothing without gradients."""
        _, graph, *operands = (item["arg"] for item in node["inputs"])
        inner = graph["as_graph"]["graph"]
        outer, values = self._values, {}
        for item, operand in zip(inner["inputs"], operands, strict=True):
            values[_single(item)[1]["name"]] = self._argument(operand)
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise DamagedError(f"{self.path}: graphs are nested more than {_MOST_DEPTH} deep")
        self._values = values
        try:
            return self.nodes(inner)
        finally:
            self._values = outer
            self._depth -= 1

    def _define(self, outputs: Any, results: Any) -> None:
        """Gives the results of a node their names."""
        items, is_list = outputs, len(outputs) != 1 or isinstance(results, list)
        if len(outputs) == 1:
            kind, value = _single(outputs[0])
            if kind in ("as_tensors", "as_optional_tensors"):
                items, is_list = [{"as_tensor": v} if kind == "as_tensors" else v for v in value], True
        for index, item in enumerate(items):
            kind, value = _single(item)
            if kind == "as_none":
                continue
            name = value["name"] if kind == "as_tensor" else value["as_name"]
            if name in self._values:
                raise DamagedError(f"{self.path}: the program defines {quoted(name)} twice")
            if isinstance(results, list):
                self._values[name] = results[index]
            else:
                self._values[name] = (
                    self.graph.call_function(operator.getitem, (results, index)) if is_list else results
                )

    def _argument(self, item: Any) -> Any:  # noqa: PLR0911  (one return a kind reads best)
        """What a node takes: a constant, or what an earlier node gives."""
        kind, value = _single(item)
        if kind in _PLAIN:
            return [_PLAIN[kind](v) for v in value] if isinstance(value, list) else _PLAIN[kind](value)
        if kind == "as_none":
            return None
        if kind == "as_tensor":
            return self._values[value["name"]]
        if kind == "as_name":
            return self._values[value]
        if kind == "as_tensors":
            return [self._values[v["name"]] for v in value]
        if kind in ("as_optional_tensors", "as_sym_ints", "as_sym_floats", "as_sym_bools"):
            return [self._argument(v) for v in value]
        if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
            return self._argument(value)
        if kind == "as_scalar_type":
            return getattr(torch, DTYPES[value])
        if kind == "as_memory_format":
            return _MEMORY_FORMATS[value]
        if kind == "as_layout":
            return _LAYOUTS[value]
        if kind == "as_device":
            return torch.device("cpu")  # wherever it was
        raise UnsupportedError(
            f"{self.path}: an argument of the program is {quoted(kind)}, which is not rebuilt"
        )


def _compute(operation: str, *numbers: Any) -> Any:
    """Arithmetic on sizes, and on nothing else: a list times a number would be as long as the file wants."""
    if not all(isinstance(number, _NUMBERS) for number in numbers):
        raise TypeError(f"{operation} of what is no number")
    result = _ARITHMETIC[operation](*numbers)
    if isinstance(result, int) and abs(result) >= 2**63:
        raise OverflowError(f"{operation} beyond 64 bits")
    return result


def _single(union: Mapping[str, Any]) -> tuple[str, Any]:
    """The kind and value of one of the schema's unions: an object of one key."""
    ((kind, value),) = union.items()
    return kind, value


def _identifier(name: str) -> str:
    """A name for an input: it becomes part of source code."""
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or keyword.iskeyword(name):
        raise DamagedError(f"the program has an input named {quoted(name)}")
    return name
