"""What a model says of its coefficients: one JSON object in the metadata of the ModelProto.

    {"version": 1, "prefix": "q/", "ir": 8, "tensors": [{...}, ...]}

Of each tensor: `name` of the checkpoint's entry, `value` where the graph knows it by another name, `place`
(its index among the initializers that the graph had without us; or index, name and tensor's name of the
Constant node), `graph` (the way to its subgraph), `input` (its index among the inputs, where it was one),
`shape`, `dtype`, `axes`, `keep`, `step`, `order`, `box`, `runs` (form, count, initializer) and `outliers`
(count, type, initializers of indices and values). What has its usual value is left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from frconvert.idct.coefficients import Arranged

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

KEY = "ai.frconvert.idct"
VERSION = 1

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


def note(spot: Spot, stored: Arranged, parts: dict[str, Any]) -> dict[str, Any]:
    """What is told of one tensor."""
    said: dict[str, Any] = {"name": spot.name}
    if spot.value != spot.name:
        said["value"] = spot.value
    if spot.path:
        said["graph"] = [list(step) for step in spot.path]
    said["place"] = [spot.index] if spot.node is None else [spot.index, spot.node.name, spot.tensor.name]
    inputs = [number for number, value in enumerate(spot.graph.input) if value.name == spot.value]
    if inputs and spot.node is None:
        said["input"] = inputs[0]
    said["shape"] = list(stored.shape)
    if stored.dtype != "float32":
        said["dtype"] = stored.dtype
    if stored.axes != tuple(range(len(stored.shape))):
        said["axes"] = list(stored.axes)
    for key, value in (("keep", stored.keep), ("step", stored.step)):
        if value is not None:
            said[key] = value
    if stored.order is not None:
        said["order"] = list(stored.order)
        if stored.box != stored.shape:
            said["box"] = list(stored.box)
    return said | parts


def write(model: ModelProto, prefix: str, ir_version: int, tensors: list[dict[str, Any]]) -> None:
    """Puts the notes into a model."""
    content = {"version": VERSION, "prefix": prefix, "ir": ir_version, "tensors": tensors}
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    model.metadata_props.add(key=KEY, value=text)
