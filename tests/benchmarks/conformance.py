"""Package and reference decoder side by side on public models: do they agree, and how long does each take?

    python tests/benchmarks/conformance.py [MODEL ...]

Every model is stored at three targets. Integers of quantised tensors and bits of exact ones are compared one
by one; of restored floats the largest difference is shown, relative to the largest magnitude of its tensor
(rule V8 of the format's text allows 2^-19, 1.9e-6, between two decoders of float32).
"""

import argparse
import importlib.util
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import shared

import frconvert
from frconvert.checkpoint import TensorEntry
from frconvert.coding.record import INTEGERS

TARGETS: dict[str, dict[str, Any]] = {
    "--lossless": {"lossless": True},
    "(none)": {},
    "--snr 20": {"snr": 20.0},
}


def reference_decoder() -> ModuleType:
    """The decoder beside the text of the format."""
    path = Path(__file__).resolve().parents[2] / "formats" / "reference_decoder.py"
    spec = importlib.util.spec_from_file_location("reference_decoder", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Agreement:
    """What was compared, and what differed."""

    integers: int = 0
    wrong_integers: int = 0
    exact_bytes: int = 0
    wrong_bytes: int = 0
    difference: float = 0.0


def integers_of(entry: TensorEntry) -> np.ndarray | None:
    """The integers of a quantised tensor (of a trellis in half steps), or None."""
    assert entry.read_encoded
    record = entry.read_encoded()
    step = record.layout.step
    if step is None:
        return None
    if record.layout.stored == INTEGERS:
        return record.values
    return np.rint(record.values / (record.values.dtype.type(step) / 2)).astype(np.int64)


def compare(reference: ModuleType, tensors: list[Any], path: Path) -> Agreement:
    """Compares what the reference decoder made of a file with what the package makes of it."""
    found = Agreement()
    for tensor, entry in zip(tensors, frconvert.load(path), strict=True):
        if tensor.error:
            raise SystemExit(f"{path}: {tensor.name}: {tensor.error}")
        if tensor.target is not None:
            continue
        expected = entry.read()
        integers = integers_of(entry)
        if integers is not None:
            found.integers += integers.size
            found.wrong_integers += int(np.count_nonzero(integers != tensor.integers))
        if integers is None and not tensor.axes and tensor.keep is None:
            found.exact_bytes += expected.nbytes
            same = tensor.words.tobytes() == expected.tobytes()
            found.wrong_bytes += 0 if same else expected.nbytes
        elif expected.size:
            values = reference.values(tensor)
            gap = float(np.abs(values.astype(np.float64) - expected.astype(np.float64)).max())
            found.difference = max(found.difference, gap / (float(np.abs(expected).max()) or 1.0))
    return found


def measure(reference: ModuleType, source: Path, target: str) -> str:
    """The figures of one row."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.frq"
        frconvert.convert(source, path, **TARGETS[target])
        began = time.perf_counter()
        count = len(frconvert.load(path).numpy())
        package = time.perf_counter() - began
        data = path.read_bytes()
        began = time.perf_counter()
        tensors, _, _ = reference.decode(data)
        seconds = time.perf_counter() - began
        found = compare(reference, tensors, path)
    integers = f"{found.integers:,}, {found.wrong_integers or 'none'} differ" if found.integers else "-"
    exact = f"{found.exact_bytes:,}, {found.wrong_bytes or 'none'} differ" if found.exact_bytes else "-"
    difference = f"{found.difference:.1e}" if found.integers else "-"
    times = f"{package:.1f} / {seconds:.1f}"
    return f"| {target} | {len(data):,} | {count} | {integers} | {exact} | {difference} | {times} |"


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=shared.MODELS)
    arguments = parser.parse_args()
    module, reference = shared.models(), reference_decoder()
    print(
        "| model | target | bytes | tensors | integers | bytes of exact values | largest relative difference "
        "| s package / reference |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.models:
        source = Path(getattr(module, f"load_{name}")()[0])
        for target in TARGETS:
            print(f"| {name} {measure(reference, source, target)}", flush=True)


if __name__ == "__main__":
    main()
