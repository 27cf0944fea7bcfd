"""Walking through an HDF5 file that may be broken or hostile; what it means is for `hdf5.py`.

Only the file itself is read: external links are not followed, datasets whose data are elsewhere are refused,
no filter plugin is loaded, nothing is allocated because the file merely says so, and cycles end.
"""

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import h5py

from frconvert.errors import DamagedError, UnreadableError, UnsupportedError, one_line

# A few bytes can declare terabytes of fill value. Real files declare about what they hold; the multiple
# leaves room for compressed sparse tensors, the floor for small files of unwritten zeros.
MAX_EXPANSION = 100
EXPANSION_FLOOR_BYTES = 256 << 20

_MAX_DEPTH = 100  # of groups: the paths of a deeper file would take memory quadratic in its size
# deflate, shuffle, fletcher32, szip, nbit, scaleoffset are part of HDF5; LZF comes with h5py.
_BUILT_IN_FILTERS = frozenset((1, 2, 3, 4, 5, 6, 32000))
# What h5py raises for broken files: its exceptions follow HDF5's error classes, whatever the operation.
_H5PY_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)


@dataclass(frozen=True, slots=True)
class Source:
    """An HDF5 file that can be opened again and again.

    Attributes:
        name: for messages.
        size_bytes: of the whole file, which bounds what it may declare.
        open: opens it, or a file that holds it, for reading.
        begin: where in that file it begins.
    """

    name: str
    size_bytes: int
    open: Callable[[], AbstractContextManager[io.BufferedIOBase]]
    begin: int = 0


@dataclass(frozen=True, slots=True)
class Again:
    """A further hard link to the object that was met first at `path`."""

    path: str


@contextmanager
def opened(source: Source, where: str) -> Iterator[h5py.File]:
    """The open file; whatever h5py raises while it is open becomes an error of one line about `where`."""
    is_open = False
    try:
        with source.open() as base, h5py.File(_Window(base, source.begin, source.size_bytes), "r") as file:
            is_open = True
            if file.id.get_create_plist().get_sizes() != (8, 8):  # _Window._check_heap counts on it
                raise UnsupportedError(f"{source.name}: an HDF5 file with other than 64-bit addresses")
            yield file
    except _H5PY_ERRORS as error:
        if not is_open and isinstance(error, FileNotFoundError | PermissionError):
            raise UnreadableError(f"{source.name}: {error.strerror or one_line(error)}") from error
        if not is_open and "signature not found" in str(error):
            raise UnreadableError(f"{source.name}: not an HDF5 file; is the download complete?") from error
        raise DamagedError(f"{where}: broken HDF5 file: {one_line(error)}") from error


class _Window(io.RawIOBase):
    """The bytes of `base` from `begin` on, `size_bytes` of them, as a file that HDF5 reads through Python.

    HDF5's own file access would do, but for one defect: a global heap (where strings of variable length are)
    with an object of no size sends it round for ever. Here every heap is checked before HDF5 gets to see it.
    """

    def __init__(self, base: io.BufferedIOBase, begin: int, size_bytes: int) -> None:
        self._base = base
        self._begin = begin
        self._size_bytes = size_bytes
        self._at = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size_bytes}[whence]
        self._at = origin + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._size_bytes - self._at)]
        # Threads may share the base (see keras.py): h5py calls from under a lock of its own.
        self._base.seek(self._begin + self._at)
        count = self._base.readinto(view)
        if bytes(view[:4]) == b"GCOL":
            self._check_heap(self._at)
        self._at += count
        return count

    def _read(self, at: int, size_bytes: int) -> bytes:
        self._base.seek(self._begin + at)
        return self._base.read(max(0, min(size_bytes, self._size_bytes - at)))

    def _check_heap(self, at: int) -> None:
        """Raises OSError unless the heap's objects lie one after the other (file format, III.E)."""
        size = int.from_bytes(self._read(at + 8, 8), "little")
        heap = self._read(at, size)
        place = 16
        while place + 16 <= len(heap):
            index, object_bytes = struct.unpack_from("<H6xQ", heap, place)
            step = 16 + (object_bytes + 7) // 8 * 8 if index else object_bytes
            if not 16 <= step <= size - place:
                raise OSError(f"an object of impossible size in the global heap at byte {at}")
            place += step


