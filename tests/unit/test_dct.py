"""The orthonormal DCT over chosen axes."""

from itertools import combinations

import ml_dtypes
import numpy as np
import pytest

from frconvert.spectral import dct

SHAPE = (3, 4, 5)
SUBSETS = [subset for size in range(4) for subset in combinations(range(3), size)]


@pytest.fixture
def weights():
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def cosine_matrix(length):
    """Row k of the orthonormal DCT-II, written from its definition."""
    k, n = np.mgrid[:length, :length]
    matrix = np.sqrt(2 / length) * np.cos(np.pi * (2 * n + 1) * k / (2 * length))
    matrix[0] /= np.sqrt(2)
    return matrix


@pytest.mark.parametrize("axes", SUBSETS)
def test_coefficients_are_those_of_the_definition(weights, axes):
    expected = weights.astype(np.float64)
    for axis in axes:
        expected = np.moveaxis(np.tensordot(cosine_matrix(SHAPE[axis]), expected, (1, axis)), 0, axis)
    np.testing.assert_allclose(dct.forward(weights, axes), expected, atol=1e-5)


@pytest.mark.parametrize("axes", SUBSETS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_inverse_undoes_the_transform_within_rounding(weights, axes, dtype):
    values = weights.astype(dtype)
    back = dct.inverse(dct.forward(values, axes), axes)
    assert back.dtype == values.dtype
    np.testing.assert_allclose(back, values, atol=3e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("axes", SUBSETS)
def test_the_sum_of_squares_is_kept(weights, axes):
    assert np.square(dct.forward(weights, axes)).sum() == pytest.approx(np.square(weights).sum(), rel=1e-5)


def test_no_axes_is_the_identity_in_a_new_array(weights):
    same = dct.forward(weights, ())
    assert same.tobytes() == weights.tobytes()
    assert not np.shares_memory(same, weights)


@pytest.mark.parametrize("axes", [(), (0,), (0, 1, 2)])
def test_the_argument_is_left_alone(weights, axes):
    before = weights.copy()
    dct.forward(weights, axes)
    assert weights.tobytes() == before.tobytes()


@pytest.mark.parametrize(
    ("dtype", "working"),
    [("float64", "float64"), ("float32", "float32"), ("float16", "float32")]
    + [(getattr(ml_dtypes, name), "float32") for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")],
)
def test_narrow_floats_are_transformed_in_float32(weights, dtype, working):
    assert dct.working_dtype(np.dtype(dtype)) == np.dtype(working)
    coefficients = dct.forward(weights.astype(dtype), (1,))
    assert coefficients.dtype == np.dtype(working)
    expected = dct.forward(weights.astype(dtype).astype(working), (1,))
    assert coefficients.tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3), (1,), (1, 1, 1)])
def test_empty_and_single_elements_pass(shape):
    values = np.ones(shape, np.float32)
    axes = tuple(range(len(shape)))
    np.testing.assert_allclose(dct.inverse(dct.forward(values, axes), axes), values, rtol=1e-6)


@pytest.mark.parametrize("axes", [(), (1,)])
def test_weights_are_overwritten_only_where_that_is_allowed_and_possible(axes):
    weights = np.random.default_rng(0).standard_normal((6, 7)).astype(np.float32)
    before = weights.copy()
    assert not np.shares_memory(dct.forward(weights, axes), weights)
    weights.flags.writeable = False
    coefficients = dct.forward(weights, axes, reuse=True)
    assert coefficients.flags.writeable
    assert (weights == before).all()
