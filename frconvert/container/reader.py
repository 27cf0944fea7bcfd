"""Lazy reader of `.frq`: one read for tail index and footer, one for the head index, one for a tensor.

Law: whatever the bytes are, a read returns what was written or raises an FrqError; memory is bounded by the
file's size and `expansion_limit`.
"""

import threading
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frconvert.coding.difference import EQUAL, OWN
from frconvert.coding.record import WORDS, Layout, Record, decode_chunk, restore
from frconvert.container import MAGIC
from frconvert.container.deflate import inflate
from frconvert.container.frames import (
    FOOTER_BYTES,
    HEADER_BYTES,
    Footer,
    Frame,
    checksum,
    lay_out,
    parse_footer,
    parse_header,
    seed_of,
    tail_checksum,
    unpack_tail,
)
from frconvert.container.head import MAXIMUM_HEAD_BYTES, Head, members, unpack
from frconvert.container.kinds import is_known
from frconvert.container.limits import expansion_limit, is_holdable, tensor_excess, total_excess
from frconvert.container.sources import Location, Source, open_source
from frconvert.dtypes import ITEM_BYTES, numpy_dtype
from frconvert.errors import DamagedError, FrqError, UnreadableError, UnsupportedError, quoted

_EDGE_BYTES = 1 << 14  # read at once from the end; the tail index of 2,000 chunks fits


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a file and where.

    Attributes:
        head: the head index.
        seed: of the frames' checksums.
        frames: of all chunks, then of all attachments; None for one that is lost.
        sha256: what the footer says; all bytes before it.
    """

    head: Head
    seed: bytes
    frames: tuple[Frame | None, ...]
    sha256: bytes


class Reader:
    """An open `.frq` file. Safe to use from several threads; keeps the last decoded chunk of each kind."""

    def __init__(self, source: Source, contents: Contents) -> None:
        self.source, self.contents, self.head = source, contents, contents.head
        self.name, self.size_bytes, self.sha256 = source.name, source.size_bytes, contents.sha256
        head = self.head
        excess = total_excess(head.layouts, sum(head.attachments.values()), self.size_bytes)
        if excess:
            raise DamagedError(f"{self.name}: {excess}")
        self._lock = threading.Lock()
        self._last: dict[str, tuple[int, list[Record]]] = {}  # by kind, as weights and biases alternate
        self._layouts = dict(zip(head.names, head.layouts, strict=True))
        self._tied = set(head.ties.values())
        self._members = members(head)
        self._place = {  # tensor name -> chunk number, position in the chunk
            head.names[member]: (number, position)
            for number, chunk in enumerate(self._members)
            for position, member in enumerate(chunk)
        }

    def record(self, name: str) -> Record:
        """The tensor as stored, its sequence decoded but not restored to weights."""
        layout = self._layouts[name]
        if not is_known(layout.stored):
            raise UnsupportedError(
                f"{self.name}: tensor {quoted(name)} is stored as {layout.stored}, which this version does "
                "not know; update frconvert"
            )
        place = self._place.get(self.head.ties.get(name, name))
        if place is None:
            exact = layout.step is None and layout.stored != WORDS
            dtype = numpy_dtype(layout.stored) if exact else np.dtype(np.int32)
            return Record(layout, np.empty(0, dtype))
        number, position = place
        with self._lock:
            if self._last.get(layout.stored, (-1, []))[0] != number:
                self._last.pop(layout.stored, None)  # free the old chunk before the new one is made
                self._last[layout.stored] = (number, self.decode(number))
            return self._last[layout.stored][1][position]

    def read(self, name: str, base: NDArray[np.generic] | None = None) -> NDArray[np.generic]:
        """The dense tensor, given the base's where it is not stored by itself."""
        layout = self._layouts[name]
        if (base is None) != (layout.relation == OWN):
            raise ValueError("what is not stored by itself needs a base, and nothing else does")
        if base is not None and layout.relation == EQUAL:
            return base
        self._check_size(name, layout)
        place = self._place.get(name)
        if (
            place is None
            or len(self._members[place[0]]) > 1
            or name in self._tied
            or not is_known(layout.stored)
        ):
            return restore(self.record(name), base)
        # Nothing else will ask for this chunk: it is not kept, and threads need not wait for one another.
        return restore(self.decode(place[0])[0], base, reuse=True)

    def layout(self, name: str) -> Layout:
        """How a tensor is stored."""
        return self._layouts[name]

    def attachment(self, name: str) -> bytes:
        """The content of an attachment."""
        position = list(self.head.attachments).index(name)
        size, number = self.head.attachments[name], len(self.head.groups) + position
        where, packed = self._payload(number, f"attachment {quoted(name)}")
        if size > 1040 * len(packed):  # DEFLATE expands 1032 times at most
            raise DamagedError(f"{where} claims {size} bytes")
        try:
            plain = inflate(packed, size)
        except DamagedError as error:
            raise DamagedError(f"{where}: {error}") from error
        if len(plain) != size:
            raise DamagedError(f"{where} has {len(plain)} bytes instead of {size}")
        return plain

    def chunk_names(self, number: int) -> list[str]:
        """Names of the tensors in a chunk."""
        return [self.head.names[member] for member in self._members[number]]

    def chunk_of(self, name: str) -> int | None:
        """Number of the chunk that holds a tensor, None for one without elements."""
        place = self._place.get(self.head.ties.get(name, name))
        return place[0] if place else None

    def decode(self, number: int) -> list[Record]:
        """All tensors of a chunk.

        Raises:
            DamagedError: naming offset and tensors.
            UnsupportedError: this version does not know the chunk's kind.
        """
        self._check_kind(number)
        kind = self.head.groups[number].kind
        layouts = [self.head.layouts[member] for member in self._members[number]]
        names = self.chunk_names(number)
        for name, layout in zip(names, layouts, strict=True):
            self._check_size(name, layout)
        where, payload = self._payload(number, f"chunk with {listing(names)}")
        width = ITEM_BYTES.get(kind, 8 if kind == WORDS else 4)
        total = width * sum(layout.count for layout in layouts)
        if total > expansion_limit(self.size_bytes):
            raise DamagedError(f"{where} claims {total} bytes")
        try:
            return decode_chunk(payload, layouts)
        except DamagedError as error:
            raise DamagedError(f"{where}: {error}") from error

    def payload(self, number: int) -> bytes:
        """The bytes of a chunk, checked but not decoded; raises what `decode` does, unless it is inside."""
        self._check_kind(number)
        return self._payload(number, f"chunk with {listing(self.chunk_names(number))}")[1]

    def _check_kind(self, number: int) -> None:
        kind = self.head.groups[number].kind
        if not is_known(kind):
            raise UnsupportedError(
                f"{self.name}: {listing(self.chunk_names(number))}: stored as {kind}, which this version "
                "does not know; update frconvert"
            )

    def _check_size(self, name: str, layout: Layout) -> None:
        excess = tensor_excess(name, layout, self.size_bytes)
        if excess:
            raise DamagedError(f"{self.name}: {excess}")
        if not is_holdable(layout):
            raise UnsupportedError(
                f"{self.name}: tensor {name!r} has no elements but axes too long for numpy"
            )

    def _payload(self, number: int, what: str) -> tuple[str, bytes]:
        """Where a frame is, in words, and what it holds."""
        frame = self.contents.frames[number]
        if frame is None:
            raise DamagedError(f"{self.name}: {what} is lost")
        where = f"{self.name}: {what} at byte {frame.offset}"
        payload = self.source.read(frame.offset, frame.length)
        if checksum(self.contents.seed, number + 1, payload) != frame.crc32:
            raise DamagedError(f"{where} does not match its checksum; `frconvert verify` says what is intact")
        return where, payload


