"""Vectors that break a rule of the file's frame or of attachments."""

import struct
import zlib
from collections.abc import Iterator

from assemble import RAW, Damage, Vector, attached, columns, head, join

from frconvert.coding.bits import varint
from frconvert.container import MAGIC
from frconvert.container.deflate import NAMES, deflate
from frconvert.container.frames import Frame, checksum, pack_footer, pack_tail, seed_of


def container() -> Iterator[Vector]:
    """Rules F1 to F10."""
    sound, content = head(), columns()
    packed = deflate(content, NAMES)
    crc = checksum(seed_of(packed), 1, RAW)
    size = len(RAW)

    def frames(*lengths: int) -> bytes:
        return pack_tail([Frame(0, length, crc) for length in lengths])

    yield "magic", b"FRX" + sound[3:], "magic", "its first bytes are others"
    yield "version", b"FRQ\2" + sound[4:], "version", "a later version of the format"
    yield "end-cut", sound[:-1], "end", "the last byte is missing"
    yield "end-added", sound + b"\0", "end", "a byte after the end"
    yield "end-short", MAGIC + bytes(44) + MAGIC, "end", "no room for head index and footer"
    lengths = struct.pack("<II", len(packed), 2**31)
    yield (
        "footer-tail",
        join(content, [RAW], Damage(footer=lengths + bytes(4))),
        "footer",
        "a tail index beyond the file",
    )
    other = pack_footer(len(packed) + 1, frames(size))
    yield (
        "footer-head",
        join(content, [RAW], Damage(footer=other)),
        "footer",
        "another length of the head index",
    )
    right = pack_footer(len(packed), frames(size))
    wrong = right[:8] + bytes([right[8] ^ 1]) + right[9:]
    yield (
        "tail-crc",
        join(content, [RAW], Damage(footer=wrong)),
        "tail-crc",
        "a checksum of the tail index that differs",
    )
    yield (
        "tail-count",
        join(content, [RAW], Damage(tail=varint(3) + frames(size)[1:])),
        "tail",
        "more frames than fit",
    )
    yield (
        "tail-gap",
        join(content, [RAW + b"\0"], Damage(tail=frames(size), headers={0: Frame(0, size, crc).header})),
        "tail",
        "a byte between chunk and tail index",
    )
    yield (
        "tail-beyond",
        join(content, [RAW], Damage(tail=frames(size + 1), headers={0: Frame(0, size + 1, crc).header})),
        "tail",
        "a chunk that reaches into the tail index",
    )
    yield (
        "tail-rest",
        join(content, [RAW], Damage(tail=frames(size) + b"\0")),
        "rest",
        "a byte after the tail index",
    )
    yield (
        "tail-short",
        join(content, [RAW], Damage(tail=varint(1) + varint(size) + b"\0\0\0")),
        "short",
        "a tail index that is cut off",
    )
    yield "frame-count", join(content, [RAW, b""]), "frame-count", "a frame that the head index does not know"
    yield (
        "frame-header",
        join(content, [RAW], Damage(headers={0: varint(size) + bytes(4)})),
        "frame-header",
        "a checksum before a chunk that differs",
    )
    yield (
        "head-crc",
        join(content, [RAW], Damage(head_crc=zlib.crc32(packed) ^ 1)),
        "head-crc",
        "a checksum of the head index that differs",
    )
    broken = Frame(0, size, crc ^ 1)
    damage = Damage(headers={0: broken.header}, tail=pack_tail([broken]))
    yield (
        "frame-crc",
        join(content, [RAW], damage),
        "frame-crc",
        "a checksum of a chunk that differs in both places",
    )
    yield "sha256", join(content, [RAW], Damage(sha256=bytes(32))), "sha256", "another SHA-256"


def attachments() -> Iterator[Vector]:
    """Section 11."""

    def file(name: bytes, size: int, payload: bytes) -> bytes:
        return join(columns(attachments=attached((name, size))), [RAW, payload])

    yield "attachment-size", file(b"x", 2, deflate(b"x")), "attachment", "fewer bytes than it says"
    yield "attachment-more", file(b"x", 1, deflate(b"xx")), "attachment", "more bytes than it says"
    yield "attachment-damaged", file(b"x", 1, b"\xff\xff"), "attachment", "no DEFLATE"
    for number, name in enumerate((b"../x", b"/x", b"a//b", b"a\\b", b"c:x", b"a/.", b"a\nb", b"")):
        yield (
            f"attachment-name-{number}",
            file(name, 1, deflate(b"x")),
            "attachment-name",
            f"an attachment named {name.decode()!r}",
        )
