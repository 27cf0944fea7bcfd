"""Any checkpoint through a .frq file and back."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import checkpoints, finite_floats, float_dtypes

import frconvert
from frconvert.container.salvage import examine
from frconvert.container.sources import PathSource
from frconvert.dtypes import numpy_dtype

ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-22, "float64": 2.0**-50}
MEASURING_WARNS = (
    "ignore:.* encountered in:RuntimeWarning"  # a defect with a test of its own in test_search.py
)


def through_a_file(checkpoint, **target):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.frq"
        summary = frconvert.save(checkpoint, path, **target)
        assert examine(PathSource(path)).is_sound
        again = frconvert.load(path)
        assert again.attachments == checkpoint.attachments
        return summary, again, again.numpy()


def assert_same_outline(checkpoint, again, arrays):
    assert [(e.name, e.shape, e.dtype, e.tied_to) for e in again] == [
        (e.name, e.shape, e.dtype, e.tied_to) for e in checkpoint
    ]
    assert again.metadata == checkpoint.metadata
    for entry in checkpoint:
        assert (arrays[entry.name].shape, arrays[entry.name].dtype) == (entry.shape, numpy_dtype(entry.dtype))


@pytest.mark.filterwarnings(MEASURING_WARNS)
@settings(max_examples=60, deadline=None)
@given(checkpoint=checkpoints())
def test_lossless_gives_back_every_bit(checkpoint):
    summary, again, arrays = through_a_file(checkpoint, lossless=True)
    assert_same_outline(checkpoint, again, arrays)
    for entry in checkpoint:
        assert arrays[entry.name].tobytes() == entry.read().tobytes()
    assert summary.sqnr_db == np.inf


@settings(max_examples=30, deadline=None)
@given(checkpoint=checkpoints(finite_floats()), importance=st.sampled_from(["tensor", "mse"]))
def test_without_a_target_values_stay_finite_and_near(checkpoint, importance):
    _, again, arrays = through_a_file(checkpoint, importance=importance)
    assert_same_outline(checkpoint, again, arrays)
    loudest = max(
        (float(np.abs(entry.read().astype(float)).max()) for entry in checkpoint if entry.size), default=0
    )
    for entry in checkpoint:
        before, after = entry.read().astype(float), arrays[entry.name].astype(float)
        assert np.isfinite(after).all()
        scale = np.sqrt(np.square(before).mean())
        # The trellis may take the next but one integer of half steps, so an error may be a whole step.
        step = 0.065 * (scale if importance == "tensor" else min(4 * scale, loudest))
        tolerance = 1.1 * step * np.sqrt(before.size) + ROUNDING[entry.dtype] * np.abs(before).max()
        assert np.abs(after - before).max() <= tolerance * 1.01


@settings(max_examples=30, deadline=None)
@given(checkpoint=checkpoints(finite_floats()), exponent=st.integers(-5, 0))
def test_a_maximum_error_holds_for_every_element(checkpoint, exponent):
    limit = 10.0**exponent
    _, again, arrays = through_a_file(checkpoint, max_error=limit)
    assert_same_outline(checkpoint, again, arrays)
    for entry in checkpoint:
        gap = np.abs(arrays[entry.name].astype(float) - entry.read().astype(float))
        assert gap.max(initial=0) <= limit


@settings(max_examples=30, deadline=None)
@given(checkpoint=checkpoints(finite_floats()), snr=st.floats(5, 80))
def test_an_snr_holds_for_the_whole(checkpoint, snr):
    summary, again, arrays = through_a_file(checkpoint, snr=snr)
    assert_same_outline(checkpoint, again, arrays)
    energy = error = 0.0
    for entry in checkpoint.stored:
        if entry.is_weight:
            before, after = entry.read().astype(float), arrays[entry.name].astype(float)
            energy += np.square(before).sum()
            error += np.square(before - after).sum()
    reached = 10 * np.log10(energy / error) if error else np.inf
    assert reached >= snr - 1e-9
    assert summary.sqnr_db == pytest.approx(reached)


@settings(max_examples=30, deadline=None)
@given(checkpoint=checkpoints(finite_floats()), fraction=st.floats(0.001, 1))
def test_keep_keeps_outline_and_finiteness(checkpoint, fraction):
    summary, again, arrays = through_a_file(checkpoint, keep=fraction)
    assert_same_outline(checkpoint, again, arrays)
    for tensor in summary.tensors:
        assert np.isfinite(arrays[tensor.name].astype(float)).all()
        if tensor.method == "uniform":
            assert tensor.keep == max(1, int(fraction * np.prod(tensor.shape) + 0.5))


@pytest.mark.filterwarnings(MEASURING_WARNS)
@settings(max_examples=30, deadline=None)
@given(checkpoint=checkpoints())
def test_copying_a_file_is_the_identity(checkpoint):
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / "a.frq", Path(folder) / "b.frq"
        frconvert.save(checkpoint, first, lossless=True)
        frconvert.convert(first, second)
        assert second.read_bytes() == first.read_bytes()


@settings(max_examples=30, deadline=None)
@given(array=finite_floats(float_dtypes))
def test_a_second_pass_at_the_same_quality_changes_little(array):
    checkpoint = frconvert.Checkpoint(
        (frconvert.TensorEntry("w", array.shape, array.dtype.name, array.copy),), "test"
    )
    _, again, once = through_a_file(checkpoint, max_error=0.01)
    twice = np.empty(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.frq"
        frconvert.save(
            frconvert.Checkpoint(
                (frconvert.TensorEntry("w", array.shape, array.dtype.name, once["w"].copy),), "test"
            ),
            path,
            max_error=0.01,
        )
        twice = frconvert.load(path).numpy()["w"]
    assert np.abs(twice.astype(float) - array.astype(float)).max(initial=0) <= 0.02
    assert len(again) == 1
