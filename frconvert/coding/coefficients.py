"""Quantised coefficients of known scale as bytes: the coded form of most tensors.

One or more tensors are coded one after another, their coefficients in C order, as one sequence. Layout:

  bits of the trellis state (one byte, 0 for the uniform quantiser);
  for each tensor the head of its scales (`scales.pack`);
  varint length and bytes of the values of all scale tables (`integers.encode`);
  varint number of explicit frequency tables, and for each varint row and the packed table;
  varint number, varint length and bytes of the escaped symbols, halved (`integers.encode`);
  for each segment of at most 2^20 symbols: its raw bits, its rANS stream (`rows.encode`).

In a segment the symbols that the trellis serves, those of class `FIRST_SERVED` and above, come before the
others; in either part they keep their order. Symbols of a class that is not served are rarely other than 0
and cost less than a bit; a trellis would only make them dearer. The raw bits are the low bits of the symbols
of wide classes, class by class of their number of raw bits, most significant bit first, padded with zeros.

A symbol j with quantiser bit q is restored as (j + q / 2) * step.

Law: `decode` gives what `encode` left in its `values`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import choice, integers, rows, scales, tables, trellis
from frconvert.coding.bits import ByteReader, pack_fields, unpack_fields, varint
from frconvert.coding.lanes import TOTAL
from frconvert.coding.portable import logarithm
from frconvert.coding.scales import Scales
from frconvert.errors import DamagedError

STATE_BITS = 7
SEGMENT = 1 << 20
LARGEST_TARGET = 1 << 20  # in half steps: beyond, float32 cannot tell the neighbours of a target apart
LARGEST_SYMBOL = LARGEST_TARGET  # magnitude; an encoder stays far below


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
class _Model:
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
        return np.concatenate([tables.rows_of_shape(tail, self.first) for tail in self.tails])

    @cached_property
    def lacks(self) -> NDArray[np.bool_]:
        """Where the built-in tables have no frequency, [row, symbol]."""
        lacking: NDArray[np.bool_] = self.frequencies == 0
        return lacking

    def rows(self, tail: int, classes: NDArray[np.uint8]) -> NDArray[np.uint16]:
        found = tables.row_of_class(self.first).take(classes)
        found += np.uint16(self.tails.index(tail) * tables.row_count(self.first))
        return found


def encode(parts: Sequence[Coded], state_bits: int = STATE_BITS, *, aware: bool = True) -> bytes:
    """Quantises and codes.

    Args:
        parts: the tensors, with magnitudes up to `LARGEST_TARGET` half steps; their values are overwritten.
        state_bits: of the trellis, or 0 for uniform quantisation.
        aware: weigh the bits that a symbol costs against its error; else every symbol is the nearest one.
    """
    model = _model(state_bits, [part.scales for part in parts])
    heads, values = [bytes([state_bits])], []
    for part in parts:
        head, tables_of_part = scales.pack(part.scales)
        heads.append(head)
        values += tables_of_part
    packed = integers.encode(np.concatenate(values)) if values else b""
    heads.append(varint(len(packed)) + packed)
    segments = [_quantise_segment(cut, model, aware=aware) for cut in _segments(parts)]
    frequencies = model.frequencies
    heads.append(_choose_tables(frequencies, model.half_way, segments))
    escapes = [_escape(segment, frequencies) for segment in segments]
    escaped = np.concatenate(escapes) if escapes else np.empty(0, np.int32)
    packed = integers.encode(escaped)
    heads.append(varint(escaped.size) + varint(len(packed)) + packed)
    streams = [segment.raw + rows.encode(segment.symbols, segment.rows, frequencies) for segment in segments]
    return b"".join(heads + streams)


def decode(
    payload: bytes | memoryview,
    shapes: Sequence[tuple[int, ...]],
    steps: Sequence[float],
    dtypes: Sequence[type[np.floating]],
) -> list[Coded]:
    """All tensors, their coefficients of the given float types.

    Raises:
        DamagedError: the payload does not decode to exactly these tensors.
    """
    reader = ByteReader(payload)
    total = sum(prod(shape) for shape in shapes)
    if 4 * (total // rows.SYMBOLS_PER_LANE) > len(reader.data):  # each lane's state takes four bytes
        raise DamagedError(f"{len(reader.data)} bytes cannot hold {total} coefficients")
    state_bits = reader.take(1)[0]
    if state_bits and state_bits not in trellis.POLYNOMIALS:
        raise DamagedError(f"a trellis of {state_bits} state bits")
    found = _read_scales(reader, shapes)
    model = _model(state_bits, found)
    frequencies = _read_tables(reader, model)
    count = reader.varint()
    if count > total:
        raise DamagedError(f"{count} escaped symbols")
    escapes = integers.decode(reader.take(reader.varint()), count)
    parts = [
        Coded(np.empty(prod(shape), dtype), shape, step, scale)
        for shape, step, dtype, scale in zip(shapes, steps, dtypes, found, strict=True)
    ]
    used = 0
    for cut in _segments(parts):
        used = _decode_segment(reader, cut, model, frequencies, escapes, used)
    if used != count or len(reader.rest()):
        raise DamagedError("escaped symbols or bytes are left over")
    return parts


def measure(
    values: NDArray[np.floating], scale: Scales, state_bits: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bits and squared error of each value of a small tensor at step 1, with the built-in tables."""
    part = Coded(values.reshape(-1).copy(), values.shape, 1.0, scale)
    model = _model(state_bits, [scale])
    segment = _quantise_segment([(part, 0, values.size)], model, aware=bool(state_bits))
    frequency = model.frequencies[segment.rows, segment.symbols]
    found = np.where(frequency > 0, logarithm(TOTAL / np.maximum(frequency, 1)), 24.0)
    classes = scales.classes(scale, values.shape).reshape(-1)
    served = model.served(classes)
    bits = np.empty(values.size)
    count = int(np.count_nonzero(served))
    bits[served], bits[~served] = found[:count], found[count:]
    bits += tables.RAW_BITS.take(classes)
    return bits.reshape(values.shape), np.square(part.values.reshape(values.shape) - values)


