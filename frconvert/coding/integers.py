"""A sequence of signed integers as bytes: the coded form of quantised coefficients.

Layout: varint start of the running mean; one byte, the largest token; varint number of explicit tables, then
each as class byte and packed table; the stream of the tokens (`lanes`); raw bits. The raw bits are the signs
of the non-zero values in order (1 is negative), then for each width 1, 2, ... the extra bits of the tokens of
that width in order, all most significant bit first, padded with zeros to a byte. As many of their bytes as
the lanes can carry are carried there, and not repeated.

Law: decode(encode(values), values.size) == values for |values| <= MAXIMUM_MAGNITUDE.
"""

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import lanes
from frconvert.coding.bits import ByteReader, pack_fields, pack_table, unpack_fields, unpack_table, varint
from frconvert.coding.models import (
    CLASSES,
    TOKEN_EXTRA_BITS,
    TOKEN_LOW,
    TOKENS,
    Adaptation,
    adaptation,
    built_in_table,
    normalise,
    tokens_of,
)
from frconvert.coding.portable import logarithm
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
    grid = lanes.to_grid(tokens)
    # The mean over the first symbols of every lane is as good a start as any, and costs two bytes.
    start = int(adaptation(0).pull[grid[: min(16, tokens.size // grid.shape[1])]].mean())
    contexts = _trace(grid, adaptation(start))
    tables, explicit = _choose_tables(_histogram(contexts, grid, tokens.size, alphabet))
    head = varint(start) + bytes([alphabet - 1]) + varint(len(explicit)) + b"".join(explicit)
    room = lanes.capacity(tokens.size)
    wide = np.zeros((CLASSES, 256), np.int64)
    wide[:, :alphabet] = tables
    row_of = np.arange(CLASSES, dtype=np.intp) * 256
    stream = lanes.encode(grid, contexts, row_of, wide, tokens.size, raw[:room].ljust(room, b"\0"))
    return b"".join([head, stream, raw[room:]])


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
    latest = -1
    for _ in range(reader.varint()):
        context = reader.take(1)[0]
        if not latest < context < CLASSES:
            raise DamagedError(f"a frequency table for class {context} of {CLASSES} after that of {latest}")
        latest = context
        tables[context] = unpack_table(reader, alphabet)
    decoder = lanes.Decoder(reader, count, tables)
    rule = adaptation(start)
    pull = np.zeros(256, np.int32)
    pull[: rule.pull.size] = rule.pull
    decoder.run_running(lanes.Mean(pull, rule.class_of.astype(np.uint16), 0, 4, start))
    tokens, carried = decoder.finish()
    return _unpack_raw(tokens, carried, np.frombuffer(reader.rest(), np.uint8))


def _trace(grid: NDArray[np.uint8], rule: Adaptation) -> NDArray[np.uint8]:
    """Class of every symbol of `grid` [steps, lanes] as the decoder will derive it."""
    contexts = np.empty(grid.shape, np.uint8)
    mean = np.full(grid.shape[1], rule.start, np.int32)
    for step, symbols in enumerate(grid):
        rule.class_of.take(mean, out=contexts[step], mode="clip")
        mean += (rule.pull.take(symbols, mode="clip") - mean) >> 4
    return contexts


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
    return float(-(counts[used] * logarithm(frequencies[used] / lanes.TOTAL)).sum())


def _histogram(
    contexts: NDArray[np.uint8], grid: NDArray[np.uint8], count: int, alphabet: int
) -> NDArray[np.int64]:
    """How often each class has each token; in blocks, as bincount widens its input."""
    counts = np.zeros(CLASSES * alphabet, np.int64)
    symbols, classes = (
        grid.reshape(-1)[:count],
        contexts.reshape(-1)[:count],
    )  # without what fills the last step
    for first in range(0, count, _BLOCK):
        block = classes[first : first + _BLOCK].astype(np.intp) * alphabet + symbols[first : first + _BLOCK]
        counts += np.bincount(block, minlength=counts.size)
    return counts.reshape(CLASSES, alphabet)


def _pack_raw(values: NDArray[np.int32], magnitudes: NDArray[np.int32], tokens: NDArray[np.uint8]) -> bytes:
    pieces = [(values[magnitudes > 0] < 0).astype(np.uint8)]
    large = np.flatnonzero(tokens >= _FIRST_WIDE)
    wide = tokens[large]
    widths = _WIDTH[wide]
    rest = magnitudes[large] - _LOW[wide]
    pieces += [pack_fields(rest[widths == width], int(width)) for width in np.unique(widths)]
    return np.packbits(np.concatenate(pieces)).tobytes()


def _unpack_raw(tokens: NDArray[np.uint8], carried: bytes, rest: NDArray[np.uint8]) -> NDArray[np.int32]:
    values = _LOW[tokens]
    nonzero = tokens > 0
    signs = int(np.count_nonzero(nonzero))
    large = np.flatnonzero(tokens >= _FIRST_WIDE)
    widths = _WIDTH[tokens[large]]
    needed = signs + int(widths.sum(dtype=np.int64))
    expected = (needed + 7) // 8
    inside = min(len(carried), expected)
    if rest.size != expected - inside or any(carried[inside:]):
        raise DamagedError(f"{expected} bytes of raw bits expected, {inside + rest.size} found")
    bits = np.unpackbits(np.concatenate([np.frombuffer(carried[:inside], np.uint8), rest]))
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
