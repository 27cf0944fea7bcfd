"""What a file is made of, as a chain of bounds and losses, at an SQNR of one's choice.

    python tests/benchmarks/gap.py [--bits 3] [--results] [MODEL ...]

Bits a weight of the whole file, importance mse: the sum of the other columns.

- Gaussian bound: of Gaussians of each tensor's variance, by reverse water-filling at the file's total error.
- Known scales: what the bound falls by (a negative number) if each coefficient, after the transform, is known
  to be as large as its class says, with the tail shape of its tensor.
- Trellis: what the trellis takes above that bound on data that are exactly so, in brackets as decibels.
- Unlike model: what the tensors' coefficients take more or less than data of the model.
- rANS: the streams beyond the ideal bits of their symbols.
- Side: scales, frequency tables and escapes. Vectors: all tensors that are not quantised.
- Container: index, footer, provenance, attachments.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import peers
import shared
from bounds import class_rate, gaussian_rate
from observe import Ledger, observed

import frconvert
from frconvert.coding import cost, tables
from frconvert.coding.coefficients import STATE_BITS
from frconvert.coding.portable import power_of_two

COLUMNS = (
    "model", "dB", "bits a weight", "Gaussian bound", "known scales", "trellis (dB)", "unlike model", "rANS",
    "side", "vectors", "container",
)  # fmt: skip
_BIT_DB = 6.02


def variances(source: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Variances and sizes of the tensors with two or more axes, and the number of all float parameters."""
    tensors = [entry for entry in frconvert.load(source).stored if "float" in entry.dtype]
    weights = [entry for entry in tensors if len(entry.shape) >= 2 and entry.size]
    found = np.array([float(entry.read().var(dtype=np.float64)) for entry in weights])
    sizes = np.array([entry.size for entry in weights], np.float64)
    return np.maximum(found, 1e-30), sizes, sum(entry.size for entry in tensors)


def trellis_excess(ledger: Ledger) -> float:
    """Bits above the bound that coefficients which are exactly as their classes say would take."""
    bits = error = 0.0
    squared_means = power_of_two(4 * (np.arange(tables.CLASSES) - tables.UNIT_CLASS))  # in squared steps
    for tail, step, classes in zip(ledger.tails, ledger.steps, ledger.classes, strict=True):
        rate, squares = cost.curve(tail, STATE_BITS)
        in_middle = rate[:, 1], squares[:, 1] * squared_means
        bits += float(classes @ in_middle[0])
        error += float(classes @ in_middle[1]) * step * step
    return bits - bound(ledger, error)


def bound(ledger: Ledger, error: float) -> float:
    """Bits of the coefficients at a total error if they are what their classes say."""
    return class_rate(np.array(ledger.tails), np.array(ledger.steps), np.array(ledger.classes, float), error)


def measure(source: Path, bits: float) -> list[str]:
    """Cells of one model's row, after its name."""
    with TemporaryDirectory() as folder, observed() as ledger:
        summary = frconvert.convert(source, Path(folder) / "model.frq", bits=bits, importance="mse")
    spread, sizes, parameters = variances(source)
    error = sum(ledger.errors)
    ideal = ledger.ideal_bits + ledger.raw_bits
    floor = gaussian_rate(spread, sizes, error)
    known, excess = bound(ledger, error), trellis_excess(ledger)
    vectors = 8 * sum(t.size_bytes for t in summary.tensors if t.method != "trellis")
    parts = [
        floor,
        known - floor,
        excess,
        ideal - known - excess,
        ledger.stream_bits + ledger.raw_bits - ideal,
        ledger.payload_bits - ledger.stream_bits - ledger.raw_bits,
        vectors,
        8 * summary.destination_bytes - ledger.payload_bits - vectors,
    ]
    cells = [f"{part / parameters:.3f}" for part in parts]
    cells[2] += f" ({_BIT_DB * excess / sizes.sum():.2f})"
    return [f"{summary.sqnr_db:.2f}", f"{8 * summary.destination_bytes / parameters:.3f}", *cells]


def main() -> None:
    """Prints a Markdown table."""
    arguments = shared.arguments_of(__doc__, ("--bits", {"type": float, "default": 3.0}))
    sources = shared.sources()
    with shared.Page("gap", keep=arguments.results) as page:
        page.say(f"## What {arguments.bits:g} bits a weight are made of")
        page.say("Bits a weight; the columns from the Gaussian bound on add up to the file.")
        row = page.table(*COLUMNS)
        for name in arguments.models or peers.FIVE:
            row(name, *measure(sources[name](), arguments.bits))


if __name__ == "__main__":
    main()