_Cut = list[tuple[Coded, int, int]]  # a part and the range of it that a segment holds


def _segments(parts: Sequence[Coded]) -> list[_Cut]:
    cuts: list[_Cut] = []
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


def _model(state_bits: int, found: Sequence[Scales]) -> _Model:
    return _Model(state_bits, tuple(sorted({scale.shape for scale in found})))


def _read_scales(reader: ByteReader, shapes: Sequence[tuple[int, ...]]) -> list[Scales]:
    heads = [scales.read_head(reader, shape) for shape in shapes]
    lengths = [
        length
        for (_, _, modes), shape in zip(heads, shapes, strict=True)
        for mode, length in zip(modes, shape, strict=True)
        if mode
    ]
    values = integers.decode(reader.take(reader.varint()), sum(lengths))
    pieces = iter(np.split(values, np.cumsum(lengths)[:-1])) if lengths else iter(())
    return [
        scales.from_values(tail, base, modes, [next(pieces) for mode in modes if mode])
        for tail, base, modes in heads
    ]


def _classes(cut: _Cut) -> NDArray[np.uint8]:
    return np.concatenate(
        [scales.classes_of_range(part.scales, part.shape, start, end) for part, start, end in cut]
    )


@dataclass(slots=True)
class _Segment:
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


def _quantise_segment(cut: _Cut, model: _Model, *, aware: bool) -> _Segment:
    classes = _classes(cut)
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
        prices[here] = choice.price_list(tail) + 512 * of.astype(np.int32)
        position = here.stop
    served = model.served(classes)
    count = int(np.count_nonzero(served))
    permuted = 0 < count < classes.size
    if permuted:
        arrays = classes, table_rows, values, targets, prices
        classes, table_rows, values, targets, prices = (_served_first(array, served) for array in arrays)
    lanes = rows.lane_count(classes.size)
    whole = np.empty(classes.size, np.int32)
    halves = np.zeros(classes.size, np.uint8)
    if count:
        whole[:count], halves[:count] = choice.search(
            targets[:count], values[:count], prices[:count], lanes, model.state_bits, aware=aware
        )
    whole[count:] = np.rint(targets[count:] * np.float32(0.5))
    del targets, values, prices
    raw_bits = tables.RAW_BITS.take(classes)
    raw = _pack_raw(whole, raw_bits)
    table_rows += halves & (classes < tables.WIDE_CLASS)
    short = whole >> raw_bits if raw_bits.any() else whole
    symbols = (np.clip(short, -127, 126) + tables.ZERO).astype(np.uint8)
    suspects = np.flatnonzero(model.lacks[table_rows, symbols] | (symbols == 1) | (symbols == 254))
    beyond = (short[suspects] < -127) | (short[suspects] > 126)
    segment = _Segment(symbols, table_rows, raw, suspects, whole[suspects], beyond)
    del short
    whole <<= 1
    whole += halves
    _write_back(cut, whole, served if permuted else None)
    return segment


