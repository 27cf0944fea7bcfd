"""Vectors that break a rule of the coded content of chunks."""

from collections.abc import Iterator

import numpy as np
from assemble import Vector, chunks, columns, join

from frconvert.coding import coefficients, integers, lanes, sparse
from frconvert.coding.bits import pack_table, varint
from frconvert.coding.coefficients import Coded
from frconvert.coding.lanes import to_grid
from frconvert.coding.quantize import step_code
from frconvert.coding.scales import Scales

STEP = step_code(0.5).to_bytes(2, "little")


def stored(dtype: str, count: int, payload: bytes) -> bytes:
    """A file of one tensor of exact values."""
    shape = varint(1), varint(count)
    return join(columns(1, dtype, ranks=shape[0], shapes=shape[1]), [payload])


def quantised(kind: int, count: int, payload: bytes) -> bytes:
    """A file of one vector of kind 0, 1 or 2."""
    code = bytes([kind])
    shape = {"ranks": varint(1), "shapes": varint(count)}
    return join(columns(1, kinds=code, parameters=STEP, chunks=chunks((code, 1)), **shape), [payload])


def integers_piece(alphabet: int, *, shift: int, base: int, rest: bytes = b"", form: int = 2) -> bytes:
    """A split piece of integers."""
    word = b"\0" if base == 0 else bytes([1, base])
    return bytes([form, shift]) + word + bytes([alphabet]) + rest


def stream(symbols: np.ndarray, table: np.ndarray, carried: bytes = b"\0\0") -> bytes:
    """A lane stream of symbols by one table of 256 frequencies."""
    grid = to_grid(symbols)
    return lanes.encode(grid, np.zeros_like(grid), np.zeros(1, np.intp), table[None], symbols.size, carried)


def frequencies(*values: int) -> np.ndarray:
    """A row of 256."""
    return np.array(values + (0,) * (256 - len(values)), np.int64)


