"""Exact storage of a sequence of equally wide elements of any type.

The sequence is cut into pieces of up to 2^21 words of 1, 2, 4 or 8 bytes (a complex number is two words).
The high bits of a word are a *symbol*, coded by rANS (`symbols`): of a float its exponent and first bits of
the mantissa, which are unevenly distributed and resemble those of the neighbours. The low bits, with the sign
of a float above them, are its *rest* (`rests`), mostly noise. How a word is cut is chosen by `splits`. Words
whose symbol is out of range (zeros, for one) are *escapes*: symbol 0 stands for them, and all of them make a
piece of their own. Integers may be replaced by their differences, or folded around a centre so that small
ones are near it. A piece with few distinct words may be a dictionary.

A piece is a byte, the form in its low 3 bits, and
    raw         the words
    dictionary  varint number of words in it; their piece; the piece of the indices, of 1 or 2 bytes
    the others  the shift; the base; of differences the word before the first, of folded integers the centre;
                the alphabet less 1; if that is not 0, the stream of the symbols; if the form's byte says so,
                the piece of the escapes; the rests of all other words
A piece of escapes or indices, and within a dictionary of words, has words of integers.

Law: decode(encode(values), dtype, values.size) has the same bytes as values, NaN payloads included.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import lanes, rests, splits, symbols
from frconvert.coding.bits import ByteReader, varint
from frconvert.coding.splits import Split
from frconvert.coding.words import fold, ones, pack_word, turn_left, turn_right, unfold, unpack_word
from frconvert.dtypes import ITEM_BYTES, numpy_dtype
from frconvert.errors import DamagedError

PIECE_WORDS = 1 << 21
_RAW, _FLOAT, _INTEGER, _DIFFERENCE, _DICTIONARY, _FOLDED = range(6)
_WITH_ORIGIN = (_DIFFERENCE, _FOLDED)
_ESCAPES = 8  # added to the form
_Bytes = bytes | memoryview
_BLOCK = 1 << 15  # words that are cut or joined at a time, to stay in the cache
_TRIAL_WORDS = 1 << 15  # folding integers is tried with so many; fewer than an eighth of it are not folded
_DEPTH = 2  # a piece's escapes or indices are a piece, and that one's escapes are one; no deeper
_MANTISSA_BITS = {
    "float16": 10, "float32": 23, "float64": 52, "bfloat16": 7, "complex64": 23, "complex128": 52,
    "float8_e4m3fn": 3, "float8_e4m3fnuz": 3, "float8_e5m2": 2, "float8_e5m2fnuz": 2,
}  # fmt: skip


def encode(values: NDArray[np.generic], dtype: str) -> bytes:
    """Bytes of a 1-D sequence of elements of `dtype`; empty for an empty one."""
    words = np.ascontiguousarray(values).view(f"<u{_word_bytes(dtype)}")
    parts: list[_Bytes] = []
    for first in range(0, words.size, PIECE_WORDS):
        parts += _encode_piece(words[first : first + PIECE_WORDS], _MANTISSA_BITS.get(dtype), _DEPTH)
    return b"".join(parts)


def decode(payload: bytes | memoryview, dtype: str, count: int) -> NDArray[np.generic]:
    """The `count` elements of a payload.

    Raises:
        DamagedError: the payload does not decode to exactly that many elements.
    """
    reader = ByteReader(payload)
    width = _word_bytes(dtype)
    words = np.empty(count * (ITEM_BYTES[dtype] // width), f"<u{width}")
    for first in range(0, words.size, PIECE_WORDS):
        _decode_piece(reader, words[first : first + PIECE_WORDS], _MANTISSA_BITS.get(dtype), _DEPTH)
    if len(reader.rest()):
        raise DamagedError("bytes after the last piece")
    if dtype == "bool" and (words > 1).any():
        raise DamagedError("a bool that is neither 0 nor 1")
    return words.view(numpy_dtype(dtype))


def narrowest(values: NDArray[np.generic]) -> str:
    """The narrowest of float16, float32 and the values' own dtype that holds them all without loss."""
    for name in {"float64": ("float16", "float32"), "float32": ("float16",)}.get(values.dtype.name, ()):
        with np.errstate(over="ignore", invalid="ignore"):
            back = values.astype(name).astype(values.dtype)
        if back.tobytes() == values.tobytes():
            return name
    return values.dtype.name


def _word_bytes(dtype: str) -> int:
    return ITEM_BYTES[dtype] // (2 if dtype.startswith("complex") else 1)


