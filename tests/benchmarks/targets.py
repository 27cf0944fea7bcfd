"""Whether targets are held, how closely, in how many attempts; and whether more bits are ever worse.

    python tests/benchmarks/targets.py [--pairs 100] [--seed 0] [--results] [MODEL ...]

Random pairs of a model and a target. What is held is judged from the file: its size on disk, and the values
that loading it gives. One in ten pairs has a model of more than ten million parameters.
"""

import tempfile
from math import exp, inf, log, log10
from pathlib import Path
from random import Random
from statistics import mean

import numpy as np
import shared
from observe import observed

import frconvert

KINDS = ("size", "ratio", "bits", "snr", "max_error")
LADDER = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
FINE_LADDER = tuple(2.5 + 0.02 * rung for rung in range(16))  # for small models: rungs closer than the slack


def draw(chance: Random, kind: str, source: Path) -> float:
    """A value that the model can meet."""
    floats = [entry for entry in frconvert.load(source).stored if "float" in entry.dtype]
    parameters = sum(entry.size for entry in floats)

    def spread(low: float, high: float) -> float:
        return exp(chance.uniform(log(low), log(high)))

    if kind == "size":
        return int(parameters * spread(1.5, 8) / 8)
    if kind == "ratio":
        return spread(4, 20)
    if kind == "bits":
        return spread(1.5, 8)
    if kind == "snr":
        return chance.uniform(5, 60)
    largest = max(floats, key=lambda entry: entry.size if len(entry.shape) >= 2 else 0)
    return float(largest.read().std(dtype=np.float64)) * spread(1e-3, 1)


def restored_figures(source: Path, packed: Path) -> tuple[float, float]:
    """SQNR over the float tensors with two or more axes and largest error of all, from the files alone."""
    energy = error = largest = 0.0
    back = frconvert.load(packed).numpy()
    for entry in frconvert.load(source).stored:
        values, other = entry.read(), back[entry.name]
        if "float" not in entry.dtype:
            largest = max(largest, 0.0 if np.array_equal(values, other) else inf)
            continue
        gap = values.astype(np.float64) - other.astype(np.float64)
        if len(entry.shape) >= 2:
            energy += float(np.square(values, dtype=np.float64).sum())
            error += float(np.square(gap).sum())
        largest = max(largest, float(np.abs(gap).max(initial=0)))
    return 10 * log10(energy / error) if error else inf, largest


def judge(kind: str, wish: float, source: Path, packed: Path) -> tuple[bool, float]:
    """Whether the target is held, and the distance: dB for snr, else the part of the target left unused."""
    checkpoint = frconvert.load(source)
    size = packed.stat().st_size
    if kind in ("snr", "max_error"):
        sqnr, largest = restored_figures(source, packed)
        return (sqnr >= wish, sqnr - wish) if kind == "snr" else (largest <= wish, 1 - largest / wish)
    parameters = sum(entry.size for entry in checkpoint.stored if "float" in entry.dtype)
    limit = {"size": wish, "bits": wish * parameters / 8, "ratio": checkpoint.tensor_bytes / wish}[kind]
    return size <= limit, 1 - size / limit


def pairs(page: shared.Page, names: list[str], count: int, seed: int) -> None:
    """The random pairs: one row a kind, and one for each that is not held or not close."""
    chance, sources = Random(seed), shared.sources()  # noqa: S311  (not for secrets)
    large = [name for name in names if name in shared.LARGE]
    small = [name for name in names if name not in shared.LARGE] or large
    found: dict[str, list[tuple[bool, float, int]]] = {kind: [] for kind in KINDS}
    remarks = []
    with tempfile.TemporaryDirectory() as scratch:
        packed = Path(scratch) / "model.frq"
        for number in range(count):
            name = chance.choice(large if large and number % 10 == 9 else small)
            kind, source = KINDS[number % len(KINDS)], sources[name]()
            wish = draw(chance, kind, source)
            with observed() as ledger:
                frconvert.convert(source, packed, **{kind: wish}, overwrite=True)
            held, distance = judge(kind, wish, source, packed)
            found[kind].append((held, distance, ledger.attempts))
            slack = {"snr": 0.1, "max_error": 1.0}.get(kind, 0.01)
            if not held or distance > slack or ledger.attempts > 4:
                remarks.append((name, kind, f"{wish:.6g}", held, f"{distance:.4f}", ledger.attempts))
    page.say(f"## {count} random targets, seed {seed}")
    page.say("Distance: dB above the wish for snr, else the part of the limit that was left unused.")
    row = page.table("target", "pairs", "held", "distance: mean", "largest", "attempts: mean", "most")
    for kind, results in found.items():
        held, distances, attempts = zip(*results, strict=True)
        unit = " dB" if kind == "snr" else ""
        row(
            kind, len(held), sum(held), f"{mean(distances):.4f}{unit}", f"{max(distances):.4f}{unit}",
            f"{mean(attempts):.2f}", max(attempts),
        )  # fmt: skip
    if remarks:
        page.say()
        page.say("Not held, or farther than 1 % or 0.1 dB, or more than four attempts:")
        row = page.table("model", "target", "wish", "held", "distance", "attempts")
        for remark in remarks:
            row(*remark)


def ladder(page: shared.Page, names: list[str]) -> None:
    """SQNR at more and more bits; a fall from one rung to the next is shown."""
    page.say()
    page.say("## More bits, never less quality")
    row = page.table("model", "rungs: bits a weight", "falls", "largest fall, dB", "at")
    sources = shared.sources()
    with tempfile.TemporaryDirectory() as scratch:
        packed = Path(scratch) / "model.frq"
        for name in names:
            source = sources[name]()
            for rungs in [LADDER] if name in shared.LARGE else [LADDER, FINE_LADDER]:
                quality = [
                    frconvert.convert(source, packed, bits=bits, overwrite=True).sqnr_db for bits in rungs
                ]
                falls = [
                    (a - b, bits)
                    for a, b, bits in zip(quality, quality[1:], rungs[1:], strict=False)
                    if b < a
                ]
                worst = max(falls, default=(0.0, 0.0))
                row(
                    name, f"{rungs[0]:g} to {rungs[-1]:g}, {len(rungs)}", len(falls), f"{worst[0]:.4f}",
                    f"{worst[1]:g}" if falls else "",
                )  # fmt: skip


def main() -> None:
    """Prints the tables."""
    arguments = shared.arguments_of(
        __doc__, ("--pairs", {"type": int, "default": 100}), ("--seed", {"type": int, "default": 0})
    )
    with shared.Page("targets", keep=arguments.results) as page:
        names = arguments.models or list(shared.sources())
        if arguments.pairs:
            pairs(page, names, arguments.pairs, arguments.seed)
        ladder(page, names)


if __name__ == "__main__":
    main()
