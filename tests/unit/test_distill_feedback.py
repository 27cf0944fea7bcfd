"""Error feedback makes less output error than quantising alone, at no more bytes; on the grid, on a path."""

import numpy as np
import pytest

from frconvert.coding import coefficients, rows
from frconvert.coding.coefficients import Coded
from frconvert.coding.fit import fit
from frconvert.coding.quantize import storable_step
from frconvert.coding.scales import classes
from frconvert.distill import paths
from frconvert.distill.feedback import (
    Prices,
    bits_of_symbols,
    damped,
    least_squares,
    round_rows,
    round_with_feedback,
)
from frconvert.distill.lookups import search_rows

STEP = storable_step(0.9)


def correlated(columns, seed=0):
    """The Gram matrix of inputs that have much in common."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((20 * columns, columns)) * np.geomspace(1, 0.05, columns)
    inputs = mixed @ random.standard_normal((columns, columns))
    return damped(inputs.T @ inputs / len(inputs), 0.03)


def noise(shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def output_error(weights, restored, gram):
    gap = (weights - restored).astype(np.float64)
    return float(np.einsum("ij,jk,ik->", gap, gram, gap))


def coded(values, state_bits, found, aware):
    part = Coded(values.reshape(-1).copy(), values.shape, STEP, found.scales(STEP))
    payload = coefficients.encode([part], state_bits, aware=aware)
    return len(payload), part.values.reshape(values.shape)


def test_rounding_with_feedback_beats_rounding_at_no_more_bytes():
    weights, gram = noise((60, 90)), correlated(90)
    found = fit(weights)
    prices = Prices(bits_of_symbols(found.shape), classes(found.scales(STEP), weights.shape).T)
    restored = (round_with_feedback(weights, gram, STEP, prices, 0.14) * np.float32(STEP)).astype(np.float32)
    size, back = coded(restored, 0, fit(restored), aware=False)
    plain_size, plain = coded(weights, 0, found, aware=False)
    np.testing.assert_allclose(back, restored, atol=1e-5)
    assert size <= plain_size
    assert output_error(weights, restored, gram) < 0.5 * output_error(weights, plain, gram)


def test_without_correlation_and_prices_feedback_is_rounding():
    weights = noise((7, 30))
    found = round_with_feedback(weights, np.eye(30), STEP)
    np.testing.assert_array_equal(found, np.rint(weights / np.float32(STEP)))


@pytest.mark.parametrize("shape", [(24, 36), (64, 96), (50, 7)])
def test_a_path_with_feedback_beats_the_trellis_alone_and_comes_back_exactly(shape):
    weights, gram = noise(shape), correlated(shape[1])
    served = paths.served_fit(weights, STEP)
    found = paths.search(weights, gram, STEP, served, 0.1)
    values = (found * np.float32(STEP / 2)).astype(np.float32)
    size, back = coded(values, coefficients.STATE_BITS, paths.served_fit(values, STEP), aware=False)
    plain_size, plain = coded(weights, coefficients.STATE_BITS, fit(weights), aware=True)
    np.testing.assert_allclose(back, values, atol=1e-5)
    assert size < 1.03 * plain_size
    assert output_error(weights, values, gram) < 0.8 * output_error(weights, plain, gram)


def test_the_twins_of_the_search_agree(monkeypatch):
    if paths._paths is None:
        pytest.skip("there is no compiled twin")
    weights, gram = noise((20, 60)), correlated(60)
    served = paths.served_fit(weights, STEP)
    compiled = paths.search(weights, gram, STEP, served, 0.1)
    monkeypatch.setattr(paths, "_paths", None)
    np.testing.assert_array_equal(paths.search(weights, gram, STEP, served, 0.1), compiled)


def test_a_lane_that_meets_rows_in_several_ways_is_served():
    shape = (176, 64)
    assert rows.lane_count(176 * 64) == 5
    assert paths.patterns(shape) == 5
    weights, gram = noise(shape), correlated(64)
    served = paths.served_fit(weights, STEP)
    values = (paths.search(weights, gram, STEP, served, 0.1) * np.float32(STEP / 2)).astype(np.float32)
    _, plain = coded(weights, coefficients.STATE_BITS, fit(weights), aware=True)
    assert output_error(weights, values, gram) < 0.8 * output_error(weights, plain, gram)


def test_all_classes_of_a_served_fit_are_served():
    weights = noise((40, 40)) * np.geomspace(1e-3, 1, 40, dtype=np.float32)
    scale = paths.served_fit(weights, STEP).scales(STEP)
    assert classes(scale, weights.shape).min() >= 9


def test_least_squares_keeps_to_the_support_and_beats_dropping():
    weights, gram = noise((10, 30)), correlated(30)
    support = np.random.default_rng(3).random((10, 30)) < 0.6
    found = least_squares(weights, gram, support)
    assert not found[~support].any()
    assert output_error(weights, found, gram) < 0.9 * output_error(weights, weights * support, gram)


def test_rows_that_are_looked_up_often_are_nearer_to_the_original():
    weights = noise((200, 16))
    counts = np.where(np.arange(200) < 100, 0.5, 20.0)
    restored = round_rows(weights, counts, STEP, fit(weights), 0.14) * STEP
    error = np.square(weights - restored).mean(axis=1)
    assert error[100:].mean() < error[:100].mean()


def test_rows_on_a_path_come_back_exactly_and_frequent_ones_are_nearer():
    weights = noise((300, 40)) * np.geomspace(0.1, 1, 40, dtype=np.float32)  # some columns are not served
    counts = np.where(np.arange(300) < 150, 0.5, 20.0)
    found = fit(weights)
    restored = (search_rows(weights, counts, STEP, found, 0.1) * np.float32(STEP / 2)).astype(np.float32)
    _, back = coded(restored, coefficients.STATE_BITS, found, aware=False)
    np.testing.assert_allclose(back, restored, atol=1e-5)
    error = np.square(weights - restored).mean(axis=1)
    assert error[150:].mean() < error[:150].mean()