def _encode_piece(words: NDArray[Any], mantissa: int | None, depth: int) -> list[_Bytes]:
    """The shortest form of at least one word, in parts; `mantissa` is None for integers."""
    choices: list[list[_Bytes]] = [[bytes([_RAW]), words.view(np.uint8).data]]
    if mantissa is None or (words[0] == words[-1] and (words == words[0]).all()):
        choices.append(_encode_integers(words, depth))
    else:
        choices.append(_encode_split(_FLOAT, words, 0, splits.split_floats(words, mantissa), depth))
    if depth == _DEPTH and splits.repeats(words, is_float=mantissa is not None):
        choices += _encode_dictionary(words, mantissa)
    return min(choices, key=lambda parts: sum(map(len, parts)))


def _encode_integers(words: NDArray[Any], depth: int) -> list[_Bytes]:
    form, values, origin = _INTEGER, words, 0
    price, split = splits.split_integers(words, depth > 0)
    # The word before the first is chosen so that the first difference is like the second.
    before = 2 * words[:1] - words[1:2] if words.size > 1 else words
    differences = words - np.concatenate([before, words[:-1]])
    if 2 * splits.span_of(differences)[1] < splits.span_of(words)[1]:
        other_price, other = splits.split_integers(differences, depth > 0)
        if other_price < price:
            form, values, origin, split = _DIFFERENCE, differences, int(before[0]), other
    if form == _INTEGER and split.alphabet > 2 and 8 * words.size >= _TRIAL_WORDS:
        # The symbols are as frequent when folded, but what their neighbours tell about them may be more.
        centre = splits.median(words)
        folded = fold(words, centre)
        if _trial(_FOLDED, folded, depth) < _trial(_INTEGER, words, depth):
            form, values, origin = _FOLDED, folded, centre
            split = splits.split_integers(folded, depth > 0)[1]
    return _encode_split(form, values, origin, split, depth)


def _trial(form: int, values: NDArray[Any], depth: int) -> int:
    """Bytes that words in the middle take."""
    first = max(0, values.size - _TRIAL_WORDS) // 2
    some = values[first : first + _TRIAL_WORDS]
    return sum(map(len, _encode_split(form, some, 0, splits.split_integers(some, depth > 0)[1], depth)))


