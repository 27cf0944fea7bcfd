"""What `analyze` says of one tensor and of a checkpoint."""

import numpy as np
import pytest

from frconvert import analysis
from frconvert.coding import cost
from frconvert.spectral import analyze


def smooth(shape, axis, seed=0):
    """Noise that is a random walk along one axis and independent along the others."""
    return np.cumsum(np.random.default_rng(seed).standard_normal(shape), axis=axis).astype(np.float32)


def test_the_analysis_of_a_tensor_names_the_chosen_axes_and_their_gain():
    weights = smooth((16, 64), 1)
    found = analysis.analyze_tensor("w", "float32", weights)
    assert found.axes == cost.choose_axes(weights)
    assert set(found.bits) == {(), (0,), (1,), (0, 1)}
    assert found.bits[found.axes] <= min(found.bits.values()) + 0.0025
    assert found.bits[found.axes] < found.bits[()]
    assert found.coding_gain_db == pytest.approx(20 * np.log10(2) * (found.bits[()] - found.bits[found.axes]))
    assert len(found.prefix_energy) == len(analyze.PREFIXES)
    assert all(0 < share <= 1 for share in found.compaction.values())


def test_a_checkpoint_is_analysed_tensor_by_tensor_with_falling_costs(checkpoint_of):
    arrays = {"smooth": smooth((64, 96), 1), "bias": np.ones(5, np.float32), "zeros": np.zeros((4, 4), "f4")}
    found = analysis.analyze_checkpoint(checkpoint_of(arrays))
    assert [entry.tensor.name for entry in found] == ["smooth"]
    (entry,) = found
    assert list(entry.bytes_at) == sorted(entry.bytes_at)
    assert len(entry.bytes_at) == len(analysis.QUALITIES_DB)


def test_what_a_quality_would_cost_is_what_it_costs(checkpoint_of, tmp_path):
    import frconvert

    checkpoint = checkpoint_of({"w": smooth((200, 300), 1)})
    (entry,) = analysis.analyze_checkpoint(checkpoint)
    for quality, size in zip(analysis.QUALITIES_DB, entry.bytes_at, strict=True):
        summary = frconvert.save(checkpoint, tmp_path / "x.frq", snr=quality, overwrite=True)
        assert size == pytest.approx(summary.destination_bytes, rel=0.04, abs=200), quality


def test_spectra_show_along_which_axis_a_tensor_is_smooth():
    rough, even = analysis.axis_spectra(smooth((64, 64), 0))
    assert rough[:4].mean() > 10 * rough[32:].mean()
    assert even[4:32].mean() == pytest.approx(even[32:].mean(), rel=0.5)
