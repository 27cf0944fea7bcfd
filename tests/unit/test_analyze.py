"""Candidate transforms, crops, energy compaction."""

import numpy as np
import pytest

from frconvert.spectral import analyze


def smooth(shape, axis, seed=0):
    """Noise that is a random walk along one axis and independent along the others."""
    return np.cumsum(np.random.default_rng(seed).standard_normal(shape), axis=axis).astype(np.float32)


def test_candidates_are_all_subsets_of_axes_longer_than_one():
    assert analyze.candidate_axes((3, 1, 2)) == [(), (0,), (2,), (0, 2)]
    assert analyze.candidate_axes(()) == [()]
    assert len(analyze.candidate_axes((2,) * 8)) == 2**5  # only the first five axes


def test_a_crop_is_a_central_block_that_keeps_short_axes_whole():
    weights = np.arange(1024 * 512 * 3).reshape(1024, 512, 3)
    block = analyze.crop(weights)
    assert block.size <= 1 << 17
    assert block.shape[2] == 3
    middle = weights[512, 256, 1]
    assert middle in block
    assert analyze.crop(weights[:10]).shape == (10, 512, 3)


def test_prefix_energy_rises_to_one():
    weights = smooth((20, 30), 1)
    curve = analyze.prefix_energy(weights, np.linspace(0.01, 1, 50))
    assert (np.diff(curve) >= 0).all()
    assert curve[-1] == pytest.approx(1)
    assert analyze.prefix_energy(np.zeros((3, 3), np.float32), np.array([0.1, 1])).tolist() == [1, 1]


def test_prefix_energy_of_a_constant_is_all_in_the_first_coefficient():
    assert analyze.prefix_energy(np.full((10, 10), 3.0, np.float32), np.array([0.001]))[0] == pytest.approx(1)


def test_the_largest_tenth_of_even_coefficients_has_a_tenth_of_the_energy():
    assert analyze.energy_in_largest_tenth(np.ones((10, 10), np.float32)) == pytest.approx(0.1)
    one = np.zeros((10, 10), np.float32)
    one[3, 4] = 5
    assert analyze.energy_in_largest_tenth(one) == 1
    assert analyze.energy_in_largest_tenth(np.zeros((4, 4), np.float32)) == 1


def test_energy_and_finiteness_are_those_of_all_elements():
    values = np.random.default_rng(0).standard_normal((1 << 10, 1 << 11)).astype(np.float16)
    assert analyze.sum_of_squares(values) == pytest.approx(float(np.square(values.astype(float)).sum()))
    assert analyze.root_mean_square(values) == pytest.approx(1, abs=0.01)
    assert analyze.root_mean_square(np.zeros((0, 3))) == 0
    assert analyze.all_finite(values)
    values[-1, -1] = np.nan
    assert not analyze.all_finite(values)
