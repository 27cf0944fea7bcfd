"""The backend test models of the onnx package that hold floats, through .frq and with IDCT nodes, as tables.

Lossless: `.onnx -> .frq -> .onnx`; the outputs of both, on the model's own test inputs (or random ones), must
be the same bits. Convert: `.onnx -> .idct.onnx` at the default quality, and that one `-> .onnx` again, dense;
the outputs of these two may differ by 1e-5 of their norm. Most of these models are of operator sets older
than such nodes need, so onnx's version converter brings them to 17 first. Most of their tensors are too small
to gain anything, and stay dense: so, by the exporter itself, there is a third pass in which every float
tensor becomes coefficients. Models run in onnxruntime, or in onnx.reference where that refuses the original.

    python tests/benchmarks/onnx_backend.py [--results] [GLOB ...]
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from onnx import TensorProto, numpy_helper
from scipy.fft import dctn
from shared import Page, arguments_of

import frconvert
from frconvert.calibration import random_batches
from frconvert.checkpoint import TensorEntry
from frconvert.coding.quantize import storable_step
from frconvert.compare_outputs import OutputComparison, compare_values
from frconvert.errors import FrqError, one_line
from frconvert.exporters import onnx_idct
from frconvert.idct.coefficients import Coefficients
from frconvert.runtime.graph_inputs import read_inputs
from frconvert.runtime.sessions import Session

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
TOLERANCE = 1e-5
OPSET = 17
FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}

Run = Callable[[dict[str, Any]], list[Any]]


def main() -> None:
    arguments = arguments_of(__doc__)
    with Page("onnx_backend", keep=arguments.results) as page, TemporaryDirectory() as folder:
        page.say("# Backend test models of the onnx package")
        page.say(
            f"onnx {onnx.__version__}; lossless outputs must be identical, coefficients within {TOLERANCE:g}."
        )
        counts: Counter[str] = Counter()
        exceptions: dict[tuple[str, str], list[str]] = defaultdict(list)
        for path in models():
            label = str(path.relative_to(DATA).with_suffix("")).removesuffix("/model")
            if arguments.models and not any(fnmatchcase(label, glob) for glob in arguments.models):
                continue
            counts["models"] += 1
            if not any(tensor.data_type in FLOATS for tensor in tensors(onnx.load(path))):
                continue
            counts["with float tensors"] += 1
            for step, check in (("lossless", lossless), ("convert", converted), ("all coefficients", forced)):
                try:
                    found = check(path, Path(folder))
                except (FrqError, OSError) as error:
                    found = f"failed: {one_line(error)}"
                except Exception as error:
                    found = f"defect: {type(error).__name__}: {one_line(error)}"
                kind = found.split(":")[0]  # behind it are the particulars
                counts[f"{step}: {kind}"] += 1
                if kind not in ("identical", "within tolerance"):
                    exceptions[step, found].append(label)
        row = page.table("what", "models")
        for what, count in counts.items():
            row(what, count)
        row = page.table("step", "exception", "models")
        for (step, reason), labels in exceptions.items():
            row(step, reason, f"{len(labels)}: {', '.join(labels)}")
        page.say()


def models() -> Iterator[Path]:
    """All model files, in order."""
    yield from sorted(path for path in DATA.rglob("*.onnx") if not path.name.startswith("input_"))


def tensors(message: Any) -> Iterator[TensorProto]:
    """Every tensor in a message."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in (value,) if hasattr(value, "ListFields") else value:
                if field.message_type.name == "TensorProto":
                    yield child
                else:
                    yield from tensors(child)


def lossless(path: Path, folder: Path) -> str:
    """Whether the outputs stay the same."""
    packed, result = folder / "model.frq", folder / "model.onnx"
    frconvert.convert(path, packed, lossless=True, overwrite=True)
    frconvert.convert(packed, result, overwrite=True)
    run, feeds, words = runner(path)
    if run is None:
        same = [values(each) for each in (path, result)]
        return "identical tensors, not run: " + words if same[0] == same[1] else "altered, not run: " + words
    again = runner(result, words, inputs=path)[0]
    if again is None:
        return "does not run"
    found = [figures(run(each), again(each)) for each in feeds]
    return "identical" if all(each.identical for each in found) else f"outputs differ: {found}"


def converted(path: Path, folder: Path) -> str:
    """Whether what `convert` makes computes what its materialised twin does."""
    source, coded = folder / "source.onnx", folder / "model.idct.onnx"
    refusal = upgrade(path, source)
    if refusal:
        return refusal
    summary = frconvert.convert(source, coded, overwrite=True)
    if all(tensor.method == "exact" for tensor in summary.tensors):
        return "nothing coded: too small to gain by it"
    return agree(coded, path, folder)


