"""Models whose weights are made of coefficients by nodes that frconvert put there, see `frconvert.idct`.

`unfold` takes the nodes out of such a model again and leaves a mark where each tensor was. What a model says
of its coefficients is believed only as far as it agrees with the tensors in it; every number is checked
before memory is allocated. A model whose nodes are no more what frconvert made (an optimiser has been at
work) is read like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frconvert.checkpoint import TensorEntry
from frconvert.coding.coefficients import LARGEST_TARGET
from frconvert.coding.models import MAXIMUM_MAGNITUDE
from frconvert.coding.quantize import dequantise
from frconvert.coding.record import INTEGERS, UNIFORM, Layout, Record
from frconvert.coding.scales import MOST_AXES
from frconvert.container.limits import tensor_excess, total_excess
from frconvert.errors import DamagedError, quoted
from frconvert.idct import factored, notes
from frconvert.idct.coefficients import Arranged, Fill, restored, weights, working_dtype
from frconvert.idct.notes import Note, RunNote
from frconvert.idct.spots import Path as GraphPath
from frconvert.idct.spots import graphs_of
from frconvert.idct.storage import FORMS, Packed, Replaced, Run, place_count, word_count
from frconvert.idct.types import DOMAIN, DTYPES, KEY, code_of

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

LOCATION = "\0frconvert"  # of external data: no file has such a name, so that the mark is ours alone

_SHOWN = 200


class _ChangedError(Exception):
    """The model is not as frconvert made it."""


def unfold(model: ModelProto, path: Path) -> tuple[list[Arranged | Fill], str | None]:
    """Takes our nodes out of a model that has some.

    Args:
        model: is changed: it becomes the one that the coefficients were put into, where each coded tensor
            has external data at `LOCATION` whose `offset` is its index in the result.
        path: for messages.

    Returns:
        The coded tensors, and a sentence if the model has notes that do not fit it any more.

    Raises:
        DamagedError: the notes break their own rules.
    """
    text = notes.find(model)
    if text is None:
        return [], None
    try:
        content = notes.parse(text)
    except DamagedError as error:
        raise DamagedError(f"{path}: {error}") from None
    file_bytes = path.stat().st_size
    try:
        plan = _locate(model, content)
        found = [_arranged(note, tensors) for note, (_, tensors) in zip(content.tensors, plan, strict=True)]
    except _ChangedError as error:
        return (
            [],
            f"the coefficients in the graph are not as frconvert wrote them ({error}); read as any model",
        )
    except DamagedError as error:
        raise DamagedError(f"{path}: {error}") from None
    layouts = [layout_of(item) for item in found]
    excess = [
        tensor_excess(note.value, layout, file_bytes)
        for note, layout in zip(content.tensors, layouts, strict=True)
    ]
    wrong = next((text for text in excess if text), None) or total_excess(layouts, 0, file_bytes)
    if wrong:
        raise DamagedError(f"{path}: {wrong}")
    _restore(model, content, [graph for graph, _ in plan])
    return found, None


def entry_of(name: str, stored: Arranged | Fill, what: str) -> TensorEntry:
    """A coded tensor as an entry of a checkpoint."""
    if isinstance(stored, Fill):
        return TensorEntry(name, stored.shape, stored.dtype, read=stored.read)
    return TensorEntry(
        name,
        stored.shape,
        stored.dtype,
        read=partial(_read, stored),
        read_encoded=partial(_record, stored, what),
        encoded_layout=layout_of(stored),
    )


def number_of(tensor: TensorProto, count: int) -> int | None:
    """Which of so many coded tensors a mark of `unfold` stands for; None for any other tensor."""
    keys = [(item.key, item.value) for item in tensor.external_data[:2]]
    if tensor.data_location and keys and keys[0] == ("location", LOCATION):
        number = keys[1][1] if len(keys) > 1 else ""
        if number.isdecimal() and len(number) < 10 and int(number) < count:
            return int(number)
    return None


def layout_of(stored: Arranged | Fill) -> Layout:
    """How a `.frq` holds the same coefficients."""
    if isinstance(stored, Fill):
        return Layout(stored.shape, stored.dtype, stored=stored.dtype)
    kind = INTEGERS
    if stored.step is None:
        kind = stored.packed.runs[0].form.word
    elif stored.keep is None and len(stored.shape) <= MOST_AXES and 2 * _largest(stored) <= LARGEST_TARGET:
        kind = UNIFORM
    return Layout(stored.shape, stored.dtype, stored.axes, stored.keep, stored.step, kind)


def _largest(stored: Arranged) -> int:
    runs = stored.packed.runs
    return max(
        *(_magnitude(run.words) if not run.form.base else run.form.limit for run in runs),
        *(_magnitude(run.replaced.numbers) for run in runs if run.replaced is not None),
        0,
    )


def _magnitude(values: NDArray[np.generic]) -> int:
    return int(np.abs(values.astype(np.int64)).max(initial=0))


def _read(stored: Arranged) -> NDArray[np.generic]:
    return weights(restored(stored))


def _record(stored: Arranged, what: str) -> Record:
    layout = layout_of(stored)
    coefficients = restored(stored)
    values = coefficients.values
    if layout.stored == UNIFORM and layout.step is not None:
        return Record(layout, dequantise(values.astype(np.int32), layout.step, working_dtype(stored.dtype)))
    if layout.stored == INTEGERS and np.abs(values.astype(np.int64)).max(initial=0) > MAXIMUM_MAGNITUDE:
        raise DamagedError(f"{what}: a coefficient is beyond {MAXIMUM_MAGNITUDE} steps")
    if layout.keep is None:
        moved = np.moveaxis(values.reshape(layout.shape), layout.axes, range(len(layout.axes)))
        values = np.ascontiguousarray(moved).reshape(-1)
    return Record(layout, values)


# Finding.


def _locate(model: ModelProto, content: notes.Content) -> list[tuple[GraphProto, dict[str, TensorProto]]]:
    """For each note its graph, and the initializers of that one by name."""
    known: dict[GraphPath, tuple[GraphProto, dict[str, TensorProto], set[str]]] = {}
    located = []
    last: dict[GraphPath, set[str]] = {note.path: set() for note in content.tensors}  # of factored products
    for note in content.tensors:
        if note.path not in known:
            graph = _graph_at(model, note.path, content)
            tensors = {tensor.name: tensor for tensor in graph.initializer}
            made = {name for node in graph.node for name in node.output}
            known[note.path] = graph, tensors, made
        graph, tensors, made = known[note.path]
        outputs = [node.output[0] for node in factored.read(note.products, note.value, graph)]
        for name in outputs or [note.value]:
            if name not in made:
                raise _ChangedError(f"no node makes {quoted(name, _SHOWN)}")
        last[note.path].update(outputs)
        located.append((graph, tensors))
    for path, (graph, _, _) in known.items():
        ours = {note.value for note in content.tensors if note.path == path}
        for node in graph.node:
            if _is_ours(node, ours, content.prefix) or last[path].intersection(node.output):
                continue
            if any(name.startswith(content.prefix) for name in _used(node)):
                raise _ChangedError("other nodes use parts of them")
    return located


def _graph_at(model: ModelProto, path: GraphPath, content: notes.Content) -> GraphProto:
    """The graph that a path leads to; node numbers are those of the model without our nodes."""
    graph = model.graph
    for depth, (number, attribute_name, place) in enumerate(path):
        outer = [note for note in content.tensors if note.path == path[:depth]]
        ours = {note.value for note in outer}
        nodes = [node for node in graph.node if not _is_ours(node, ours, content.prefix)]
        # Constant nodes that became coefficients were counted.
        here = number - sum(note.node is not None and note.index < number for note in outer)
        attributes = [
            a for node in nodes[here : here + 1] for a in node.attribute if a.name == attribute_name
        ]
        graphs = [inner for attribute in attributes for inner in graphs_of(attribute)]
        if place >= len(graphs):
            raise _ChangedError("a subgraph is not where it was")
        graph = graphs[place]
    return graph


def _is_ours(node: Any, values: set[str], prefix: str) -> bool:
    return bool(node.output) and all(name.startswith(prefix) or name in values for name in node.output)


def _used(node: Any) -> Iterator[str]:
    """Names that a node takes from its graph, in its subgraphs as well."""
    yield from node.input
    for attribute in node.attribute:
        for inner in graphs_of(attribute):
            own = {tensor.name for tensor in inner.initializer}
            own.update(name for child in inner.node for name in child.output)
            for child in inner.node:
                yield from (name for name in _used(child) if name not in own)


def _arranged(note: Note, tensors: Mapping[str, TensorProto]) -> Arranged | Fill:
    if note.fill is not None:
        return Fill(note.shape, note.dtype, note.fill)
    what = f"tensor {quoted(note.value, _SHOWN)}"
    runs = []
    for item in note.runs:
        form = FORMS[item.form]
        words = np.zeros(0, form.word)
        if item.form != "zeros":
            words = _words(tensors, item.name, form.word, word_count(form, item.count), what)
            if form.base and words.size and int(words.max()) >= form.base**form.per_word:
                raise DamagedError(f"{what}: a word is no {form.per_word} digits of base {form.base}")
        replaced = _replaced(item, tensors, place_count(form, item.count), what) if item.replaced else None
        runs.append(Run(form, item.count, words, replaced))
    return Arranged(
        note.shape, note.dtype, note.axes, note.keep, note.step, note.order, note.box, Packed(tuple(runs))
    )


def _replaced(item: RunNote, tensors: Mapping[str, TensorProto], words: int, what: str) -> Replaced:
    kind, upper = item.types
    low, high, numbers = item.parts
    places = _words(tensors, low, "uint16", item.replaced, what).astype(np.int64)
    if upper:
        places += _words(tensors, high, upper, item.replaced, what).astype(np.int64) << 16
    if places[-1] >= words or not (np.diff(places) > 0).all():
        raise DamagedError(f"{what}: a replaced word is at no place of its run, or out of order")
    digits = FORMS[item.form].per_word
    found = _words(tensors, numbers, kind, item.replaced * digits, what)
    return Replaced(places, found.astype(np.dtype(kind)).reshape(-1, digits))


def _words(
    tensors: Mapping[str, TensorProto], name: str, dtype: str, count: int, what: str
) -> NDArray[np.generic]:
    tensor = tensors.get(name)
    if tensor is None:
        raise _ChangedError(f"{quoted(name, _SHOWN)} is not there")
    if DTYPES.get(tensor.data_type) != dtype or tensor.data_location or prod(tensor.dims) != count:
        raise DamagedError(f"{what}: {quoted(name, _SHOWN)} is not {count} numbers of type {dtype}")
    stored = np.dtype(dtype).newbyteorder("<")
    if len(tensor.raw_data) != count * stored.itemsize:
        raise DamagedError(f"{what}: {quoted(name, _SHOWN)} has {len(tensor.raw_data)} bytes")
    return np.frombuffer(tensor.raw_data, stored).astype(np.dtype(dtype))


# Restoring.


def _restore(model: ModelProto, content: notes.Content, graphs: list[GraphProto]) -> None:
    """Makes the model the one that the coefficients were put into."""
    by_path: dict[GraphPath, list[int]] = {}
    for number, note in enumerate(content.tensors):
        by_path.setdefault(note.path, []).append(number)
    # Inner graphs first: a graph that is put together anew is a copy.
    for members in sorted(by_path.values(), key=lambda members: -len(content.tensors[members[0]].path)):
        graph = graphs[members[0]]
        chosen = [(number, content.tensors[number]) for number in members]
        products = {
            node.output[0]: node for _, n in chosen for node in factored.read(n.products, n.value, graph)
        }
        _strip(graph, {note.value for _, note in chosen}, content.prefix, products)
        _insert(graph, "input", [(n.input, _value_info(graph, n)) for _, n in chosen if n.input is not None])
        _insert(graph, "initializer", [(n.index, _mark(graph, n, i)) for i, n in chosen if n.node is None])
        _insert(graph, "node", [(n.index, _constant(graph, n, i)) for i, n in chosen if n.node is not None])
    model.ir_version = content.ir
    for field in ("metadata_props", "functions", "opset_import"):
        kept = [item for item in getattr(model, field) if not _is_of_ours(item)]
        spare = type(model)()
        getattr(spare, field).extend(kept)
        model.ClearField(field)
        getattr(model, field).extend(getattr(spare, field))


def _is_of_ours(item: Any) -> bool:
    return getattr(item, "domain", None) == DOMAIN or getattr(item, "key", None) == KEY


def _strip(graph: GraphProto, values: set[str], prefix: str, products: dict[str, Any]) -> None:
    """Takes out our nodes and tensors, and puts the products back that were factored."""
    spare = type(graph)()
    for node in graph.node:
        if not _is_ours(node, values, prefix):
            spare.node.append(products.get(node.output[0], node) if node.output else node)
    spare.initializer.extend(item for item in graph.initializer if not item.name.startswith(prefix))
    for field in ("node", "initializer"):
        graph.ClearField(field)
        getattr(graph, field).extend(getattr(spare, field))


def _insert(graph: GraphProto, field: str, items: list[tuple[int, Any]]) -> None:
    """Puts messages at the places that they had."""
    if not items:
        return
    spare = type(graph)()
    getattr(spare, field).extend(getattr(graph, field))
    rest = list(getattr(spare, field))
    for index, item in sorted(items, key=lambda pair: pair[0]):
        rest.insert(min(index, len(rest)), item)
    graph.ClearField(field)
    getattr(graph, field).extend(rest)


def _mark(graph: GraphProto, note: Note, number: int) -> TensorProto:
    """A tensor without data in the place of a coded one."""
    tensor = type(graph)().initializer.add()
    _describe(tensor, note, number)
    tensor.name = note.value
    return tensor


def _constant(graph: GraphProto, note: Note, number: int) -> Any:
    node = type(graph)().node.add()
    node.op_type = "Constant"
    node.output.append(note.value)
    name, tensor_name = note.node or ("", "")
    if name:  # an empty one would be written out
        node.name = name
    attribute = node.attribute.add()
    attribute.name, attribute.type = "value", 4  # AttributeProto.TENSOR
    _describe(attribute.t, note, number)
    if tensor_name:
        attribute.t.name = tensor_name
    return node


def _describe(tensor: TensorProto, note: Note, number: int) -> None:
    tensor.dims.extend(note.shape)
    tensor.data_type = code_of(note.dtype)
    tensor.data_location = 1  # EXTERNAL
    tensor.external_data.add(key="location", value=LOCATION)
    tensor.external_data.add(key="offset", value=str(number))


def _value_info(graph: GraphProto, note: Note) -> Any:
    value = type(graph)().input.add()
    value.name = note.value
    value.type.tensor_type.elem_type = code_of(note.dtype)
    value.type.tensor_type.shape.SetInParent()
    for length in note.shape:
        value.type.tensor_type.shape.dim.add(dim_value=length)
    return value
