"""The index of a `.frq` file: what is in it and where, in columns so that DEFLATE finds what is alike.

Columns, each for all tensors in order, numbers as varints unless said otherwise:
  number of tensors; lengths of the names; the names (UTF-8); number of axes; lengths of all axes; dtype codes
  (bytes); ties (0, or 1 + position of the tensor whose data it shares).
Then for each tensor with data of its own: storage codes (bytes: 0 quantised integers, else 1 + code of
  the stored dtype); transformed axes as a bit mask; 0 or 1 + keep; for the quantised ones the low bytes, then
  the high bytes of the step codes.
Then: number of chunks; their storage codes (bytes); numbers of records; lengths in bytes; CRC-32s (uint32).
Then: number of attachments; of each: length of name, name, size, stored length, CRC-32 of the stored bytes
  (uint32).
Then: number of metadata pairs; of each: length of key, key, length of value, value.

A chunk holds the next tensors, in order, of its storage code. Chunks lie one after another from byte 4 on,
attachments follow. Every number is checked here before anything is allocated for it.

Law: `unpack(pack(index), ...) == index`; `unpack` of anything else raises DamagedError.
"""

import struct
import zlib
from dataclasses import dataclass
from math import prod

from frconvert.coding.bits import ByteReader, varint
from frconvert.coding.quantize import step_code, step_of_code
from frconvert.coding.record import INTEGERS, TRELLIS, UNIFORM, Layout
from frconvert.container import MAGIC
from frconvert.dtypes import DTYPE_NAMES, is_float
from frconvert.errors import DamagedError, UnsupportedError

