"""Finds indices and frames in a damaged `.frq` file.

Nothing found here is believed without proof: a tail index has its checksum, a head index its own or that of
a chunk which is bound to it, a frame the checksum that its header or the tail index has for it. So a wrong
guess finds nothing, and cannot give a wrong value.
"""

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from frconvert.coding.bits import varint
from frconvert.container import MAGIC
from frconvert.container.frames import (
    FOOTER_BYTES,
    HEADER_BYTES,
    Footer,
    Frame,
    lay_out,
    pack_footer,
    pack_tail,
    parse_footer,
    parse_header,
    seed_of,
    start_checksum,
    tail_checksum,
    unpack_tail,
)
from frconvert.container.head import MAXIMUM_HEAD_BYTES, unpack
from frconvert.container.repair import candidates, flip, flipped_bit
from frconvert.container.sources import Source
from frconvert.errors import DamagedError, UnsupportedError

_BLOCK_BYTES = 1 << 20
_PROBE_BYTES = 1 << 24  # chunks up to this size are used to prove a head index
_MOST_TRIAL_BYTES = 1 << 32  # looked at on mere suspicion, in each of the searches: some seconds
_TRIAL_PARSE = 1 << 26  # what parsing an index counts as: it may inflate to some megabytes


@dataclass(frozen=True, slots=True)
class Tail:
    """A tail index that was found: lengths and CRC-32s of the frames, where it begins and the file ends."""

    head_length: int
    pieces: tuple[tuple[int, int], ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class HeadFound:
    """The payload of a head index and its offset in the file."""

    payload: bytes
    offset: int

    @property
    def end(self) -> int:
        """Offset of the first chunk's header."""
        return self.offset + len(self.payload)


def find_tail(source: Source) -> Tail | None:
    """The tail index, where it is intact but for one bit, its lengths and the footer's included."""
    block_start = max(0, source.size_bytes - _BLOCK_BYTES)
    block = source.read(block_start, source.size_bytes - block_start)
    ends = [source.size_bytes]  # whatever is there; then wherever the last bytes of a file are seen
    place = block.rfind(MAGIC)
    while place >= 0 and len(ends) < 64:
        ends.append(block_start + place + len(MAGIC))
        place = block.rfind(MAGIC, 0, place + len(MAGIC) - 1)
    budget = _MOST_TRIAL_BYTES
    for end in dict.fromkeys(ends):
        if end >= len(MAGIC) + FOOTER_BYTES:
            found, budget = _tail_before(source, end, budget)
            if found is not None:
                return found
    return None


def _tail_before(source: Source, end: int, budget: int) -> tuple[Tail | None, int]:
    """The tail index before `end`, and how many bytes may still be looked at."""
    raw = source.read(end - FOOTER_BYTES, FOOTER_BYTES)
    footers = [parse_footer(raw), *(parse_footer(flip(raw, bit)) for bit in range(64))]
    for number, footer in enumerate(footers):
        start = end - FOOTER_BYTES - footer.tail_length
        if start < len(MAGIC) or footer.tail_length > budget:
            continue
        budget -= footer.tail_length
        tail = source.read(start, footer.tail_length)
        syndrome = tail_checksum(tail, footer) ^ footer.crc32
        if syndrome and number == 0:
            bit = flipped_bit(len(tail) + 8, syndrome)
            if bit is not None and bit < 8 * len(tail):
                tail, syndrome = flip(tail, bit), 0
            elif bit is not None and bit >= 8 * (len(tail) + 8):
                syndrome = 0  # the checksum itself
        if syndrome == 0:
            try:
                return Tail(footer.head_length, tuple(unpack_tail(tail)), start, end), budget
            except DamagedError:
                continue
    return None, budget


def find_head(source: Source, tail: Tail | None) -> HeadFound | None:
    """The head index, where it is intact or a change of four bytes side by side explains what it is now.

    Raises:
        UnsupportedError: it is intact and needs a later version.
    """
    places = list(dict.fromkeys(_head_places(source, tail)))
    for offset, length in places + [place for place in _flipped_places(source) if place not in places]:
        payload, crc32 = _payload_at(source, offset, length)
        if zlib.crc32(payload) == crc32 and _is_head(payload):
            return HeadFound(payload, offset)
    budget = _MOST_TRIAL_BYTES
    for offset, length in places:
        payload, crc32 = _payload_at(source, offset, length)
        probes = list(_probes(source, offset + length, tail))
        for candidate in candidates(payload, zlib.crc32(payload) ^ crc32):
            if _proven(candidate, probes, source, tail):
                if _is_head(candidate):
                    return HeadFound(candidate, offset)
                budget -= _TRIAL_PARSE
            budget -= len(payload) + sum(len(data) for _, _, data in probes)
            if budget < 0:
                break
    return None


def _head_places(source: Source, tail: Tail | None) -> Iterator[tuple[int, int]]:
    """Where the head index may be, and how long: by its own header, by the footer, by the tail index."""
    size = source.size_bytes
    front = parse_header(source.read(len(MAGIC), min(HEADER_BYTES, max(0, size - len(MAGIC)))), len(MAGIC))
    lengths = [tail.head_length] if tail else []
    if size >= len(MAGIC) + FOOTER_BYTES:
        lengths.append(parse_footer(source.read(size - FOOTER_BYTES, FOOTER_BYTES)).head_length)
    guesses = [(front.offset, front.length)] if front else []
    guesses += [(len(MAGIC) + len(varint(length)) + 4, length) for length in lengths]
    if tail:
        frames = lay_out(0, tail.pieces)
        begin = tail.start - (frames[-1].end if frames else 0)
        guesses.append((begin - tail.head_length, tail.head_length))
    for offset, length in guesses:
        if offset >= 4 and offset + length <= size and length <= MAXIMUM_HEAD_BYTES:
            yield offset, length


def _flipped_places(source: Source) -> Iterator[tuple[int, int]]:
    """The same by the head index's own header if a bit of it is flipped."""
    header = source.read(len(MAGIC), min(HEADER_BYTES, max(0, source.size_bytes - len(MAGIC))))
    for bit in range(8 * min(5, len(header))):
        frame = parse_header(flip(header, bit), len(MAGIC))
        if frame and frame.end <= source.size_bytes and frame.length <= MAXIMUM_HEAD_BYTES:
            yield frame.offset, frame.length


def _payload_at(source: Source, offset: int, length: int) -> tuple[bytes, int]:
    """A payload and the checksum before it."""
    data = source.read(offset - 4, 4 + length)
    return data[4:], int.from_bytes(data[:4], "little")


def _is_head(payload: bytes) -> bool:
    try:
        unpack(payload)
    except UnsupportedError:
        raise
    except DamagedError:
        return False
    return True


def _probes(source: Source, end: int, tail: Tail | None) -> Iterator[tuple[int, int, bytes]]:
    """Frames that a head index can be proven by: number, checksum, payload."""
    first = parse_header(source.read(end, min(HEADER_BYTES, source.size_bytes - end)), end)
    frames = [(1, first)] if first else []
    if tail and tail.pieces:
        number = min(range(len(tail.pieces)), key=lambda number: tail.pieces[number][0])
        frames.append((number + 1, _frames_before(tail)[number]))
    for number, frame in frames:
        if frame.end <= source.size_bytes and frame.offset >= 0 and frame.length <= _PROBE_BYTES:
            yield number, frame.crc32, source.read(frame.offset, frame.length)


def _proven(head: bytes, probes: Sequence[tuple[int, int, bytes]], source: Source, tail: Tail | None) -> bool:
    seed = seed_of(head)
    if tail and not tail.pieces:  # nothing but the head index: the file's SHA-256 is the only witness
        packed = pack_tail([])
        (frame,) = lay_out(len(MAGIC), [(len(head), zlib.crc32(head))])
        whole = MAGIC + frame.header + head + packed + pack_footer(len(head), packed)
        footer: Footer = parse_footer(source.read(tail.end - FOOTER_BYTES, FOOTER_BYTES))
        return hashlib.sha256(whole).digest() == footer.sha256
    return any(zlib.crc32(data, start_checksum(seed, number)) == crc32 for number, crc32, data in probes)


def _frames_before(tail: Tail) -> list[Frame]:
    """Where the frames are if nothing is missing between the last of them and the tail index."""
    frames = lay_out(0, tail.pieces)
    shift = tail.start - (frames[-1].end if frames else 0)
    return [Frame(frame.offset + shift, frame.length, frame.crc32) for frame in frames]


def crc_of(source: Source, frame: Frame, initial: int) -> int:
    """The CRC-32 of a range, continued from `initial`."""
    for offset in range(frame.offset, frame.end, _BLOCK_BYTES):
        initial = zlib.crc32(source.read(offset, min(_BLOCK_BYTES, frame.end - offset)), initial)
    return initial


class Finder:
    """Finds the frames of one file; `places` is where those that were not found seem to be.

    Args:
        source: the file.
        seed: of its head index.
        count: number of frames.
        start: offset of the first one's header.
        tail: the tail index, if there is one.
    """

    def __init__(self, source: Source, seed: bytes, count: int, start: int, tail: Tail | None) -> None:
        self._source, self._seed, self._start = source, seed, start
        self._tail = tail if tail and len(tail.pieces) == count else None
        self._budget = _MOST_TRIAL_BYTES + 8 * source.size_bytes  # thrice the size is what a usual file takes
        self.frames: list[Frame | None] = [None] * count
        self.places: list[Frame | None] = [None] * count
        self._forward()
        if self._tail:
            for number, frame in enumerate(_frames_before(self._tail)):
                if self.frames[number] is None:
                    self.frames[number] = self._match(number, frame)
            self._between()

    def _forward(self) -> None:
        """From frame to frame; over a broken one by the length that tail index or header have for it."""
        place = self._start
        for number in range(len(self.frames)):
            own = self._header_at(place)
            (told,) = lay_out(place, [self._tail.pieces[number]]) if self._tail else (None,)
            found = self._match(number, own, told) or self._match(number, told, own)
            if found is None and told is None:
                found = self._flipped_header(number, place)
            self.frames[number] = found
            if found is None:
                self.places[number] = found = told or own
                if found is None or (told is None and not self._goes_on(number + 1, found.end)):
                    return
            place = found.end

    def _goes_on(self, number: int, place: int) -> bool:
        return number < len(self.frames) and self._match(number, self._header_at(place)) is not None

    def _flipped_header(self, number: int, place: int) -> Frame | None:
        if place >= self._source.size_bytes:
            return None
        header = self._source.read(place, min(HEADER_BYTES, self._source.size_bytes - place))
        flips = (parse_header(flip(header, bit), place) for bit in range(8 * len(header)))
        return next((found for frame in flips if (found := self._match(number, frame))), None)

    def _between(self) -> None:
        """Looks for what is left between the frames that are found: the header's bytes are known."""
        assert self._tail  # noqa: S101  (for the type checker)
        ends = [self._tail.start]  # from the last frame to the first: where the next known one begins
        for frame in reversed(self.frames):
            ends.append(ends[-1] if frame is None else frame.start)
        begin = self._start
        for number in range(len(self.frames)):
            if self.frames[number] is None:
                end = ends[len(self.frames) - 1 - number]
                length, crc32 = self._tail.pieces[number]
                header = Frame(0, length, crc32).header
                self._budget -= max(0, end - begin)
                places = _occurrences(self._source, header, begin, end) if self._budget > 0 else ()
                for place in places:
                    found = self._match(number, Frame(place + len(header), length, crc32))
                    if found is not None or self._budget <= 0:
                        self.frames[number] = found
                        break
            known = self.frames[number]
            begin = known.end if known is not None else begin

    def _header_at(self, place: int) -> Frame | None:
        if place >= self._source.size_bytes:
            return None
        return parse_header(
            self._source.read(place, min(HEADER_BYTES, self._source.size_bytes - place)), place
        )

    def _match(self, number: int, frame: Frame | None, other: Frame | None = None) -> Frame | None:
        """The frame with its true checksum, if that is what itself or the other one says."""
        if frame is None or frame.offset < 0 or frame.end > self._source.size_bytes:
            return None
        if frame.length > self._budget:
            return None
        self._budget -= frame.length
        crc32 = crc_of(self._source, frame, start_checksum(self._seed, number + 1))
        is_right = crc32 in (frame.crc32, other.crc32 if other else None)
        return Frame(frame.offset, frame.length, crc32) if is_right else None


def _occurrences(source: Source, pattern: bytes, begin: int, end: int) -> Iterator[int]:
    overlap = len(pattern) - 1
    for offset in range(begin, end, _BLOCK_BYTES):
        block = source.read(offset, min(_BLOCK_BYTES + overlap, end - offset))
        place = block.find(pattern)
        while place >= 0:
            yield offset + place
            place = block.find(pattern, place + 1)