def _encode_dictionary(words: NDArray[Any], mantissa: int | None) -> list[list[_Bytes]]:
    """A dictionary in order of magnitude, or none if there are too many words in it."""
    distinct, indices = np.unique(turn_left(words), return_inverse=True)
    if distinct.size > min(1 << 16, words.size // 4):
        return []
    return [
        [
            bytes([_DICTIONARY]) + varint(distinct.size),
            *_encode_piece(turn_right(distinct), mantissa, _DEPTH - 1),
            *_encode_piece(indices.astype(_index_dtype(distinct.size)), None, _DEPTH - 1),
        ]
    ]


def _encode_split(form: int, values: NDArray[Any], origin: int, split: Split, depth: int) -> list[_Bytes]:
    """A piece of words that are cut.

    Args:
        form: _FLOAT, _INTEGER, _DIFFERENCE or _FOLDED.
        values: floats, integers, differences or folded integers, as words.
        origin: of differences the word before the first one; of folded integers what becomes zero.
        split: how to cut the values.
        depth: how many pieces may be nested in this one.
    """
    shift, alphabet, signed = split.shift, split.alphabet, form == _FLOAT
    unit = splits.base_unit(shift) if signed else 0
    head = bytes([form + _ESCAPES * split.escapes, shift]) + pack_word(split.base >> unit, values.dtype)
    if form in _WITH_ORIGIN:
        head += pack_word(origin, values.dtype)
    parts: list[_Bytes] = [head + bytes([alphabet - 1])]
    coded, rest = np.empty(values.size, np.uint8), np.empty_like(values)
    inside: Any = np.empty(values.size, bool) if split.escapes else None
    for first in range(0, values.size, _BLOCK):
        block = slice(first, first + _BLOCK)
        _cut(
            values[block], split, signed, coded[block], rest[block], None if inside is None else inside[block]
        )
    kept, nested = coded, []
    if inside is not None:
        kept, rest = coded[inside], rest[inside]
        lost = values[(~inside).nonzero()[0]]
        nested = _encode_piece(turn_left(lost) if signed else lost, None, depth - 1)
    if alphabet == 1:
        heads, raw = rests.encode(rest, shift, signed, None)
        return [*parts, *heads, *raw]
    heads, raw = rests.encode(rest, shift, signed, kept >> np.uint8(symbols.class_shift(alphabet)))
    stream = symbols.encode(coded, alphabet, rests.take_first(raw, lanes.capacity(coded.size)))
    return [*parts, stream, *nested, *heads, *raw]


def _cut(
    values: NDArray[Any], split: Split, signed: bool, coded: NDArray[np.uint8], rest: NDArray[Any],
    inside: NDArray[np.bool] | None,
) -> None:  # fmt: skip
    """Fills `coded`, `rest` and, if there are escapes, `inside`: whether words have symbols of their own."""
    top = 8 * values.itemsize - 1
    left = values & ones(values.dtype, top) if signed else values
    left = left - left.dtype.type(split.base)
    np.right_shift(left, split.shift, out=coded, dtype=left.dtype, casting="unsafe")
    if inside is not None:
        np.less(left, (split.alphabet - 1) << split.shift, out=inside)
        coded += np.uint8(1)
        coded *= inside.view(np.uint8)
    np.bitwise_and(left, ones(left.dtype, split.shift), out=rest)
    if signed:
        sign = values >> (top - split.shift)
        sign &= left.dtype.type(1 << split.shift)
        rest |= sign


def _decode_piece(reader: ByteReader, words: NDArray[Any], mantissa: int | None, depth: int) -> None:
    """Fills `words`."""
    dtype = words.dtype
    form = reader.take(1)[0]
    if form == _RAW:
        words[:] = np.frombuffer(reader.take(words.nbytes), dtype)
        return
    if form == _DICTIONARY and depth == _DEPTH:
        _decode_dictionary(reader, words, mantissa)
        return
    escapes, form = bool(form & _ESCAPES), form & ~_ESCAPES
    known = (_INTEGER, *_WITH_ORIGIN) if mantissa is None else (_FLOAT, _INTEGER, *_WITH_ORIGIN)
    if form not in known or (escapes and not depth):
        raise DamagedError(f"a piece of unknown form {form}")
    signed = form == _FLOAT
    shift = reader.take(1)[0]
    base = unpack_word(reader, dtype) << (splits.base_unit(shift) if signed else 0)
    origin = unpack_word(reader, dtype) if form in _WITH_ORIGIN else 0
    alphabet = reader.take(1)[0] + 1
    if shift > 8 * dtype.itemsize - signed or escapes > alphabet - 1:
        raise DamagedError(f"a shift of {shift} bits or an alphabet of {alphabet} is out of range")
    split = Split(base % (1 << 8 * dtype.itemsize), shift, alphabet, escapes)
    _decode_split(reader, words, split, signed, depth)
    if form == _DIFFERENCE:
        np.cumsum(words, dtype=dtype, out=words)
        words += dtype.type(origin)
    elif form == _FOLDED:
        words[:] = unfold(words, origin)


def _decode_split(reader: ByteReader, words: NDArray[Any], split: Split, signed: bool, depth: int) -> None:
    """Fills `words` with floats if `signed`, else with integers, differences or folded integers."""
    coded, classes, carried = np.zeros(words.size, np.uint8), None, b""
    if split.alphabet > 1:
        coded, carried = symbols.decode(reader, words.size, split.alphabet)
    inside: Any = None
    values = words
    if split.escapes:
        inside = coded > 0
        lost = np.empty(words.size - int(np.count_nonzero(inside)), words.dtype)
        if lost.size:
            _decode_piece(reader, lost, None, depth - 1)
            words[~inside] = turn_right(lost) if signed else lost
        coded = coded[inside]
        values = np.empty(coded.size, words.dtype)
    if split.alphabet > 1:
        classes = coded >> np.uint8(symbols.class_shift(split.alphabet))
    rests.decode(reader, carried, values, split.shift, signed, classes)
    for first in range(0, values.size, _BLOCK):
        _join(coded[first : first + _BLOCK], values[first : first + _BLOCK], split, signed)
    if inside is not None:
        words[inside] = values


def _join(coded: NDArray[np.uint8], values: NDArray[Any], split: Split, signed: bool) -> None:
    """Turns the rests in `values` into words."""
    high = (coded - np.uint8(split.escapes)).astype(values.dtype)
    high <<= split.shift
    high += values.dtype.type(split.base)
    if signed:
        high += values & ones(values.dtype, split.shift)
        values >>= split.shift
        values <<= 8 * values.itemsize - 1
        values |= high
    else:
        values += high


def _decode_dictionary(reader: ByteReader, words: NDArray[Any], mantissa: int | None) -> None:
    size = reader.varint()
    if not 0 < size <= min(1 << 16, words.size):
        raise DamagedError(f"a dictionary of {size} words for {words.size}")
    distinct, indices = np.empty(size, words.dtype), np.empty(words.size, _index_dtype(size))
    _decode_piece(reader, distinct, mantissa, _DEPTH - 1)
    _decode_piece(reader, indices, None, _DEPTH - 1)
    if int(indices.max()) >= size:
        raise DamagedError(f"an index past the {size} words of a dictionary")
    words[:] = distinct[indices]


def _index_dtype(size: int) -> np.dtype[Any]:
    return np.dtype("<u1" if size <= 256 else "<u2")
