"""HDF5 files: as the skeleton says if the source was HDF5, otherwise a dataset for each tensor, by name.

In a name '/' makes groups and '.' means nothing. Ties become hard links. h5py has no bfloat16 or float8: such
tensors widen to float32, unless the source held them as opaque bytes, as Keras does. The bytes of the file
depend on the content alone.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5f, h5g, h5p

from frconvert.checkpoint import HDF5_SKELETON, Checkpoint, TensorEntry
from frconvert.dtypes import numpy_dtype
from frconvert.errors import DamagedError, one_line, quoted
from frconvert.exporters import tell_left_out
from frconvert.exporters.hdf5_skeleton import Node, Value, parse

_NO_SKELETON = b'{"version":1,"nodes":[]}'
# The oldest object headers, which every reader knows, hold attributes of up to 64 KiB.
_OLD_HEADER_BYTES = 60_000
_MAX_PARTS = 101  # of a path: the importer follows 100 groups
_ORDERED = h5p.CRT_ORDER_TRACKED | h5p.CRT_ORDER_INDEXED


@dataclass(slots=True)
class _Output:
    """The file being written, and what is left to write."""

    file: h5py.File
    entries: dict[str, TensorEntry]
    places: dict[str, str]  # entry name -> path
    nodes: dict[str, Node]  # entry name -> what the skeleton says of it
    written: set[str] = field(default_factory=set)
    widened: list[str] = field(default_factory=list)


def save(checkpoint: Checkpoint, path: Path, notice: Callable[[str], None]) -> None:
    """Writes `checkpoint` as an HDF5 file at `path`; see `frconvert.exporters`.

    Raises:
        DamagedError: the skeleton from the source contradicts itself or the tensors.
    """
    tell_left_out(checkpoint, "an HDF5 file", notice, HDF5_SKELETON)
    write(checkpoint, path, notice)


def write(checkpoint: Checkpoint, path: Path, notice: Callable[[str], None]) -> None:
    """`save`, without a word about attachments (`keras.py` keeps them beside the HDF5 file)."""
    nodes = parse(checkpoint.attachments.get(HDF5_SKELETON, _NO_SKELETON))
    entries = {entry.name: entry for entry in checkpoint}
    places = _places(list(entries), nodes)
    with _created(path, nodes) as file:
        output = _Output(file, entries, places, {node.path: node for node in nodes if node.kind == "dataset"})
        for node in nodes:
            _write_node(output, node)
        for entry in checkpoint:
            _write_tensor(output, entry)
        with _guarded():
            for node in nodes:
                # The target may be missing because the user left its tensors out.
                if node.kind == "link" and (node.target or "/") in file:
                    _link(file, node.path, node.target or "/")
    moved = [name for name, place in places.items() if name != place]
    if moved:
        notice(
            f"tensor names that cannot be HDF5 paths, changed: {_counted(moved)}, "
            f"now {quoted(places[moved[0]])}"
        )
    if output.widened:
        notice(f"bfloat16 and float8 tensors widened to float32, exactly: {_counted(output.widened)}")


def _counted(names: list[str]) -> str:
    return f"{len(names)} (first {quoted(names[0])})"


def _places(names: list[str], nodes: tuple[Node, ...]) -> dict[str, str]:
    """A path of its own for each tensor: its name, unless that is no path or names a group as well."""
    paths = {name: _path(name) for name in names}
    taken = {node.path for node in nodes if node.kind != "dataset" or node.value is not None}
    for path in [*paths.values(), *taken]:
        while (path := path.rpartition("/")[0]) and path not in taken:
            taken.add(path)
    places = {}
    numbers: Counter[str] = Counter()
    for name in sorted(paths, key=lambda name: paths[name] != name or name in taken):  # good names stay
        path = paths[name]
        place = path
        while place in taken:
            numbers[path] += 1
            place = f"{path}_{numbers[path]}"
        taken.add(place)
        places[name] = place
    return places


def _path(name: str) -> str:
    name = name.encode("utf-8", "replace").decode().replace("\0", "_")
    parts = ["_" if part == "." else part for part in name.split("/") if part]
    if len(parts) > _MAX_PARTS:
        parts[_MAX_PARTS - 1 :] = ["_".join(parts[_MAX_PARTS - 1 :])]
    return "/".join(parts) or "_"


@contextmanager
def _created(path: Path, nodes: tuple[Node, ...]) -> Iterator[h5py.File]:
    """A new file without clock times in it; an error in HDF5 while closing it is an OSError too."""
    values = [value for node in nodes for value in node.attrs.values()]
    large = any(value.array is not None and value.array.nbytes > _OLD_HEADER_BYTES for value in values)
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_libver_bounds(h5f.LIBVER_V18 if large else h5f.LIBVER_EARLIEST, h5f.LIBVER_LATEST)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    creation = h5p.create(h5p.FILE_CREATE)
    _set_order(creation, any(node.ordered for node in nodes if not node.path))
    with _guarded():
        file = h5py.File(h5f.create(bytes(path), h5f.ACC_TRUNC, creation, access))
    try:
        yield file
    finally:
        with _guarded():
            file.close()


@contextmanager
def _guarded() -> Iterator[None]:
    """Around writing with h5py: OSError for trouble with the file, DamagedError for impossible content."""
    try:
        yield
    except RuntimeError as error:  # HDF5's class for, among others, a full disk
        raise OSError(one_line(error)) from error
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise DamagedError(
            f"attachment {HDF5_SKELETON} does not fit the tensors: {one_line(error)}"
        ) from error


def _set_order(properties: Any, ordered: bool) -> None:
    properties.set_obj_track_times(False)
    if ordered:
        properties.set_link_creation_order(_ORDERED)
        properties.set_attr_creation_order(_ORDERED)


def _group(file: h5py.File, path: str, ordered: bool = False) -> h5py.Group:
    """The group at `path`, made if need be, without the time, which h5py's own way may record."""
    group = file["/"]
    parts = path.split("/") if path else []
    for number, part in enumerate(parts, start=1):
        if part not in group:
            properties = h5p.create(h5p.GROUP_CREATE)
            _set_order(properties, ordered and number == len(parts))
            h5g.create(group.id, part.encode(), gcpl=properties)
        group = group[part]
        if not isinstance(group, h5py.Group):
            raise ValueError(f"{path!r} is both a group and a dataset")  # noqa: TRY004  (the file's fault)
    return group


