"""The plot of bits a weight against SQNR, one panel a model."""

from dataclasses import dataclass
from pathlib import Path

Curve = list[tuple[float, float]]  # bits a weight, SQNR in dB

_MARKERS = {"int8 per tensor": "s", "int8 per channel": "D", "int4 per tensor": "v", "int4 per channel": "^"}


@dataclass(frozen=True)
class Panel:
    """What is known of one model."""

    name: str
    ours: Curve
    nncodec: Curve
    bound: Curve
    roundings: dict[str, tuple[float, float]]


def draw(panels: list[Panel], path: Path) -> None:
    """Writes the plot as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(3, len(panels) + 1)
    lines = -(-(len(panels) + 1) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4.6 * columns, 3.9 * lines), squeeze=False)
    places = axes.reshape(-1)
    for place, panel in zip(places, panels, strict=False):
        place.plot(
            *zip(*sorted(panel.bound), strict=True), color="0.55", linestyle="--", label="Gaussian bound"
        )
        place.plot(
            *zip(*sorted(panel.nncodec), strict=True), color="tab:orange", marker="o", ms=4, label="NNCodec"
        )
        place.plot(
            *zip(*sorted(panel.ours), strict=True), color="tab:blue", marker="o", ms=4, label="frconvert"
        )
        for codec, (bits, db) in panel.roundings.items():
            marker = next(mark for start, mark in _MARKERS.items() if codec.startswith(start))
            place.plot(bits, db, marker, color="tab:green", ms=6, mfc="none", label=codec)
        place.set_title(panel.name)
        place.set_xlabel("bits a weight")
        place.set_ylabel("SQNR, dB")
        place.set_xlim(0, 8)
        place.grid(alpha=0.3)
    for place in places[len(panels) :]:
        place.axis("off")
    places[len(panels)].legend(*places[0].get_legend_handles_labels(), loc="center", frameon=False)
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
