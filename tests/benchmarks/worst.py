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

IMPORTANCES = ("tensor", "mse")
_NEVER_DB = 1e9  # of a tensor without any error


def worst_tensor(figures: dict[str, Any]) -> tuple[float, str]:
    """SQNR and name of the worst of the quantised tensors of a conversion's JSON."""
    quantised = [t for t in figures["tensors"] if t["step"] is not None]
    return min(
        (_NEVER_DB if t["sqnr_db"] is None else t["sqnr_db"], t["name"]) for t in quantised
    )  # fmt: skip


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
                    goal = ("--bits", f"{arguments.bits:g}", "--importance", importance, "--overwrite")
                    figures, _ = shared.run("convert", source, folder / "model.frq", *goal)
                    low, which = worst_tensor(figures)
                    total = figures["sqnr_db"]
                    cells += [f"{total:.2f}", f"{low:.2f}", f"{total - low:.1f}", which]
                    size = max(size, figures["destination_bytes"])
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
