"""Tensors of a skeleton that are not initializers of its main graph: put where onnxruntime finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from frconvert.checkpoint import Checkpoint
from frconvert.exporters.onnx import mark_of

if TYPE_CHECKING:
    import onnx


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
        if mark_of(tensor) != node.output[0]:
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
    return tensor if mark_of(tensor) is not None else None


def _fill(tensor: onnx.TensorProto, checkpoint: Checkpoint) -> None:
    name = mark_of(tensor)
    if name is not None:
        from onnx import numpy_helper  # noqa: PLC0415

        tensor.CopyFrom(numpy_helper.from_array(checkpoint[name].read(), tensor.name))
