"""What of a damaged `.frq` file is intact, what can be repaired, what is lost.

Only payloads are information. Where all of them are found the file as it was written follows from them, byte
by byte; comparing tells what is damaged beside them, and the file's SHA-256 proves that nothing was guessed
wrong. A payload with one flipped bit is repaired only with that proof.

Laws: `examine` of a sound file has no damages; of any other it has at least one, or raises an FrqError; the
tensors that it does not call lost have the values that were written.
"""

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from frconvert.coding.record import restore
from frconvert.container import MAGIC
from frconvert.container.find import Finder, HeadFound, Tail, crc_of, find_head, find_tail
from frconvert.container.frames import (
    FOOTER_BYTES,
    Frame,
    lay_out,
    pack_footer,
    pack_tail,
    seed_of,
    start_checksum,
)
from frconvert.container.head import Head, members, unpack
from frconvert.container.reader import Contents, Reader, check_magic, listing
from frconvert.container.repair import flip, flipped_bit
from frconvert.container.sources import Patched, Source, UrlSource
from frconvert.errors import DamagedError, FrqError, UnsupportedError, quoted

_BLOCK_BYTES = 1 << 20
_SHA_BITS = 8  # of a SHA-256 may be wrong in a file: the other 248 still prove its content
_PATCHED_BYTES = 1 << 29  # a longer payload is not repaired
_MOST_REPAIRS = 64  # payloads of a file


@dataclass(frozen=True, slots=True)
class Examination:
    """What is known of a file after looking at every byte of it.

    Attributes:
        reader: of what is intact or repaired; the rest raises DamagedError.
        damages: a line for each part of the file that is not as it was written.
        lost_tensors: name -> why, aliases of lost tensors included.
        lost_attachments: name -> why.
        unsupported: those of the lost tensors that are intact, but stored in a way of a later version.
    """

    reader: Reader
    damages: tuple[str, ...]
    lost_tensors: dict[str, str]
    lost_attachments: dict[str, str]
    unsupported: frozenset[str]

    @property
    def is_sound(self) -> bool:
        """Whether the file is as it was written."""
        return not self.damages and not self.lost_attachments and set(self.lost_tensors) <= self.unsupported

    def lines(self) -> Iterator[str]:
        """Everything that is to be said of the file, damage first; file text in it is printable."""
        yield from self.damages
        for what, lost in (("tensor", self.lost_tensors), ("attachment", self.lost_attachments)):
            for name, why in lost.items():
                word = "cannot be read" if what == "tensor" and name in self.unsupported else "is lost"
                yield f"{what} {quoted(name)} {word}: {why}"


def examine(source: Source) -> Examination:
    """Looks at every byte of a file and decodes every chunk.

    Raises:
        UnreadableError: it is no `.frq` file of this version.
        DamagedError: its head index is lost, so that nothing tells what the rest is.
    """
    if isinstance(source, UrlSource):
        source = source.downloaded()
    tail = find_tail(source)
    head = find_head(source, tail)
    if head is None:
        check_magic(source)
        raise DamagedError(
            f"{source.name}: the head index at byte {len(MAGIC)} is lost, and with it what the file holds"
        )
    parsed, seed = unpack(head.payload), seed_of(head.payload)
    count = len(parsed.groups) + len(parsed.attachments)
    finder = Finder(source, seed, count, head.end, tail)
    whats = _in_words(parsed)
    original = _Original(source, head, tail, finder.frames)
    damages = list(original.differences(whats))
    patches: dict[int, bytes] = {}
    frames = finder.frames
    repaired = _repair_payloads(source, seed, finder) if None in frames else None
    if repaired and _Original(Patched(source, repaired[0]), head, tail, repaired[1]).is_proven:
        damages += [f"{whats[n]}: one flipped bit" for n, frame in enumerate(frames) if frame is None]
        patches, frames = repaired
    reader = Reader(Patched(source, patches), Contents(parsed, seed, tuple(frames), original.sha256))
    return _account(reader, damages, finder.places)


