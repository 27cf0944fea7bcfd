"""A sequence of signed integers as bytes: the coded form of quantised coefficients.

Layout: varint start of the running mean; one byte, the largest token; varint number of explicit tables, then
each as class byte and packed table; the rANS stream of the tokens; raw bits. The raw bits are the signs of
the non-zero values in order (1 is negative), then for each width 1, 2, ... the extra bits of the tokens of
that width in order, all most significant bit first, padded with zeros to a byte.

Law: decode(encode(values), values.size) == values for |values| <= MAXIMUM_MAGNITUDE.
"""

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import rans
from frconvert.coding.bits import ByteReader, pack_fields, pack_table, unpack_fields, unpack_table, varint
from frconvert.coding.models import (
    CLASSES,
    TOKEN_EXTRA_BITS,
    TOKEN_LOW,
    TOKENS,
    adaptation,
    built_in_table,
    normalise,
    tokens_of,
)
from frconvert.errors import DamagedError


def encode(values: NDArray[np.int32]) -> bytes:
    """Bytes of a 1-D sequence; empty for an empty one."""
    if not values.size:
        return b""
    magnitudes = np.abs(values).astype(np.int64)
    tokens = tokens_of(magnitudes)
    alphabet = max(int(tokens.max()) + 1, 2)
    grid = rans.to_lanes(tokens)
    # The mean over the first symbols of a few lanes is as good a start as any, and costs two bytes.
    rule = adaptation(0)
    start = int(rule.pull[grid[:16]].mean())
    contexts = rans.trace_contexts(grid, adaptation(start))
    histogram = np.bincount(
        (contexts.astype(np.intp) * alphabet + grid).reshape(-1), minlength=CLASSES * alphabet
    )
    tables, explicit = _choose_tables(histogram.reshape(CLASSES, alphabet))
    head = varint(start) + bytes([alphabet - 1]) + varint(len(explicit)) + b"".join(explicit)
    return head + rans.encode(grid, contexts, tables) + _pack_raw(values, magnitudes, tokens).tobytes()


def decode(payload: bytes | memoryview, count: int) -> NDArray[np.int32]:
    """The `count` values of a payload.

    Raises:
        DamagedError: the payload does not decode to exactly that many values.
    """
    if not count:
        if len(payload):
            raise DamagedError("bytes where no values are")
        return np.empty(0, np.int32)
    reader = ByteReader(payload)
    start = reader.varint()
    alphabet = reader.take(1)[0] + 1
    if start > 0xFFFF or not 2 <= alphabet <= TOKENS:
        raise DamagedError("the entropy model's parameters are out of range")
    tables = np.stack([built_in_table(context, alphabet) for context in range(CLASSES)])
    for _ in range(reader.varint()):
        context = reader.take(1)[0]
        if context >= CLASSES:
            raise DamagedError(f"a frequency table for class {context} of {CLASSES}")
        tables[context] = unpack_table(reader, alphabet)
    tokens = rans.decode(reader, count, tables, adaptation(start))
    return _unpack_raw(tokens, np.frombuffer(reader.rest(), np.uint8))


def _choose_tables(histogram: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[bytes]]:
    """Per class the built-in or an explicit table, whichever makes the file shorter."""
    alphabet = histogram.shape[1]
    tables = np.stack([built_in_table(context, alphabet) for context in range(CLASSES)])
    explicit = []
    for context in np.flatnonzero(histogram.sum(axis=1)):
        counts = histogram[context]
        own = normalise(counts)
        packed = bytes([context]) + pack_table(own)
        if _cost_bits(counts, own) + 8 * len(packed) < _cost_bits(counts, tables[context]):
            tables[context] = own
            explicit.append(packed)
    return tables, explicit


def _cost_bits(counts: NDArray[np.int64], frequencies: NDArray[np.int64]) -> float:
    used = counts > 0
    return float(-(counts[used] * np.log2(frequencies[used] / rans.TOTAL)).sum())


def _pack_raw(
    values: NDArray[np.int32], magnitudes: NDArray[np.int64], tokens: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    pieces = [(values[values != 0] < 0).astype(np.uint8)]
    large = np.flatnonzero(tokens >= TOKEN_EXTRA_BITS.searchsorted(1))
    widths = TOKEN_EXTRA_BITS[tokens[large]]
    rest = magnitudes[large] - TOKEN_LOW[tokens[large]]
    pieces += [pack_fields(rest[widths == width], int(width)) for width in np.unique(widths)]
    return np.packbits(np.concatenate(pieces))


def _unpack_raw(tokens: NDArray[np.uint8], raw: NDArray[np.uint8]) -> NDArray[np.int32]:
    values = TOKEN_LOW.astype(np.int32)[tokens]
    nonzero = np.flatnonzero(values)
    large = np.flatnonzero(tokens >= TOKEN_EXTRA_BITS.searchsorted(1))
    widths = TOKEN_EXTRA_BITS[tokens[large]]
    needed = nonzero.size + int(widths.sum())
    if raw.size != (needed + 7) // 8:
        raise DamagedError(f"{(needed + 7) // 8} bytes of raw bits expected, {raw.size} found")
    bits = np.unpackbits(raw)
    if bits[needed:].any():
        raise DamagedError("the raw bits are padded with something else than zeros")
    position = nonzero.size
    for width in np.unique(widths).tolist():
        chosen = large[widths == width]
        values[chosen] += unpack_fields(bits[position : position + width * chosen.size], width).astype(
            np.int32
        )
        position += width * chosen.size
    values[nonzero] *= 1 - 2 * bits[: nonzero.size].astype(np.int32)
    return values
