"""Which tensors of a graph are weights that training may move.

Only entries of the checkpoint with two or more elements are trained, and of these not

- what must be exact: bounds, exponents, scales and sizes, everything from which such inputs are computed;
- means and variances of batch normalisations, which are stored as rounded as biases are, but never trained;
- tensors of two or more axes that hold at most two different values, or any that is not finite or whose
  square is not: masks.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from frconvert.dtypes import is_float
from frconvert.torch_graph.graph import Graph, all_nodes

TRAINED, STATISTIC, FIXED = "trained", "statistic", "fixed"

# Operator -> the inputs whose values are no weights.
_EXACT: Mapping[str, tuple[int, ...]] = {
    "Cast": (0,), "CastLike": (1,), "Clip": (1, 2), "Compress": (1,), "ConstantOfShape": (0,), "CumSum": (1,),
    "Equal": (0, 1), "Expand": (1,), "Greater": (0, 1), "GreaterOrEqual": (0, 1), "Less": (0, 1),
    "LessOrEqual": (0, 1), "Loop": (0, 1), "If": (0,), "Mod": (1,), "OneHot": (0, 1, 2), "Pad": (1, 2, 3),
    "Pow": (1,), "Range": (0, 1, 2), "Reshape": (1,), "Resize": (1, 2, 3), "Slice": (1, 2, 3, 4),
    "Split": (1,), "Squeeze": (1,), "Tile": (1,), "TopK": (1,), "Unsqueeze": (1,), "Upsample": (1,),
    "Where": (0,),
}  # fmt: skip
_STATISTICS = {"BatchNormalization": (3, 4)}
_FLOAT_TYPES = (1, 10, 11, 16)  # a Cast to another one
_STOPS = ("Shape", "Size")  # what they give does not depend on the values


def roles_of(
    graph: Graph, tensors: Mapping[str, NDArray[np.generic]], entries: Iterable[str]
) -> dict[str, str]:
    """Key -> TRAINED, STATISTIC or FIXED.

    Args:
        graph: the main one.
        tensors: key -> values.
        entries: keys of those that the checkpoint has.
    """
    exact = _exact(graph)
    statistics = _keys(graph, _STATISTICS)
    roles = dict.fromkeys(tensors, FIXED)
    for key in entries:
        values = tensors[key]
        if not is_float(values.dtype.name) or values.size < 2 or key in exact:
            continue
        if key in statistics:
            roles[key] = STATISTIC
        elif _is_weight(values):
            roles[key] = TRAINED
    return roles


def tables_of(graph: Graph) -> set[str]:
    """Keys of the tensors of which rows are gathered."""
    found = set()
    for inner, node in all_nodes(graph):
        if node.operator == "Gather" and node.domain == "" and node.get("axis", 0) == 0:
            found |= {inner.tensors[name] for name in node.inputs[:1] if name in inner.tensors}
    return found


def _is_weight(values: NDArray[np.generic]) -> bool:
    floats = values.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        if (
            not np.isfinite(np.square(floats).sum(dtype=np.float64))
            or not np.isfinite(np.square(floats)).all()
        ):
            return False
    # A vector of equal values may be a normalisation's scale or a bias that has not moved yet.
    return floats.ndim < 2 or floats.size <= 2 or len(np.unique(floats)) > 2


def _keys(graph: Graph, places: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Keys of the tensors that stand at these inputs themselves."""
    found = set()
    for inner, node in all_nodes(graph):
        for place in places.get(node.operator, ()) if node.domain == "" else ():
            name = node.inputs[place] if place < len(node.inputs) else ""
            if name in inner.tensors:
                found.add(inner.tensors[name])
    return found


def _exact(graph: Graph) -> set[str]:
    """Keys of the tensors that exact inputs are, or are computed from; names in all graphs count as one."""
    wanted: set[str] = set()
    makers: dict[str, list[tuple[str, ...]]] = {}
    keys: dict[str, set[str]] = {}
    for inner in (graph, *(inner for _, node in all_nodes(graph) for inner in node.graphs.values())):
        for name, key in inner.tensors.items():
            keys.setdefault(name, set()).add(key)
    for _, node in all_nodes(graph):
        is_to_float = node.operator == "Cast" and node.get("to", 0) in _FLOAT_TYPES
        places = _EXACT.get(node.operator, ()) if node.domain == "" and not is_to_float else ()
        wanted.update(node.inputs[place] for place in places if place < len(node.inputs))
        for name in node.outputs:
            makers.setdefault(name, []).append(() if node.operator in _STOPS else node.inputs)
    # Of an input that depends on the data, such as a mask of activations, weights are no exact part.
    moving: set[str] = set()
    _follow(graph, moving)
    todo, seen = list(wanted), set(wanted)
    while todo:
        name = todo.pop()
        for sources in makers.get(name, ()) if name not in moving else ():
            fresh = set(sources) - seen
            seen |= fresh
            todo += fresh
    return {key for name in seen for key in keys.get(name, ())}


def _follow(graph: Graph, moving: set[str]) -> None:
    """Adds the names of all values that depend on the inputs' values, not only on their shapes."""
    moving.update(graph.inputs)
    for node in graph.nodes:
        for inner in node.graphs.values():
            _follow(inner, moving)
        if node.operator not in _STOPS and not moving.isdisjoint(node.consumed):
            moving.update(node.outputs)