class _Original:
    """The file as it was written, so far as its payloads are known, against the file as it is."""

    def __init__(
        self, source: Source, head: HeadFound, tail: Tail | None, found: Sequence[Frame | None]
    ) -> None:
        self._source, self._head, self._found, self._tail = source, head, found, tail
        (self._head_frame,) = lay_out(len(MAGIC), [(len(head.payload), zlib.crc32(head.payload))])
        self._pieces = [(f.length, f.crc32) if f else None for f in found]
        if tail and len(tail.pieces) == len(found):
            self._pieces = [known or told for known, told in zip(self._pieces, tail.pieces, strict=True)]
        end = tail.end if tail else source.size_bytes
        self.sha256 = source.read(end - 36, 32) if end >= FOOTER_BYTES else bytes(32)
        self._wrong_bits = None if None in found else self._distance()

    @property
    def is_proven(self) -> bool:
        """Whether all payloads are known and the SHA-256 says that they are right."""
        return self._wrong_bits is not None and self._wrong_bits <= _SHA_BITS

    def differences(self, whats: Sequence[str]) -> Iterator[str]:
        """A line for each part that differs, lost payloads left out; `whats` are the frames in words."""
        if None in self._pieces:
            yield f"the tail index at the end of its {self._source.size_bytes} bytes is missing or broken"
        frames = lay_out(self._head_frame.end, [piece for piece in self._pieces if piece is not None])
        known = len(frames) == len(self._pieces)
        tail = pack_tail(frames)
        end = frames[-1].end if frames else self._head_frame.end
        size = end + len(tail) + FOOTER_BYTES
        if known and size != self._source.size_bytes:
            change = self._source.size_bytes - size
            yield f"it was {size} bytes: {abs(change)} {'too many' if change > 0 else 'are missing'}"
        if self._head.offset != self._head_frame.offset:
            yield f"the head index lies at byte {self._head.offset} instead of {self._head_frame.offset}"
        else:
            parts = [(0, MAGIC, "the first four bytes"),
                     (len(MAGIC), self._head_frame.header, "length or checksum of the head index"),
                     (self._head_frame.offset, self._head.payload, "the head index")]  # fmt: skip
            yield from self._compare(parts)
        yield from self._compare(
            [
                (frame.start, frame.header, f"length or checksum of {what}")
                for frame, what in zip(self._found, whats, strict=True)
                if frame is not None
            ]
        )
        if known and size == self._source.size_bytes:
            parts = [(end, tail, "the tail index"),
                     (end + len(tail), pack_footer(self._head_frame.length, tail), "the footer"),
                     (size - len(MAGIC), MAGIC, "the last four bytes")]  # fmt: skip
            yield from self._compare(parts)
            if self._wrong_bits:
                many = (
                    f"{self._wrong_bits} of its bits are flipped"
                    if self.is_proven
                    else "it is broken, or a value"
                )
                yield f"the SHA-256 at byte {size - 36} does not match: {many}"

    def _compare(self, parts: Sequence[tuple[int, bytes, str]]) -> Iterator[str]:
        for offset, expected, what in parts:
            available = min(len(expected), max(0, self._source.size_bytes - offset))
            if self._source.read(offset, available) != expected:
                yield f"{what} at byte {offset}: not as written, but known"

    def _distance(self) -> int:
        """In how many bits the SHA-256 differs from that of the original, all payloads being known."""
        digest = hashlib.sha256(MAGIC + self._head_frame.header + self._head.payload)
        frames = [frame for frame in self._found if frame is not None]
        for frame in frames:
            digest.update(frame.header)
            for offset in range(frame.offset, frame.end, _BLOCK_BYTES):
                digest.update(self._source.read(offset, min(_BLOCK_BYTES, frame.end - offset)))
        tail = pack_tail(frames)
        digest.update(tail + pack_footer(self._head_frame.length, tail))
        return (int.from_bytes(digest.digest()) ^ int.from_bytes(self.sha256)).bit_count()


def _repair_payloads(
    source: Source, seed: bytes, finder: Finder
) -> tuple[dict[int, bytes], list[Frame | None]] | None:
    """The payloads that were not found, each with the bit flipped that its checksum points to."""
    patches: dict[int, bytes] = {}
    frames = list(finder.frames)
    if frames.count(None) > _MOST_REPAIRS:
        return None
    for number, place in enumerate(finder.places):
        if frames[number] is not None:
            continue
        if place is None or place.end > source.size_bytes or place.length > _PATCHED_BYTES:
            return None
        crc32 = crc_of(source, place, start_checksum(seed, number + 1))
        bit = flipped_bit(place.length, crc32 ^ place.crc32)
        if bit is None or bit >= 8 * place.length:
            return None
        at = place.offset + bit // 8
        patches[at] = flip(source.read(at, 1), bit % 8)
        frames[number] = place
    return patches, frames


def _account(reader: Reader, damages: list[str], places: Sequence[Frame | None]) -> Examination:
    """Decodes everything that was found; what fails is lost like what was not found."""
    head, frames = reader.head, reader.contents.frames
    lost_tensors: dict[str, str] = {}
    lost_attachments: dict[str, str] = {}
    unsupported: set[str] = set()
    for number, chunk in enumerate(members(head)):
        names = [head.names[member] for member in chunk]
        try:
            for record in reader.decode(number) if frames[number] else ():
                restore(record)
            why = None if frames[number] else _fault(reader, places[number])
        except FrqError as error:
            why = str(error).removeprefix(f"{reader.name}: ")
            unsupported |= set(names) if isinstance(error, UnsupportedError) else set()
        lost_tensors |= dict.fromkeys(names, why) if why else {}
    for number, name in enumerate(head.attachments, len(head.groups)):
        try:
            if frames[number]:
                reader.attachment(name)
            else:
                lost_attachments[name] = _fault(reader, places[number])
        except FrqError as error:
            lost_attachments[name] = str(error).removeprefix(f"{reader.name}: ")
    for alias, name in head.ties.items():
        lost_tensors |= {alias: lost_tensors[name]} if name in lost_tensors else {}
        unsupported |= {alias} if name in unsupported else set()
    ordered = {name: lost_tensors[name] for name in head.names if name in lost_tensors}
    return Examination(reader, tuple(damages), ordered, lost_attachments, frozenset(unsupported))


def _fault(reader: Reader, place: Frame | None) -> str:
    if place is None:
        return "its data are not in the file"
    if place.end > reader.size_bytes:
        return f"its data at byte {place.offset} are cut off"
    return f"its data at byte {place.offset} do not match their checksum"


def _in_words(head: Head) -> list[str]:
    """What each frame is."""
    chunks = [[head.names[member] for member in chunk] for chunk in members(head)]
    return [
        *(f"the chunk with {listing(names)}" for names in chunks),
        *(f"attachment {quoted(name)}" for name in head.attachments),
    ]
