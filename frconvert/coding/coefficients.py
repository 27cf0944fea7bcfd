"""Quantised coefficients of known scale as bytes: the coded form of most tensors.

One or more tensors are coded one after another, their coefficients in C order, as one sequence. Layout:

  bits of the trellis state (one byte, 0 for the uniform quantiser);
  for each tensor the head of its scales (`scales.pack`);
  varint length and bytes of the values of all scale tables (`integers.encode`);
  varint number of explicit frequency tables, and for each varint row and the packed table;
  varint number, varint length and bytes of the escaped symbols, halved (`integers.encode`);
  for each segment of at most 2^20 symbols (`segments`): its raw bits, its rANS stream (`rows.encode`).

Law: `decode` gives what `encode` left in its `values`.
"""

from collections.abc import Sequence
from functools import partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import integers, rows, scales, segments, tables, trellis
from frconvert.coding.bits import ByteReader, varint
from frconvert.coding.lanes import TOTAL, lookup
from frconvert.coding.portable import logarithm
from frconvert.coding.scales import Scales
from frconvert.coding.segments import LARGEST_TARGET, Coded, Model, Segment
from frconvert.errors import DamagedError
from frconvert.parallel import shared_map

__all__ = ["LARGEST_TARGET", "STATE_BITS", "Coded", "decode", "encode", "measure"]

STATE_BITS = 7


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
    cuts = segments.cuts_of(parts)
    quantised = shared_map(partial(segments.quantise, model=model, aware=aware), cuts)
    frequencies = model.frequencies
    heads.append(_choose_tables(frequencies, model.half_way, quantised))
    escapes = [segments.escape(segment, frequencies) for segment in quantised]
    escaped = np.concatenate(escapes) if escapes else np.empty(0, np.int32)
    packed = integers.encode(escaped)
    heads.append(varint(escaped.size) + varint(len(packed)) + packed)
    streams = shared_map(
        lambda segment: segment.raw + rows.encode(segment.symbols, segment.rows, frequencies), quantised
    )
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
    coded = [segments.read(reader, cut) for cut in segments.cuts_of(parts)]
    if len(reader.rest()):
        raise DamagedError("bytes are left over")
    table = lookup(frequencies)
    escaped = shared_map(partial(segments.decode, model=model, table=table), coded)
    if sum(places.size for places, _ in escaped) != count:
        raise DamagedError("there are not as many escaped symbols as escaped values")
    used = 0
    for segment, (places, marks) in zip(coded, escaped, strict=True):
        if places.size:
            segments.put(segment.cut, places, marks, escapes[used : used + places.size])
        used += places.size
    return parts


def measure(
    values: NDArray[np.floating], scale: Scales, state_bits: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bits and squared error of each value of a small tensor at step 1, with the built-in tables."""
    part = Coded(values.reshape(-1).copy(), values.shape, 1.0, scale)
    model = _model(state_bits, [scale])
    segment = segments.quantise([(part, 0, values.size)], model, aware=bool(state_bits))
    frequency = model.frequencies[segment.rows, segment.symbols]
    found = np.where(frequency > 0, logarithm(TOTAL / np.maximum(frequency, 1)), 24.0)
    classes = scales.classes(scale, values.shape).reshape(-1)
    served = model.served(classes)
    bits = np.empty(values.size)
    count = int(np.count_nonzero(served))
    bits[served], bits[~served] = found[:count], found[count:]
    bits += tables.RAW_BITS.take(classes)
    return bits.reshape(values.shape), np.square(part.values.reshape(values.shape) - values)


def _model(state_bits: int, found: Sequence[Scales]) -> Model:
    return Model(state_bits, tuple(sorted({scale.shape for scale in found})))


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


def _choose_tables(
    frequencies: NDArray[np.int64], half_way: NDArray[np.bool_], quantised: Sequence[Segment]
) -> bytes:
    """Replaces rows of `frequencies` where an own table makes the file shorter; returns these tables."""
    counts = np.zeros(frequencies.size, np.int64)
    for segment in quantised:
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


def _read_tables(reader: ByteReader, model: Model) -> NDArray[np.int64]:
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
