"""No tensor is destroyed: the SQNR of each model's worst tensor, both importances, beside NNCodec's worst.

    python tests/benchmarks/worst.py [--bits 3] [--results] [MODEL ...]

Worst among the float tensors with two or more axes. NNCodec's point is the recorded one nearest in bits, or,
for models without recorded points, the smallest that is not below frconvert's size.
"""

import tempfile
from pathlib import Path
from typing import Any

import peers
import shared

import frconvert
from frconvert.summary import Summary

IMPORTANCES = ("tensor", "mse")


def worst_tensor(summary: Summary) -> tuple[float, str]:
    """SQNR and name of the worst of the tensors that were quantised."""
    return min((tensor.sqnr_db, tensor.name) for tensor in summary.tensors if tensor.step is not None)


def peers_point(name: str, source: Path, size_bytes: int, bits: float, folder: Path) -> dict[str, Any]:
    """NNCodec's point; a recorded one does not name its worst tensor."""
    recorded = peers.points(name)
    if recorded:
        return min(recorded, key=lambda point: abs(point["bits_per_weight"] - bits))
    weights = peers.write_weights(source, folder / "weights.npz")
    with peers.nncodec(weights, folder / "decoded.npz") as codec:
        return peers.point_from_above(codec, size_bytes, -round(4 * bits) - 8)


def main() -> None:
    """Prints a Markdown table."""
    arguments = shared.arguments_of(__doc__, ("--bits", {"type": float, "default": 3.0}))
    sources = shared.sources()
    with shared.Page("worst", keep=arguments.results) as page:
        page.say(f"## The worst tensor at {arguments.bits:g} bits a weight")
        page.say("SQNR in dB: the whole model's, that of its worst tensor, the difference.")
        row = page.table(
            "model", *(f"{i}: {c}" for i in IMPORTANCES for c in ("total", "worst", "below", "which")),
            "NNCodec: bits", "total", "worst", "below",
        )  # fmt: skip
        for name in arguments.models or sources:
            with tempfile.TemporaryDirectory() as scratch:
                folder, source, cells, size = Path(scratch), sources[name](), [], 0
                for importance in IMPORTANCES:
                    summary = frconvert.convert(
                        source,
                        folder / "model.frq",
                        bits=arguments.bits,
                        importance=importance,
                        overwrite=True,
                    )
                    low, which = worst_tensor(summary)
                    total = summary.sqnr_db
                    cells += [f"{total:.2f}", f"{low:.2f}", f"{total - low:.1f}", which]
                    size = max(size, summary.destination_bytes)
                if peers.is_there():
                    point = peers_point(name, source, size, arguments.bits, folder)
                    low, total = point["sqnr_db_per_tensor_min"], point["sqnr_db"]
                    cells += [
                        f"{point['bits_per_weight']:.2f}",
                        f"{total:.2f}",
                        f"{low:.2f}",
                        f"{total - low:.1f}",
                    ]
                row(name, *cells)


if __name__ == "__main__":
    main()
