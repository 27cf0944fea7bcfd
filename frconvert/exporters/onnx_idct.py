"""Exporter of ONNX models whose weights are made of coefficients by nodes of the graph.

The output of the last node of each such tensor has the name that the tensor had, so that nothing else of the
graph changes. What is stored and how is told in `formats/onnx-idct-1.md`; which nodes are made, in
`frconvert.idct.graph`. A metadata property says what every part is, see `frconvert.idct.notes`, so that the
coefficients can be read back.

Left dense, as in `exporters/onnx.py`, is what has no coefficients, what a node of quantisation takes or a
graph gives as its result, and what a runtime could not fold; for the last a notice says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.dtypes import ITEM_BYTES, largest_finite
from frconvert.errors import quoted
from frconvert.exporters import onnx as dense
from frconvert.idct import factored, functions, notes, twins
from frconvert.idct.bare import bare
from frconvert.idct.coefficients import (
    Arranged,
    Coefficients,
    arranged,
    fill_of,
    obstacle,
    weights,
    working_dtype,
)
from frconvert.idct.graph import FULL_OPSET, OLDEST_OPSET, Builder
from frconvert.idct.spots import Path as GraphPath
from frconvert.idct.spots import Spot, free_prefix, opset_of, spots

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

MODES = ("idct", "functions")

_OLDEST_IR = 4  # from here on initializers need not be inputs
# Where ConstantOfShape has a type; what it and its notes take.
_OLDEST_FILL_OPSETS = {"float16": 9, "float32": 9, "float64": 9, "bfloat16": 20}
_FILL_BYTES = 256
_TURN_BYTES = 300  # about what a Transpose and its notes take
_LARGEST_SHARE = 0.05  # of a weight, that bases may take which have to be stored

Sources = Mapping[str, Callable[[], Coefficients]]


def save(
    checkpoint: Checkpoint,
    coefficients: Sources,
    path: Path,
    mode: str,
    notice: Callable[[str], None],
    *,
    factors: bool = True,
    data_name: str | None = None,
) -> dict[str, int]:
    """Writes the model whose skeleton the checkpoint carries.

    Args:
        checkpoint: one that came from an ONNX model, directly or through `.frq`.
        coefficients: by name of the tensors that are to be stored so; asked for one at a time.
        path: the file to write.
        mode: one of `MODES`: nodes in the graph, or model-local functions.
        notice: called with a sentence for what could not be done as wished.
        data_name: of a data file for what stays dense, as for `exporters.onnx.save`.
        factors: whether linear layers may be computed without their weights, see `frconvert.idct.factored`.

    Returns:
        For each tensor that became coefficients about how many bytes it takes.

    Raises:
        FrqError: as `exporters.onnx.save`.
    """
    model = dense.open_skeleton(checkpoint)
    places = dense.match(model, checkpoint)
    dense.tell_left_out(checkpoint, {entry.name for _, entry in places}, notice)
    work = _Work(model, mode, factors=factors)
    if mode == "functions" and opset_of(model) < functions.OLDEST_OPSET:
        notice(f"nodes instead of functions, as those need operator set {functions.OLDEST_OPSET}")
    entries = {entry.name: entry for _, entry in places}
    for spot in list(spots(model, dense.mark_of)):
        if spot.name in coefficients:
            work.code(spot, coefficients[spot.name]())
        else:
            work.fill(spot, entries[spot.name])
    work.tell(notice)
    bare(model, notice)
    work.finish()
    # Only now, as that copies nodes. What is marked still is what stays dense.
    left = dense.match(model, checkpoint)
    dense.fill(model, left, path, data_name, notice)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return work.sizes


def prospects(checkpoint: Checkpoint) -> tuple[set[str], bool]:
    """Names of the tensors that may become coefficients, and whether the operator set has all it takes."""
    model = dense.open_skeleton(checkpoint)
    dense.match(model, checkpoint)
    return {spot.name for spot in spots(model, dense.mark_of)}, opset_of(model) >= FULL_OPSET


class _Work:
    """The coded tensors of one model so far."""

    def __init__(self, model: ModelProto, mode: str, *, factors: bool) -> None:
        self.coded: dict[str, Spot] = {}
        self.sizes: dict[str, int] = {}
        self._model, self._factors = model, factors
        self._opset = opset_of(model)
        self._with_functions = mode == "functions" and self._opset >= functions.OLDEST_OPSET
        self._prefix = free_prefix(model)
        self._numbers = count()
        self._builders: dict[GraphPath, tuple[GraphProto, Builder]] = {}
        self._notes: list[dict[str, Any]] = []
        self._left: dict[str, list[str]] = {}
        self._products: dict[tuple[GraphPath, str], list[NodeProto]] = {}
        self._twins: dict[tuple[GraphPath, twins.Key], tuple[str, Arranged, dict[str, Any]]] = {}

    def code(self, spot: Spot, coefficients: Coefficients) -> None:
        """Makes the nodes of a tensor, or remembers why not."""
        stored = arranged(coefficients, plain=self._opset < FULL_OPSET)
        reason = obstacle(stored) or _overflow(coefficients) or self._lack(stored)
        if reason:
            self._left.setdefault(reason, []).append(spot.name)
            return
        builder = self._builder(spot)
        products = factored.uses(spot, stored, self._opset) if self._factors else []
        twin = None if products else self._twin(spot, coefficients)
        if twin:
            value, other, parts = twin
            stored = twins.turned(other)
            builder.turn(value, spot.value)
        elif products:
            core, parts = builder.core(stored)
            parts["products"] = factored.told(products)
            for node in products:
                self._products[spot.path, node.output[0]] = factored.replacement(builder, node, stored, core)
        else:
            parts = builder.emit(stored, spot.value)
            key = twins.key(coefficients)
            if key and stored.order is not None:
                self._twins[spot.path, key] = spot.value, stored, parts
        self._notes.append(notes.tell(spot, stored, parts))
        self.coded[spot.name] = spot
        self.sizes[spot.name] = _TURN_BYTES if twin else stored.packed.size_bytes

    def _twin(self, spot: Spot, coefficients: Coefficients) -> tuple[str, Arranged, dict[str, Any]] | None:
        """Value, storage and parts of the matrix in the same graph whose transpose this one is."""
        key = twins.key(coefficients, turned=True)
        return self._twins.get((spot.path, key)) if key else None

    def _lack(self, stored: Arranged) -> str | None:
        """What an old operator set cannot do for a tensor."""
        if self._opset < OLDEST_OPSET:
            return f"operator set {self._opset} is older than {OLDEST_OPSET}"
        item = ITEM_BYTES[stored.dtype]
        bases = sum(stored.shape[axis] * stored.box[axis] for axis in stored.axes) * item
        if self._opset < FULL_OPSET and bases > _LARGEST_SHARE * prod(stored.shape) * item:
            return f"operator set {self._opset} would need stored bases of {bases} bytes"
        return None

    def fill(self, spot: Spot, entry: TensorEntry) -> None:
        """Makes the node of a tensor without coefficients if it has but one value."""
        oldest = _OLDEST_FILL_OPSETS.get(entry.dtype)
        if entry.size_bytes < _FILL_BYTES or oldest is None or self._opset < oldest:
            return
        item = fill_of(entry.read(), entry.dtype)
        if item is not None:
            parts = self._builder(spot).fill(item, spot.value)
            self._notes.append(notes.tell(spot, item, parts))
            self.coded[spot.name] = spot

    def _builder(self, spot: Spot) -> Builder:
        if spot.path not in self._builders:
            builder = Builder(self._name, self._opset, with_functions=self._with_functions)
            self._builders[spot.path] = spot.graph, builder
        return self._builders[spot.path][1]

    def tell(self, notice: Callable[[str], None]) -> None:
        """Says which tensors stay dense, and why."""
        for reason, names in self._left.items():
            some = ", ".join(quoted(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
            notice(f"{len(names)} of the tensors stay dense, as {reason}: {some}")

    def finish(self) -> None:
        """Puts the nodes in and takes out what they stand for."""
        if not self.coded:
            return
        model, ir_version = self._model, self._model.ir_version
        used = set[str]()
        # Inner graphs first: a graph that is put together anew is a copy.
        for path, (graph, builder) in sorted(self._builders.items(), key=lambda item: -len(item[0])):
            products = {output: nodes for (place, output), nodes in self._products.items() if place == path}
            _replace(graph, [spot for spot in self.coded.values() if spot.path == path], builder, products)
            used |= builder.functions
        functions.add(model, used, self._opset)
        model.ir_version = max(ir_version, functions.OLDEST_IR if used else _OLDEST_IR)
        notes.write(model, self._prefix, ir_version, self._notes)

    def _name(self) -> str:
        return self._prefix + np.base_repr(next(self._numbers), 36).lower()


def _replace(
    graph: GraphProto, spots: list[Spot], builder: Builder, products: dict[str, list[NodeProto]]
) -> None:
    """Takes tensors out of a graph and puts in front what makes them."""
    constants = {spot.index for spot in spots if spot.node is not None}
    initializers = {spot.index for spot in spots if spot.node is None}
    gone = {spot.value for spot in spots}
    spare = type(graph)()
    spare.node.extend(builder.nodes)
    for number, node in enumerate(graph.node):
        if number not in constants:
            spare.node.extend(products.get(node.output[0], [node]) if node.output else [node])
    for number in sorted(initializers, reverse=True):
        del graph.initializer[number]
    for number in reversed(range(len(graph.input))):
        if graph.input[number].name in gone:
            del graph.input[number]
    graph.ClearField("node")
    graph.node.extend(spare.node)
    graph.initializer.extend(builder.initializers)


def _overflow(coefficients: Coefficients) -> str | None:
    """Narrow floats are cut off at their largest value when they are decoded; a Cast would give infinity."""
    if coefficients.dtype == np.dtype(working_dtype(coefficients.dtype)).name:
        return None
    largest = float(np.abs(weights(coefficients).astype(np.float64)).max(initial=0))
    return (
        "values reach the end of their type"
        if largest >= 0.999 * largest_finite(coefficients.dtype)
        else None
    )