def open_reader(location: Location) -> Reader:
    """Opens a sound `.frq` file.

    Raises:
        UnreadableError: there is nothing, it may not be read, or it is no `.frq` file.
        DamagedError: indices or footer are broken; `salvage` may still find tensors.
        UnsupportedError: it needs a later version.
    """
    source = open_source(location)
    return Reader(source, read_contents(source))


def read_contents(source: Source) -> Contents:
    """Reads both indices, see `open_reader`."""
    name, size = source.name, source.size_bytes
    edge = source.read(max(0, size - _EDGE_BYTES), min(size, _EDGE_BYTES))
    if size < len(MAGIC) + 1 + FOOTER_BYTES or edge[-len(MAGIC) :] != MAGIC:
        check_magic(source)
        raise DamagedError(f"{name}: cut off, or with bytes after its end; is the download complete?")
    footer = parse_footer(edge)
    data_end = size - FOOTER_BYTES - footer.tail_length
    if data_end < len(MAGIC) + footer.head_length or footer.head_length > MAXIMUM_HEAD_BYTES:
        check_magic(source)
        raise DamagedError(
            f"{name}: footer: indices of {footer.head_length} and {footer.tail_length} bytes in {size} bytes"
        )
    tail = edge[-FOOTER_BYTES - footer.tail_length : -FOOTER_BYTES]
    if len(tail) < footer.tail_length:
        tail = source.read(data_end, footer.tail_length)
    head, end = _read_head(source, footer, data_end)
    if tail_checksum(tail, footer) != footer.crc32:
        raise DamagedError(f"{name}: the tail index at byte {data_end} does not match its checksum")
    try:
        frames = lay_out(end, unpack_tail(tail))
        parsed = unpack(head)
    except FrqError as error:
        raise type(error)(f"{name}: {error}") from error
    if len(frames) != len(parsed.groups) + len(parsed.attachments):
        raise DamagedError(f"{name}: the indices differ in the number of frames")
    end = frames[-1].end if frames else end
    if end != data_end:
        raise DamagedError(f"{name}: chunks end at byte {end}, but the tail index begins at byte {data_end}")
    return Contents(parsed, seed_of(head), tuple(frames), footer.sha256)


def check_magic(source: Source) -> None:
    """Refuses what is no `.frq` of this version by its first bytes.

    Raises:
        UnreadableError: one line that says what it is instead.
    """
    start = source.read(0, min(len(MAGIC), source.size_bytes))
    if start[:3] != MAGIC[:3] or len(start) < len(MAGIC):
        raise UnreadableError(f"{source.name}: not a .frq file")
    if start != MAGIC:
        raise UnreadableError(f"{source.name}: .frq version {start[3:].hex()} is unknown; update frconvert")


def _read_head(source: Source, footer: Footer, data_end: int) -> tuple[bytes, int]:
    """The head index's payload and the offset of what follows it."""
    data = source.read(0, min(len(MAGIC) + HEADER_BYTES + footer.head_length, data_end))
    if data[: len(MAGIC)] != MAGIC:
        check_magic(source)
    frame = parse_header(data[len(MAGIC) :], len(MAGIC))
    if frame is None or frame.length != footer.head_length or frame.end > data_end:
        raise DamagedError(f"{source.name}: head index and footer differ in the length of the head index")
    payload = data[frame.offset : frame.end]
    if zlib.crc32(payload) != frame.crc32:
        where = f"the head index at byte {frame.offset}"
        raise DamagedError(f"{source.name}: {where} does not match its checksum; see `frconvert verify`")
    return payload, frame.end


def listing(names: list[str]) -> str:
    """A few of many names, for messages."""
    shown = ", ".join(quoted(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
