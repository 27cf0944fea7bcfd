"""Tensors as records, and records as chunks."""

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frconvert.coding import quantize
from frconvert.coding.record import (
    CHUNK_SYMBOLS,
    INTEGERS,
    Layout,
    Plan,
    decode_chunk,
    encode_chunk,
    group,
    make_record,
    record_of_coefficients,
    restore,
)
from frconvert.dtypes import DTYPE_NAMES, numpy_dtype
from frconvert.errors import DamagedError
from frconvert.spectral import dct, zigzag

STEP = quantize.storable_step(0.02)
SHAPE = (6, 5, 4)


def weights_of(dtype="float32", shape=SHAPE, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(numpy_dtype(dtype))


def through_a_chunk(record):
    return decode_chunk(encode_chunk([record]), [record.layout])[0]


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 2, 1, 2)])
def test_an_exact_record_has_the_bytes_of_the_tensor(dtype, shape):
    weights = np.abs(weights_of("float64", shape)).astype(numpy_dtype(dtype))
    back = restore(through_a_chunk(make_record(weights, dtype, Plan())))
    assert (back.shape, back.dtype) == (shape, numpy_dtype(dtype))
    assert back.tobytes() == weights.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("axes", [(), (0,), (2,), (0, 2), (0, 1, 2)])
def test_a_quantised_record_is_within_half_a_step_in_the_coefficients(dtype, axes):
    weights = weights_of(dtype)
    record = through_a_chunk(make_record(weights.copy(), dtype, Plan(axes, None, STEP)))
    assert record.layout == Layout(SHAPE, dtype, axes, None, STEP, INTEGERS)
    back = restore(record)
    assert (back.shape, back.dtype) == (weights.shape, weights.dtype)
    assert back.flags.c_contiguous
    rounding = {"float16": 2e-3, "bfloat16": 2e-2}.get(dtype, 1e-5) * 4
    error = dct.forward(back, axes) - dct.forward(weights, axes)
    assert np.abs(error).max() <= STEP / 2 + rounding


@pytest.mark.parametrize("keep", [0, 1, 7, prod(SHAPE)])
def test_a_prefix_keeps_its_coefficients_and_nothing_else(keep):
    weights = weights_of("float64")
    record = through_a_chunk(make_record(weights.copy(), "float64", Plan((0, 1, 2), keep, STEP)))
    assert record.values.size == keep
    expected = dct.forward(weights, (0, 1, 2)).reshape(-1)
    got = dct.forward(restore(record), (0, 1, 2)).reshape(-1)
    kept = zigzag.prefix(SHAPE, keep)
    assert np.abs(got[kept] - expected[kept]).max(initial=0) <= STEP / 2 + 1e-12
    assert np.abs(np.delete(got, kept)).max(initial=0) < 1e-12


def test_the_sequence_of_a_transform_has_neighbours_of_one_frequency():
    weights = weights_of()
    record = make_record(weights.copy(), "float32", Plan((1,), None, STEP))
    expected = quantize.quantise(dct.forward(weights, (1,)), STEP).transpose(1, 0, 2).reshape(-1)
    np.testing.assert_array_equal(record.values, expected)


def test_exact_coefficients_may_be_stored_narrower():
    sequence = np.array([2.0, -0.5, 0.25], np.float32)
    plan = Plan((0, 1), 3, stored="float16")
    record = through_a_chunk(record_of_coefficients(sequence, (4, 4), "float32", plan))
    assert record.layout.stored == "float16"
    got = dct.forward(restore(record), (0, 1)).reshape(-1)
    np.testing.assert_allclose(got[zigzag.prefix((4, 4), 3)], sequence, atol=1e-6)


def test_a_rounded_record_is_an_exact_one_of_rounded_values():
    weights = weights_of(shape=(50,))
    record = make_record(weights, "float32", Plan(mantissa_bits=7))
    np.testing.assert_array_equal(restore(record), quantize.round_mantissa(weights, 7))


@pytest.mark.parametrize(
    ("plan", "method"),
    [
        (Plan(), "exact"),
        (Plan((0,), 3, stored="float16"), "exact"),
        (Plan(mantissa_bits=9), "rounded"),
        (Plan((0,), None, 0.5), "uniform"),
    ],
)
def test_the_method_of_a_plan_is_one_word(plan, method):
    assert plan.method == method


@pytest.mark.parametrize("step", [STEP, None])
def test_records_of_a_chunk_come_back_each_with_its_own(step):
    tensors = [weights_of(shape=shape, seed=n) for n, shape in enumerate([(3, 4), (), (7,), (2, 2, 2)])]
    records = [make_record(tensor.copy(), "float32", Plan(step=step)) for tensor in tensors]
    back = decode_chunk(encode_chunk(records), [record.layout for record in records])
    for tensor, record in zip(tensors, back, strict=True):
        assert restore(record).shape == tensor.shape
        np.testing.assert_allclose(restore(record), tensor, atol=0 if step is None else STEP)


@pytest.mark.parametrize("step", [STEP, None])
def test_a_chunk_that_does_not_fit_its_layouts_is_refused(step):
    record = make_record(weights_of(shape=(9, 9)), "float32", Plan(step=step))
    payload = encode_chunk([record])
    for shape in [(9, 8), (9, 10)]:
        layout = Layout(shape, "float32", step=step, stored=record.layout.stored)
        with pytest.raises(DamagedError):
            decode_chunk(payload, [layout])


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from([0, 1, 5, CHUNK_SYMBOLS // 3, 2**22])),
        max_size=30,
    )
)
def test_chunks_hold_each_kind_in_order_and_are_no_larger_than_they_must(layouts):
    chunks = group(layouts)
    members = [member for chunk in chunks for member in chunk]
    assert sorted(members) == [n for n, (_, count) in enumerate(layouts) if count]
    assert [chunk[0] for chunk in chunks] == sorted(chunk[0] for chunk in chunks)
    last = {}
    for chunk in chunks:
        (kind,) = {layouts[member][0] for member in chunk}
        assert chunk == sorted(chunk)
        assert chunk[0] > last.get(kind, -1)
        last[kind] = chunk[-1]
        assert len(chunk) == 1 or sum(layouts[member][1] for member in chunk) <= CHUNK_SYMBOLS
