"""Convert `lenet5.pt` at several targets, restore each file to `.pt`, and score what comes back.

Run by `make demo`. Every conversion is a command line of its own, printed so that it can be typed again; the
results stay in the folder `demo/`. Exits with 1 if a command fails or the lossless file does not come back
bit for bit.
"""

import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from lenet5 import WEIGHTS_FILE, accuracy, load_digits, load_model
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
SOURCE = WEIGHTS_FILE.relative_to(ROOT)
FOLDER = Path("demo")
PICTURE = FOLDER / "lenet5.png"

# Name of the file -> what is asked for on the command line.
TARGETS = {
    "lossless": "--lossless",
    "default": "",
    "snr-30": "--snr 30",
    "bits-4": "--bits 4",
    "ratio-16": "--ratio 16",
    "size-20kB": "--size 20kB",
    "keep-0.5": "--keep 0.5",
    "keep-0.05": "--keep 0.05",
}


@dataclass(frozen=True)
class Conversion:
    """One target: the commands that were run and, unless one failed, the summary of the first."""

    target: str
    commands: tuple[str, ...]
    restored: Path
    summary: dict[str, float]
    error: str = ""


def run(arguments: list[str]) -> str:
    """What `frconvert` with these arguments prints; raises CalledProcessError with its message otherwise."""
    program = shutil.which(
        "frconvert", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    if program is None:
        sys.exit(
            "demo: the command frconvert is not installed; run `make demo` or `pip install .[torch,plot]`"
        )
    done = subprocess.run([program, *arguments], cwd=ROOT, check=True, capture_output=True, text=True)  # noqa: S603
    return done.stdout


def convert(name: str, target: str) -> Conversion:
    """Converts the sample at one target and restores the result to `.pt`."""
    packed, restored = FOLDER / f"{name}.frq", FOLDER / f"{name}.pt"
    pack = ["convert", str(SOURCE), str(packed), *shlex.split(target), "--overwrite", "--json"]
    unpack = ["convert", str(packed), str(restored), "--overwrite", "--quiet"]
    commands = tuple(shlex.join(["frconvert", *arguments]) for arguments in (pack, unpack))
    try:
        summary = json.loads(run(pack))
        run(unpack)
    except subprocess.CalledProcessError as error:
        return Conversion(target, commands, restored, {}, error.stderr.strip() or str(error))
    return Conversion(target, commands, restored, summary)


def is_bit_identical(path: Path) -> bool:
    """True if the file holds the sample's tensors: the same names, dtypes, shapes and bytes."""
    original, restored = (torch.load(file, weights_only=True) for file in (WEIGHTS_FILE, path))
    return list(original) == list(restored) and all(
        tensor.dtype == restored[name].dtype
        and tensor.shape == restored[name].shape
        and tensor.numpy().tobytes() == restored[name].numpy().tobytes()
        for name, tensor in original.items()
    )


def table_of(conversions: list[Conversion]) -> Table:
    """One line a target: how small the file is and how well what it restores still reads digits."""
    digits = load_digits()
    before = accuracy(load_model(), *digits)
    source_bytes = WEIGHTS_FILE.stat().st_size
    table = Table(title=f"{SOURCE}, {source_bytes:,} bytes, on {len(digits[1]):,} MNIST test digits")
    table.add_column("target", no_wrap=True)
    for heading in ("bytes", "ratio", "bits per\nweight", "SQNR\ndB", "accuracy\nbefore", "accuracy\nafter"):
        table.add_column(heading, justify="right")
    for conversion in conversions:
        if conversion.error:
            table.add_row(conversion.target, "failed")
            continue
        summary = conversion.summary
        sqnr_db = summary["sqnr_db"]
        after = accuracy(load_model(ROOT / conversion.restored), *digits)
        table.add_row(
            conversion.target or "(none)",
            f"{summary['destination_bytes']:,}",
            f"{summary['ratio']:.2f}",
            f"{summary['bits_per_weight']:.2f}",
            "exact" if sqnr_db in (None, math.inf) else f"{sqnr_db:.1f}",
            f"{before:.1%}",
            f"{after:.1%}",
        )
    return table


def main() -> int:
    """Runs all targets and the analyzer; returns the exit status."""
    (ROOT / FOLDER).mkdir(exist_ok=True)
    failures = []
    conversions = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for conversion in pool.map(convert, TARGETS, TARGETS.values()):
            conversions.append(conversion)
            print(*conversion.commands, sep="\n", flush=True)
            if conversion.error:
                failures.append(f"{conversion.target or 'no target'}: {conversion.error}")
    analyze = ["analyze", str(SOURCE), "--overwrite", "--plot", str(PICTURE)]
    print(shlex.join(["frconvert", *analyze]), flush=True)
    try:
        run(analyze)
    except subprocess.CalledProcessError as error:
        failures.append(f"analyze: {error.stderr.strip() or error}")

    console = Console()
    console.print()
    console.print(table_of(conversions))
    lossless = conversions[list(TARGETS).index("lossless")]
    if not lossless.error:
        identical = is_bit_identical(ROOT / lossless.restored)
        print(f"{lossless.restored} is {'' if identical else 'NOT '}bit-identical to {SOURCE}")
        if not identical:
            failures.append("the lossless file does not come back bit for bit")
    for failure in failures:
        print(f"demo: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