def walk(
    source: Source, root: h5py.Group, enter: Callable[[str, h5py.Group], bool]
) -> Iterator[tuple[str, object]]:
    """Every link below `root` in file order: a group before its members, and only once (they may be cyclic).

    Yields:
        the path from `root`, and the `h5py` object, an `Again`, or an `h5py` link that was not followed.
    """
    # The addresses come with the links: asked about the object itself (H5Oget_info) HDF5 adds up the sizes of
    # its B-trees, and crashes if one is broken.
    seen = {h5py.h5g.get_objinfo(root.id, b".").objno[0]: ""}
    stack = [("", root, iter(root))]
    while stack:
        parent, group, names = stack[-1]
        name = next(names, None)
        if name is None:
            stack.pop()
            continue
        _check_link_name(source, name, parent)
        path = f"{parent}/{name}" if parent else name
        link = group.id.links.get_info(name.encode())
        if link.type != h5py.h5l.TYPE_HARD:
            yield path, group.get(name, getlink=True)
            continue
        first = seen.setdefault(link.u, path)
        item = group[name] if first == path else Again(first)
        yield path, item
        if isinstance(item, h5py.Group) and enter(path, item):
            if len(stack) > _MAX_DEPTH:
                raise UnsupportedError(f"{source.name}: groups nest deeper than {_MAX_DEPTH}")
            stack.append((path, item, iter(item)))


def _check_link_name(source: Source, name: str | bytes, parent: str) -> None:
    # h5py would take a name with a slash for a path, and follow whatever links are on it.
    if not isinstance(name, str):
        raise UnsupportedError(f"{source.name}: group {parent!r} has a link whose name {name!r} is not UTF-8")
    if name in ("", ".") or "/" in name:
        raise DamagedError(f"{source.name}: group {parent!r} has a link with the impossible name {name!r}")


def resolve(target: str, first: dict[str, str], soft: dict[str, str]) -> str | None:
    """Where the path `target` leads to in the file, without HDF5, which would follow external links on it.

    Args:
        target: a path from the root.
        first: path -> path at which the same object was met first.
        soft: path of a soft link -> its target from the root.

    Returns:
        a value of `first`, or None if it leads to nothing in there.
    """
    at, rest, hops = "", _parts(target), 0
    while rest:
        at = f"{at}/{rest.pop(0)}" if at else rest.pop(0)
        if at in soft and hops < 16:  # links may form a ring
            at, rest, hops = "", _parts(soft[at]) + rest, hops + 1
        elif at in first and at not in soft:
            at = first[at]
        else:
            return None
    return at


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def check_storage(source: Source, path: str, dataset: h5py.Dataset) -> None:
    """Refuses a dataset that takes its data from other files or needs code from elsewhere.

    Raises:
        UnsupportedError: external storage, a virtual dataset, or a filter that only a plugin provides.
    """
    plist = dataset.id.get_create_plist()
    if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
        raise UnsupportedError(
            f"{source.name}: tensor {path!r} takes its data from other files, which are never opened; "
            "copy them into this file first (h5repack)"
        )
    for index in range(plist.get_nfilters()):
        number, _, _, name = plist.get_filter(index)
        if number not in _BUILT_IN_FILTERS:
            text = name.decode(errors="replace") or "unnamed"
            raise UnsupportedError(
                f"{source.name}: tensor {path!r} is stored with HDF5 filter {number} ({text}), which "
                "needs a plugin; rewrite the file without it (h5repack -f GZIP=6)"
            )
        if number == h5py.h5z.FILTER_FLETCHER32:
            _check_chunks(source, path, dataset)


def _check_chunks(source: Source, path: str, dataset: h5py.Dataset) -> None:
    """Refuses a chunk too short for its Fletcher checksum, on which HDF5 crashes."""
    sizes: list[int] = []
    dataset.id.chunk_iter(lambda chunk: sizes.append(chunk.size))
    if min(sizes, default=4) < 4:
        raise DamagedError(f"{source.name}: tensor {path!r} has a chunk shorter than its checksum")


def declared_bytes(dataset: h5py.Dataset) -> int:
    """Memory that reading the dataset takes: of all its elements, or of one chunk if that is more."""
    item_bytes: int = dataset.id.get_type().get_size()
    elements: int = max(prod(dataset.shape), prod(dataset.chunks or (0,)))
    return item_bytes * elements


@dataclass(slots=True)
class Budget:
    """How much memory a file's datasets and attributes may ask for in all."""

    source: Source
    spent_bytes: int = 0

    def spend(self, size_bytes: int, path: str) -> None:
        """Counts what is at `path`; raises DamagedError if the file asks for far more than it can hold."""
        self.spent_bytes += size_bytes
        if self.spent_bytes > max(EXPANSION_FLOOR_BYTES, MAX_EXPANSION * self.source.size_bytes):
            raise DamagedError(
                f"{self.source.name}: up to {path!r} it declares {self.spent_bytes} bytes of data, "
                f"over {MAX_EXPANSION} times its size of {self.source.size_bytes}; refused as a bomb"
            )
