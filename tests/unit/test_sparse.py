"""Sparse integers: what was coded comes back, from Python and from the compiled twin alike, or is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from frconvert.coding import sparse
from frconvert.coding.record import SPARSE, Plan, decode_chunk, encode_chunk, make_record, restore
from frconvert.errors import DamagedError

INTEGERS = st.one_of(st.just(0), st.just(0), st.integers(-3, 3), st.integers(-sparse.LARGEST, sparse.LARGEST))
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
TENSORS = st.lists(hnp.arrays(np.int32, SHAPES, elements=INTEGERS), min_size=0, max_size=3)


def in_python(function, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "native", None)
        return function(*arguments)


def result_of(payload, shapes):
    try:
        return [array.tolist() for array in sparse.decode(payload, shapes)]
    except DamagedError as error:
        return str(error)


@settings(max_examples=80, deadline=None)
@given(TENSORS)
def test_tensors_come_back_and_both_coders_give_the_same_bytes(tensors):
    payload = sparse.encode(tensors)
    assert in_python(sparse.encode, tensors) == payload
    shapes = [tensor.shape for tensor in tensors]
    expected = [tensor.tolist() for tensor in tensors]
    assert result_of(payload, shapes) == expected
    assert in_python(result_of, payload, shapes) == expected


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=40), st.lists(SHAPES, max_size=3))
def test_any_bytes_are_decoded_alike_or_refused_alike(payload, shapes):
    assert result_of(payload, shapes) == in_python(result_of, payload, shapes)


def test_dead_rows_and_columns_cost_next_to_nothing():
    rng = np.random.default_rng(0)
    small = (rng.random((20, 30)) < 0.1) * rng.integers(1, 4, (20, 30))
    large = np.zeros((500, 800), np.int32)
    large[:20, :30] = small
    assert len(sparse.encode([large])) < len(sparse.encode([small.astype(np.int32)])) + 12


def test_the_size_is_near_the_entropy_where_rows_and_columns_have_their_own_densities():
    rng = np.random.default_rng(1)
    share = np.clip(np.outer(rng.gamma(0.5, 1, 100), rng.gamma(0.5, 1, 80)) * 0.1, 0.001, 0.999)
    values = ((rng.random(share.shape) < share) * rng.choice([-1, 1], share.shape)).astype(np.int32)
    ideal = -np.where(values, np.log2(share / 2), np.log2(1 - share)).sum() / 8  # bytes, densities known
    assert len(sparse.encode([values])) < 1.4 * ideal


def test_cheap_decisions_are_paid_for_with_zeros_at_the_end():
    values = np.zeros((1 << 16, 1), np.int32)
    payload = sparse.encode([values])
    assert payload.endswith(bytes(100))
    assert sparse.budget(len(payload)) >= values.size > sparse.budget(len(payload) - 1)
    assert result_of(payload, [values.shape]) == [values.tolist()]
    assert "decisions" in result_of(payload[:-1], [values.shape])
    assert "decisions" in in_python(result_of, payload[:-1], [values.shape])


def test_bytes_after_the_end_are_refused():
    values = np.eye(4, dtype=np.int32)
    payload = sparse.encode([values])
    assert "after the last" in result_of(payload + b"\0\0\0\0\1", [values.shape])


def test_magnitudes_beyond_the_largest_are_refused():
    with pytest.raises(ValueError, match="magnitudes"):
        sparse.encode([np.array([sparse.LARGEST + 1], np.int32)])


@pytest.mark.skipif(sparse.native is None, reason="no compiler was there when frconvert was installed")
def test_the_compiled_twin_refuses_sizes_that_do_not_fit():
    one, four = np.array([1]), np.array([4])
    values, stretches = np.zeros(3, np.int32), sparse.stretches()
    for ranks, lengths in (
        (one, four),
        (np.array([2]), one),
        (np.array([65]), np.ones(65, int)),
        (one, -four),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            sparse.native.sparse_encode(ranks, lengths, values, stretches)
    with pytest.raises(ValueError, match="do not fit"):
        sparse.native.sparse_encode(one, one, values, stretches[:9])


@pytest.mark.parametrize(("view", "axes"), [(None, (1,)), ((5, 3, 2, 2), (2, 3)), ((60,), (0,))])
def test_a_tensor_of_a_view_comes_back_within_the_step(view, axes):
    weights = np.cumsum(np.random.default_rng(2).normal(size=(5, 12)), axis=1).astype(np.float32)
    plan = Plan(axes, None, 0.25, SPARSE, view=view)
    record = make_record(weights.copy(), "float32", plan)
    (back,) = decode_chunk(encode_chunk([record]), [record.layout])
    restored = restore(back)
    assert restored.shape == weights.shape
    assert np.square(restored - weights).sum() <= weights.size * 0.125**2
    assert plan.method == SPARSE
