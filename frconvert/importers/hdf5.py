"""HDF5 files: legacy Keras models and weight files, Keras 3 `.weights.h5`, and any other file of datasets.

A tensor is named by its path without the leading slash, e.g. `model_weights/conv2d/conv2d/kernel:0`. All else
(groups, attributes, small datasets of text or records) goes into the attachment described in
`hdf5_skeleton.py`. Optimizer state is left out. A further hard link, or a soft link in the file, is a tie.

External links, external storage and virtual datasets take data from other files of the file's choosing. They
are refused rather than left out: the model would lack weights. So are filters that need a plugin.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from frconvert.checkpoint import HDF5_SKELETON, Checkpoint, TensorEntry
from frconvert.dtypes import ITEM_BYTES, dtype_name, numpy_dtype
from frconvert.errors import DamagedError, UnreadableError, UnsupportedError, one_line
from frconvert.importers.hdf5_file import (
    Again,
    Budget,
    Source,
    check_storage,
    declared_bytes,
    opened,
    resolve,
    walk,
)
from frconvert.importers.hdf5_skeleton import Node, attributes, describe, encode_value, skeleton_json

_SMALL_BYTES = 1 << 20  # a dataset that is no tensor is carried along up to this size,
_SMALL_STRINGS_BYTES = 4096 * 16  # or this many references to strings, whose size is known only once read


@dataclass(slots=True)
class _Found:
    """What has been collected so far."""

    source: Source
    budget: Budget
    entries: list[TensorEntry] = field(default_factory=list)
    stored: dict[str, TensorEntry] = field(default_factory=dict)  # those with data of their own
    nodes: list[Node] = field(default_factory=list)
    first: dict[str, str] = field(default_factory=dict)  # path -> path at which the same object was met first
    soft: dict[str, str] = field(default_factory=dict)  # path of a soft link -> its target from the root
    groups: set[str] = field(default_factory=set)
    notes: dict[str, list[str]] = field(default_factory=dict)  # what happened -> to which paths

    def note(self, what: str, path: str) -> None:
        self.notes.setdefault(what, []).append(path)


def load(path: Path) -> Checkpoint:
    """Opens an HDF5 file.

    Raises:
        UnreadableError: it cannot be opened or is no HDF5 file.
        DamagedError: it is truncated or breaks the rules of HDF5, or declares far more data than it holds.
        UnsupportedError: its data are in other files or need a filter plugin.
    """
    try:
        with path.open("rb") as file:
            size_bytes = file.seek(0, 2)
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror or one_line(error)}") from error
    return load_source(Source(str(path), size_bytes, lambda: path.open("rb")))


def load_source(source: Source) -> Checkpoint:
    """The checkpoint in an HDF5 file that need not be a file of its own (see `keras.py`)."""
    found = _Found(source, Budget(source))
    with opened(source, source.name) as file:
        root = file["/"]
        _take(found, "", root)
        for path, item in walk(source, root, _is_model):
            _take(found, path, item)
    # Only now: a tie names an earlier entry, but a soft link may come before its target.
    for path, target in found.soft.items():
        _take_link(found, path, resolve(target, found.first, found.soft))
    skeleton = skeleton_json(found.nodes, [entry.name for entry in found.entries])
    return Checkpoint(
        entries=tuple(found.entries),
        format="hdf5",
        attachments={} if skeleton is None else {HDF5_SKELETON: skeleton},
        notices=tuple(f"{what}: {len(paths)} (first {paths[0]!r})" for what, paths in found.notes.items()),
    )


def _is_model(path: str, group: h5py.Group) -> bool:
    """False for the optimizer's state: `optimizer_weights` of legacy files, `optimizer` of Keras 3."""
    if path == "optimizer":
        return all(name != "vars" for name in group)
    return path != "optimizer_weights"


def _take(found: _Found, path: str, item: object) -> None:
    """Adds one object or link of the walk."""
    match item:
        case h5py.Group() if _is_model(path, item):
            order = item.id.get_create_plist().get_link_creation_order()
            _add_node(found, {"group": path}, item, order)
            found.groups.add(path)
            found.first[path] = path
        case h5py.Group():
            for below, slot in walk(found.source, item, lambda *_: True):
                if isinstance(slot, h5py.Dataset):
                    found.note("optimizer tensors left out", f"{path}/{below}")
        case h5py.Dataset():
            check_storage(found.source, path, item)
            if _take_dataset(found, path, item):
                found.first[path] = path
        case Again():
            _take_link(found, path, found.first.get(item.path))
        case h5py.SoftLink():
            above = "" if item.path.startswith("/") else path.rpartition("/")[0]
            found.soft[path] = f"{above}/{item.path}"
        case h5py.ExternalLink():
            raise UnsupportedError(
                f"{found.source.name}: {path!r} links to another file, {item.filename!r}, which is never "
                "opened; copy its data into this file first"
            )
        case _:
            found.note("named datatypes left out", path)