def _choose_tables(
    frequencies: NDArray[np.int64], half_way: NDArray[np.bool_], segments: Sequence[_Segment]
) -> bytes:
    """Replaces rows of `frequencies` where an own table makes the file shorter; returns these tables."""
    counts = np.zeros(frequencies.size, np.int64)
    for segment in segments:
        for low in range(0, segment.rows.size, 1 << 20):
            part = slice(low, low + (1 << 20))
            index = segment.rows[part].astype(np.int32) * tables.ALPHABET + segment.symbols[part]
            counts += np.bincount(index, minlength=counts.size)
        escaping = segment.suspects[segment.beyond]
        place = segment.rows[escaping].astype(np.int32) * tables.ALPHABET
        np.subtract.at(counts, place + segment.symbols[escaping], 1)
        np.add.at(counts, place, 1)
    packed = []
    for row, found in enumerate(counts.reshape(frequencies.shape)):
        if found.any():
            folded = tables.fold(found, half_way=bool(half_way[row]))
            own = tables.symmetric(folded, half_way=bool(half_way[row]))
            data = varint(row) + tables.pack(own)
            if _cost_bits(found, own) + 8 * len(data) < _cost_bits(found, frequencies[row]):
                frequencies[row] = own
                packed.append(data)
    return varint(len(packed)) + b"".join(packed)


def _cost_bits(counts: NDArray[np.int64], frequencies: NDArray[np.int64]) -> float:
    used = np.flatnonzero(counts)
    price = np.where(frequencies[used] > 0, logarithm(TOTAL / np.maximum(frequencies[used], 1)), 24.0)
    return float(counts[used] @ price)


def _read_tables(reader: ByteReader, model: _Model) -> NDArray[np.int64]:
    frequencies, half_way = model.frequencies, model.half_way
    latest = -1
    for _ in range(reader.varint()):
        row = reader.varint()
        if not latest < row < len(frequencies):
            raise DamagedError(
                f"a frequency table for row {row} of {len(frequencies)} after that of {latest}"
            )
        latest = row
        frequencies[row] = tables.unpack(reader, half_way=bool(half_way[row]))
    return frequencies


def _escape(segment: _Segment, frequencies: NDArray[np.int64]) -> NDArray[np.int32]:
    """Turns symbols without a frequency into escapes; returns what they stand for, halved."""
    at = segment.suspects
    missing = segment.beyond | (frequencies[segment.rows[at], segment.symbols[at]] == 0)
    escaped = segment.whole[missing]
    segment.symbols[at[missing]] = np.where(escaped & 1, 255, 0)
    halved: NDArray[np.int32] = escaped >> 1
    return halved


