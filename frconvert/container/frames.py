"""Frames, tail index and footer: everything of a `.frq` file that follows from its payloads.

    file   = MAGIC frame(head index) frame(chunk) ... frame(attachment) ... tail footer
    frame  = length of the payload (varint) | CRC-32 (uint32) | payload
    tail   = number of frames after the head index | lengths of their payloads (varints) | CRC-32s (uint32)
    footer = length of the head index, length of the tail, CRC-32 of tail and these two (uint32 each)
             | SHA-256 of all bytes before it | MAGIC

The CRC-32 of the head index is that of its payload alone. That of another frame is taken over the first 4
bytes of the SHA-256 of the head index's payload, the frame's number (uint32, the first chunk is 1) and the
payload: a chunk of another file, or out of place, never passes for this one; and a chunk that does pass
proves the head index.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from frconvert.coding.bits import ByteReader, varint
from frconvert.container import MAGIC
from frconvert.errors import DamagedError

HEADER_BYTES = 9 + 4  # at most
FOOTER_BYTES = 3 * 4 + 32 + len(MAGIC)


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a payload is: `length` bytes at `offset`."""

    offset: int
    length: int
    crc32: int

    @property
    def header(self) -> bytes:
        """The bytes before the payload."""
        return varint(self.length) + struct.pack("<I", self.crc32)

    @property
    def start(self) -> int:
        """Offset of the header."""
        return self.offset - len(self.header)

    @property
    def end(self) -> int:
        """Offset of what follows."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Footer:
    """What the last bytes of a file say; `crc32` is that of the tail index and the two lengths."""

    head_length: int
    tail_length: int
    crc32: int
    sha256: bytes


def seed_of(head: bytes) -> bytes:
    """What binds the other frames to the head index of their file."""
    return hashlib.sha256(head).digest()[:4]


def start_checksum(seed: bytes, number: int) -> int:
    """The CRC-32 of frame `number` (from 1 on) before its payload, for `zlib.crc32(payload, ...)`."""
    return zlib.crc32(seed + struct.pack("<I", number))


def checksum(seed: bytes, number: int, payload: bytes) -> int:
    """The CRC-32 of frame `number` (from 1 on)."""
    return zlib.crc32(payload, start_checksum(seed, number))


def parse_header(data: bytes, offset: int = 0) -> Frame | None:
    """The frame whose header these bytes begin with; `offset` is theirs in the file."""
    reader = ByteReader(data[:HEADER_BYTES])
    try:
        length = reader.varint()
        crc32 = int.from_bytes(reader.take(4), "little")
    except DamagedError:
        return None
    return Frame(offset + reader.position, length, crc32)


def lay_out(start: int, pieces: Iterable[tuple[int, int]]) -> list[Frame]:
    """The frames of these lengths and CRC-32s when they follow one another from `start` on."""
    frames = []
    for length, crc32 in pieces:
        frame = Frame(start + len(varint(length)) + 4, length, crc32)
        frames.append(frame)
        start = frame.end
    return frames


def pack_tail(frames: Sequence[Frame]) -> bytes:
    """The tail index of a file with these frames after the head index."""
    lengths = b"".join(varint(frame.length) for frame in frames)
    return varint(len(frames)) + lengths + b"".join(struct.pack("<I", frame.crc32) for frame in frames)


def unpack_tail(tail: bytes) -> list[tuple[int, int]]:
    """Lengths and CRC-32s of the frames.

    Raises:
        DamagedError: it is no tail index.
    """
    reader = ByteReader(tail)
    count = reader.varint()
    if count > len(tail) // 5:  # bytes that each takes at least
        raise DamagedError(f"tail index: a count of {count} in {len(tail)} bytes")
    lengths = [reader.varint() for _ in range(count)]
    crcs = [int.from_bytes(reader.take(4), "little") for _ in range(count)]
    if len(reader.rest()):
        raise DamagedError("tail index: bytes after its end")
    return list(zip(lengths, crcs, strict=True))


def pack_footer(head_length: int, tail: bytes) -> bytes:
    """The footer but for its SHA-256 and magic bytes."""
    lengths = struct.pack("<II", head_length, len(tail))
    return lengths + struct.pack("<I", zlib.crc32(tail + lengths))


def parse_footer(data: bytes) -> Footer:
    """Takes the last `FOOTER_BYTES` of a file apart; their checksum is not looked at."""
    return Footer(*struct.unpack("<III32s", data[-FOOTER_BYTES : -len(MAGIC)]))


def tail_checksum(tail: bytes, footer: Footer) -> int:
    """What `footer.crc32` should be."""
    return zlib.crc32(tail + struct.pack("<II", footer.head_length, footer.tail_length))
