"""What an ONNX model takes, and below what its integer inputs must be because they index a table."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frconvert.calibration import InputSpec
from frconvert.errors import UnreadableError, UnsupportedError, UsageError, one_line, quoted

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

# Operators whose output holds the values of their first input, and no others.
_CARRIERS = frozenset(
    ("Cast", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile",
     "Transpose", "Unsqueeze")
)  # fmt: skip


def read_inputs(path: Path) -> tuple[InputSpec, ...]:
    """The inputs of a model that have no default, in order.

    Raises:
        UsageError: onnx is not installed.
        UnreadableError: no ONNX model.
        UnsupportedError: an input is no tensor of numbers.
    """
    try:
        import onnx  # noqa: PLC0415  (an optional dependency)
    except ImportError as error:
        raise UsageError(f"reading {path} needs onnx: pip install 'frconvert[onnx]'") from error
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror or one_line(error)}") from error
    except Exception as error:  # protobuf's classes differ by its backend
        raise UnreadableError(f"{path}: not an ONNX model ({one_line(error, 120)})") from error
    defaults = {tensor.name for tensor in model.graph.initializer}
    wanted = [value for value in model.graph.input if value.name not in defaults]
    bounds = _bounds(model) if any(_dtype(value, path)[0] in "iu" for value in wanted) else {}
    return tuple(
        InputSpec(
            value.name,
            tuple(_length(dim) for dim in value.type.tensor_type.shape.dim),
            _dtype(value, path),
            bounds.get(value.name),
        )
        for value in wanted
    )


def _length(dim: Any) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return str(dim.dim_param) or None


def _dtype(value: Any, path: Path) -> str:
    import onnx  # noqa: PLC0415

    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise UnsupportedError(f"{path}: the input {quoted(value.name)} is a {kind}, not a tensor")
    try:
        name = str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name)
    except KeyError:
        name = "of an unknown type"
    if not name.startswith(("float", "int", "uint", "bool")):
        raise UnsupportedError(f"{path}: the input {quoted(value.name)} is {name}, not numbers")
    return name


def _bounds(model: ModelProto) -> dict[str, int]:
    """For values of the main graph that reach the indices of a Gather, or OneHot: how many there are."""
    shapes, depths = _shapes(model)
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for graph in _graphs(model.graph):
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                readers[name].append(node)
    bounds: dict[str, int] = {}
    for value in model.graph.input:
        todo, seen = [value.name], {value.name}
        while todo:
            name = todo.pop()
            for node in readers[name]:
                size = _table_size(node, name, shapes, depths)
                if size is not None:
                    bounds[value.name] = min(size, bounds.get(value.name, size))
                if node.op_type in _CARRIERS and node.input[0] == name:
                    todo += [output for output in node.output if output not in seen]
                    seen.update(node.output)
    return bounds


def _table_size(
    node: NodeProto, name: str, shapes: dict[str, tuple[int | None, ...]], depths: dict[str, int]
) -> int | None:
    if node.op_type == "OneHot" and node.input[0] == name:
        return depths.get(node.input[1])
    if node.op_type not in ("Gather", "GatherElements") or node.input[1] != name:
        return None
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    shape = shapes.get(node.input[0], ())
    return shape[axis] if -len(shape) <= axis < len(shape) else None


def _shapes(model: ModelProto) -> tuple[dict[str, tuple[int | None, ...]], dict[str, int]]:
    """Shapes of values as far as they are known, and the values of integer constants of one element."""
    import onnx  # noqa: PLC0415

    with contextlib.suppress(Exception):  # without inference there are still the initializers' shapes
        model = onnx.shape_inference.infer_shapes(model)
    shapes: dict[str, tuple[int | None, ...]] = {}
    depths: dict[str, int] = {}
    for graph in _graphs(model.graph):
        for value in (*graph.value_info, *graph.input, *graph.output):
            lengths = map(_length, value.type.tensor_type.shape.dim)
            shapes[value.name] = tuple(length if isinstance(length, int) else None for length in lengths)
        constants = [
            (node.output[0], attribute.t)
            for node in graph.node
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value"
        ]
        for name, tensor in (*((tensor.name, tensor) for tensor in graph.initializer), *constants):
            shapes[name] = tuple(tensor.dims)
            if prod(tensor.dims) == 1 and tensor.data_type in (6, 7) and tensor.data_location == 0:
                depths[name] = int(onnx.numpy_helper.to_array(tensor).item())
    return shapes, depths


def _graphs(graph: GraphProto) -> list[GraphProto]:
    found = [graph]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    found += _graphs(inner)
    return found
