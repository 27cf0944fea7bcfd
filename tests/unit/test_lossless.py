"""Exact storage of elements of any type."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frconvert.coding import lossless
from frconvert.dtypes import DTYPE_NAMES, ITEM_BYTES, numpy_dtype
from frconvert.errors import DamagedError


def round_trip(values, dtype):
    payload = lossless.encode(values, dtype)
    back = lossless.decode(payload, dtype, values.size)
    assert back.dtype == numpy_dtype(dtype)
    assert back.tobytes() == values.tobytes()
    return payload


def elements(dtype, data):
    if dtype == "bool":
        return np.frombuffer(bytes(byte & 1 for byte in data), bool)
    usable = len(data) // ITEM_BYTES[dtype] * ITEM_BYTES[dtype]
    return np.frombuffer(data[:usable], numpy_dtype(dtype))


@settings(max_examples=200, deadline=None)
@given(dtype=st.sampled_from(DTYPE_NAMES), data=st.binary(max_size=400))
def test_any_bytes_of_any_type_come_back(dtype, data):
    round_trip(elements(dtype, data), dtype)


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_many_elements_of_every_type_come_back(dtype):
    data = np.random.default_rng(0).standard_normal(20_000).astype(np.float32).tobytes()
    round_trip(elements(dtype, data), dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_payloads_of_nan_signs_of_zero_and_subnormals_survive(dtype):
    width = ITEM_BYTES[dtype]
    top = [0x7FFF, 0x7FA5, 0xFFC1, 0x8000, 0x0000, 0x0001, 0x7F80, 0xFF80, 0x7C00]
    words = np.array([word << (8 * width - 16) | number for number, word in enumerate(top)], f"<u{width}")
    round_trip(words.view(numpy_dtype(dtype)), dtype)


def test_nothing_is_no_bytes():
    assert lossless.encode(np.empty(0, np.float32), "float32") == b""
    assert lossless.decode(b"", "float32", 0).size == 0
    with pytest.raises(DamagedError, match="after the last byte plane"):
        lossless.decode(b"\0", "float32", 0)


def test_a_constant_takes_two_bytes_a_plane():
    assert len(round_trip(np.full(10_000, 1.5, np.float32), "float32")) == 8


def test_weights_shrink_and_noise_grows_by_a_byte_a_plane():
    weights = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    assert len(round_trip(weights, "float32")) < 0.87 * weights.nbytes
    noise = np.random.default_rng(0).integers(0, 256, 40_000).astype(np.uint8)
    assert len(round_trip(noise.view(np.uint32), "uint32")) == noise.nbytes + 4


def test_small_counters_in_wide_integers_cost_about_their_information():
    counters = np.random.default_rng(0).integers(0, 16, 10_000)
    assert len(round_trip(counters.astype(np.int64), "int64")) < 5200


@pytest.mark.parametrize("dtype", ["float32", "int16", "bool", "complex64"])
def test_every_truncation_is_noticed(dtype):
    values = elements(dtype, np.random.default_rng(0).standard_normal(300).astype(np.float32).tobytes())
    payload = lossless.encode(values, dtype)
    for length in [*range(5), *range(5, len(payload), 29), len(payload) - 1]:
        with pytest.raises(DamagedError):
            lossless.decode(payload[:length], dtype, values.size)
    with pytest.raises(DamagedError):
        lossless.decode(payload + b"\0", dtype, values.size)


def test_an_unknown_mode_is_refused():
    with pytest.raises(DamagedError, match="unknown mode 3"):
        lossless.decode(b"\3\0", "uint8", 1)


def test_a_bool_that_is_neither_true_nor_false_is_refused():
    with pytest.raises(DamagedError, match="neither 0 nor 1"):
        lossless.decode(b"\1\2", "bool", 5)


@settings(max_examples=200, deadline=None)
@given(payload=st.binary(max_size=60), dtype=st.sampled_from(DTYPE_NAMES), count=st.integers(0, 5000))
def test_random_bytes_are_values_or_a_damage_but_never_another_error(payload, dtype, count):
    with contextlib.suppress(DamagedError):
        assert lossless.decode(payload, dtype, count).size == count


@pytest.mark.parametrize(
    ("values", "dtype", "name"),
    [
        ([1, 0.5, -0.0], "float64", "float16"),
        ([1, 1e-7, 65504], "float32", "float32"),
        ([0.1], "float64", "float64"),
        ([np.float32(0.1)], "float64", "float32"),
        ([1e6], "float32", "float32"),
        ([1e300], "float64", "float64"),
        ([np.nan, np.inf], "float32", "float16"),
        ([2], "float16", "float16"),
    ],
)
def test_the_narrowest_type_is_the_one_that_loses_nothing(values, dtype, name):
    assert lossless.narrowest(np.array(values, dtype)) == name


def test_a_payload_of_nan_that_would_be_lost_keeps_the_type():
    values = np.array([0x7FC00001], np.uint32).view(np.float32)
    assert lossless.narrowest(values) == "float32"
