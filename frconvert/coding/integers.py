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

_LOW, _WIDTH = TOKEN_LOW.astype(np.int32), TOKEN_EXTRA_BITS.astype(np.uint8)
_FIRST_WIDE = int(np.flatnonzero(_WIDTH)[0])  # the first token with extra bits
_BLOCK = 1 << 20


def encode(values: NDArray[np.int32]) -> bytes:
    """Bytes of a 1-D sequence; empty for an empty one."""
    if not values.size:
        return b""
    magnitudes = np.abs(values)
    tokens = tokens_of(magnitudes)
    alphabet = max(int(tokens.max()) + 1, 2)
    raw = _pack_raw(values, magnitudes, tokens)
    del magnitudes
    grid = rans.to_lanes(tokens)
    # The mean over the first symbols of every lane is as good a start as any, and costs two bytes.
    start = int(adaptation(0).pull[grid[:16]].mean())
    contexts = rans.trace_contexts(grid, adaptation(start))
    tables, explicit = _choose_tables(_histogram(contexts, grid, alphabet))
    head = varint(start) + bytes([alphabet - 1]) + varint(len(explicit)) + b"".join(explicit)
    return b"".join([head, rans.encode(grid, contexts, tables), raw])


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


def _histogram(contexts: NDArray[np.uint8], grid: NDArray[np.uint8], alphabet: int) -> NDArray[np.int64]:
    """How often each class has each token; in blocks, as bincount widens its input."""
    counts = np.zeros(CLASSES * alphabet, np.int64)
    rows = max(1, _BLOCK // grid.shape[1])
    for first in range(0, len(grid), rows):
        block = contexts[first : first + rows].astype(np.intp) * alphabet + grid[first : first + rows]
        counts += np.bincount(block.reshape(-1), minlength=counts.size)
    return counts.reshape(CLASSES, alphabet)


def _pack_raw(values: NDArray[np.int32], magnitudes: NDArray[np.int32], tokens: NDArray[np.uint8]) -> bytes:
    pieces = [(values[magnitudes > 0] < 0).astype(np.uint8)]
    large = np.flatnonzero(tokens >= _FIRST_WIDE)
    wide = tokens[large]
    widths = _WIDTH[wide]
    rest = magnitudes[large] - _LOW[wide]
    pieces += [pack_fields(rest[widths == width], int(width)) for width in np.unique(widths)]
    return np.packbits(np.concatenate(pieces)).tobytes()


def _unpack_raw(tokens: NDArray[np.uint8], raw: NDArray[np.uint8]) -> NDArray[np.int32]:
    values = _LOW[tokens]
    nonzero = tokens > 0
    signs = int(np.count_nonzero(nonzero))
    large = np.flatnonzero(tokens >= _FIRST_WIDE)
    widths = _WIDTH[tokens[large]]
    needed = signs + int(widths.sum(dtype=np.int64))
    if raw.size != (needed + 7) // 8:
        raise DamagedError(f"{(needed + 7) // 8} bytes of raw bits expected, {raw.size} found")
    bits = np.unpackbits(raw)
    if bits[needed:].any():
        raise DamagedError("the raw bits are padded with something else than zeros")
    position = signs
    for width in np.unique(widths).tolist():
        chosen = large[widths == width]
        end = position + width * chosen.size
        values[chosen] += unpack_fields(bits[position:end], width)
        position = end
    negative = np.zeros(values.size, bool)
    negative[nonzero] = bits[:signs]
    np.negative(values, out=values, where=negative)
    return values
