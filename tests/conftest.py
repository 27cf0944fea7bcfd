"""What several test modules share: checkpoints made of arrays, and a small model."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from frconvert import cli
from frconvert.checkpoint import Checkpoint, TensorEntry


def make_checkpoint(
    arrays: Mapping[str, np.ndarray],
    ties: Mapping[str, str] | None = None,
    attachments: Mapping[str, bytes] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Checkpoint:
    """A checkpoint of arrays; `ties` names aliases, which come after the arrays."""
    entries = [TensorEntry(name, a.shape, a.dtype.name, a.copy) for name, a in arrays.items()]
    for alias, name in (ties or {}).items():
        array = arrays[name]
        entries.append(TensorEntry(alias, array.shape, array.dtype.name, array.copy, tied_to=name))
    return Checkpoint(tuple(entries), "test", attachments or {}, metadata or {})


@pytest.fixture(scope="session")
def checkpoint_of() -> Callable[..., Checkpoint]:
    return make_checkpoint


def model_arrays(dtype: str = "float32") -> dict[str, np.ndarray]:
    """About 300,000 parameters: smooth and noisy kernels, matrices of different loudness, biases."""
    rng = np.random.default_rng(2304)
    arrays = {}
    for number, shape in enumerate([(64, 3, 7, 7), (64, 64, 3, 3), (128, 64, 3, 3), (400, 400), (10, 400)]):
        weights = rng.standard_normal(shape)
        if len(shape) == 4:
            weights = np.cumsum(weights, axis=-1)
        arrays[f"layer{number}.weight"] = weights * 10 ** rng.uniform(-2, 0)
        arrays[f"layer{number}.bias"] = rng.standard_normal(shape[0]) * 0.1
    if dtype == "bfloat16":
        import ml_dtypes

        return {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}
    return {name: array.astype(dtype) for name, array in arrays.items()}


@pytest.fixture(scope="session")
def model() -> dict[str, np.ndarray]:
    return model_arrays()


@pytest.fixture(scope="session")
def model_of() -> Callable[[str], dict[str, np.ndarray]]:
    return model_arrays


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """A small source file: a matrix, a bias, a counter."""
    rng = np.random.default_rng(1)
    path = tmp_path / "source.npz"
    np.savez(
        path,
        weight=rng.standard_normal((48, 64)).astype(np.float32),
        bias=rng.standard_normal(48).astype(np.float32),
        steps=np.array(1234, np.int64),
    )
    return path


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs the command line in this process: status, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["frconvert", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def fails(run):
    """Runs what must fail: one line on stderr, nothing on stdout."""

    def fails(status, *arguments):
        got, out, err = run(*arguments)
        assert got == status, err
        assert out == ""
        assert err.startswith("frconvert: ")
        assert err.count("\n") == 1
        assert "defect" not in err
        assert "Traceback" not in err
        return err

    return fails
