"""Importer of ONNX models (`.onnx`): tensors as entries, all the rest as a skeleton.

Extracted are the initializers of the main graph and of every subgraph (If, Loop and Scan bodies, training
graphs), and the tensors in node attributes, chiefly of Constant nodes, that have at least
`MIN_CONSTANT_ELEMENTS` elements or are floats with two or more axes; those of model-local functions included.
Everything else stays where it was: small constants, sparse initializers, strings and types below eight bits.

The attachment `ONNX_SKELETON` is the ModelProto without the data of the extracted tensors. Their places are
marked by ONNX's own means: `data_location` is EXTERNAL and `external_data` holds `location` = "frconvert"
and, unless the entry's name is the tensor's own, `tensor` = that name. `dims` and `data_type` remain. No
other tensor of a skeleton has external data: where the source had any, it is put inside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from frconvert.checkpoint import ONNX_SKELETON, Checkpoint, TensorEntry
from frconvert.dtypes import ITEM_BYTES, is_float, numpy_dtype
from frconvert.errors import DamagedError, UnreadableError, UnsupportedError, UsageError, one_line, quoted
from frconvert.idct.types import DTYPES, KEY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

    from frconvert.idct.coefficients import Arranged, Fill

MIN_CONSTANT_ELEMENTS = 16  # below it a constant is a shape or an axis list, which the graph needs exactly
MARKER = "frconvert"  # the external_data location of an extracted tensor

_MAX_PROTOBUF_BYTES = 2**31 - 1  # protobuf parses and writes no longer message
_MAX_AXES = 32  # of numpy 1.x
# A small file must not make large names: of nested subgraphs, or of many tensors in a node of a long name.
_NAMES_FLOOR = 1 << 20  # characters
_NAMES_RATIO = 10  # characters a byte of the file
# Tensors may share external data, which honest models do with a few of them at most.
_EXTERNAL_FLOOR = 1 << 20  # bytes
_EXTERNAL_RATIO = 4  # bytes a byte of the external files
_SHOWN = 200  # characters of a name in a message: a hostile one may have millions
_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL

# The field that holds the values where raw_data does not; int32_data for all types not named here.
_VALUE_FIELDS = {
    "float32": "float_data", "complex64": "float_data", "float64": "double_data", "complex128": "double_data",
    "int64": "int64_data", "uint32": "uint64_data", "uint64": "uint64_data",
}  # fmt: skip
_DATA_FIELDS = (
    "raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data", "string_data",
    "external_data",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Place:
    """A tensor of the model and where it is.

    Attributes:
        tensor: the message inside the model.
        label: the tensor's name within its graph, "" if it has none.
        scope: path of the graph it is in, ending in "/", or "" for the main graph.
        kind: "initializer", "attribute", or "sparse" and "indices", the parts of a sparse tensor.
    """

    tensor: TensorProto
    label: str
    scope: str
    kind: str


@dataclass(frozen=True, slots=True)
class _Span:
    """Bytes of an external data file, known to lie inside it."""

    file: Path
    offset: int
    length: int

    def read(self, what: str) -> NDArray[np.uint8]:
        try:
            with self.file.open("rb") as file:
                file.seek(self.offset)
                data = np.fromfile(file, np.uint8, self.length)
        except OSError as error:
            raise UnreadableError(f"{what}: {self.file}: {error.strerror or one_line(error)}") from error
        if data.size != self.length:
            raise DamagedError(f"{what}: {self.file} has become shorter since it was opened")
        return data


class _Budget:
    """What one model may claim: characters of names made here, and bytes of its external files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.characters = _NAMES_FLOOR + _NAMES_RATIO * path.stat().st_size
        self.external_bytes = _EXTERNAL_FLOOR
        self.files: set[Path] = set()

    def name(self, *parts: str) -> str:
        """The parts joined, if that is within bounds."""
        self.characters -= sum(map(len, parts))
        if self.characters < 0:
            raise DamagedError(
                f"{self.path}: the names of its tensors would be much larger than the file; "
                "refused as no honest file does so"
            )
        return "".join(parts)

    def claim(self, span: _Span, what: str) -> None:
        """Counts the bytes of a span."""
        if span.file not in self.files:
            self.files.add(span.file)
            self.external_bytes += _EXTERNAL_RATIO * span.file.stat().st_size
        self.external_bytes -= span.length
        if self.external_bytes < 0:
            raise DamagedError(
                f"{what}: it and the tensors before it claim over {_EXTERNAL_RATIO} times the bytes of "
                "their external data files; refused as no honest file does so"
            )