def _take_link(found: _Found, path: str, target: str | None) -> None:
    """Adds `path` as another name of what is at `target`: a tie if that is a tensor."""
    if target is None:
        found.note("links to what is not there or was left out, left out too", path)
        return
    found.first[path] = target
    tensor = found.stored.get(target)
    if tensor is not None:
        found.entries.append(TensorEntry(path, tensor.shape, tensor.dtype, tensor.read, tied_to=tensor.name))
        found.nodes.append({"dataset": path})
        return
    if target in found.groups:
        found.note("groups under a second name, whose tensors keep the names under the first", path)
    found.nodes.append({"link": path, "to": target})


def _take_dataset(found: _Found, path: str, dataset: h5py.Dataset) -> bool:
    """Adds a dataset as a tensor, or else as a value of the skeleton; False if it had to be left out."""
    try:
        dtype = dataset.dtype
    except (TypeError, ValueError):
        found.note("datasets of a type that NumPy does not have, left out", path)
        return False
    kind = describe(dtype)
    is_null = dataset.id.get_space().get_simple_extent_type() == h5py.h5s.NULL
    name = None if is_null else _element_type(dataset, dtype)
    if name is None and not is_null and dtype.kind in "iufc":
        raise UnsupportedError(
            f"{found.source.name}: tensor {path!r} has element type {dtype}; "
            "save it as float64 or another common type"
        )
    size_bytes = 0 if is_null else declared_bytes(dataset)
    node: Node = {"dataset": path}
    if name is not None:
        found.budget.spend(size_bytes, path)
        read = partial(_read, found.source, path, dataset.shape, name)
        found.stored[path] = TensorEntry(path, dataset.shape, name, read)
        found.entries.append(found.stored[path])
        if dtype.kind == "V" and "dtype" not in dataset.attrs:
            found.note(f"opaque values of {dtype.itemsize} bytes read as {name}", path)
        if dtype.kind == "V" or kind != numpy_dtype(name).str:
            node["type"] = kind
    elif kind is None or size_bytes > (_SMALL_STRINGS_BYTES if kind in ("utf-8", "ascii") else _SMALL_BYTES):
        found.note("datasets that are no tensors, too large or too unusual to carry along, left out", path)
        return False
    else:
        found.budget.spend(size_bytes, path)
        node["value"] = encode_value(kind, dataset.shape, None if is_null else dataset[()])
    _add_node(found, node, dataset, dataset.id.get_create_plist().get_attr_creation_order())
    return True


def _add_node(found: _Found, node: Node, item: h5py.HLObject, creation_order: int) -> None:
    attrs, left_out = attributes(item, lambda size_bytes: found.budget.spend(size_bytes, item.name))
    if attrs:
        node["attrs"] = attrs
    if creation_order & h5py.h5p.CRT_ORDER_TRACKED:
        node["ordered"] = True
    for name in left_out:
        found.note("attributes of references or other unusual types, left out", f"{item.name}@{name}")
    found.nodes.append(node)


def _element_type(dataset: h5py.Dataset, dtype: np.dtype[Any]) -> str | None:
    """Name of the element type in this package, or None if the dataset is no tensor."""
    if dtype.kind != "V" or dtype.fields is not None or dtype.subdtype is not None:
        return dtype_name(dtype)
    # h5py makes opaque bytes of ml_dtypes' types. Keras 3 says in an attribute what they were; in its legacy
    # files nothing does, but nothing else makes opaque pairs of bytes either.
    said = dataset.attrs.get("dtype")
    if isinstance(said, str) and ITEM_BYTES.get(said) == dtype.itemsize:
        return said
    return {1: "uint8", 2: "bfloat16", 4: "uint32", 8: "uint64"}.get(dtype.itemsize)


def _read(source: Source, path: str, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    with opened(source, f"{source.name}: tensor {path!r}") as file:
        dataset = file[path]
        check_storage(source, path, dataset)
        if dataset.shape != shape or _element_type(dataset, dataset.dtype) != name:
            raise DamagedError(f"{source.name}: tensor {path!r} has changed since the file was opened")
        values: NDArray[Any] = np.asarray(dataset[()])
    dtype = numpy_dtype(name)
    if values.dtype.kind == "V":
        return values.view(dtype)
    if name == "bool":  # a byte other than 0 and 1 in the file would be one in the array
        return np.asarray(values.view(np.uint8) != 0)
    return values.astype(dtype, order="C", copy=False)
