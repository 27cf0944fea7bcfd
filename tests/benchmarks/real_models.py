"""Public pretrained models through `.frq` and back: bytes, time, memory, and what it costs in their metric.

    python tests/benchmarks/real_models.py [--targets "--snr 30,,--lossless"] [MODEL ...]

Each model goes to `.frq` at each target, back to its own format and to safetensors; the restored file of its
own format is loaded by the model's own loader and scored. Lossless is compared tensor by tensor, bit by bit.
"""

import argparse
import tempfile
from pathlib import Path

import shared
from scores import scorer

import frconvert


def is_identical(source: Path, restored: Path) -> bool:
    """Same names, dtypes and bytes of every tensor."""
    first, second = frconvert.load(source), frconvert.load(restored)
    return [entry.name for entry in first] == [entry.name for entry in second] and all(
        a.dtype == b.dtype and a.shape == b.shape and a.read().tobytes() == b.read().tobytes()
        for a, b in zip(first, second, strict=True)
    )


def measure(name: str, target: str) -> str:
    """One row of the table."""
    module = shared.models()
    original, network = getattr(module, f"load_{name}")()
    original = Path(original)
    score = scorer(name, network)
    before = score(network)
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "model.frq"
        restored = Path(folder) / f"restored{original.suffix}"
        figures, seconds = shared.run("convert", original, packed, *target.split())
        back, back_seconds = shared.run("convert", packed, restored)
        shared.run("convert", packed, Path(folder) / "also.safetensors")
        with shared.replaced(module, original, restored, Path(folder)):
            after = score(getattr(module, f"load_{name}")()[1])
        scores = ", ".join(f"{metric} {before[metric]:.4f} -> {after[metric]:.4f}" for metric in before)
        exact = ""
        if target == "--lossless":
            exact = "bit-exact" if is_identical(original, restored) else "NOT IDENTICAL"
        sqnr = figures["sqnr_db"]
    return (
        f"| {name} | {target or '(none)'} | {figures['destination_bytes']:,} | {figures['ratio']:.2f} "
        f"| {figures['bits_per_weight']:.3f} | {'exact' if sqnr is None else f'{sqnr:.2f}'} "
        f"| {seconds:.1f} / {back_seconds:.1f} "
        f"| {figures['peak_rss_bytes'] / 1e6:.0f} / {back['peak_rss_bytes'] / 1e6:.0f} | {scores} {exact} |"
    )  # fmt: skip


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--targets", default="--snr 30,,--lossless", help="comma-separated; empty is no target"
    )
    parser.add_argument("models", nargs="*", default=shared.MODELS)
    arguments = parser.parse_args()
    print("| model | target | bytes | ratio | bits/w | dB | s there / back | peak MB there / back | metric |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in arguments.models:
        for target in arguments.targets.split(","):
            print(measure(name, target), flush=True)


if __name__ == "__main__":
    main()