def load(path: Path) -> Checkpoint:
    """Opens an ONNX model; external data are checked now and read when an entry is.

    Args:
        path: the `.onnx` file; its external data must lie in the same folder or below it.

    Returns:
        A checkpoint without ties whose attachment `ONNX_SKELETON` makes it an `.onnx` again.

    Raises:
        UsageError: onnx is not installed.
        UnreadableError: no ONNX model, truncated, or an external data file is missing.
        DamagedError: a tensor contradicts itself or its external data would leave the model's folder.
        UnsupportedError: more than protobuf can hold.
    """
    path = Path(path)
    model = _parse(path)
    coded, changed = _coded(model, path)
    budget = _Budget(path)
    places = list(_walk_model(model, budget))
    entries: list[TensorEntry] = []
    kept: Counter[str] = Counter()
    inlined_bytes = 0
    for place, name in zip(places, _unique_names(places, budget), strict=True):
        what = f"{path}: tensor {quoted(name, _SHOWN)}"
        dtype = DTYPES.get(place.tensor.data_type)
        shape = _checked_shape(place.tensor, ITEM_BYTES[dtype] if dtype else 1, what)
        if coded and (entry := _coded_entry(place.tensor, name, coded, what)):
            entries.append(entry)
            _mark(place.tensor, name)
            continue
        if dtype and _is_extracted(place, shape, dtype):
            entries.append(_entry(place.tensor, name, shape, dtype, budget))
            _mark(place.tensor, name)
            continue
        inlined_bytes += _inline(place.tensor, budget, what, _MAX_PROTOBUF_BYTES - inlined_bytes)
        if place.kind == "sparse" or (not dtype and _is_extracted(place, shape, "")):
            kept["sparse" if place.kind == "sparse" else _type_name(place.tensor)] += 1
    notices = ([changed] if changed else []) + [
        f"{count} {kind} tensor{'s' if count > 1 else ''} stay{'' if count > 1 else 's'} in the ONNX graph, "
        "unchanged and not compressed"
        for kind, count in sorted(kept.items())
    ]
    try:
        skeleton: bytes = model.SerializeToString(deterministic=True)
    except Exception as error:  # protobuf's classes differ by its backend
        raise UnsupportedError(f"{path}: the graph cannot be written again ({one_line(error)})") from error
    return Checkpoint(tuple(entries), "onnx", {ONNX_SKELETON: skeleton}, notices=tuple(notices))


def _parse(path: Path) -> ModelProto:
    try:
        from onnx import ModelProto  # noqa: PLC0415  (an optional dependency)
    except ImportError as error:
        raise UsageError(f"reading {path} needs onnx: pip install 'frconvert[onnx]'") from error
    if path.stat().st_size > _MAX_PROTOBUF_BYTES:
        raise UnsupportedError(f"{path}: over 2 GiB, more than an ONNX file can be without external data")
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except OSError:
        raise
    except Exception as error:  # protobuf's classes differ by its backend; nesting may exhaust the stack
        raise UnreadableError(
            f"{path}: not an ONNX model ({one_line(error, 120)}); is the download complete?"
        ) from error
    if not (model.graph.node or model.graph.initializer or model.graph.sparse_initializer):
        raise UnreadableError(f"{path}: not an ONNX model, its graph has neither nodes nor tensors")
    return model


def _coded(model: ModelProto, path: Path) -> tuple[list[Arranged | Fill], str | None]:
    """The tensors that nodes make of coefficients; what reads them is loaded only where there are some."""
    if not any(item.key == KEY for item in model.metadata_props):
        return [], None
    from frconvert.importers.onnx_idct import unfold  # noqa: PLC0415

    return unfold(model, path)


def _coded_entry(
    tensor: TensorProto, name: str, coded: list[Arranged | Fill], what: str
) -> TensorEntry | None:
    from frconvert.importers.onnx_idct import entry_of, number_of  # noqa: PLC0415

    number = number_of(tensor, len(coded))
    return None if number is None else entry_of(name, coded[number], what)


# Walking the model: the order of these generators is the order of the checkpoint's entries.


def _walk_model(model: ModelProto, budget: _Budget) -> Iterator[_Place]:
    yield from _walk_graph(model.graph, "", budget)
    for function in model.functions:
        scope = budget.name(_text(function.domain), ".", _text(function.name), "/")
        for attribute in function.attribute_proto:
            yield from _walk_attribute(attribute, _text(attribute.name), scope, budget)
        yield from _walk_nodes(function.node, scope, budget)
    for index, training in enumerate(model.training_info):
        yield from _walk_graph(training.initialization, f"training_{index}.initialization/", budget)
        yield from _walk_graph(training.algorithm, f"training_{index}.algorithm/", budget)


