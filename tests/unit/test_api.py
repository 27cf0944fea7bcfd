"""The Python API."""

import inspect
import subprocess
import sys

import numpy as np
import pytest

import frconvert
from frconvert.errors import UsageError


def python(code, *arguments):
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return run.stdout.strip()


def test_what_is_public_is_there():
    assert len(frconvert.__all__) <= 12
    for name in frconvert.__all__:
        assert getattr(frconvert, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = frconvert.nothing


def test_importing_the_package_loads_no_framework():
    heavy = ("torch", "onnx", "scipy", "h5py", "numpy", "rich", "click", "ml_dtypes")
    code = f"import frconvert, sys; print([m for m in {heavy} if m in sys.modules])"
    assert python(code) == "[]"


def test_decoding_a_frq_loads_neither_torch_nor_onnx(tmp_path, checkpoint_of, model):
    frconvert.save(checkpoint_of(model), tmp_path / "m.frq")
    code = (
        "import frconvert, sys; frconvert.load(sys.argv[1]).numpy(); "
        "print([m for m in ('torch', 'onnx', 'h5py') if m in sys.modules])"
    )
    assert python(code, tmp_path / "m.frq") == "[]"


def test_the_example_of_the_documentation_works(npz, tmp_path):
    checkpoint = frconvert.load(str(npz))
    summary = frconvert.save(checkpoint, str(tmp_path / "model.frq"), snr=30)
    assert isinstance(summary, frconvert.Summary)
    assert summary.sqnr_db >= 30
    weights = frconvert.load(tmp_path / "model.frq").numpy()
    assert list(weights) == ["weight", "bias", "steps"]
    assert all(isinstance(array, np.ndarray) for array in weights.values())
    frconvert.convert(npz, tmp_path / "other.frq", ratio=3)
    assert (tmp_path / "other.frq").stat().st_size <= checkpoint.tensor_bytes / 3


def test_save_has_an_argument_for_each_target_and_option_of_the_command_line():
    from frconvert.cli import convert

    flags = {parameter.name for parameter in convert.params}
    arguments = set(inspect.signature(frconvert.save).parameters)
    spelled_otherwise = {"meta", "attach", "no_provenance"}
    spelled_otherwise |= {"max_drop", "metric"}  # frconvert.quality
    assert (
        flags - arguments
        == {"src", "dst", "source_format", "as_json", "quiet", "salvage"} | spelled_otherwise
    )
    assert arguments - flags == {
        "checkpoint",
        "destination",
        "progress",
        "metadata",
        "attachments",
        "provenance",
    }


def test_the_summary_counts_what_is_there(npz, tmp_path):
    summary = frconvert.convert(npz, tmp_path / "m.frq", lossless=True)
    assert summary.source_bytes == 4 * (48 * 64 + 48) + 8
    assert summary.destination_bytes == (tmp_path / "m.frq").stat().st_size
    assert summary.parameters == 48 * 64 + 48 + 1
    assert summary.bits_per_weight == pytest.approx(8 * summary.destination_bytes / (49 * 64 - 16), abs=1e-3)
    assert [tensor.name for tensor in summary.tensors] == ["weight", "bias", "steps"]
    assert summary.peak_rss_bytes > 1 << 20
    assert 0 <= summary.seconds < 60


def test_shares_of_tensors_sum_to_about_the_file(tmp_path, checkpoint_of, model):
    summary = frconvert.save(checkpoint_of(model), tmp_path / "m.frq")
    shares = sum(tensor.size_bytes for tensor in summary.tensors)
    assert 0.98 * summary.destination_bytes < shares < summary.destination_bytes


def test_a_dry_run_writes_nothing_and_tells_the_same(npz, tmp_path):
    dry = frconvert.convert(npz, tmp_path / "m.frq", dry_run=True)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["source.npz"]
    wet = frconvert.convert(npz, tmp_path / "m.frq")
    assert dry.tensors == wet.tensors
    assert dry.destination_bytes == wet.destination_bytes


def test_a_dry_run_refuses_what_the_real_run_would(npz, tmp_path):
    (tmp_path / "m.frq").write_text("old")
    for destination in (tmp_path / "m.frq", tmp_path / "nowhere" / "m.frq", tmp_path / "m.onnx"):
        with pytest.raises(UsageError):
            frconvert.convert(npz, destination, dry_run=True)
    summary = frconvert.convert(npz, tmp_path / "m.frq", dry_run=True, overwrite=True)
    assert summary.destination_bytes > 0
    assert (tmp_path / "m.frq").read_text() == "old"


def test_a_dry_run_into_a_dense_format_tells_the_size_of_the_real_file(npz, tmp_path):
    foretold = frconvert.convert(npz, tmp_path / "m.safetensors", dry_run=True).destination_bytes
    assert list(tmp_path.glob("m.*")) == []
    assert frconvert.convert(npz, tmp_path / "m.safetensors").destination_bytes == foretold


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt", ".h5"])
def test_every_dense_format_and_back_is_exact(npz, tmp_path, suffix):
    dense = tmp_path / f"dense{suffix}"
    summary = frconvert.convert(npz, dense)
    assert summary.sqnr_db == np.inf
    assert summary.destination_bytes == dense.stat().st_size
    before, after = frconvert.load(npz).numpy(), frconvert.load(dense).numpy()
    assert {name: array.tobytes() for name, array in after.items()} == {
        name: array.tobytes() for name, array in before.items()
    }


def test_a_target_for_a_dense_destination_is_refused(npz, tmp_path):
    for options in ({"snr": 30}, {"lossless": True}, {"include": ["*"]}):
        with pytest.raises(UsageError, match=r"a target needs a \.frq destination"):
            frconvert.convert(npz, tmp_path / "m.npz", **options)


def test_a_file_may_be_converted_onto_itself(npz, tmp_path):
    path = tmp_path / "m.frq"
    frconvert.convert(npz, path, lossless=True)
    before = frconvert.load(path).numpy()
    frconvert.convert(path, path, overwrite=True, snr=30)
    assert frconvert.load(path)["steps"].read() == before["steps"]
    assert path.stat().st_size < 4000


@pytest.mark.parametrize("error", [{"snr": -1}, {"keep": 2}, {"size": "much"}, {"snr": 3, "bits": 3}])
def test_wrong_arguments_are_refused_before_anything_is_written(npz, tmp_path, error):
    with pytest.raises(UsageError):
        frconvert.convert(npz, tmp_path / "m.frq", **error)
    assert not (tmp_path / "m.frq").exists()


def test_an_unknown_importance_is_refused(npz, tmp_path):
    with pytest.raises(UsageError):
        frconvert.convert(npz, tmp_path / "m.frq", importance="tensors")


def test_a_name_that_cannot_be_written_is_an_error_of_this_package(tmp_path, checkpoint_of):
    checkpoint = checkpoint_of({"\ud800": np.ones((2, 2), np.float32)})
    with pytest.raises(frconvert.FrqError):
        frconvert.save(checkpoint, tmp_path / "m.frq")


@pytest.mark.parametrize("shape", [(0, 1 << 50), (1,) * 33])
def test_what_is_written_can_be_read_or_is_refused_at_once(tmp_path, checkpoint_of, shape):
    if len(shape) > 32:
        np_limit = int(np.__version__.split(".")[0]) >= 2
        assert np_limit, "this numpy has no such arrays"
    checkpoint = checkpoint_of({"w": np.zeros(shape, np.float32)})
    try:
        frconvert.save(checkpoint, tmp_path / "m.frq")
    except frconvert.FrqError:
        return
    assert frconvert.load(tmp_path / "m.frq")["w"].shape == shape


def test_globs_without_a_target_are_refused_where_a_frq_would_only_be_copied(npz, tmp_path):
    frconvert.convert(npz, tmp_path / "a.frq")
    with pytest.raises(UsageError, match="need a target"):
        frconvert.convert(tmp_path / "a.frq", tmp_path / "b.frq", include=["*"])
