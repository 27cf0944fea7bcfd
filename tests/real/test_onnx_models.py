"""Real ONNX models through importer and exporter: the same graph, and bit for bit the same outputs."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx_models import onnx_feeds, onnx_models  # noqa: E402

import frconvert  # noqa: E402
from frconvert.checkpoint import ONNX_SKELETON  # noqa: E402
from frconvert.exporters import onnx as exporter  # noqa: E402
from frconvert.importers import load  # noqa: E402
from frconvert.runtime.sessions import optimized_operators  # noqa: E402

pytestmark = pytest.mark.real

TENSORS = {"ocr_recogniser": 122, "ocr_direction": 183, "voice_activity": 28, "file_type": 36}

# Relative change of the outputs at the default quality. The recogniser reads letters into noise: between 34
# and 38 dB its outputs change by 0.12 to 0.27, with any quantiser.
NEAR = {"ocr_recogniser": 0.3, "ocr_direction": 0.1, "voice_activity": 0.1, "file_type": 0.002}


@pytest.fixture(scope="module")
def models():
    try:
        return onnx_models()
    except LookupError as error:
        pytest.skip(str(error))


def outputs(path, label, seeds=(0,)):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [
        array for seed in seeds for feeds in onnx_feeds(label, seed) for array in session.run(None, feeds)
    ]


@pytest.mark.parametrize("label", TENSORS)
def test_a_real_model_comes_back_with_identical_outputs(models, tmp_path, label):
    checkpoint = load(models[label])
    assert checkpoint.format == "onnx"
    assert checkpoint.notices == ()
    assert len(checkpoint) == TENSORS[label]

    result = tmp_path / "result.onnx"
    exporter.save(checkpoint, result, pytest.fail)
    expected, found = outputs(models[label], label), outputs(result, label)
    assert [array.tobytes() for array in found] == [array.tobytes() for array in expected]
    assert all(abs(array).max() > 0 for array in expected)
    if label != "ocr_direction":  # its float_data come back as raw_data
        assert onnx.load(result) == onnx.load(models[label])


@pytest.mark.parametrize("label", TENSORS)
def test_nearly_all_bytes_of_a_real_model_are_in_its_tensors(models, label):
    checkpoint = load(models[label])
    file_bytes = models[label].stat().st_size
    assert checkpoint.tensor_bytes > 0.9 * file_bytes
    assert len(checkpoint.attachments[ONNX_SKELETON]) < 0.11 * file_bytes
    assert sum(entry.is_weight for entry in checkpoint) >= 10


@pytest.mark.parametrize("label", TENSORS)
def test_a_real_model_goes_through_frq_losslessly_and_gives_identical_outputs(models, tmp_path, label):
    packed, result = tmp_path / "model.frq", tmp_path / "result.onnx"
    summary = frconvert.convert(models[label], packed, lossless=True)
    frconvert.convert(packed, result)
    expected, found = outputs(models[label], label), outputs(result, label)
    assert [array.tobytes() for array in found] == [array.tobytes() for array in expected]
    assert summary.destination_bytes < models[label].stat().st_size


@pytest.mark.parametrize("label", TENSORS)
def test_a_lossy_real_model_still_runs_and_stays_near_the_original(models, tmp_path, label):
    packed, result = tmp_path / "model.frq", tmp_path / "result.onnx"
    summary = frconvert.convert(models[label], packed)
    frconvert.convert(packed, result)
    # What a network makes of noise is a matter of chance: many inputs tell more than one.
    expected, found = outputs(models[label], label, range(8)), outputs(result, label, range(8))
    assert summary.ratio > 4.2
    assert [array.shape for array in found] == [array.shape for array in expected]
    energy = sum(float(np.square(array).sum()) for array in expected)
    error = sum(float(np.square(b - a).sum()) for a, b in zip(expected, found, strict=True))
    assert error <= NEAR[label] ** 2 * energy


@pytest.mark.parametrize("label", ["voice_activity", "ocr_direction"])
def test_a_real_model_with_coefficients_computes_what_its_decoded_twin_does(models, tmp_path, label):
    coded, decoded = tmp_path / "coded.idct.onnx", tmp_path / "decoded.onnx"
    frconvert.convert(models[label], coded, snr=30)
    frconvert.convert(coded, decoded)
    assert coded.stat().st_size < 0.45 * decoded.stat().st_size
    expected, found = outputs(decoded, label), outputs(coded, label)
    for a, b in zip(expected, found, strict=True):
        assert np.linalg.norm(b - a) <= 1e-5 * np.linalg.norm(a)
    assert optimized_operators(coded) == optimized_operators(decoded)