def _walk_graph(graph: GraphProto, scope: str, budget: _Budget) -> Iterator[_Place]:
    for index, tensor in enumerate(graph.initializer):
        yield _Place(tensor, _text(tensor.name) or f"initializer_{index}", scope, "initializer")
    for index, sparse in enumerate(graph.sparse_initializer):
        label = _text(sparse.values.name) or f"sparse_initializer_{index}"
        yield _Place(sparse.values, label, scope, "sparse")
        yield _Place(sparse.indices, budget.name(label, ".indices"), scope, "indices")
    yield from _walk_nodes(graph.node, scope, budget)


def _walk_nodes(nodes: Iterable[NodeProto], scope: str, budget: _Budget) -> Iterator[_Place]:
    for index, node in enumerate(nodes):
        output = _text(node.output[0]) if node.output else ""
        owner = _text(node.name) or f"{_text(node.op_type)}_{index}"
        for attribute in node.attribute:
            label = budget.name(owner, ".", _text(attribute.name))
            yield from _walk_attribute(
                attribute, output if node.op_type == "Constant" and output else label, scope, budget, label
            )


def _walk_attribute(
    attribute: AttributeProto, label: str, scope: str, budget: _Budget, path: str = ""
) -> Iterator[_Place]:
    path = path or label
    if attribute.HasField("t"):
        yield _Place(attribute.t, label, scope, "attribute")
    for index, tensor in enumerate(attribute.tensors):
        yield _Place(tensor, budget.name(label, f"_{index}"), scope, "attribute")
    sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    for index, tensor in enumerate((*sparse, *attribute.sparse_tensors)):
        yield _Place(tensor.values, budget.name(label, f"_{index}"), scope, "sparse")
        yield _Place(tensor.indices, budget.name(label, f"_{index}.indices"), scope, "indices")
    if attribute.HasField("g"):
        yield from _walk_graph(attribute.g, budget.name(scope, path, "/"), budget)
    for index, graph in enumerate(attribute.graphs):
        yield from _walk_graph(graph, budget.name(scope, path, f"_{index}/"), budget)


def _text(name: str | bytes) -> str:
    """A name as text: protobuf gives bytes where a file breaks its rule that strings are UTF-8."""
    return name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name


def _unique_names(places: list[_Place], budget: _Budget) -> list[str]:
    """One name a tensor: its label, behind the path of its graph where other graphs have the label too."""
    labels = Counter(place.label for place in places)
    taken: set[str] = set()
    tries: Counter[str] = Counter()
    names = []
    for place in places:
        unique = labels[place.label] == 1
        stem = name = place.label if unique else budget.name(place.scope, place.label)
        while name in taken:
            tries[stem] += 1
            name = budget.name(stem, f"~{tries[stem] + 1}")
        taken.add(name)
        names.append(name)
    return names


# One tensor.


def _checked_shape(tensor: TensorProto, item_bytes: int, what: str) -> tuple[int, ...]:
    if len(tensor.dims) > _MAX_AXES:
        raise DamagedError(f"{what} has {len(tensor.dims)} axes; {_MAX_AXES} is the most that can be read")
    shape = tuple(tensor.dims)
    if any(length < 0 for length in shape):
        raise DamagedError(f"{what} has a negative length in its shape {list(shape)}")
    # Zeros aside, because numpy refuses an empty array too if its other axes are beyond memory.
    if prod(filter(None, shape)) * item_bytes > np.iinfo(np.int64).max:
        raise DamagedError(f"{what} has an impossible shape {list(shape)}")
    return shape


def _is_extracted(place: _Place, shape: tuple[int, ...], dtype: str) -> bool:
    """Whether a tensor, its type allowing, becomes an entry of the checkpoint."""
    if place.kind != "attribute":
        return place.kind == "initializer"
    return prod(shape) >= MIN_CONSTANT_ELEMENTS or (is_float(dtype) and len(shape) >= 2)


def _entry(
    tensor: TensorProto, name: str, shape: tuple[int, ...], dtype: str, budget: _Budget
) -> TensorEntry:
    what = f"{budget.path}: tensor {quoted(name, _SHOWN)}"
    size_bytes = prod(shape) * ITEM_BYTES[dtype]
    source: bytes | _Span
    if tensor.data_location == _EXTERNAL:
        source = _span(tensor, budget, what, size_bytes)
        found_bytes = source.length
    else:
        source = _inside(tensor, dtype, what)
        found_bytes = len(source)
    if found_bytes != size_bytes:
        raise DamagedError(
            f"{what} is {dtype} {list(shape)}, which takes {size_bytes} bytes; it has {found_bytes}"
        )
    return TensorEntry(name, shape, dtype, partial(_read, source, dtype, shape, what))


def _read(source: bytes | _Span, dtype: str, shape: tuple[int, ...], what: str) -> NDArray[np.generic]:
    # bytearray: a fresh, writable array on every call.
    data = source.read(what) if isinstance(source, _Span) else np.frombuffer(bytearray(source), np.uint8)
    return data.view(numpy_dtype(dtype)).reshape(shape)