def coded() -> Iterator[Vector]:
    """Sections 2, 6 and 8 in chunks."""
    symbols = np.array([0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0], np.uint8)
    sound = frequencies(3000, 1096)
    packed, words = pack_table(sound), stream(symbols, sound)

    def piece(table: bytes, coded_words: bytes = words, alphabet: int = 1, starts: bytes = b"\0") -> bytes:
        return stored(
            "uint8", 12, integers_piece(alphabet, shift=0, base=0, rest=starts + table + coded_words)
        )

    yield (
        "table-sum",
        piece(pack_table(frequencies(3000, 1095))),
        "table",
        "frequencies that do not sum to 4096",
    )
    yield "table-certain", piece(pack_table(frequencies(4096))), "table", "a frequency of 4096"
    yield "table-order", piece(b"\1\0" + packed[2:]), "table", "a first symbol after the last"
    yield "table-alphabet", piece(b"\0\2" + packed[2:]), "table", "a symbol beyond the alphabet"
    yield "padding-table", piece(padded(packed)), "padding", "a table whose last byte is padded with a 1"
    yield (
        "short-table",
        stored("uint8", 12, integers_piece(1, shift=0, base=0, rest=b"\0\0\1\xcb")),
        "short",
        "a table that is cut off",
    )
    more = varint(words[0] + 1) + words[1:] + b"\0\0"
    yield "words-left", piece(packed, more), "words", "a word that is left over"
    long = np.tile(symbols, 20)
    all_words = stream(long, sound)
    count = all_words[0]
    fewer = varint(count - 1) + all_words[1:-2]
    yield (
        "words-few",
        stored("uint8", 240, integers_piece(1, shift=0, base=0, rest=b"\0" + packed + fewer)),
        "words",
        "a word too few",
    )
    flipped = words[:1] + bytes([words[1] ^ 64]) + words[2:]
    yield "words-end", piece(packed, flipped), "words", "a lane that does not end where it should"
    yield "short-words", piece(packed, words[:1] + words[1:3]), "short", "states that are cut off"
    yield "rest-piece", stored("uint8", 12, b"\0" + bytes(13)), "rest", "a byte after the last piece"
    yield "short-piece", stored("uint8", 12, b"\0" + bytes(11)), "short", "a byte too few"
    yield (
        "model-classes",
        piece(packed, words, starts=varint(1 << 31)),
        "model",
        "tables for more than 32 classes",
    )
    yield "model-rate", piece(b"\0\0" + packed * 2, starts=b"\1"), "model", "a running mean without a rate"
    yield (
        "model-first",
        piece(b"\1\2" + packed * 2, starts=b"\1"),
        "model",
        "a running mean that begins beyond the alphabet",
    )
    yield "bool", stored("bool", 3, b"\0\0\1\2"), "bool", "a bool of 2"
    yield "form-unknown", stored("uint8", 12, b"\7" + bytes(12)), "form", "a form that there is not"
    yield "form-raw-escapes", stored("uint8", 12, b"\x08" + bytes(12)), "form", "raw words with escapes"
    yield "form-float", stored("uint8", 12, b"\1" + bytes(12)), "form", "integers as floats"
    nested = b"\4" + varint(1) + b"\4" + varint(1) + b"\0\5" + b"\0\0" + b"\0" + bytes(12)
    yield "form-depth", stored("uint8", 12, nested), "form", "a dictionary in a dictionary"
    yield (
        "dictionary-empty",
        stored("uint8", 12, b"\4\0" + bytes(13)),
        "dictionary",
        "a dictionary of nothing",
    )
    yield (
        "dictionary-large",
        stored("uint8", 12, b"\4\x0d\0" + bytes(13) + b"\0" + bytes(12)),
        "dictionary",
        "more words than elements",
    )
    yield (
        "dictionary-index",
        stored("uint8", 12, b"\4\1\0\5" + b"\0" + bytes(11) + b"\1"),
        "dictionary",
        "an index beyond the dictionary",
    )
    yield "word", stored("uint8", 12, bytes([2, 0, 2, 1, 1, 0])), "word", "a word of two bytes among bytes"
    yield (
        "split-shift",
        stored("uint8", 12, integers_piece(0, shift=9, base=0, rest=b"\1\0\x08" + bytes(12))),
        "split",
        "a shift beyond the word",
    )
    yield (
        "split-escapes",
        stored("uint8", 12, integers_piece(0, shift=0, base=0, form=10)),
        "split",
        "escapes without symbols",
    )
    half = {"shift": 4, "base": 0}
    yield "run-none", stored("uint8", 12, integers_piece(0, **half, rest=b"\0")), "run", "no runs"
    yield (
        "run-wide",
        stored("uint8", 12, integers_piece(0, **half, rest=b"\1\1\4" + bytes(6))),
        "run",
        "more bits than there are",
    )
    yield (
        "run-long",
        stored("uint8", 12, integers_piece(0, **half, rest=b"\2\1\0\4" + b"\0\4" + bytes(6))),
        "run",
        "a run beyond the end",
    )
    yield (
        "run-empty",
        stored("uint8", 12, integers_piece(0, **half, rest=b"\2\0\0\4" + b"\0\4" + bytes(6))),
        "run",
        "a run of nothing",
    )
    yield (
        "run-coded",
        stored("uint16", 12, integers_piece(0, shift=8, base=0, rest=b"\1\0\x88" + bytes(6))),
        "run",
        "coded low bytes without symbols",
    )
    yield (
        "padding-fields",
        stored("uint8", 3, integers_piece(0, **half, rest=b"\1\0\4\0\xf0")),
        "padding",
        "a field that is padded with ones",
    )
    carried = stream(symbols, sound, b"\0\1")
    yield "padding-carried", piece(packed, carried), "padding", "carried bytes that nothing takes"


def padded(table: bytes) -> bytes:
    """A packed table whose last bit, not used by it, is set."""
    if table[-1] & 1:
        raise ValueError("the last bit is used")
    return table[:-1] + bytes([table[-1] | 1])