def _decode_segment(
    reader: ByteReader,
    cut: _Cut,
    model: _Model,
    frequencies: NDArray[np.int64],
    escapes: NDArray[np.int32],
    used: int,
) -> int:
    classes = _classes(cut)
    table_rows = np.empty(classes.size, np.uint16)
    position = 0
    for part, start, end in cut:
        here = slice(position, position + end - start)
        table_rows[here] = model.rows(part.scales.shape, classes[here])
        position = here.stop
    served = model.served(classes)
    count = int(np.count_nonzero(served))
    permuted = 0 < count < classes.size
    if permuted:
        classes, table_rows = _served_first(classes, served), _served_first(table_rows, served)
    raw_bits = tables.RAW_BITS.take(classes)
    low = _unpack_raw(reader, raw_bits) if raw_bits.any() else None
    walk = None
    if count:
        narrow = (classes[:count] < tables.WIDE_CLASS).astype(np.uint8)
        parity = None if low is None else np.where(raw_bits[:count] > 0, low[:count] & 1, 2).astype(np.uint8)
        walk = rows.Trellis(model.state_bits, count, narrow, parity)
    symbols, halves = rows.decode(reader, table_rows, frequencies, walk)
    whole = symbols.astype(np.int32)
    whole -= tables.ZERO
    if low is not None:
        whole <<= raw_bits
        whole |= low
    missing = np.flatnonzero((symbols == 0) | (symbols == 255))
    if missing.size:
        taken = escapes[used : used + missing.size]
        if taken.size != missing.size:
            raise DamagedError("more symbols are escaped than there are escaped values")
        whole[missing] = (taken << 1) | (symbols[missing] & 1)
    if (missing.size or low is not None) and max(int(whole.max()), -int(whole.min())) > LARGEST_SYMBOL:
        raise DamagedError("a coefficient is out of the quantiser's range")
    whole <<= 1
    whole[:count] += halves
    _write_back(cut, whole, served if permuted else None)
    return used + missing.size


def _served_first(array: NDArray[Any], served: NDArray[np.bool_]) -> NDArray[Any]:
    return np.concatenate([array[served], array[~served]])


def _write_back(cut: _Cut, integers_: NDArray[np.int32], served: NDArray[np.bool_] | None) -> None:
    """Restored values from their integers in half steps, into the parts."""
    if served is not None:
        restored = np.empty_like(integers_)
        count = int(np.count_nonzero(served))
        restored[served], restored[~served] = integers_[:count], integers_[count:]
        integers_ = restored
    position = 0
    for part, start, end in cut:
        half_step = part.values.dtype.type(part.step / 2)
        here = integers_[position : position + end - start]
        with np.errstate(over="ignore"):  # only where a file was made to do so
            np.multiply(here, half_step, out=part.values[start:end], casting="unsafe")
        position += end - start


def _pack_raw(whole: NDArray[np.int32], raw_bits: NDArray[np.uint8]) -> bytes:
    widths = np.unique(raw_bits).tolist()
    pieces = [pack_fields(whole[raw_bits == width], width) for width in widths if width]
    return np.packbits(np.concatenate(pieces)).tobytes() if pieces else b""


def _unpack_raw(reader: ByteReader, raw_bits: NDArray[np.uint8]) -> NDArray[np.int32]:
    total = int(raw_bits.sum(dtype=np.int64))
    bits = np.unpackbits(np.frombuffer(reader.take((total + 7) // 8), np.uint8))
    if bits[total:].any():
        raise DamagedError("the raw bits are padded with something else than zeros")
    low = np.zeros(raw_bits.size, np.int32)
    position = 0
    for width in np.unique(raw_bits).tolist():
        if width:
            chosen = raw_bits == width
            end = position + width * int(np.count_nonzero(chosen))
            low[chosen] = unpack_fields(bits[position:end], width)
            position = end
    return low