def _inside(tensor: TensorProto, dtype: str, what: str) -> bytes:
    """The values that a model file itself holds, as raw_data would: little-endian, in C order."""
    raw: bytes = tensor.raw_data
    field = _VALUE_FIELDS.get(dtype, "int32_data")
    values = getattr(tensor, field)
    if raw and len(values):
        raise DamagedError(f"{what} has its data twice, in raw_data and in {field}")
    if not len(values):  # protobuf's containers are no sequences to rely on
        return raw
    if field in ("float_data", "double_data"):
        # The wire holds them little-endian; Python's floats in between would alter signalling NaNs.
        alone = type(tensor)()
        getattr(alone, field).MergeFrom(values)
        wire: bytes = alone.SerializeToString()
        return bytes(wire[-len(values) * (4 if field == "float_data" else 8) :])
    wide = np.fromiter(values, np.uint64 if field == "uint64_data" else np.int64, len(values))
    if dtype == "bool":
        return wide.astype(np.bool_).tobytes()
    # float16, bfloat16 and float8 are in int32_data by their bits.
    narrow = wide.astype(np.dtype(f"<u{ITEM_BYTES[dtype]}") if "float" in dtype else numpy_dtype(dtype))
    if not np.array_equal(narrow, wide):
        raise DamagedError(f"{what} is {dtype}, but some of its {field} are out of range")
    return narrow.tobytes()


def _mark(tensor: TensorProto, name: str) -> None:
    for field in _DATA_FIELDS:
        tensor.ClearField(field)
    tensor.data_location = _EXTERNAL
    tensor.external_data.add(key="location", value=MARKER)
    if tensor.name != name:
        tensor.external_data.add(key="tensor", value=name)


def _inline(tensor: TensorProto, budget: _Budget, what: str, limit: int) -> int:
    """Puts the external data of a tensor that stays in the skeleton inside it; returns how many bytes."""
    if tensor.data_location != _EXTERNAL:
        return 0
    span = _span(tensor, budget, what)
    if span.length > limit:
        raise UnsupportedError(
            f"{what} is {_type_name(tensor)}, which stays in the graph, and with it the graph is over 2 GiB"
        )
    data = span.read(what).tobytes()
    for field in (*_DATA_FIELDS, "data_location"):
        tensor.ClearField(field)
    tensor.raw_data = data
    return span.length


def _type_name(tensor: TensorProto) -> str:
    try:
        name: str = type(tensor).DataType.Name(tensor.data_type)
    except ValueError:
        return f"type {tensor.data_type}"
    return name.lower()


def _span(tensor: TensorProto, budget: _Budget, what: str, size_bytes: int | None = None) -> _Span:
    """Where a tensor's external data are, checked against the folder and the file's size.

    Without a stated length they are `size_bytes` long, or reach to the end of the file if that is None.
    The folder is that of the model; if the model is a link (as in caches that name files by their hash), the
    folder of the file it leads to serves as well.
    """
    path = budget.path
    keys = {_text(item.key): _text(item.value) for item in tensor.external_data}
    location = keys.get("location", "")
    flavours = (PurePosixPath(location), PureWindowsPath(location))
    if not location or "\0" in location or any(part.anchor or ".." in part.parts for part in flavours):
        raise DamagedError(
            f"{what}: external data {quoted(location, _SHOWN)} is not a path inside the model's folder"
        )
    try:
        file = (path.parent / location).resolve()
        if not any(file.is_relative_to(folder) for folder in (path.parent.resolve(), path.resolve().parent)):
            raise DamagedError(
                f"{what}: external data {quoted(location, _SHOWN)} leads out of the model's folder"
            )
        if not file.is_file():
            raise UnreadableError(
                f"{what}: its external data file {quoted(location, _SHOWN)} is not there; "
                "put it beside the model"
            )
        file_bytes = file.stat().st_size
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise UnreadableError(
            f"{what}: external data {quoted(location, _SHOWN)}: {one_line(error)}"
        ) from error
    offset = _count(keys.get("offset", "0"), "offset", what)
    if "length" in keys:
        length = _count(keys["length"], "length", what)
    else:
        length = file_bytes - offset if size_bytes is None else size_bytes
    if length < 0 or offset + length > file_bytes:
        raise DamagedError(
            f"{what}: external data of {max(length, 0)} bytes from {offset} on; "
            f"{quoted(location, _SHOWN)} has {file_bytes} bytes"
        )
    span = _Span(file, offset, length)
    budget.claim(span, what)
    return span


def _count(text: str, key: str, what: str) -> int:
    # 19 digits hold any file size; longer ones only cost time, or are refused by int() itself.
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise DamagedError(f"{what}: external data {key} is {text[:40]!r}, not a number of bytes")
    return int(text)
