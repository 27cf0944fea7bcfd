"""Chunks of quantised coefficients: what is encoded is what is decoded, whatever the tensors."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frconvert.coding import choice, coefficients, lanes, rows, segments, tables, trellis
from frconvert.coding.coefficients import LARGEST_TARGET, Coded
from frconvert.coding.fit import fit
from frconvert.coding.scales import Scales
from frconvert.errors import DamagedError

TRELLIS, UNIFORM = coefficients.STATE_BITS, 0
STATE_BITS = [UNIFORM, *sorted(trellis.POLYNOMIALS)]


@dataclass
class Tensor:
    """Coefficients and how they are to be coded."""

    values: np.ndarray = field(repr=False)
    step: float
    scales: Scales

    def part(self):
        return Coded(self.values.reshape(-1).copy(), self.values.shape, self.step, self.scales)


def tensor_of(values, step=0.25):
    return Tensor(values, step, fit(values).scales(step))


def noise(shape=(40, 50), scale=1.0, seed=0, dtype=np.float32):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)


def encode(tensors, state_bits=TRELLIS, aware=True):
    """The payload and the values that encoding left."""
    parts = [tensor.part() for tensor in tensors]
    payload = coefficients.encode(parts, state_bits, aware=aware)
    return payload, [part.values for part in parts]


def decode(payload, tensors):
    found = coefficients.decode(
        payload,
        [tensor.values.shape for tensor in tensors],
        [tensor.step for tensor in tensors],
        [tensor.values.dtype.type for tensor in tensors],
    )
    return [part.values for part in found]


def assert_law(tensors, state_bits=TRELLIS, aware=True):
    """Decoding gives what encoding left; returns the payload."""
    payload, left = encode(tensors, state_bits, aware)
    back = decode(payload, tensors)
    assert [(a.dtype, a.tobytes()) for a in back] == [(a.dtype, a.tobytes()) for a in left]
    for tensor, restored in zip(tensors, back, strict=True):
        exact = tensor.values.reshape(-1)
        if not aware:  # the nearest point of a coset, at most two half steps away; or the nearest multiple
            furthest = tensor.step * (1 if state_bits else 0.5)
            assert (
                np.abs(exact - restored).max(initial=0)
                <= furthest * (1 + 1e-6) + np.abs(exact).max(initial=0) * 2.0**-20
            )
    return payload


@st.composite
def tensors(draw):
    """A tensor with scales that fit, or with any scales whatever, and outliers or none."""
    shape = tuple(draw(st.lists(st.integers(0, 9), max_size=4)))
    if draw(st.booleans()):
        shape = draw(st.sampled_from([(1,), (), (300,), (70, 60), (1, 2500), (5, 1, 501)]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    step = float(np.float32(2.0 ** draw(st.integers(-20, 20))))
    octaves = draw(st.sampled_from([-8, -2, 0, 1, 3, 6, 9, 14]))  # of the loudness in steps
    values = np.asarray(rng.standard_normal(shape) * 2.0**octaves * step)
    if shape and draw(st.booleans()):
        values *= np.exp2(rng.uniform(-6, 3, shape[:1] + (1,) * (len(shape) - 1)))
    if values.size and draw(st.booleans()):
        values.reshape(-1)[rng.integers(0, values.size, 3)] *= draw(st.sampled_from([0, 50, 2000, 1e6]))
    limit = step * LARGEST_TARGET / 2 * (1 - 2**-20)
    values = np.asarray(np.clip(values, -limit, limit)).astype(
        draw(st.sampled_from([np.float32, np.float64]))
    )
    if values.ndim and values.any() and draw(st.booleans()):
        return Tensor(values, step, fit(values).scales(step))
    offsets = tuple(
        rng.integers(-40, 41, length).astype(np.int16) if draw(st.booleans()) else None for length in shape
    )
    base = draw(st.integers(-30, 150))
    return Tensor(values, step, Scales(draw(st.integers(0, 7)), base, offsets))


@settings(max_examples=60, deadline=None)
@given(
    chosen=st.lists(tensors(), min_size=1, max_size=5),
    state_bits=st.sampled_from(STATE_BITS),
    aware=st.booleans(),
    segment=st.sampled_from([7, 1000, 1 << 20]),
)
def test_decoding_gives_what_encoding_left(chosen, state_bits, aware, segment):
    total = sum(tensor.values.size for tensor in chosen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "SEGMENT", max(segment, total // 50))
        assert_law(chosen, state_bits, aware and state_bits > 0)


def test_a_chunk_of_many_classes_has_served_and_unserved_symbols_raw_bits_and_escapes():
    rows_of = np.exp2(np.linspace(-8, 14, 400)).astype(np.float32)
    values = noise((400, 300)) * rows_of[:, None]
    values[::37, 5] *= 60
    tensor = tensor_of(np.clip(values, -1e5, 1e5), 1.0)
    number = np.clip(tensor.scales.base + tensor.scales.offsets[0], 0, 111)
    assert number.min() < tables.FIRST_SERVED
    assert number.max() > tables.WIDE_CLASS + 20
    assert_law([tensor])
    assert_law([tensor], UNIFORM, aware=False)


@pytest.mark.parametrize("number", range(0, tables.CLASSES, 5))
@pytest.mark.parametrize("state_bits", [UNIFORM, TRELLIS])
def test_every_class_serves_its_own_values_and_much_larger_and_smaller_ones(number, state_bits):
    mean = 2.0 ** ((number - tables.UNIT_CLASS) / 4)
    limit = LARGEST_TARGET / 2 - 1
    for factor in (0.01, 1.0, 30.0):
        values = np.clip(noise((40, 30), mean * factor), -limit, limit)
        assert_law([Tensor(values, 1.0, Scales(number % 8, number, (None, None)))], state_bits)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_values_at_the_limit_of_the_quantiser_survive(dtype, sign):
    step = 2.0**-126 * 1.25
    values = np.full((3, 3), sign * step * LARGEST_TARGET / 2, dtype)
    values[1] = 0
    for base in (0, 12, 40, 92):
        assert_law([Tensor(values, step, Scales(2, base, (None, None)))])


@pytest.mark.parametrize("state_bits", [UNIFORM, TRELLIS])
@pytest.mark.parametrize("value", [-127, -128, -1000, 126, 127, 128, 30000])
def test_a_class_of_which_every_coefficient_is_beyond_its_table_survives(state_bits, value):
    values = noise((40, 50))
    values[7] = value
    offsets = np.zeros(40, np.int16)
    offsets[7] = -3
    assert_law([Tensor(values, 1.0, Scales(2, 16, (offsets, None)))], state_bits, aware=False)


@pytest.mark.parametrize("excess", [2.0**-10, 1.0, np.inf, np.nan])
def test_values_beyond_the_limit_are_an_error_of_the_caller(excess):
    values = np.full((2, 2), (LARGEST_TARGET / 2) * (1 + excess), np.float32)
    with pytest.raises(ValueError, match="half steps"):
        encode([Tensor(values, 1.0, Scales(0, 16, (None, None)))])


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (0,), (3, 0, 2), (2048,), (4096, 1), (4095,)])
def test_shapes_at_the_edges_survive_alone_and_together(shape):
    small = Tensor(noise(shape), 0.5, Scales(1, 18, (None,) * len(shape)))
    assert_law([small])
    assert_law([small, tensor_of(noise()), small])


def test_a_tensor_may_span_many_segments_and_a_segment_many_tensors(monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT", 1000)
    many = [tensor_of(noise(shape, seed=n)) for n, shape in enumerate([(30, 20), (1, 5), (70, 90), (40, 3)])]
    payload = assert_law(many)
    monkeypatch.setattr(segments, "SEGMENT", 1 << 20)
    whole = assert_law(many)
    assert len(whole) < len(payload) < 1.05 * len(whole)


def test_the_same_tensors_give_the_same_bytes_from_compiled_loops_and_from_numpy(monkeypatch):
    many = [tensor_of(noise((90, 70)), 0.3), tensor_of(noise((50, 40), 300, 1, np.float64), 0.3)]
    payload, left = encode(many)
    assert encode(many)[0] == payload
    for module in (trellis, rows, lanes, segments, choice):
        monkeypatch.setattr(module, "native", None)
    again, same = encode(many)
    assert again == payload
    assert all((a == b).all() for a, b in zip(left, same, strict=True))
    assert all((a == b).all() for a, b in zip(left, decode(payload, many), strict=True))


def test_counting_bits_makes_fewer_bits_and_hardly_more_error_for_them():
    tensor = tensor_of(noise((300, 200)), 0.8)
    (plain, plain_left), (aware, aware_left) = encode([tensor], aware=False), encode([tensor])
    error = [
        float(np.square(left[0] - tensor.values.reshape(-1)).mean()) for left in (plain_left, aware_left)
    ]
    saved_bits = 8 * (len(plain) - len(aware)) / tensor.values.size
    lost_bits = 0.5 * np.log2(error[1] / error[0])
    assert saved_bits > lost_bits + 0.02


def test_float64_is_restored_more_exactly_than_float32():
    step = 0.1
    values = noise((30, 30), 100, dtype=np.float64)
    (_, (wide,)) = encode([tensor_of(values, step)])
    assert np.abs(wide / (step / 2) - np.rint(wide / (step / 2))).max() < 1e-9
    (_, (narrow,)) = encode([tensor_of(values.astype(np.float32), step)])
    np.testing.assert_allclose(narrow, wide, rtol=1e-6)


def test_measured_bits_are_those_of_coding_with_the_built_in_tables():
    tensor = tensor_of(noise((200, 100)), 1.0)
    bits, squares = coefficients.measure(tensor.values, tensor.scales, TRELLIS)
    payload, (left,) = encode([tensor])
    assert bits.shape == squares.shape == tensor.values.shape
    assert float(squares.sum()) == pytest.approx(float(np.square(left - tensor.values.reshape(-1)).sum()))
    assert float(bits.sum()) == pytest.approx(8 * len(payload), rel=0.01)


@pytest.fixture(scope="module")
def chunk():
    values = noise((30, 40))
    values[3, 4], values[7, 7] = 90, -400
    many = [tensor_of(values), tensor_of(noise((20,), 200, 1), 1.0)]
    return encode(many)[0], many


def outcome(payload, many):
    try:
        return decode(payload, many)
    except DamagedError as error:
        return str(error)


def test_a_truncation_is_refused(chunk):
    payload, many = chunk
    for length in [*range(60), *range(60, len(payload), 5)]:
        assert isinstance(outcome(payload[:length], many), str)


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 100, b"\xff"])
def test_bytes_after_the_end_are_refused(chunk, tail):
    payload, many = chunk
    assert isinstance(outcome(payload + tail, many), str)


def test_a_flipped_bit_is_refused_or_gives_as_many_coefficients(chunk):
    payload, many = chunk
    refused = 0
    positions = [*range(8 * 40), *range(8 * 40, 8 * len(payload), 61)]
    for position in positions:
        broken = bytearray(payload)
        broken[position // 8] ^= 1 << position % 8
        result = outcome(bytes(broken), many)
        refused += isinstance(result, str)
        if not isinstance(result, str):
            assert [array.size for array in result] == [tensor.values.size for tensor in many]
        else:
            assert "\n" not in result
    assert refused > 0.6 * len(positions)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120), st.integers(0, 40))
def test_any_bytes_are_refused_or_decoded(chunk, data, keep):
    payload, many = chunk
    result = outcome(payload[:keep] + data, many)
    assert isinstance(result, str) or len(result) == 2


@pytest.mark.parametrize(
    "shapes", [[(30, 39), (20,)], [(30, 41), (20,)], [(30, 40)], [(30, 40), (20,), (1,)]]
)
def test_a_payload_of_other_tensors_is_refused(chunk, shapes):
    payload, _ = chunk
    with pytest.raises(DamagedError):
        coefficients.decode(payload, shapes, [0.25] * len(shapes), [np.float32] * len(shapes))
