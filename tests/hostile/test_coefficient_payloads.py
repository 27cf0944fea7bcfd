"""Every number in a payload of quantised coefficients, made up: a line of refusal, little memory and time."""

import time
import tracemalloc
from dataclasses import dataclass, replace
from itertools import product
from math import prod

import numpy as np
import pytest
from fuzz import checked_message

from frconvert.coding import coefficients, integers, rows, scales, segments, tables
from frconvert.coding.bits import ByteReader, varint
from frconvert.coding.coefficients import Coded
from frconvert.coding.scales import Scales
from frconvert.errors import DamagedError

SHAPE = (30, 40)
STEP = 0.5
LONG = varint((1 << 62) + 1)
MIB = 1 << 20


@dataclass(frozen=True)
class Parts:
    """A payload of one tensor, taken apart."""

    state_bits: bytes
    tail: bytes
    base: bytes
    modes: bytes
    offsets_length: bytes
    offsets: bytes
    table_count: bytes
    tables: bytes
    escape_count: bytes
    escapes_length: bytes
    escapes: bytes
    raw: bytes
    drained: bytes
    word_count: bytes
    states: bytes
    words: bytes

    def joined(self) -> bytes:
        return b"".join(getattr(self, name) for name in self.__dataclass_fields__)


def taken_apart(payload: bytes, shape: tuple[int, ...] = SHAPE) -> Parts:
    reader = ByteReader(payload)

    def since(start: int) -> bytes:
        return payload[start : reader.position]

    def number() -> tuple[bytes, int]:
        start = reader.position
        value = reader.varint()
        return since(start), value

    state_bits, tail = bytes(reader.take(1)), bytes(reader.take(1))
    (base, _), (modes, _) = number(), number()
    offsets_length, length = number()
    offsets = bytes(reader.take(length))
    table_count, count = number()
    start = reader.position
    for _ in range(count):
        row = reader.varint()
        first = tables.FIRST_SERVED
        half_way = row >= tables.row_count(first) - 4 or (row > first and (row - first) % 2 == 1)
        tables.unpack(reader, half_way=half_way)
    packed_tables = since(start)
    (escape_count, _), (escapes_length, length) = number(), number()
    escapes = bytes(reader.take(length))
    found = Scales(tail[0], *_base_and_offsets(payload, shape))
    raw_bits = int(tables.RAW_BITS[scales.classes(found, shape)].sum(dtype=np.int64))
    raw = bytes(reader.take((raw_bits + 7) // 8))
    drained = bytes(reader.take(1))
    word_count, _ = number()
    states = bytes(reader.take(4 * rows.lane_count(prod(shape))))
    return Parts(
        state_bits, tail, base, modes, offsets_length, offsets, table_count, packed_tables, escape_count,
        escapes_length, escapes, raw, drained, word_count, states, bytes(reader.rest()),
    )  # fmt: skip


def _base_and_offsets(payload: bytes, shape: tuple[int, ...]) -> tuple[int, tuple[np.ndarray | None, ...]]:
    (part,) = coefficients.decode(payload, [shape], [STEP], [np.float32])
    return part.scales.base, part.scales.offsets


@pytest.fixture(scope="module")
def parts() -> Parts:
    """Of a tensor with offsets, a table of its own, escapes, raw bits, served and unserved symbols."""
    rng = np.random.default_rng(0)
    octaves = np.linspace(-4, 5, SHAPE[0])
    values = (rng.laplace(size=SHAPE) * np.exp2(octaves)[:, None]).astype(np.float32)
    values[4, 5] = values[9, 9] = 400
    offsets = np.rint(4 * octaves).astype(np.int16)
    values[8:24], offsets[8:24] = (
        rng.laplace(size=(16, 40)) * 0.1,
        4,
    )  # far from what the built-in table expects
    found = Scales(4, 20, (offsets, None))
    payload = coefficients.encode([Coded(values.reshape(-1), SHAPE, STEP, found)])
    apart = taken_apart(payload)
    assert apart.joined() == payload
    assert all(len(getattr(apart, name)) for name in Parts.__dataclass_fields__)
    assert apart.escape_count != b"\0"
    return apart


def refusal(payload: bytes, shapes: list[tuple[int, ...]] | None = None, most_bytes: int = 40 * MIB) -> str:
    """The message with which a payload is refused, within seconds and little memory."""
    shapes = [SHAPE] if shapes is None else shapes
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(DamagedError) as caught:
            coefficients.decode(payload, shapes, [STEP] * len(shapes), [np.float32] * len(shapes))
        assert tracemalloc.get_traced_memory()[1] < most_bytes
        assert time.process_time() - began < 5
    finally:
        tracemalloc.stop()
    return checked_message(str(caught.value))


def test_the_payload_that_the_following_tests_break_is_sound(parts):
    (part,) = coefficients.decode(parts.joined(), [SHAPE], [STEP], [np.float32])
    assert part.values.size == prod(SHAPE)


TABLE = tables.pack(tables.frequencies(0, 3, half_way=False))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({"state_bits": bytes([n])}, f"a trellis of {n} state bits") for n in (1, 2, 8, 64, 255)),
        *(({"tail": bytes([n])}, "out of range") for n in (len(tables.SHAPES), 255)),
        ({"base": varint(2050)}, "out of range"),
        ({"base": LONG}, "out of range"),
        ({"modes": varint(3)}, "unknown mode"),
        ({"modes": varint(1 << 4)}, "out of range"),
        ({"modes": LONG}, "out of range"),
        ({"modes": b"\0"}, ""),  # offsets for no axis
        ({"modes": varint(5)}, ""),  # more offsets than there are
        ({"offsets_length": LONG}, "bytes expected"),
        ({"offsets_length": b"\0"}, ""),
        ({"offsets": b"", "offsets_length": b"\0"}, "1 bytes expected"),
        ({"table_count": LONG}, ""),
        ({"table_count": varint(1), "tables": varint(59) + TABLE}, "a frequency table for row 59 of"),
        ({"table_count": varint(1), "tables": LONG + TABLE}, "a frequency table for row"),
        ({"table_count": varint(2), "tables": (b"\3" + TABLE) * 2}, "a frequency table for row 3"),
        ({"table_count": varint(1), "tables": b"\0\0\0\0"}, "does not sum to 4096"),
        ({"table_count": varint(1), "tables": b"\0\7\3\xff"}, "names symbols 7 to 3"),
        ({"table_count": varint(1), "tables": b"\0\0\x80\0"}, "names symbols 0 to 128"),
        ({"table_count": varint(1 << 40), "tables": (b"\3" + TABLE) * 5000}, "a frequency table for row 3"),
        ({"escape_count": varint(prod(SHAPE) + 1)}, "escaped symbols"),
        ({"escape_count": LONG}, "escaped symbols"),
        ({"escape_count": b"\0"}, "bytes where no values are"),
        ({"escape_count": b"\0", "escapes_length": b"\0", "escapes": b""}, "not as many escaped symbols"),
        ({"escapes_length": LONG}, "bytes expected"),
        ({"escapes_length": b"\0"}, "bytes expected"),
        ({"raw": b""}, ""),
        ({"drained": b"\x11"}, "17 drained steps"),
        ({"drained": b"\xff"}, "255 drained steps"),
        ({"word_count": LONG}, "bytes expected"),
        ({"word_count": b"\0"}, "left over"),
        ({"word_count": b"\x80\0"}, "no shortest LEB128"),
        ({"states": b""}, ""),
        ({"states": b"\0\0\0\0"}, ""),
        ({"words": b""}, "bytes expected"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_number_that_cannot_be_is_refused(parts, changes, message):
    assert message in refusal(replace(parts, **changes).joined())


@pytest.mark.parametrize("more", [-1, 1, 300])
def test_escapes_of_another_number_than_there_are_symbols_for_are_refused(parts, more):
    count = ByteReader(parts.escape_count).varint() + more
    escaped = integers.encode(np.full(count, 200, np.int32))
    changed = replace(parts, escape_count=varint(count), escapes_length=varint(len(escaped)), escapes=escaped)
    assert "escape" in refusal(changed.joined())


@pytest.mark.parametrize("value", [(1 << 24) - 1, 1 - (1 << 24), 1 << 20, -(1 << 19) - 1])
def test_escapes_beyond_the_quantiser_are_refused(parts, value):
    count = ByteReader(parts.escape_count).varint()
    escaped = integers.encode(np.full(count, value, np.int32))
    changed = replace(parts, escapes_length=varint(len(escaped)), escapes=escaped)
    assert "out of the quantiser's range" in refusal(changed.joined())


@pytest.mark.parametrize("base", [16, 111])
@pytest.mark.parametrize("value", [2.0**21, -(2.0**21)])
def test_symbols_beyond_the_quantiser_are_refused_escaped_or_with_raw_bits(base, value, monkeypatch):
    values = np.full(50, value * STEP, np.float32)
    with monkeypatch.context() as patch:
        patch.setattr(segments, "LARGEST_TARGET", 1 << 23)
        payload = coefficients.encode([Coded(values, (50,), STEP, Scales(0, base, (None,)))])
    assert "out of the quantiser's range" in refusal(payload, [(50,)])
    monkeypatch.setattr(segments, "LARGEST_SYMBOL", 1 << 23)
    assert coefficients.decode(payload, [(50,)], [STEP], [np.float32])


@pytest.mark.parametrize(
    "shapes",
    [
        [(1 << 20, 1 << 20)],
        [(1 << 61,)],
        [(1 << 40, 1)],
        [(1, 1 << 40)],
        [(2,) * 31],
        [(1 << 30,)] * 8,
        [(3000, 3000)],
    ],
    ids=str,
)
def test_more_coefficients_than_the_bytes_can_hold_get_no_memory(parts, shapes):
    assert refusal(parts.joined() * 4, shapes, most_bytes=MIB)
    rest = parts.joined()[5:]
    for modes in (0, 1, 2, 5):
        head = bytes([coefficients.STATE_BITS]) + (b"\0\0" + varint(modes)) * len(shapes)
        assert refusal(head + varint(len(rest)) + rest, shapes, most_bytes=MIB)


def test_as_many_coefficients_as_the_states_allow_take_memory_in_proportion():
    """The largest claim that gets past the first check: a lane of four bytes for 2048 coefficients."""
    count = 1 << 22
    head = bytes([coefficients.STATE_BITS, 0, 32, 0, 0, 0, 0, 0])
    lanes = rows.lane_count(segments.SEGMENT)
    segment = b"\0\0" + b"\0\1\0\0" * lanes
    payload = head + segment * (count // segments.SEGMENT)
    assert refusal(payload, [(count,)], most_bytes=16 * count)
    assert refusal(payload + bytes(8192), [(count,)], most_bytes=16 * count)


def test_every_byte_set_to_its_extremes_is_refused_or_decoded(parts):
    payload = parts.joined()
    positions = [*range(60), *range(60, len(payload), 11)]
    for position, value in product(positions, (0, 0xFF)):
        broken = payload[:position] + bytes([value]) + payload[position + 1 :]
        try:
            (part,) = coefficients.decode(broken, [SHAPE], [STEP], [np.float32])
        except DamagedError as error:
            checked_message(str(error))
        else:
            assert part.values.size == prod(SHAPE)
            assert np.abs(part.values).max() <= STEP * (segments.LARGEST_SYMBOL + 0.5)
