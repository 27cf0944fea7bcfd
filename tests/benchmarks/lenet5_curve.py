"""Accuracy of LeNet5 against bytes: files that training made, and the dense network at a size without data.

    python tests/benchmarks/lenet5_curve.py [--results] TRAINED.frq ...

The trained files are those of `samples/distill_lenet5.py --size BYTES` and of `samples/`. NNCodec's points
are those of another and larger LeNet5, which reads 0.9889 of the digits.
"""

import sys
import tempfile
from pathlib import Path

import shared
import torch

import frconvert

SAMPLES = Path(__file__).parents[2] / "samples"
SIZES = (6_000, 12_000, 25_000, 50_000)
NNCODEC = ((6_320, 0.4036), (31_274, 0.9832), (80_630, 0.9878), (135_501, 0.9891))
Curve = list[tuple[int, float]]


def accuracy_of(path: Path) -> float:
    """Share of the 10,000 test digits that the restored file reads."""
    import datasets
    from lenet5 import LeNet5, accuracy

    model = LeNet5()
    values = frconvert.load(path).numpy()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in values.items()})
    _, _, images, labels = datasets.mnist()
    return accuracy(model, images, labels)


def draw(curves: dict[str, Curve], path: Path) -> None:
    """Writes the plot as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for name, points in curves.items():
        sizes, shares = zip(*sorted(points), strict=True)
        axes.plot(sizes, [100 * share for share in shares], ".-", label=name)
    axes.set(xscale="log", xlabel="bytes of the file", ylabel="accuracy on 10,000 test digits, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15))
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    """Prints the table; draws it beside."""
    arguments = shared.arguments_of(__doc__)
    shared.models()
    sys.path.insert(0, str(SAMPLES))
    torch.set_num_threads(1)
    curves: dict[str, Curve] = {"trained": [], "without data": []}
    with (
        tempfile.TemporaryDirectory() as scratch,
        shared.Page("lenet5_curve", keep=arguments.results) as page,
    ):
        page.say("## LeNet5: accuracy against bytes")
        row = page.table("how", "bytes", "accuracy")
        row(
            "original",
            f"{(SAMPLES / 'lenet5.pt').stat().st_size:,}",
            f"{accuracy_of(SAMPLES / 'lenet5.pt'):.4f}",
        )
        for path in map(Path, arguments.models):
            curves["trained"].append((path.stat().st_size, accuracy_of(path)))
        for size in SIZES:
            packed = Path(scratch) / f"{size}.frq"
            frconvert.convert(SAMPLES / "lenet5.pt", packed, size=size)
            curves["without data"].append((packed.stat().st_size, accuracy_of(packed)))
        curves["NNCodec, another LeNet5, without data"] = list(NNCODEC)
        for name, points in curves.items():
            for size, share in sorted(points):
                row(name, f"{size:,}", f"{share:.4f}")
        if arguments.results and all(curves.values()):
            draw(curves, shared.RESULTS / "lenet5_curve.png")


if __name__ == "__main__":
    main()