MAXIMUM_INDEX_BYTES = 1 << 28
# Deeply nested models with regular names reach 50; DEFLATE itself ends at 1032.
_INDEX_EXPANSION, _INDEX_FLOOR_BYTES = 128, 1 << 22
MAXIMUM_AXES = 64  # as many as numpy has
MAXIMUM_ELEMENTS = 1 << 62  # product of the lengths that are not 0
_QUANTISED = (INTEGERS, TRELLIS, UNIFORM)
_STORAGE_KINDS = (*_QUANTISED, *DTYPE_NAMES)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where a chunk is: `records` tensors of one kind in `length` bytes at `offset`."""

    kind: str
    records: int
    offset: int
    length: int
    crc32: int


@dataclass(frozen=True, slots=True)
class StoredAttachment:
    """Where an attachment is; `size` is its length when restored, all in bytes."""

    name: str
    size: int
    offset: int
    length: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Index:
    """All that is known of a file without decoding a tensor.

    Attributes:
        names: of all tensors.
        layouts: of all tensors; of a tied one, that of the tensor it is tied to.
        ties: name -> name of the earlier tensor whose data it shares.
        chunks, attachments: in file order, without gaps from byte 4 on.
        metadata: key -> value.
    """

    names: tuple[str, ...]
    layouts: tuple[Layout, ...]
    ties: dict[str, str]
    chunks: tuple[Chunk, ...]
    attachments: tuple[StoredAttachment, ...]
    metadata: dict[str, str]


def pack(index: Index) -> bytes:
    """The index as it stands in the file, compressed."""
    position = {name: number for number, name in enumerate(index.names)}
    names = [_encode(name) for name in index.names]
    own = [layout for name, layout in zip(index.names, index.layouts, strict=True) if name not in index.ties]
    steps = [step_code(layout.step) for layout in own if layout.step is not None]
    columns = [
        varint(len(names)),
        *(varint(len(name)) for name in names),
        *names,
        *(varint(len(layout.shape)) for layout in index.layouts),
        *(varint(length) for layout in index.layouts for length in layout.shape),
        bytes(DTYPE_NAMES.index(layout.dtype) for layout in index.layouts),
        *(varint(position[index.ties[name]] + 1 if name in index.ties else 0) for name in index.names),
        bytes(_STORAGE_KINDS.index(layout.stored) for layout in own),
        *(varint(sum(1 << axis for axis in layout.axes)) for layout in own),
        *(varint(0 if layout.keep is None else layout.keep + 1) for layout in own),
        bytes(code & 255 for code in steps),
        bytes(code >> 8 for code in steps),
        varint(len(index.chunks)),
        bytes(_STORAGE_KINDS.index(chunk.kind) for chunk in index.chunks),
        *(varint(chunk.records) for chunk in index.chunks),
        *(varint(chunk.length) for chunk in index.chunks),
        *(struct.pack("<I", chunk.crc32) for chunk in index.chunks),
        varint(len(index.attachments)),
    ]
    for item in index.attachments:
        columns += [_text(item.name), varint(item.size), varint(item.length), struct.pack("<I", item.crc32)]
    columns.append(varint(len(index.metadata)))
    for key, value in index.metadata.items():
        columns += [_text(key), _text(value)]
    return deflate(b"".join(columns))


def unpack(packed: bytes, data_end: int) -> Index:
    """Parses an index.

    Args:
        packed: the compressed index.
        data_end: byte offset at which chunks and attachments end in the file.

    Raises:
        DamagedError: any number or text that the format does not allow.
    """
    limit = min(MAXIMUM_INDEX_BYTES, max(_INDEX_FLOOR_BYTES, _INDEX_EXPANSION * len(packed)))
    reader = ByteReader(inflate(packed, limit))
    count = _count(reader)
    lengths = [_count(reader) for _ in range(count)]
    names = [_decode(reader.take(length)) for length in lengths]
    if len(set(names)) != count:
        raise DamagedError("index: a tensor name occurs twice")
    ranks = [reader.varint() for _ in range(count)]
    if any(rank > MAXIMUM_AXES for rank in ranks):
        raise DamagedError(f"index: a tensor has more than {MAXIMUM_AXES} axes")
    shapes = [tuple(reader.varint() for _ in range(rank)) for rank in ranks]
    for name, shape in zip(names, shapes, strict=True):
        if prod(length for length in shape if length) > MAXIMUM_ELEMENTS:
            raise DamagedError(f"index: tensor {name!r} claims the impossible shape {list(shape)}")
    dtypes = [_lookup(DTYPE_NAMES, code, "dtype") for code in reader.take(count)]
    targets = [reader.varint() for _ in range(count)]
    if any(target > number for number, target in enumerate(targets)):
        raise DamagedError("index: a tensor is tied to a later one")
    if any(target and targets[target - 1] for target in targets):
        raise DamagedError("index: a tensor is tied to one that is tied itself")
    own = [number for number in range(count) if not targets[number]]
    stored = _layouts(reader, [(names[number], shapes[number], dtypes[number]) for number in own])
    by_position = dict(zip(own, stored, strict=True))
    layouts = [by_position[target - 1 if target else number] for number, target in enumerate(targets)]
    for name, layout, shape, dtype in zip(names, layouts, shapes, dtypes, strict=True):
        if (layout.shape, layout.dtype) != (shape, dtype):
            raise DamagedError(f"index: tensor {name!r} differs in shape or dtype from the one it is tied to")
    chunks, offset = _chunks(reader, stored)
    attachments, offset = _attachments(reader, offset)
    if offset != data_end:
        raise DamagedError(f"index: chunks end at byte {offset}, but the index begins at byte {data_end}")
    metadata = _metadata(reader)
    if len(reader.rest()):
        raise DamagedError("index: bytes after its end")
    ties = {names[n]: names[target - 1] for n, target in enumerate(targets) if target}
    return Index(tuple(names), tuple(layouts), ties, tuple(chunks), tuple(attachments), metadata)


def deflate(data: bytes) -> bytes:
    """Raw DEFLATE at the highest effort."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return compressor.compress(data) + compressor.flush()


def inflate(data: bytes | memoryview, limit: int) -> bytes:
    """Inverse of `deflate`, of at most `limit` bytes.

    Raises:
        DamagedError: not one complete DEFLATE stream, or a longer one.
    """
    decompressor = zlib.decompressobj(-15)
    try:
        plain = decompressor.decompress(data, limit + 1)
    except zlib.error as error:
        raise DamagedError(f"compressed text is damaged ({error})") from error
    if len(plain) > limit or not decompressor.eof or decompressor.unused_data:
        raise DamagedError("compressed text is longer or shorter than it claims")
    return plain


