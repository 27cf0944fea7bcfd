"""Bytes at equal quality: frconvert beside NNCodec at each of its recorded points, a plot, and the bounds.

    python tests/benchmarks/rate_distortion.py [--bits 1.9,6] [--results] [MODEL ...]

frconvert reaches the total SQNR of the point with importance mse, as the command line writes a file, with
its provenance; that whole file is compared with NNCodec's whole stream. The plot has also absmax rounding
to 8 and 4 bits with zstd-19, and the Shannon bound of Gaussians of each tensor's variance.
"""

import tempfile
from math import inf, log10
from pathlib import Path
from statistics import geometric_mean

import numpy as np
import peers
import shared
from bounds import gaussian_rate
from gap import variances
from rd_plot import Panel, draw

import frconvert


def ours(source: Path, sqnr_db: float, folder: Path) -> dict[str, float]:
    """Figures of frconvert at an SQNR."""
    goal = ("--snr", f"{sqnr_db:g}", "--importance", "mse", "--jobs", "2", "--overwrite")
    figures, _ = shared.run("convert", source, folder / "model.frq", *goal)
    if figures["sqnr_db"] < sqnr_db:
        raise SystemExit(f"{source.name}: {figures['sqnr_db']} dB is less than the {sqnr_db} dB asked for")
    return figures


def roundings(source: Path) -> dict[str, tuple[float, float]]:
    """Bits a weight and SQNR of absmax rounding with zstd-19; tensors with one axis stay exact."""
    try:
        import zstandard
    except ImportError:
        return {}
    packer = zstandard.ZstdCompressor(level=19)
    tensors = [e for e in frconvert.load(source).stored if "float" in e.dtype and e.size]
    parameters = sum(entry.size for entry in tensors)
    found = {}
    for bits in (8, 4):
        for per_channel in (False, True):
            size, energy, error = 0, 0.0, 0.0
            for entry in tensors:
                values = entry.read()
                payload = values.tobytes()
                if len(entry.shape) >= 2:
                    payload, restored = peers.rounded(values, bits, per_channel=per_channel)
                    energy += float(np.square(values, dtype=np.float64).sum())
                    error += float(np.square(values - restored, dtype=np.float64).sum())
                size += len(packer.compress(payload))
            name = f"int{bits} {'per channel' if per_channel else 'per tensor'} + zstd-19"
            found[name] = 8 * size / parameters, 10 * log10(energy / error)
    return found


def bound_curve(source: Path, highest_db: float) -> list[tuple[float, float]]:
    """Bits a weight and SQNR of the Gaussian bound, from 1 dB on."""
    spread, sizes, parameters = variances(source)
    energy = float((spread * sizes).sum())
    levels = np.arange(1.0, highest_db + 1)
    return [(gaussian_rate(spread, sizes, energy / 10 ** (db / 10)) / parameters, db) for db in levels]


def main() -> None:
    """Prints the tables, writes the plot."""
    arguments = shared.arguments_of(__doc__, ("--bits", {"default": "1.9,6"}))
    low, high = map(float, arguments.bits.split(","))
    sources, panels = shared.sources(), []
    means: dict[str, float] = {}
    with (
        shared.Page("rate_distortion", keep=arguments.results) as page,
        tempfile.TemporaryDirectory() as scratch,
    ):
        page.say("## Bytes at the SQNR of NNCodec's points, importance mse")
        row = page.table(
            "model", "qp", "SQNR dB", "frconvert: dB", "bytes", "bits", "NNCodec: bytes", "bits", "ratio"
        )
        for name in arguments.models or peers.FIVE:
            source, curve, ratios = sources[name](), [], []
            recorded = peers.points(name)
            for point in recorded:
                if not low <= point["bits_per_weight"] <= high:
                    continue
                figures = ours(source, point["sqnr_db"], Path(scratch))
                size = int(figures["destination_bytes"])
                ratios.append(size / point["bytes"])
                curve.append((figures["bits_per_weight"], figures["sqnr_db"]))
                row(
                    name, point["qp"], point["sqnr_db"], f"{figures['sqnr_db']:.3f}", f"{size:,}",
                    f"{curve[-1][0]:.3f}", f"{point['bytes']:,}", f"{point['bits_per_weight']:.3f}",
                    f"{ratios[-1]:.4f}",
                )  # fmt: skip
            means[name] = geometric_mean(ratios)
            theirs = [(p["bits_per_weight"], p["sqnr_db"]) for p in recorded]
            shown = [point for point in theirs if point[0] <= high + 1]
            limit = bound_curve(source, max(db for _, db in shown))
            panels.append(Panel(name, curve, shown, limit, roundings(source)))
        row = page.table("model", "geometric mean of the ratios")
        for name, mean in means.items():
            row(name, f"{mean:.4f}")
        row("**all**", f"**{geometric_mean(means.values()):.4f}**")
        page.say()
        page.say("## Rounding, for the scale")
        row = page.table(
            "model", "codec", "bits a weight", "SQNR dB", "frconvert's bits at that SQNR (interpolated)"
        )
        for panel in panels:
            for codec, (bits, db) in panel.roundings.items():
                row(panel.name, codec, f"{bits:.3f}", f"{db:.2f}", interpolated(panel.ours, db))
        if arguments.results:
            draw(panels, shared.RESULTS / "rate_distortion.png")
            page.say()
            page.say("![bits a weight against SQNR](rate_distortion.png)")


def interpolated(curve: list[tuple[float, float]], sqnr_db: float) -> str:
    """Bits at an SQNR between two of the points, which lie on nearly a line; empty outside of them."""
    before = (-inf, -inf)
    for bits, db in sorted(curve):
        if before[1] <= sqnr_db <= db and before[1] > -inf:
            return f"{before[0] + (bits - before[0]) * (sqnr_db - before[1]) / (db - before[1]):.3f}"
        before = bits, db
    return ""


if __name__ == "__main__":
    main()
