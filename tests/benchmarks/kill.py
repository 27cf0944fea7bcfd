"""Kills conversions at random moments, and lets them run out of space: what is left at the destination?

    python tests/benchmarks/kill.py [--count 200] [--seed 0]

Half of the runs have an old file at the destination. A run is killed with SIGKILL after a random part of the
time that a whole one takes. Space runs out by a limit on the size of files (everywhere) and on a small tmpfs
(where mounting is allowed). Prints a Markdown table. Exit status 1 if a destination was ever anything else
than absent, the old file, or the complete new one.
"""

import argparse
import contextlib
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

OLD = b"the file that was there before"
MAIN = "import sys; from frconvert.cli import main; main()"


def command(source: Path, destination: Path) -> list[str]:
    """A conversion that replaces its destination."""
    return [sys.executable, "-c", MAIN, "convert", str(source), str(destination), "--overwrite", "--quiet"]


def state_of(path: Path, complete: bytes) -> str:
    """In words, what is at a destination."""
    if not path.exists():
        return "absent"
    content = path.read_bytes()
    return "old" if content == OLD else "complete" if content == complete else "BROKEN"


def kill_runs(folder: Path, source: Path, count: int, rng: random.Random) -> dict[str, Counter[str]]:
    """States after SIGKILL, by suffix of the destination."""
    states = {}
    for suffix in (".frq", ".safetensors"):
        destination = folder / f"killed{suffix}"
        began = time.monotonic()
        subprocess.run(command(source, destination), check=True)
        seconds = time.monotonic() - began
        complete = destination.read_bytes()
        counts = states[f"SIGKILL, {suffix}"] = Counter[str]()
        for number in range(count // 2):
            destination.unlink(missing_ok=True)
            if number % 2:
                destination.write_bytes(OLD)
            process = subprocess.Popen(command(source, destination))
            time.sleep(rng.uniform(0.1, 1.1) * seconds)
            process.kill()
            process.wait()
            state = state_of(destination, complete)
            if state == ("absent" if number % 2 else "old"):
                state = "BROKEN"  # what was there is gone, or appeared from nowhere
            counts[state] += 1
            left = list(folder.glob(".frconvert-*.tmp*"))
            counts["temporary files left"] += len(left)
            for path in left:
                path.unlink()
        destination.unlink(missing_ok=True)
    return states


def full_runs(folder: Path, source: Path, complete: bytes, limit: Callable[[], None] | None) -> Counter[str]:
    """States after conversions that find no space."""
    counts = Counter[str]()
    for old in (None, OLD):
        destination = folder / "full.frq"
        destination.unlink(missing_ok=True)
        if old:
            destination.write_bytes(old)
        done = subprocess.run(
            command(source, destination), preexec_fn=limit, check=False, capture_output=True, text=True
        )
        state = state_of(destination, complete)
        lines = done.stderr.splitlines()
        is_decent = done.returncode == 3 and len(lines) == 1 and lines[0].startswith("frconvert: ")
        counts[state if is_decent and state == ("old" if old else "absent") else "BROKEN"] += 1
        counts["temporary files left"] += len(list(folder.glob(".frconvert-*.tmp*")))
    return counts


def limit_files(size_bytes: int) -> Callable[[], None]:
    """What lets a process write no file larger than that."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path | None]:
    """A tmpfs of that size, None where mounting is not allowed."""
    folder.mkdir()
    options = f"size={size_bytes}"
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    try:
        mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)  # noqa: S311  (not for secrets)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        source = folder / "model.npz"
        weights = np.random.default_rng(0).standard_normal((8, 250_000)).astype(np.float32)
        np.savez(source, **{f"layer{number}": row.reshape(500, 500) for number, row in enumerate(weights)})
        states = kill_runs(folder, source, arguments.count, rng)
        whole = folder / "whole.frq"
        subprocess.run(command(source, whole), check=True)
        complete = whole.read_bytes()
        states["file size limit"] = full_runs(folder, source, complete, limit_files(200_000))
        with small_disk(folder / "disk", 200_000) as disk:
            if disk is not None:
                states["full tmpfs"] = full_runs(disk, source, complete, None)
    columns = ("absent", "old", "complete", "BROKEN", "temporary files left")
    print(f"| what happened | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, counts in states.items():
        print(f"| {name} | {' | '.join(str(counts[column]) for column in columns)} |")
    if any(counts["BROKEN"] for counts in states.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
