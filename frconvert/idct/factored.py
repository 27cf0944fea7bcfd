"""Linear layers computed by two thin matrices, without their weight.

A weight of few frequencies along an axis is the product of two thin matrices: x W = (x L) R, where one of L
and R is made of the basis' first rows. Where that is clearly fewer multiplications, the product is done so.
That is the factored form ((x C1) X) C2^T with one of its constant products done beforehand.

Law: the replacement nodes compute what the node did, within rounding; nothing else of the graph changes.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from frconvert.errors import DamagedError
from frconvert.idct.coefficients import Arranged, working_dtype
from frconvert.idct.graph import Builder, thin_axis
from frconvert.idct.spots import Spot, graphs_of

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

SHARE = 0.5  # of the multiplications, at most: beyond, a second product may cost more than it saves
SMALLEST = 1 << 16  # elements of a weight; smaller ones are quick anyway
_OLDEST_OPSET = 12


def share(stored: Arranged) -> float:
    """Multiplications of the factored form as a share of those of the weight."""
    rows, columns = stored.shape
    return stored.box[thin_axis(stored)] * (rows + columns) / (rows * columns)


def uses(spot: Spot, stored: Arranged, opset: int) -> list[NodeProto]:
    """The products that the weight is used in, if it is worth it and used in nothing else; else none."""
    if len(stored.shape) != 2 or not stored.axes or opset < _OLDEST_OPSET:
        return []
    if stored.dtype != working_dtype(stored.dtype).__name__:
        return []
    if stored.shape[0] * stored.shape[1] < SMALLEST or share(stored) > SHARE:
        return []
    found = []
    for node in spot.graph.node:
        if spot.value in node.input:
            if not is_product(node, spot.value):
                return []
            found.append(node)
        elif any(
            _mentions(inner, spot.value) for attribute in node.attribute for inner in graphs_of(attribute)
        ):
            return []
    return found


def is_product(node: NodeProto, value: str) -> bool:
    """Whether a node multiplies by a weight on the right, and does no more than add to that."""
    if node.domain or list(node.input).count(value) != 1 or len(node.input) < 2 or node.input[1] != value:
        return False
    if node.op_type == "MatMul":
        return not node.attribute
    known = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    given = {item.name: item.f if item.type == 1 else item.i for item in node.attribute}
    return node.op_type == "Gemm" and all(
        given[name] == known[name] if name in known else name == "transB" for name in given
    )


def replacement(builder: Builder, node: NodeProto, stored: Arranged, core: str) -> list[NodeProto]:
    """The nodes that do what a product did."""
    from onnx import helper  # noqa: PLC0415

    is_turned = any(item.name == "transB" and item.i for item in node.attribute)
    left, right = builder.factors(stored, core, 1 if is_turned else 0)
    addend = node.input[2] if len(node.input) > 2 else ""
    between, output = builder.name(), node.output[0]
    last = builder.name() if addend else output
    nodes = [
        helper.make_node("MatMul", [node.input[0], left], [between]),
        helper.make_node("MatMul", [between, right], [last]),
    ]
    return [*nodes, helper.make_node("Add", [last, addend], [output])] if addend else nodes


def told(nodes: list[NodeProto]) -> list[str]:
    """Nodes as text, for the metadata."""
    return [base64.b64encode(node.SerializeToString(deterministic=True)).decode() for node in nodes]


def read(texts: Sequence[str], value: str, graph: GraphProto) -> list[NodeProto]:
    """Inverse of `told`.

    Raises:
        DamagedError: a text is no product by that weight.
    """
    nodes = []
    for text in texts:
        node: Any = type(graph)().node.add()
        try:
            node.ParseFromString(base64.b64decode(text, validate=True))
        except Exception as error:  # protobuf's classes differ by its backend
            raise DamagedError(f"the product by {value!r} is no node") from error
        if not is_product(node, value) or len(node.output) != 1:
            raise DamagedError(f"the product by {value!r} is none")
        nodes.append(node)
    return nodes


def _mentions(graph: GraphProto, value: str) -> bool:
    return any(
        value in node.input
        or any(_mentions(inner, value) for attribute in node.attribute for inner in graphs_of(attribute))
        for node in graph.node
    ) or any(output.name == value for output in graph.output)