def models() -> Iterator[Vector]:
    """Sections 7 and 9."""
    values = np.array([3, -1, 0, 0, 20, 0, 1, 0, 0, -2, 0, 0], np.int32)
    sound = integers.encode(values)
    start = 1 if sound[0] < 128 else 2  # bytes of the running mean's start
    head_bytes, rest = sound[:start], sound[start + 1 :]
    yield (
        "model-start",
        quantised(0, 12, varint(65536) + sound[start:]),
        "model",
        "a running mean that begins beyond its range",
    )
    yield "model-token", quantised(0, 12, head_bytes + b"\x60" + rest), "model", "a token that there is not"
    yield "model-tokens", quantised(0, 12, head_bytes + b"\0" + rest), "model", "an alphabet of one token"
    table = pack_table(frequencies(4000, 96))
    twice = varint(2) + b"\3" + table + b"\3" + table
    yield (
        "class-twice",
        quantised(0, 12, head_bytes + b"\x11" + twice + rest[1:]),
        "class",
        "two tables for one class",
    )
    yield (
        "class-large",
        quantised(0, 12, head_bytes + b"\x11" + b"\1\x31" + table + rest[1:]),
        "class",
        "a table for a class that there is not",
    )
    yield "rest-integers", quantised(0, 12, sound + b"\0"), "rest", "a byte after the raw bits"
    yield "short-integers", quantised(0, 12, sound[:-3]), "short", "raw bits that are cut off"
    yield "rest-empty", quantised(1, 6, b"\6\0\0\0\1\0"), "rest", "bytes where no integers are"
    yield from coefficient_vectors()


def part(values: list[float], base: int = 16) -> Coded:
    """A vector of coefficients at step 0.5."""
    array = np.array(values, np.float32)
    return Coded(array, array.shape, 0.5, Scales(0, base, (None,)))


