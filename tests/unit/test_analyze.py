"""Energy compaction and the choice of axes."""

import numpy as np
import pytest

from frconvert.spectral import analyze


def smooth(shape, axis, seed=0):
    """Noise that is a random walk along one axis and independent along the others."""
    return np.cumsum(np.random.default_rng(seed).standard_normal(shape), axis=axis).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_smooth_axis_is_transformed(axis):
    weights = smooth((32, 48, 40), axis)
    centred = weights - weights.mean(axis=axis, keepdims=True)
    assert axis in analyze.choose_axes(centred)


@pytest.mark.parametrize("shape", [(64, 64), (32, 16, 3, 3)])
def test_white_noise_is_left_alone(shape):
    assert analyze.choose_axes(np.random.default_rng(1).standard_normal(shape).astype(np.float32)) == ()


def test_a_surface_that_is_smooth_both_ways_is_transformed_both_ways():
    x, y = np.mgrid[:64, :48] / 20
    assert analyze.choose_axes((np.sin(x) * np.cos(y) + x * y).astype(np.float32)) == (0, 1)


@pytest.mark.parametrize("values", [np.zeros((4, 4), np.float32), np.ones((1, 1), np.float32)])
def test_nothing_is_gained_on_zeros_or_one_element(values):
    assert analyze.choose_axes(values) == ()


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


def test_estimated_bits_grow_by_one_when_the_step_halves():
    coefficients = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    bits = [analyze.estimated_bits(coefficients, (), step) for step in (0.1, 0.05, 0.025)]
    assert bits[1] - bits[0] == pytest.approx(1, abs=0.05)
    assert bits[2] - bits[1] == pytest.approx(1, abs=0.03)
    assert analyze.estimated_bits(coefficients, (), 0.0) == 0


def test_prefix_energy_rises_to_one():
    weights = smooth((20, 30), 1)
    curve = analyze.prefix_energy(weights, np.linspace(0.01, 1, 50))
    assert (np.diff(curve) >= 0).all()
    assert curve[-1] == pytest.approx(1)
    assert analyze.prefix_energy(np.zeros((3, 3), np.float32), np.array([0.1, 1])).tolist() == [1, 1]


def test_prefix_energy_of_a_constant_is_all_in_the_first_coefficient():
    assert analyze.prefix_energy(np.full((10, 10), 3.0, np.float32), np.array([0.001]))[0] == pytest.approx(1)


def test_the_analysis_of_a_tensor_names_the_chosen_axes_and_their_gain():
    weights = smooth((16, 64), 1)
    found = analyze.analyze_tensor("w", "float32", weights)
    assert found.axes == analyze.choose_axes(weights)
    assert set(found.bits) == {(), (0,), (1,), (0, 1)}
    assert found.bits[found.axes] == min(found.bits.values())
    assert found.coding_gain_db == pytest.approx(20 * np.log10(2) * (found.bits[()] - found.bits[found.axes]))
    assert len(found.prefix_energy) == len(analyze.PREFIXES)
    assert all(0 < share <= 1 for share in found.compaction.values())


def test_values_whose_coefficients_overflow_float32_are_left_spatial():
    weights = np.full((64, 64), 1e38, np.float32)
    assert analyze.choose_axes(weights) == ()
