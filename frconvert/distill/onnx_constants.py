"""Tensors of a skeleton that are not initializers of its main graph: put where onnxruntime finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from frconvert.checkpoint import Checkpoint

if TYPE_CHECKING:
    import onnx

_MARKER, _EXTERNAL = "frconvert", 1  # as the importer leaves tensors whose data the checkpoint has


def settle(model: onnx.ModelProto, checkpoint: Checkpoint) -> None:
    """Makes initializers of the main graph's Constant nodes, and fills in the tensors of subgraphs."""
    graph = model.graph
    kept = []
    for node in graph.node:
        tensor = _constant(node)
        if tensor is None:
            kept.append(node)
            _fill_subgraphs(node, checkpoint)
            continue
        if _name(tensor) != node.output[0]:
            _fill(tensor, checkpoint)
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    if len(kept) < len(graph.node):
        nodes = [type(node).FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)


def _fill_subgraphs(node: onnx.NodeProto, checkpoint: Checkpoint) -> None:
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for tensor in graph.initializer:
                _fill(tensor, checkpoint)
            for inner in graph.node:
                constant = _constant(inner)
                if constant is not None:
                    _fill(constant, checkpoint)
                _fill_subgraphs(inner, checkpoint)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant node whose data the checkpoint has."""
    if node.op_type != "Constant" or len(node.attribute) != 1 or node.attribute[0].name != "value":
        return None
    tensor = node.attribute[0].t
    return tensor if _name(tensor) else None


def _name(tensor: onnx.TensorProto) -> str:
    """What the checkpoint calls it; empty if its data are not there."""
    keys = {item.key: item.value for item in tensor.external_data}
    if tensor.data_location != _EXTERNAL or keys.get("location") != _MARKER:
        return ""
    name: str = keys.get("tensor", tensor.name)
    return name


def _fill(tensor: onnx.TensorProto, checkpoint: Checkpoint) -> None:
    name = _name(tensor)
    if name:
        from onnx import numpy_helper  # noqa: PLC0415

        tensor.CopyFrom(numpy_helper.from_array(checkpoint[name].read(), tensor.name))
