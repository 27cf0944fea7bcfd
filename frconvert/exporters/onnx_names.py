"""Short names inside ONNX graphs.

Exporters write the path of a module into every name, which may take more bytes than few coefficients do. Kept
are the names by which a model is used or its weights are known: inputs, outputs, initializers, Constant nodes
that hold weights, and everything that a model may refer to from outside of its graphs.

Law: names that differed differ, and names that were equal are equal, so the graph computes the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from frconvert.checkpoint import ONNX_SKELETON, Checkpoint
from frconvert.exporters.onnx import mark_of, open_skeleton
from frconvert.idct.spots import graphs_of

MODES = ("keep", "short")


def shortened(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with short names of nodes and of values in between in its graph.

    Raises:
        UsageError: it carries no graph, or onnx is not installed.
        DamagedError: what it carries is no model.
    """
    model = open_skeleton(checkpoint)
    weights = {entry.name for entry in checkpoint if entry.is_weight}
    # What trains a graph, or notes of its quantisation, name its values.
    if not model.training_info and not model.graph.quantization_annotation:
        _shorten(model.graph, [value.name for value in (*model.graph.input, *model.graph.output)], weights)
    for function in model.functions:
        _shorten(function, [*function.input, *function.output], weights)
    skeleton = model.SerializeToString(deterministic=True)
    return replace(checkpoint, attachments={**checkpoint.attachments, ONNX_SKELETON: skeleton})


def _shorten(graph: Any, known: Iterable[str], weights: set[str]) -> None:
    """A graph or function, and all in it."""
    graphs = list(_within(graph))
    kept = {*known, ""}  # an input that is left out has an empty name
    for inner in graphs:
        kept.update(_names_of_tensors(inner, weights))
    fresh = (
        name for name in (f"v{np.base_repr(number, 36).lower()}" for number in count()) if name not in kept
    )
    short = {name: name for name in kept}

    def of(name: str) -> str:
        if name not in short:
            short[name] = next(fresh)
        return short[name]

    for inner in graphs:
        if inner is not graph:
            for value in (*inner.input, *inner.output):
                value.name = of(value.name)
        for value in inner.value_info:
            value.name = of(value.name)
        for node in inner.node:
            node.input[:] = [of(name) for name in node.input]
            node.output[:] = [of(name) for name in node.output]
            if not any(graphs_of(attribute) for attribute in node.attribute):
                node.ClearField("name")  # of tensors in its graphs it is a part of the name


def _within(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in graphs_of(attribute):
                yield from _within(inner)


def _names_of_tensors(graph: Any, weights: set[str]) -> Iterator[str]:
    for tensor in getattr(graph, "initializer", ()):
        yield tensor.name
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield sparse.values.name
    for node in graph.node:
        if node.op_type == "Constant" and _is_weight(node, weights):
            yield from node.output


def _is_weight(node: Any, weights: set[str]) -> bool:
    return any(mark_of(attribute.t) in weights for attribute in node.attribute if attribute.HasField("t"))
