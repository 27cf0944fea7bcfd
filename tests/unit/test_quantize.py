"""Uniform quantisation, storable steps, rounding of mantissas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frconvert.coding import quantize
from frconvert.coding.models import MAXIMUM_MAGNITUDE
from frconvert.errors import DamagedError

SMALLEST, LARGEST = 2.0**-126, 2.0**127
steps = st.floats(SMALLEST, LARGEST)


@given(steps)
def test_the_storable_step_is_at_most_the_wish_and_within_0_4_percent(step):
    stored = quantize.storable_step(step)
    assert step * (1 - 2**-8) <= stored <= step


@given(steps)
def test_a_storable_step_is_its_own(step):
    stored = quantize.storable_step(step)
    assert quantize.storable_step(stored) == stored
    assert quantize.step_of_code(quantize.step_code(stored)) == stored


def test_every_code_comes_back_and_steps_rise_with_codes():
    codes = range(0x0100, 0xFE01)
    values = [quantize.step_of_code(code) for code in codes]
    assert [quantize.step_code(value) for value in values] == list(codes)
    assert (np.diff(values) > 0).all()
    assert (values[0], values[-1]) == (SMALLEST, LARGEST)


@pytest.mark.parametrize("code", [0, 0xFF, 0xFE01, 0xFF00, 0xFFFF])
def test_a_code_of_no_positive_normal_number_is_refused(code):
    with pytest.raises(DamagedError, match="out of range"):
        quantize.step_of_code(code)


@pytest.mark.parametrize("step", [0.0, 1e-300, 1e-45, 1e-41])
def test_a_step_too_small_to_store_becomes_the_smallest(step):
    assert quantize.storable_step(step) == SMALLEST


@pytest.mark.parametrize("step", [1e-40, 1e-39, 1.1e-38])
def test_a_step_just_too_small_to_store_becomes_the_smallest(step):
    assert quantize.storable_step(step) == SMALLEST


@pytest.mark.parametrize("step", [3.4e38, 1e300, float("inf")])
def test_a_step_too_large_to_store_becomes_the_largest(step):
    assert quantize.storable_step(step) == LARGEST


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(step=st.floats(1e-3, 10), seed=st.integers(0, 20))
def test_the_error_is_at_most_half_a_step(dtype, step, seed):
    step = quantize.storable_step(step)
    coefficients = np.random.default_rng(seed).standard_normal(200).astype(dtype)
    symbols = quantize.quantise(coefficients.copy(), step)
    assert symbols.dtype == np.int32
    back = quantize.dequantise(symbols, step, coefficients.dtype.type)
    assert back.dtype == coefficients.dtype
    assert np.abs(back - coefficients).max() <= step / 2 * (1 + 1e-4)


def test_what_the_coder_cannot_take_is_clipped():
    symbols = quantize.quantise(np.array([1e9, -1e30, 3], np.float32), 1.0)
    assert symbols.tolist() == [MAXIMUM_MAGNITUDE, -MAXIMUM_MAGNITUDE, 3]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(bits=st.integers(1, 22), seed=st.integers(0, 50))
def test_rounding_a_mantissa_keeps_the_relative_error_below_half_a_unit(dtype, bits, seed):
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal(50) * 10.0 ** rng.integers(-30, 30, 50)).astype(dtype)
    rounded = quantize.round_mantissa(values, bits)
    assert rounded.dtype == values.dtype
    assert (np.abs(rounded.astype(float) - values) <= np.abs(values) * 2.0 ** -(bits + 1)).all()
    words = rounded.view(np.uint32 if dtype == "float32" else np.uint64)
    assert not (words & ((1 << ((23 if dtype == "float32" else 52) - bits)) - 1)).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounding_a_mantissa_leaves_what_is_special_as_it_was(dtype):
    largest = np.finfo(dtype).max
    values = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, largest, -largest], dtype)
    assert quantize.round_mantissa(values, 4).tobytes() == values.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "int32"])
def test_only_float32_and_float64_are_rounded(dtype):
    values = np.array([1, 3, 5], dtype)
    assert quantize.round_mantissa(values, 1) is values
    exact = np.array([1.1, 2.2], np.float32)
    assert quantize.round_mantissa(exact, 23) is exact


def test_ties_round_to_even():
    values = np.array([1 + 2**-3, 1 + 3 * 2**-3], np.float32)
    assert quantize.round_mantissa(values, 2).tolist() == [1.0, 1.5]
