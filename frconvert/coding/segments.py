"""Segments of quantised coefficients: values to symbols with a row of a frequency table each, and back.

In a segment the symbols that the trellis serves, those of class `FIRST_SERVED` and above, come before the
others; in either part they keep their order. Symbols of a class that is not served are rarely other than 0
and cost less than a bit; a trellis would only make them dearer. The raw bits are the low bits of the symbols
of wide classes, class by class of their number of raw bits, most significant bit first, padded with zeros.

A symbol j with quantiser bit q is restored as (j + q / 2) * step.

Law: `decode` of what became of a `Segment` gives what `quantise` left in the parts' values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import choice, rows, scales, tables, trellis
from frconvert.coding.bits import ByteReader, pack_fields, unpack_fields
from frconvert.coding.native import native
from frconvert.coding.scales import Scales
from frconvert.errors import DamagedError

SEGMENT = 1 << 20
LARGEST_TARGET = 1 << 20  # in half steps: beyond, float32 cannot tell the neighbours of a target apart
LARGEST_SYMBOL = LARGEST_TARGET  # magnitude; an encoder stays far below
_MARKED = -(1 << 30)  # integers below this stand for escaped symbols


@dataclass(frozen=True, slots=True)
class Coded:
    """One tensor's part of a chunk.

    Attributes:
        values: 1-D float coefficients in C order; `encode` overwrites them with what `decode` will give.
        shape: of the tensor.
        step: of the quantiser.
        scales: with the base that belongs to this step.
    """

    values: NDArray[np.floating]
    shape: tuple[int, ...]
    step: float
    scales: Scales


@dataclass(frozen=True)
class Model:
    """Frequency tables of a chunk: those of each tail shape that occurs, one below another."""

    state_bits: int
    tails: tuple[int, ...]

    @property
    def first(self) -> int:
        """The first class with two rows: the first served one, or without a trellis none."""
        return tables.FIRST_SERVED if self.state_bits else tables.WIDE_CLASS

    def served(self, classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which symbols the trellis serves."""
        return classes >= (tables.FIRST_SERVED if self.state_bits else tables.CLASSES)

    @property
    def half_way(self) -> NDArray[np.bool_]:
        """Of each row, whether it is symmetric about -1/2."""
        number = np.arange(tables.row_count(self.first))
        second = (number > self.first) & ((number - self.first) % 2 == 1)
        return np.tile(second | (number >= number.size - 4), len(self.tails))

    @property
    def frequencies(self) -> NDArray[np.int64]:
        """The built-in rows, [rows, 256]."""
        return np.concatenate([tables.rows_of_shape(tail, self.first) for tail in self.tails])

    @cached_property
    def lacks(self) -> NDArray[np.bool_]:
        """Where the built-in tables have no frequency, [row, symbol]."""
        lacking: NDArray[np.bool_] = self.frequencies == 0
        return lacking

    def row_base(self, tail: int) -> int:
        """What is added to the row of a class in a tensor of that tail shape."""
        return self.tails.index(tail) * tables.row_count(self.first)

    def rows(self, tail: int, classes: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Row of each class in a tensor of that tail shape, of its integer points where it has two."""
        found = tables.row_of_class(self.first).take(classes)
        found += np.uint16(self.row_base(tail))
        return found


Cut = list[tuple[Coded, int, int]]  # a part and the range of it that a segment holds


def cuts_of(parts: Sequence[Coded]) -> list[Cut]:
    """The segments of parts that follow one another."""
    cuts: list[Cut] = []
    room = 0
    for part in parts:
        position = 0
        while position < part.values.size:
            if not room:
                cuts.append([])
                room = SEGMENT
            end = min(position + room, part.values.size)
            cuts[-1].append((part, position, end))
            room -= end - position
            position = end
    return cuts


@dataclass(slots=True)
class Segment:
    """A quantised segment, symbols served by the trellis first.

    Attributes:
        symbols, rows: uint8 and uint16, of each.
        raw: the bytes of the raw bits.
        suspects: positions of symbols that are beyond the tables or that a built-in table lacks.
        whole: int32, these symbols before they lost their raw bits and were cut to the tables' range.
        beyond: of these, which no table can have.
    """

    symbols: NDArray[np.uint8]
    rows: NDArray[np.uint16]
    raw: bytes
    suspects: NDArray[np.intp]
    whole: NDArray[np.int32]
    beyond: NDArray[np.bool_]


def classes_of(cut: Cut) -> NDArray[np.uint8]:
    """Classes of the coefficients of a segment, in C order."""
    pieces = [scales.classes_of_range(part.scales, part.shape, start, end) for part, start, end in cut]
    return np.ascontiguousarray(pieces[0]) if len(pieces) == 1 else np.concatenate(pieces)


def quantise(cut: Cut, model: Model, *, aware: bool) -> Segment:
    """The encoder's choice for a segment; overwrites the values of its parts with what it stands for."""
    classes = classes_of(cut)
    values = np.empty(classes.size, np.float32)
    targets = np.empty(classes.size, np.float32)
    table_rows = np.empty(classes.size, np.uint16)
    prices = np.empty(classes.size, np.int32)
    position = 0
    for part, start, end in cut:
        here = slice(position, position + end - start)
        tail, of = part.scales.shape, classes[here]
        table_rows[here] = model.rows(tail, of)
        scale = part.values.dtype.type(2 / part.step)
        np.multiply(part.values[start:end], scale, out=values[here], casting="unsafe")
        if not max(float(values[here].max()), -float(values[here].min())) <= LARGEST_TARGET:
            raise ValueError(f"coefficients of more than {LARGEST_TARGET} half steps, or not numbers")
        targets[here] = choice.shrunk(values[here], of, tail, model.first) if aware else values[here]
        np.multiply(of, 512, out=prices[here], dtype=np.int32)
        prices[here] += choice.price_list(tail)
        position = here.stop
    served = model.served(classes)
    order = _served_first(served)
    count = int(np.count_nonzero(served))
    if order is not None:
        classes, table_rows, values = classes.take(order), table_rows.take(order), values.take(order)
        targets, prices = targets.take(order), prices.take(order)
    lanes = rows.lane_count(classes.size)
    whole = np.empty(classes.size, np.int32)
    halves = np.zeros(classes.size, np.uint8)
    if count:
        whole[:count], halves[:count] = choice.search(
            targets[:count], values[:count], prices[:count], lanes, model.state_bits, aware=aware
        )
    whole[count:] = np.rint(targets[count:] * np.float32(0.5))
    del targets, values, prices
    segment = _settled(whole, halves, classes, table_rows, model)
    whole <<= 1
    whole += halves
    if order is not None:
        restored = np.empty_like(whole)
        restored[order] = whole
        whole = restored
    _write(cut, whole)
    return segment


def _served_first(served: NDArray[np.bool_]) -> NDArray[np.intp] | None:
    """The order of the symbols in which those that are served come first; None where it is their own."""
    others = np.flatnonzero(~served)
    return np.concatenate([np.flatnonzero(served), others]) if 0 < others.size < served.size else None


def _settled(
    whole: NDArray[np.int32],
    halves: NDArray[np.uint8],
    classes: NDArray[np.uint8],
    table_rows: NDArray[np.uint16],
    model: Model,
) -> Segment:
    """A segment of symbols j and their quantiser bits; the rows become those of the bits."""
    raw = _pack_raw(whole, classes) if classes.max() >= tables.WIDE_CLASS else b""
    if native is not None:
        symbols, suspect = np.empty(whole.size, np.uint8), np.empty(whole.size, bool)
        found = whole, halves, classes, table_rows, tables.RAW_BITS, model.lacks, tables.WIDE_CLASS
        native.settle(*found, symbols, suspect)
        suspects = np.flatnonzero(suspect)
    else:
        table_rows += halves & (classes < tables.WIDE_CLASS)
        short = whole >> tables.RAW_BITS.take(classes) if raw else whole
        symbols = (np.clip(short, -127, 126) + tables.ZERO).astype(np.uint8)
        suspects = np.flatnonzero(model.lacks[table_rows, symbols] | (symbols == 1) | (symbols == 254))
    short = whole[suspects] >> tables.RAW_BITS.take(classes[suspects])
    beyond = (short < -127) | (short > 126)
    return Segment(symbols, table_rows, raw, suspects, whole[suspects], beyond)


def escape(segment: Segment, frequencies: NDArray[np.int64]) -> NDArray[np.int32]:
    """Turns symbols without a frequency into escapes; returns what they stand for, halved."""
    at = segment.suspects
    missing = segment.beyond | (frequencies[segment.rows[at], segment.symbols[at]] == 0)
    escaped = segment.whole[missing]
    segment.symbols[at[missing]] = np.where(escaped & 1, 255, 0)
    halved: NDArray[np.int32] = escaped >> 1
    return halved


@dataclass(frozen=True, slots=True)
class CodedSegment:
    """A segment that has been cut out of its chunk, not yet decoded.

    Attributes:
        cut: what it holds.
        classes: of its coefficients, in C order.
        raw: the bytes of the raw bits.
        stream: the symbols.
    """

    cut: Cut
    classes: NDArray[np.uint8]
    raw: memoryview
    stream: rows.Stream


def read(reader: ByteReader, cut: Cut) -> CodedSegment:
    """The segment that begins where `reader` stands.

    Raises:
        DamagedError: it is cut off or badly padded.
    """
    classes = classes_of(cut)
    raw = memoryview(b"")
    if classes.max() >= tables.WIDE_CLASS:
        total = int(tables.RAW_BITS.take(classes).sum(dtype=np.int64))
        raw = reader.take((total + 7) // 8)
        if raw[-1] & ((1 << -total % 8) - 1):
            raise DamagedError("the raw bits are padded with something else than zeros")
    return CodedSegment(cut, classes, raw, rows.read(reader, classes.size))


def decode(
    segment: CodedSegment, model: Model, table: NDArray[np.uint32]
) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Fills the parts of a segment, `table` being `lanes.lookup` of the rows.

    Returns:
        Places of the escaped symbols in the order of the stream, and a mark for each: its quantiser bit in
        bit 1 and its parity in bit 0; to be given to `put`.

    Raises:
        DamagedError: the stream does not hold exactly this segment.
    """
    integers = (_integers_in_numpy if native is None else _integers_natively)(segment, model, table)
    places = np.flatnonzero(integers < _MARKED)
    marks = integers[places]
    integers[places] = 0
    bound = 2 * LARGEST_SYMBOL
    if len(segment.raw) and not (-bound <= int(integers.min()) and int(integers.max()) <= bound + 1):
        raise DamagedError("a coefficient is out of the quantiser's range")
    _write(segment.cut, integers)
    order = _served_first(model.served(segment.classes[places]))
    return (places, marks) if order is None else (places[order], marks[order])


def put(cut: Cut, places: NDArray[np.intp], marks: NDArray[np.int32], halved: NDArray[np.int32]) -> None:
    """Writes escaped symbols into the parts, see `decode` and `escape`.

    Raises:
        DamagedError: one is too large.
    """
    whole = halved.astype(np.int64) << 1 | marks & 1
    if np.abs(whole).max(initial=0) > LARGEST_SYMBOL:
        raise DamagedError("a coefficient is out of the quantiser's range")
    integers = (2 * whole + (marks >> 1 & 1)).astype(np.int32)
    position = 0
    for part, start, end in cut:
        here = (places >= position) & (places < position + end - start)
        half_step = part.values.dtype.type(part.step / 2)
        with np.errstate(over="ignore"):  # only where a file was made to do so
            part.values[places[here] - position + start] = integers[here].astype(half_step.dtype) * half_step
        position += end - start


def _integers_natively(segment: CodedSegment, model: Model, table: NDArray[np.uint32]) -> NDArray[np.int32]:
    """The integers in half steps, in C order; escaped ones are marked, see `decode`."""
    integers, stream = np.empty(segment.classes.size, np.int32), segment.stream
    ends = np.cumsum([end - start for _, start, end in segment.cut])
    bases = np.array([model.row_base(part.scales.shape) for part, _, _ in segment.cut], np.uint16)
    state = stream.state.copy()
    moves = trellis.moves(model.state_bits) if model.state_bits else b""
    position = native.decode_segment(  # type: ignore[union-attr]
        stream.words, state, segment.classes, tables.row_of_class(model.first), bases, ends, table, moves,
        tables.RAW_BITS, segment.raw, tables.FIRST_SERVED, tables.WIDE_CLASS,
        rows.step_count(segment.classes.size) - stream.drained, integers,
    )  # fmt: skip
    rows.check_end(stream, state, position)
    return integers


def _integers_in_numpy(segment: CodedSegment, model: Model, table: NDArray[np.uint32]) -> NDArray[np.int32]:
    """What `_integers_natively` gives."""
    classes = segment.classes
    pieces = np.split(classes, np.cumsum([end - start for _, start, end in segment.cut])[:-1])
    table_rows = np.concatenate(
        [
            model.rows(part.scales.shape, piece)
            for (part, _, _), piece in zip(segment.cut, pieces, strict=True)
        ]
    )
    served = model.served(classes)
    order, count = _served_first(served), int(np.count_nonzero(served))
    if order is not None:
        classes, table_rows = classes.take(order), table_rows.take(order)
    raw_bits = tables.RAW_BITS.take(classes)
    low = _unpack_raw(segment.raw, raw_bits) if len(segment.raw) else None
    walk = None
    if count:
        narrow = (classes[:count] < tables.WIDE_CLASS).astype(np.uint8)
        parity = None if low is None else np.where(raw_bits[:count] > 0, low[:count] & 1, 2).astype(np.uint8)
        walk = rows.Trellis(model.state_bits, count, narrow, parity)
    symbols, halves = rows.decode(segment.stream, table_rows, table, walk)
    integers = symbols.astype(np.int32)
    integers -= tables.ZERO
    if low is not None:
        integers <<= raw_bits
        integers |= low
    integers <<= 1
    integers[:count] += halves
    missing = np.flatnonzero((symbols == 0) | (symbols == 255))
    if missing.size:
        marks = (symbols[missing] & 1).astype(np.int32)
        marks[missing < count] |= halves[missing[missing < count]].astype(np.int32) << 1
        integers[missing] = marks + np.iinfo(np.int32).min
    if order is None:
        return integers
    restored = np.empty_like(integers)
    restored[order] = integers
    return restored


def _write(cut: Cut, integers: NDArray[np.int32]) -> None:
    """Restored values from their integers in half steps, into the parts."""
    position = 0
    for part, start, end in cut:
        half_step = part.values.dtype.type(part.step / 2)
        here, out = integers[position : position + end - start], part.values[start:end]
        with np.errstate(over="ignore"):  # only where a file was made to do so
            np.multiply(here, half_step, out=out, dtype=out.dtype, casting="unsafe")
        position += end - start


def _pack_raw(whole: NDArray[np.int32], classes: NDArray[np.uint8]) -> bytes:
    raw_bits = tables.RAW_BITS.take(classes)
    # Neither a histogram nor a mask as an index, during which numpy lets no other thread run.
    places = [np.flatnonzero(raw_bits == width) for width in range(1, int(raw_bits.max()) + 1)]
    pieces = [pack_fields(whole.take(found), width) for width, found in enumerate(places, 1) if found.size]
    return np.packbits(np.concatenate(pieces)).tobytes()


def _unpack_raw(raw: memoryview, raw_bits: NDArray[np.uint8]) -> NDArray[np.int32]:
    bits = np.unpackbits(np.frombuffer(raw, np.uint8))
    low = np.zeros(raw_bits.size, np.int32)
    position = 0
    for width in np.flatnonzero(np.bincount(raw_bits)).tolist():
        if width:
            chosen = raw_bits == width
            end = position + width * int(np.count_nonzero(chosen))
            low[chosen] = unpack_fields(bits[position:end], width)
            position = end
    return low