def _layouts(reader: ByteReader, tensors: list[tuple[str, tuple[int, ...], str]]) -> list[Layout]:
    kinds = [_lookup(_STORAGE_KINDS, code, "storage") for code in reader.take(len(tensors))]
    masks = [reader.varint() for _ in tensors]
    keeps = [reader.varint() for _ in tensors]
    quantised = sum(kind in _QUANTISED for kind in kinds)
    low, high = reader.take(quantised), reader.take(quantised)
    steps = iter([step_of_code(a | b << 8) for a, b in zip(low, high, strict=True)])
    layouts = []
    for (name, shape, dtype), kind, mask, keep in zip(tensors, kinds, masks, keeps, strict=True):
        spectral = mask or keep or kind in _QUANTISED
        if mask >> len(shape) or keep > prod(shape) + 1 or (spectral and not is_float(dtype)):
            raise DamagedError(f"index: tensor {name!r} has axes or coefficients that do not fit it")
        if kind not in (*_QUANTISED, dtype) and not (is_float(kind) and is_float(dtype)):
            raise DamagedError(f"index: tensor {name!r} of dtype {dtype} is stored as {kind}")
        axes = tuple(axis for axis in range(len(shape)) if mask >> axis & 1)
        step = next(steps) if kind in _QUANTISED else None
        layouts.append(Layout(shape, dtype, axes, keep - 1 if keep else None, step, kind))
    return layouts


def _chunks(reader: ByteReader, stored: list[Layout]) -> tuple[list[Chunk], int]:
    count = _count(reader)
    kinds = [_lookup(_STORAGE_KINDS, code, "storage") for code in reader.take(count)]
    records = [reader.varint() for _ in range(count)]
    lengths = [reader.varint() for _ in range(count)]
    offset = len(MAGIC)
    chunks = []
    for kind, number, length in zip(kinds, records, lengths, strict=True):
        chunks.append(Chunk(kind, number, offset, length, _crc32(reader)))
        offset += length
    for kind in {layout.stored for layout in stored} | set(kinds):
        expected = sum(1 for layout in stored if layout.stored == kind and layout.count)
        if expected != sum(chunk.records for chunk in chunks if chunk.kind == kind):
            raise DamagedError("index: the chunks do not hold as many tensors as there are")
    if 0 in records:
        raise DamagedError("index: a chunk without tensors")
    return chunks, offset


def _attachments(reader: ByteReader, offset: int) -> tuple[list[StoredAttachment], int]:
    attachments = []
    for _ in range(_count(reader)):
        name, size, length = _read_text(reader), reader.varint(), reader.varint()
        attachments.append(StoredAttachment(name, size, offset, length, _crc32(reader)))
        offset += length
    if len({item.name for item in attachments}) != len(attachments):
        raise DamagedError("index: an attachment name occurs twice")
    return attachments, offset


def _metadata(reader: ByteReader) -> dict[str, str]:
    pairs = [(_read_text(reader), _read_text(reader)) for _ in range(_count(reader))]
    if len(dict(pairs)) != len(pairs):
        raise DamagedError("index: a metadata key occurs twice")
    return dict(pairs)


def _count(reader: ByteReader) -> int:
    """A number of things of which each takes at least a byte, so it cannot exceed the bytes that are left."""
    value = reader.varint()
    if value > len(reader.data) - reader.position:
        raise DamagedError(f"index: a count of {value} in {len(reader.data)} bytes")
    return value


def _lookup(table: tuple[str, ...], code: int, what: str) -> str:
    if code >= len(table):
        raise UnsupportedError(f"index: {what} code {code} is unknown; the file may need a newer frconvert")
    return table[code]


def _crc32(reader: ByteReader) -> int:
    return int.from_bytes(reader.take(4), "little")


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UnsupportedError(f"{text!r} is no valid Unicode, and so no name in a .frq") from None


def _text(text: str) -> bytes:
    data = _encode(text)
    return varint(len(data)) + data


def _read_text(reader: ByteReader) -> str:
    return _decode(reader.take(_count(reader)))


def _decode(data: memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise DamagedError("index: a text is not UTF-8") from None
