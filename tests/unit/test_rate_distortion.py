"""How close coding comes to what information theory allows, on weights of known distribution."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def synthetic():
    """The benchmark's module, which stands in a folder of programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("synthetic")
        sys.modules.pop("synthetic")


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gaussian_weights_cost_less_than_0_4_db_more_than_the_rate_distortion_bound(synthetic, bits):
    point = synthetic.measure(synthetic.weights_of("Gaussian", 200_000), "Gaussian", bits)
    assert point.bits == pytest.approx(bits, abs=0.04)
    assert 0.15 < point.gap_db < 0.4  # below 0.15 it is the measurement that is wrong
    assert 0 < point.excess < 0.01


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_laplacian_weights_come_as_near_to_shannons_lower_bound(synthetic, bits):
    point = synthetic.measure(synthetic.weights_of("Laplacian", 200_000), "Laplacian", bits)
    assert point.bits == pytest.approx(bits, abs=0.04)
    assert 0.15 < point.gap_db < 0.45
    assert 0 < point.excess < 0.01


@pytest.mark.parametrize("kind", ["Gaussian", "Laplacian"])
def test_few_weights_cost_little_more(synthetic, kind):
    point = synthetic.measure(synthetic.weights_of(kind, 10_000), kind, 3)
    assert point.gap_db < 0.5
    assert point.excess < 0.015


def test_the_uniform_quantiser_is_more_than_1_db_from_the_bound(synthetic):
    point = synthetic.measure(synthetic.weights_of("Gaussian", 100_000), "Gaussian", 3, state_bits=0)
    assert 1.4 < point.gap_db < 1.9
