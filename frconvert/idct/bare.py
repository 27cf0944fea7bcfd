"""What torch's exporter notes in a model for debugging, and does not belong into a small file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from frconvert.idct.spots import graphs_of

if TYPE_CHECKING:
    from onnx import ModelProto

_DEBUGGING = ("pkg.torch.", "pkg.onnxscript.", "namespace")  # keys of metadata
_TOLD_BYTES = 1000


def bare(model: ModelProto, notice: Callable[[str], None]) -> None:
    """Takes out what torch's exporter notes for debugging: stack traces, paths, sources, shapes in between.

    They may take many times the bytes of the coefficients, and tell of the machine the model was made on.
    """
    if model.producer_name != "pytorch":
        return
    before = model.ByteSize()
    for graph in (model.graph, *model.functions):
        _bare(graph)
        graph.ClearField("value_info")
    saved = before - model.ByteSize()
    if saved > _TOLD_BYTES:
        notice(f"left out {saved} bytes of notes that torch's exporter made for debugging")


def _bare(graph: Any) -> None:
    """A graph or function, and all in it."""
    for item in (*graph.node, *getattr(graph, "initializer", ()), *graph.input, *graph.output, graph):
        if isinstance(item, str) or not hasattr(
            item, "metadata_props"
        ):  # in models of old, functions' inputs
            continue
        kept = [entry for entry in item.metadata_props if not entry.key.startswith(_DEBUGGING)]
        if len(kept) < len(item.metadata_props):
            spare = type(item)()
            spare.metadata_props.extend(kept)
            item.ClearField("metadata_props")
            item.metadata_props.extend(spare.metadata_props)
    for node in graph.node:
        node.ClearField("doc_string")  # where older exporters put stack traces
        for attribute in node.attribute:
            for inner in graphs_of(attribute):
                _bare(inner)