def coefficient_vectors() -> Iterator[Vector]:  # noqa: PLR0915  (a list)
    """Section 9."""
    sound = coefficients.encode([part([0.5, -1, 0, 2, 0.25, 0])], 6)
    scale = b"\0\x20\0" + b"\0"  # head of the scales; no tables of scales
    if not sound.startswith(b"\6" + scale + b"\0" + b"\0\0"):
        raise ValueError("the sound payload is another than this module takes apart")
    coded_words = sound[len(scale) + 4 :]
    no_tables, no_escapes = b"\0", b"\0\0"

    def file(
        begin: bytes = b"\6" + scale,
        tables: bytes = no_tables,
        escapes: bytes = no_escapes,
        words: bytes = coded_words,
    ) -> bytes:
        return quantised(1, 6, begin + tables + escapes + words)

    yield "state-bits", file(b"\x08" + scale), "state-bits", "a trellis that there is not"
    yield "scales-tail", file(b"\6\x08\x20\0\0"), "scales", "a tail shape that there is not"
    yield "scales-base", file(b"\6\0" + varint(2050) + b"\0\0"), "scales", "a base beyond 1024"
    yield "scales-mode", file(b"\6\0\x20\3" + b"\0"), "scales", "a mode that there is not"
    yield (
        "scales-axis",
        file(b"\6\0\x20\4" + b"\0"),
        "scales",
        "a table for an axis that the tensor does not have",
    )
    large = integers.encode(np.array([128, 0, 0, 0, 0, 0], np.int32))
    yield "scales-offset", file(b"\6\0\x20\1" + varint(len(large)) + large), "scales", "an entry beyond 127"
    sums = integers.encode(np.array([100, 28, 0, 0, 0, 0], np.int32))
    yield (
        "scales-sum",
        file(b"\6\0\x20\2" + varint(len(sums)) + sums),
        "scales",
        "differences that add up to more than 127",
    )
    half = np.zeros(128, np.int64)
    half[:3] = 48, 1000, 1000
    good = pack_table(half)
    yield "class-row", file(tables=b"\1" + varint(59) + good), "class", "a table for a row that there is not"
    yield "class-rows", file(tables=b"\2\7" + good + b"\7" + good), "class", "two tables for one row"
    half[0] = 0
    half[1] = 2096
    yield "table-escape", file(tables=b"\1\7" + pack_table(half)), "table", "a table without escapes"
    half[0] = 47
    yield (
        "table-half",
        file(tables=b"\1\7" + pack_table(half)),
        "table",
        "half a table that does not complete to 4096",
    )
    one = integers.encode(np.array([5], np.int32))
    yield (
        "escapes-left",
        file(escapes=b"\1" + varint(len(one)) + one),
        "escapes",
        "an escape that no symbol takes",
    )
    many = integers.encode(np.zeros(7, np.int32))
    yield (
        "escapes-many",
        file(escapes=b"\7" + varint(len(many)) + many),
        "escapes",
        "more escapes than coefficients",
    )
    escaping = coefficients.encode([part([200, -1, 0, 2, 0.25, 0])], 6)
    at = len(scale) + 2
    length = escaping[at + 1]
    if escaping[at] != 1:
        raise ValueError("the payload has no escape")
    after = escaping[at + 2 + length :]
    yield "escapes-few", file(words=after), "escapes", "a symbol that escapes to nothing"
    beyond = integers.encode(np.array([1 << 20], np.int32))
    yield (
        "range",
        file(escapes=b"\1" + varint(len(beyond)) + beyond, words=after),
        "range",
        "an integer beyond the quantiser's range",
    )
    yield "drained", file(words=b"\x07" + coded_words[1:]), "drained", "more drained steps than steps"
    state = bytearray(coded_words)
    state[2] ^= 1
    yield "words-state", file(words=bytes(state)), "words", "a lane that ends in no power of two"
    yield (
        "words-more",
        file(words=coded_words[:1] + varint(coded_words[1] + 1) + coded_words[2:] + b"\0\0"),
        "words",
        "a word that is left over",
    )
    yield "rest-coefficients", file(words=coded_words + b"\0"), "rest", "a byte after the last segment"
    wide = coefficients.encode([part([40.0, -31, 17], 36)], 6)
    yield "short-coefficients", quantised(1, 3, wide[:6]), "short", "a payload that ends after its scales"
    at = (
        5 + 1 + 2
    )  # state bits and scales, no tables, no escapes; then the raw bits of three symbols, two each
    broken = wide[:at] + bytes([wide[at] | 1]) + wide[at + 1 :]
    yield "padding-raw", quantised(1, 3, broken), "padding", "raw bits that are padded with a 1"


def sparse_kind() -> Iterator[Vector]:
    """Section 7.1 and K7."""
    array = np.zeros((2, 3), np.int32)
    array[1, 2] = -3
    sound = sparse.encode([array])

    def file(payload: bytes = sound, view: bytes = b"\0", **changed: bytes) -> bytes:
        parameters = STEP + view
        parts = {"kinds": b"\4", "parameters": varint(len(parameters)) + parameters}
        return join(columns(1, chunks=chunks((b"\4", 1)), **parts | changed), [payload])

    yield "sparse-rest", file(sound + b"\0\0\0\0\1"), "rest", "a byte other than 0 after the last decision"
    endless = b"\0" * 3  # ones all the way: magnitudes of 4096
    yield "sparse-limit", file(endless), "limit", "more decisions than so few bytes may stand for"
    yield "sparse-keep", file(keeps=varint(4)), "keep", "a prefix of sparse integers"
    yield "sparse-axes", file(axes=varint(4)), "axes", "a transformed axis that the view has not"
    yield "view-size", file(view=b"\2\2\2"), "view", "a view of fewer elements than the tensor"
    yield "view-rank", file(view=b"\x41" + b"\1" * 63 + b"\2\3"), "view", "a view of 65 axes"
    yield "view-rest", file(view=b"\2\3\2\0"), "view", "a byte after a view"
    yield "view-step", file(parameters=b"\3\0\0\0"), "step", "a step code below the least"
    yield "sparse-dtype", file(dtype="int32"), "kind-dtype", "sparse integers of a tensor of integers"
