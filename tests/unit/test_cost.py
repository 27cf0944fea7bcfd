"""Estimates of size and error, and the choice of axes by them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frconvert.coding import coefficients, cost, tables
from frconvert.coding.coefficients import Coded
from frconvert.coding.fit import Fit, fit
from frconvert.coding.scales import classes

SEED = 20
TRELLIS, UNIFORM = coefficients.STATE_BITS, 0


def noise(kind, shape=(300, 200)):
    rng = np.random.default_rng(SEED)
    values = {"gaussian": rng.standard_normal, "laplacian": lambda shape: rng.laplace(size=shape)}.get(kind)
    if values is None:
        rows, columns = np.exp(rng.standard_normal(shape[0])), np.exp(rng.standard_normal(shape[1]) / 2)
        return (rng.standard_normal(shape) * rows[:, None] * columns).astype(np.float32)
    return values(shape).astype(np.float32)


def really(found, values, step, state_bits):
    """Bits and sum of squared errors of coding the values."""
    part = Coded(values.reshape(-1).copy(), values.shape, step, found.scales(step))
    payload = coefficients.encode([part], state_bits, aware=bool(state_bits))
    error = np.square(values.reshape(-1).astype(float) - part.values).sum()
    return 8 * len(payload), float(error)


@pytest.mark.parametrize("kind", ["gaussian", "laplacian", "scaled rows and columns"])
@pytest.mark.parametrize("relative_step", [0.01, 0.1, 0.27, 0.45, 0.6, 0.82, 1.0])
@pytest.mark.parametrize("state_bits", [TRELLIS, UNIFORM])
def test_estimates_are_within_3_and_5_percent_of_what_is_coded(kind, relative_step, state_bits):
    values = noise(kind)
    found = fit(values)
    counted = cost.count_classes(found, values.shape)
    step = relative_step * float(np.sqrt(np.square(values).mean()))
    bits, error = really(found, values, step, state_bits)
    # The uniform quantiser does not look at prices, for which the tables are made: a table of its own helps.
    tolerance = 0.08 if state_bits == UNIFORM and relative_step > 0.5 else 0.03
    assert cost.estimated_bits(found, counted, step, state_bits) == pytest.approx(bits, rel=tolerance)
    assert cost.estimated_error(found, counted, step, state_bits) == pytest.approx(error, rel=0.05)


@pytest.mark.parametrize("kind", ["gaussian", "laplacian"])
@pytest.mark.parametrize("relative_step", [1.3, 1.6, 2.0, 2.4])
def test_estimates_below_two_bits_are_within_8_percent(kind, relative_step):
    values = noise(kind)
    found = fit(values)
    counted = cost.count_classes(found, values.shape)
    step = relative_step * float(np.sqrt(np.square(values).mean()))
    bits, error = really(found, values, step, TRELLIS)
    assert cost.estimated_bits(found, counted, step, TRELLIS) == pytest.approx(bits, rel=0.08)
    assert cost.estimated_error(found, counted, step, TRELLIS) == pytest.approx(error, rel=0.08)


@st.composite
def fits(draw):
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    offsets = tuple(
        draw(st.one_of(st.none(), st.lists(st.integers(-127, 127), min_size=length, max_size=length)))
        for length in shape
    )
    as_arrays = tuple(None if table is None else np.array(table, np.int16) for table in offsets)
    return Fit(draw(st.integers(0, 7)), draw(st.floats(1e-6, 1e6)), as_arrays), shape


@settings(max_examples=100, deadline=None)
@given(fits())
def test_counted_classes_are_the_histogram_of_the_classes_of_all_coefficients(case):
    found, shape = case
    counted = cost.count_classes(found, shape)
    every = np.zeros(shape, np.int64)
    for axis, table in enumerate(found.offsets):
        if table is not None:
            every += table.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    values, counts = np.unique(every, return_counts=True)
    assert counted.offsets.tolist() == values.tolist()
    assert counted.counts.tolist() == counts.tolist()
    step = found.mean / 2**3.1
    scales = found.scales(step)
    clipped = np.clip(scales.base + values, 0, tables.CLASSES - 1)
    histogram = np.bincount(clipped, weights=counts, minlength=tables.CLASSES)
    exact = np.bincount(classes(scales, shape).reshape(-1), minlength=tables.CLASSES)
    assert histogram.tolist() == exact.tolist()


@settings(max_examples=40, deadline=None)
@given(fits(), st.sampled_from([TRELLIS, UNIFORM]))
def test_bits_fall_and_the_error_grows_with_every_step(case, state_bits):
    found, shape = case
    counted = cost.count_classes(found, shape)
    steps = found.mean * np.geomspace(1e-5, 1e3, 300)
    bits = [cost.estimated_bits(found, counted, step, state_bits) for step in steps]
    errors = [cost.estimated_error(found, counted, step, state_bits) for step in steps]
    assert (np.diff(bits) <= 1e-9 * np.array(bits[1:])).all()
    assert (np.diff(errors) >= -1e-9 * np.array(errors[1:])).all()


@pytest.mark.parametrize("state_bits", [TRELLIS, UNIFORM])
@pytest.mark.parametrize("tail", range(len(tables.SHAPES)))
def test_four_classes_more_are_one_bit_more_where_bits_are_many(tail, state_bits):
    rate, error = cost.curve(tail, state_bits)
    assert rate[24:, :] - rate[20:-4, :] == pytest.approx(np.ones((88, 3)), abs=0.04)
    assert error[24:, :] / error[20:-4, :] == pytest.approx(np.full((88, 3), 0.25), rel=0.08)


def test_a_step_half_as_large_costs_a_bit_more_for_each_coefficient():
    values = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    bits = [cost.bits_by_axes(values, step)[()] for step in (0.1, 0.05, 0.025)]
    assert bits[1] - bits[0] == pytest.approx(1, abs=0.02)
    assert bits[2] - bits[1] == pytest.approx(1, abs=0.02)


def smooth(shape, axis, seed=0):
    """Noise that is a random walk along one axis and independent along the others."""
    return np.cumsum(np.random.default_rng(seed).standard_normal(shape), axis=axis).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_smooth_axis_is_transformed(axis):
    weights = smooth((32, 48, 40), axis)
    centred = weights - weights.mean(axis=axis, keepdims=True)
    assert axis in cost.choose_axes(centred)


@pytest.mark.parametrize("shape", [(64, 64), (32, 16, 3, 3)])
def test_white_noise_is_left_alone(shape):
    assert cost.choose_axes(np.random.default_rng(1).standard_normal(shape).astype(np.float32)) == ()


def test_a_surface_that_is_smooth_both_ways_is_transformed_both_ways():
    x, y = np.mgrid[:64, :48] / 20
    assert cost.choose_axes((np.sin(x) * np.cos(y) + x * y).astype(np.float32)) == (0, 1)


@pytest.mark.parametrize("values", [np.zeros((4, 4), np.float32), np.ones((1, 1), np.float32)])
def test_nothing_is_gained_on_zeros_or_one_element(values):
    assert cost.choose_axes(values) == ()


def test_values_whose_coefficients_overflow_float32_are_left_spatial():
    weights = np.full((64, 64), 1e38, np.float32)
    assert cost.choose_axes(weights) == ()


def test_of_subsets_that_cost_about_the_same_the_smallest_is_chosen():
    assert cost.cheapest({(): 4.0, (0,): 3.997, (1,): 3.999}, 10**6) == ()
    assert cost.cheapest({(): 4.0, (0,): 3.5, (1,): 3.6, (0, 1): 3.499}, 10**6) == (0,)
    assert cost.cheapest({(): 4.0, (0,): 3.5, (1,): 3.6, (0, 1): 3.4}, 10**6) == (0, 1)
    assert cost.cheapest({(): 4.0, (0,): 3.98}, 10**6) == (0,)
    assert cost.cheapest({(): 4.0, (0,): 3.98}, 1000) == ()  # as much as noise would seem to gain
