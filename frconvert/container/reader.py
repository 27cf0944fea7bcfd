"""Lazy reader of `.frq`: one read for footer and index, one for the chunk of a tensor.

Law: whatever the bytes are, a read returns what was written or raises an FrqError; memory is bounded by the
file's size and `expansion_limit`.
"""

import hashlib
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frconvert.coding.record import Layout, Record, decode_chunk, restore
from frconvert.container import FOOTER_BYTES, MAGIC
from frconvert.container.index import Chunk, StoredAttachment, inflate, unpack
from frconvert.container.limits import expansion_limit, tensor_excess, total_excess
from frconvert.dtypes import ITEM_BYTES, numpy_dtype
from frconvert.errors import DamagedError, FrqError, UnreadableError

_TAIL_BYTES = 1 << 16  # read at once from the end; most indices fit


class Reader:
    """An open `.frq` file. Safe to use from several threads; keeps the last decoded chunk of each kind.

    Raises:
        UnreadableError: not a `.frq` file.
        DamagedError: a `.frq` file whose footer or index is broken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._last: dict[str, tuple[int, list[Record]]] = {}  # by kind, as weights and biases alternate
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
            self.size_bytes = file.seek(0, 2)
            file.seek(max(0, self.size_bytes - _TAIL_BYTES))
            tail = file.read(_TAIL_BYTES)
        if head[:3] != MAGIC[:3] or len(head) < len(MAGIC):
            raise UnreadableError(f"{path}: not a .frq file")
        if head != MAGIC:
            raise UnreadableError(f"{path}: .frq version {head[3:].hex()} is unknown; update frconvert")
        if self.size_bytes < len(MAGIC) + FOOTER_BYTES or tail[-len(MAGIC) :] != MAGIC:
            raise DamagedError(f"{path}: cut off, or with bytes after its end; is the download complete?")
        length, self._index_crc32, self.sha256 = struct.unpack("<II32s", tail[-FOOTER_BYTES : -len(MAGIC)])
        self.data_end = self.size_bytes - FOOTER_BYTES - length
        if self.data_end < len(MAGIC):
            raise DamagedError(f"{path}: footer: an index of {length} bytes in a file of {self.size_bytes}")
        packed = tail[-FOOTER_BYTES - length : -FOOTER_BYTES]
        if len(packed) < length:
            packed = self._read(self.data_end, length)
        if zlib.crc32(packed) != self._index_crc32:
            raise DamagedError(f"{path}: the index at byte {self.data_end} does not match its checksum")
        try:
            self.index = unpack(packed, self.data_end)
        except FrqError as error:
            raise type(error)(f"{path}: {error}") from error
        self._layouts = dict(zip(self.index.names, self.index.layouts, strict=True))
        attachment_bytes = sum(item.size for item in self.index.attachments)
        excess = total_excess(self.index.layouts, attachment_bytes, self.size_bytes)
        if excess:
            raise DamagedError(f"{path}: {excess}")
        self._place: dict[str, tuple[int, int]] = {}  # tensor name -> chunk number, position in the chunk
        self._members: list[list[int]] = [[] for _ in self.index.chunks]
        self._assign()

    def record(self, name: str) -> Record:
        """The tensor as stored, its sequence decoded but not restored to weights."""
        place = self._place.get(self.index.ties.get(name, name))
        if place is None:
            layout = self._layouts[name]
            dtype = np.dtype(np.int32) if layout.step is not None else numpy_dtype(layout.stored)
            return Record(layout, np.empty(0, dtype))
        number, position = place
        kind = self.index.chunks[number].kind
        with self._lock:
            if self._last.get(kind, (-1, []))[0] != number:
                self._last.pop(kind, None)  # free the old chunk before the new one is made
                self._last[kind] = (number, self._decode(number))
            return self._last[kind][1][position]

    def read(self, name: str) -> NDArray[np.generic]:
        """The dense tensor."""
        record = self.record(name)
        self._check_size(name, record.layout)
        return restore(record)

    def attachment(self, item: StoredAttachment) -> bytes:
        """The bytes of an attachment."""
        where = f"{self.path}: attachment {item.name!r} at byte {item.offset}"
        packed = self._read(item.offset, item.length)
        if zlib.crc32(packed) != item.crc32:
            raise DamagedError(f"{where} does not match its checksum")
        if item.size > 1040 * item.length:  # DEFLATE expands 1032 times at most
            raise DamagedError(f"{where} claims {item.size} bytes")
        plain = inflate(packed, item.size)
        if len(plain) != item.size:
            raise DamagedError(f"{where} has {len(plain)} bytes instead of {item.size}")
        return plain

    def chunk_names(self, number: int) -> list[str]:
        """Names of the tensors in a chunk."""
        return [self.index.names[member] for member in self._members[number]]

    def chunk_of(self, name: str) -> int | None:
        """Number of the chunk that holds a tensor, None for one without elements."""
        place = self._place.get(self.index.ties.get(name, name))
        return place[0] if place else None

    def check(self) -> Iterator[str]:
        """Reads and decodes everything; yields a line for each damage found."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            remaining = self.size_bytes - 32 - len(MAGIC)
            while block := file.read(min(1 << 20, remaining)):
                digest.update(block)
                remaining -= len(block)
        for number in range(len(self.index.chunks)):
            try:
                for record in self._decode(number):
                    restore(record)
            except DamagedError as error:
                yield str(error)
        for item in self.index.attachments:
            try:
                self.attachment(item)
            except DamagedError as error:
                yield str(error)
        if digest.digest() != self.sha256:
            yield f"{self.path}: the file does not match its SHA-256"

    def _assign(self) -> None:
        """Which tensor is where: each chunk takes the next tensors of its kind that have elements."""
        waiting: dict[str, list[int]] = {}
        for number, (name, layout) in enumerate(zip(self.index.names, self.index.layouts, strict=True)):
            if name not in self.index.ties and layout.count:
                waiting.setdefault(layout.stored, []).append(number)
        taken = dict.fromkeys(waiting, 0)
        for number, chunk in enumerate(self.index.chunks):
            first = taken[chunk.kind]
            self._members[number] = waiting[chunk.kind][first : first + chunk.records]
            taken[chunk.kind] = first + chunk.records
            for position, member in enumerate(self._members[number]):
                self._place[self.index.names[member]] = (number, position)

    def _decode(self, number: int) -> list[Record]:
        chunk = self.index.chunks[number]
        layouts = [self.index.layouts[member] for member in self._members[number]]
        names = self.chunk_names(number)
        for name, layout in zip(names, layouts, strict=True):
            self._check_size(name, layout)
        payload = self._read(chunk.offset, chunk.length)
        where = f"{self.path}: chunk at byte {chunk.offset} with {_listing(names)}"
        if zlib.crc32(payload) != chunk.crc32:
            raise DamagedError(f"{where} does not match its checksum")
        self._check_total(where, chunk, layouts)
        try:
            return decode_chunk(payload, layouts)
        except DamagedError as error:
            raise DamagedError(f"{where}: {error}") from error

    def _check_size(self, name: str, layout: Layout) -> None:
        excess = tensor_excess(name, layout, self.size_bytes)
        if excess:
            raise DamagedError(f"{self.path}: {excess}")

    def _check_total(self, where: str, chunk: Chunk, layouts: list[Layout]) -> None:
        width = ITEM_BYTES.get(chunk.kind, 4)
        total = width * sum(layout.count for layout in layouts)
        if total > expansion_limit(self.size_bytes):
            raise DamagedError(f"{where} claims {total} bytes")

    def _read(self, offset: int, length: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                data = file.read(length)
        except OSError as error:
            raise UnreadableError(f"{self.path}: {error.strerror}") from error
        if len(data) != length:
            raise DamagedError(f"{self.path}: {length} bytes at byte {offset} end early; is it complete?")
        return data


def open_reader(path: Path) -> Reader:
    """Opens a `.frq` file; the system's refusals become an UnreadableError of one line."""
    try:
        return Reader(path)
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror}") from error


def _listing(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