def _write_node(output: _Output, node: Node) -> None:
    if node.kind == "dataset" and node.value is None:
        entry = output.entries.get(node.path)
        if entry is None:  # the user left it out
            return
        _write_tensor(output, entry)
    with _guarded():
        if node.kind == "group":
            item = _group(output.file, node.path, node.ordered)
        elif node.value is not None:
            item = _dataset(output.file, node.path, node.value, node.ordered)
        elif node.kind == "dataset":
            item = output.file[output.places[node.path]]
        else:
            return
        for name, value in node.attrs.items():
            if value.array is None:
                item.attrs[name] = h5py.Empty(value.dtype)
            else:
                item.attrs.create(name, value.array, value.array.shape, value.dtype)


def _write_tensor(output: _Output, entry: TensorEntry) -> None:
    if entry.name in output.written:
        return
    output.written.add(entry.name)
    place = output.places[entry.name]
    if entry.tied_to is not None:
        _write_tensor(output, output.entries[entry.tied_to])
        with _guarded():
            _link(output.file, place, output.places[entry.tied_to])
        return
    node = output.nodes.get(entry.name, Node("dataset", entry.name))
    array = entry.read()
    dtype = numpy_dtype(entry.dtype)
    file_type = node.dtype
    if file_type is not None and file_type.kind == "V" and file_type.itemsize == dtype.itemsize:
        array = array.view(file_type)
    elif file_type is not None and file_type.newbyteorder("<") == dtype:
        array = array.astype(file_type, copy=False)  # to another byte order
    else:  # none was recorded, or the tensor is no longer of that type
        file_type = dtype
        if entry.dtype.startswith(("bfloat", "float8")):
            output.widened.append(entry.name)
            file_type = np.dtype("<f4")
            array = array.astype(file_type)
    with _guarded():
        _dataset(output.file, place, Value(file_type, array), node.ordered)


def _link(file: h5py.File, path: str, target: str) -> None:
    if path in file:
        raise ValueError(f"{path!r} is there twice")
    parent, _, name = path.rpartition("/")
    _group(file, parent)[name] = file[target]


def _dataset(file: h5py.File, path: str, value: Value, ordered: bool) -> h5py.Dataset:
    parent, _, name = path.rpartition("/")
    group = _group(file, parent)
    data = h5py.Empty(value.dtype) if value.array is None else value.array
    return group.create_dataset(name, data=data, dtype=value.dtype, track_times=False, track_order=ordered)
