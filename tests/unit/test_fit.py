"""What is told of the size of coefficients: scales per axis, mean, tail shape."""

import numpy as np
import pytest
from scipy import stats

from frconvert.coding import tables
from frconvert.coding.fit import Fit, fit
from frconvert.coding.scales import classes

EXPONENTS = (2.0, 1.6, 1.3, 1.1, 1.0, 0.9, 0.75, 0.6)


def gaussian(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def planted(shape, axes, spread=4.0, seed=1):
    """Offsets in octaves along some axes, and values that follow them."""
    rng = np.random.default_rng(seed)
    values, octaves = gaussian(shape, seed), {}
    for axis in axes:
        octaves[axis] = rng.uniform(-spread / 2, spread / 2, shape[axis])
        values = values * np.exp2(octaves[axis]).astype(np.float32).reshape(
            [-1 if a == axis else 1 for a in range(len(shape))]
        )
    return values, octaves


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((200, 300), [0]),
        ((200, 300), [1]),
        ((200, 300), [0, 1]),
        ((40, 50, 60), [0, 2]),
        ((60, 40, 5, 5), [1]),
    ],
)
def test_planted_scales_are_found_within_a_class(shape, axes):
    values, octaves = planted(shape, axes)
    found = fit(values)
    assert [axis for axis, table in enumerate(found.offsets) if table is not None] == axes
    for axis in axes:
        error = found.offsets[axis] / 4 - octaves[axis]
        error -= error.mean()  # a common factor is the mean's
        assert np.abs(error).max() < 0.4
        assert np.sqrt(np.square(error).mean()) < 0.15


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_classes_of_a_fit_are_the_mean_magnitudes_of_their_coefficients(dtype):
    values = planted((150, 400), [0, 1])[0].astype(dtype)
    step = 0.05
    scales = fit(values).scales(step)
    number = classes(scales, values.shape)
    for scale_class in np.unique(number):
        chosen = np.abs(values[number == scale_class])
        if chosen.size > 2000:
            expected = step * 2 ** ((int(scale_class) - tables.UNIT_CLASS) / 4)
            assert chosen.mean() == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("shape", [(64, 64), (300, 200), (30, 20, 3, 3), (8, 8)])
def test_tables_that_tell_nothing_are_left_out(shape):
    assert fit(gaussian(shape)).offsets == (None,) * len(shape)


@pytest.mark.parametrize("shape", [(1,), (5,), (1, 1), (1, 700), (700, 1), (1, 1, 1, 1)])
def test_axes_of_one_or_of_all_coefficients_have_no_table(shape):
    found = fit(np.full(shape, -2.5, np.float32))
    assert found.offsets == (None,) * len(shape)
    assert found.mean == pytest.approx(2.5)


def test_a_table_must_save_more_than_it_costs():
    quiet = gaussian((400, 6))
    quiet[:, 5] /= 2
    assert fit(quiet).offsets[0] is None
    assert fit(quiet).offsets[1] is not None
    assert fit(quiet[:10]).offsets == (None, None)


@pytest.mark.parametrize("tail", range(len(tables.SHAPES)))
def test_the_tail_of_a_generalised_gaussian_is_found(tail):
    values = stats.gennorm.rvs(EXPONENTS[tail], size=(300, 400), random_state=tail).astype(np.float32)
    assert fit(values).shape == tail
    scaled = values * np.exp2(np.random.default_rng(0).uniform(-2, 2, (300, 1))).astype(np.float32)
    assert abs(fit(scaled).shape - tail) <= 1


@pytest.mark.parametrize("factor", [1e-25, 1e-6, 1.0, 1e6, 1e25])
def test_loudness_changes_the_mean_alone(factor):
    values = planted((60, 70), [0])[0]
    plain, loud = fit(values), fit(values * np.float32(factor))
    assert loud.mean == pytest.approx(plain.mean * factor, rel=1e-5)
    assert loud.shape == plain.shape
    assert (loud.offsets[0] == plain.offsets[0]).all()


def test_dead_rows_have_the_lowest_offset_and_take_nothing_from_the_others():
    values = gaussian((50, 200))
    values[7] = 0
    found = fit(values)
    assert found.offsets[0][7] < -60
    alive = np.delete(found.offsets[0], 7)
    assert np.abs(alive - alive.mean()).max() <= 2


def test_a_fit_of_a_step_has_its_mean_in_the_class_of_the_base():
    found = Fit(3, 0.8, (None,))
    assert found.scales(0.8).base == tables.UNIT_CLASS
    assert found.scales(0.1).base == tables.UNIT_CLASS + 12
    assert found.scales(0.8 * 2**0.2).base == tables.UNIT_CLASS - 1
    assert found.scales(3.2).shape == 3


def test_a_part_of_a_fit_has_the_offsets_of_its_indices():
    values = planted((80, 90), [0, 1])[0]
    found = fit(values)
    part = found.part((slice(10, 30), slice(5, 90)))
    step = 0.1
    assert (
        classes(part.scales(step), (20, 85)) == classes(found.scales(step), values.shape)[10:30, 5:]
    ).all()


def test_the_fit_does_not_depend_on_how_the_coefficients_lie_in_memory():
    values = planted((60, 70), [0, 1])[0]
    turned = np.asfortranarray(values)
    first, second = fit(values), fit(turned)
    assert (first.shape, first.mean) == (second.shape, pytest.approx(second.mean, rel=1e-6))
    assert all((a == b).all() for a, b in zip(first.offsets, second.offsets, strict=True))
