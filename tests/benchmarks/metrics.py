"""What the public models still do at 2, 3, 4 and 5 bits a weight: both importances, beside NNCodec.

    python tests/benchmarks/metrics.py [--bits 2,3,4,5] [--results] [MODEL ...]

A cell holds the model's metric and, in brackets, how far its outputs are from the original's on the inputs of
the metric (SQNR in dB, more is better), which is the finer scale. NNCodec has the point whose size is nearest
from above to that of the target, so up to a quarter bit more; its values go through the same loader.
"""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import peers
import shared
from scores import Watched, scorer

import frconvert

FIRST_QP = -24  # where the search for NNCodec's points starts, at 4 bits
IMPORTANCES = ("tensor", "mse")


def measure(name: str, ladder: list[float], row: Any) -> None:
    """The rows of one model."""
    module = shared.models()
    original, network = getattr(module, f"load_{name}")()
    original = Path(original)
    teacher = Watched(network)
    score = scorer(name, teacher)
    before = score(teacher)
    main = next(iter(before))
    checkpoint = frconvert.load(original)

    def cell(restored: Path, folder: Path) -> str:
        with shared.replaced(module, original, restored, folder):
            watched = Watched(getattr(module, f"load_{name}")()[1], teacher)
        return f"{score(watched)[main]:.4f} ({watched.sqnr_db:.1f})"

    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        packed, restored, decoded = (
            folder / "model.frq",
            folder / f"restored{original.suffix}",
            folder / "d.npz",
        )
        if peers.is_there():
            weights = peers.write_weights(original, folder / "weights.npz")
            codec = stack.enter_context(peers.nncodec(weights, decoded))
        qp = FIRST_QP - round(4 * (ladder[0] - 4))
        for bits in ladder:
            cells, sizes = [], []
            for importance in IMPORTANCES:
                goal = ("--bits", f"{bits:g}", "--importance", importance)
                figures, _ = shared.run("convert", original, packed, *goal, "--overwrite")
                shared.run("convert", packed, restored, "--overwrite")
                cells.append(cell(restored, folder))
                sizes.append(figures["destination_bytes"])
            theirs = ["", ""]
            if peers.is_there():
                point = peers.point_from_above(codec, max(sizes), qp)
                qp = point["qp"] - 4
                frconvert.save(peers.with_values(checkpoint, decoded), restored, overwrite=True)
                theirs = [f"{point['bytes']:,} ({point['bits_per_weight']:.2f})", cell(restored, folder)]
            row(name, f"{main} {before[main]:.4f}", f"{bits:g}", f"{max(sizes):,}", *cells, *theirs)


def main() -> None:
    """Prints a Markdown table."""
    arguments = shared.arguments_of(__doc__, ("--bits", {"default": "2,3,4,5"}))
    ladder = [float(bits) for bits in arguments.bits.split(",")]
    with shared.Page("metrics", keep=arguments.results) as page:
        page.say("## Metrics at equal size")
        row = page.table(
            "model", "metric of the original", "bits a weight", "bytes", *IMPORTANCES,
            "NNCodec: bytes (bits)", "NNCodec",
        )  # fmt: skip
        for name in arguments.models or shared.MODELS:
            measure(name, ladder, row)


if __name__ == "__main__":
    main()