def forced(path: Path, folder: Path) -> str:
    """The same with every float tensor that the exporter takes as coefficients."""
    source, coded = folder / "source.onnx", folder / "model.idct.onnx"
    refusal = upgrade(path, source)
    if refusal:
        return refusal
    checkpoint = frconvert.load(source)
    entries = {
        entry.name: entry
        for entry in checkpoint
        if entry.dtype.startswith(("float", "bfloat")) and entry.shape
    }
    places, _ = onnx_idct.prospects(checkpoint)
    makers = {
        name: partial(transformed, entry) for name, entry in entries.items() if name in places and entry.size
    }
    notices: list[str] = []
    if not onnx_idct.save(checkpoint, makers, coded, "idct", notices.append):
        return f"nothing coded: only scalars and constants of few elements {'; '.join(notices)}".strip()
    return agree(coded, path, folder)


def transformed(entry: TensorEntry) -> Coefficients:
    """All coefficients over all axes, in steps of a 50th of their root mean square."""
    values = dctn(entry.read().astype(np.float64), norm="ortho")
    step = storable_step(float(np.sqrt(np.mean(np.square(values)))) / 50 or 1.0)
    integers = np.rint(values / step).astype(np.int32).reshape(-1)
    return Coefficients(entry.shape, entry.dtype, tuple(range(len(entry.shape))), None, step, integers)


def upgrade(path: Path, result: Path) -> str | None:
    """Brings a model to operator set 17 or says why that cannot be."""
    model = onnx.load(path)
    version = next((entry.version for entry in model.opset_import if not entry.domain), 0)
    if version < OPSET:
        try:
            # Initializers that are inputs too, as was the rule then, are more than the converter copes with.
            model = onnx.version_converter.convert_version(model, OPSET)
        except Exception as error:
            return f"version converter refuses: {one_line(error, 150)}"
    onnx.save(model, result)
    return None


def agree(coded: Path, original: Path, folder: Path) -> str:
    """Whether a graph with coefficients computes what its materialised twin does."""
    dense = folder / "dense.onnx"
    onnx.checker.check_model(onnx.load(coded), full_check=True)
    frconvert.convert(coded, dense, overwrite=True)
    if len(onnx.load(dense).graph.node) >= len(onnx.load(coded).graph.node):
        return "still coefficients in the dense model"
    run, feeds, words = runner(dense, inputs=original)
    again = runner(coded, words, inputs=original)[0]
    if run is None or again is None:
        return "not run: " + words
    worst = max((figures(run(each), again(each)).relative_error for each in feeds), default=0.0)
    return "within tolerance" if worst <= TOLERANCE else f"beyond tolerance: {worst:.2g}"


def runner(
    path: Path, how: str = "onnxruntime", inputs: Path | None = None
) -> tuple[Run | None, list[dict[str, Any]], str]:
    """What runs the model, its inputs, and the runtime's name, or why none runs it."""
    reasons = []
    for name in (how, "onnx.reference"):
        try:
            if name == "onnxruntime":
                session = Session(path)
                run: Run = session.run
                feeds = inputs_of(path, inputs or path)
            else:
                from onnx.reference import ReferenceEvaluator

                evaluator = ReferenceEvaluator(str(path))
                run = lambda feed, evaluator=evaluator: evaluator.run(None, feed)  # noqa: E731
                feeds = inputs_of(path, inputs or path)
            for feed in feeds:
                run(feed)
        except Exception as error:
            reasons.append(f"{name}: {one_line(error, 120)}")
        else:
            return run, feeds, name
    return None, [], "; ".join(reasons)


def inputs_of(path: Path, original: Path) -> list[dict[str, Any]]:
    """The test inputs of a model of the package, or random ones."""
    specs = read_inputs(path)
    found = []
    for folder in sorted(original.parent.glob("test_data_set_*")):
        stored = sorted(folder.glob("input_*.pb"), key=lambda each: int(each.stem.split("_")[1]))
        feed = {}
        for spec, file in zip(specs, stored, strict=True):
            tensor = onnx.load_tensor(file)
            feed[spec.name] = numpy_helper.to_array(tensor)
        found.append(feed)
    return found or list(random_batches(specs, 1))


def values(path: Path) -> list[tuple[Any, ...]]:
    """All tensors of a model by their bits."""
    return [
        (tensor.name, tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes())
        for tensor in tensors(onnx.load(path))
    ]


def figures(first: list[Any], second: list[Any]) -> OutputComparison:
    """The differences of all outputs as if they were one."""
    return compare_values("all", first, second)


if __name__ == "__main__":
    sys.exit(main())
