"""Where the pretrained models are, and how to run a command and know its time and memory."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

SHARED = Path(__file__).resolve().parents[3] / "shared"
PROGRAM = Path(sys.executable).parent / "frconvert"
MODELS = ("lenet5", "kerascifar", "efflite0", "minilm", "hed", "crepe")


def models() -> ModuleType:
    """The module that fetches the public models and scores them; without it the program ends."""
    if not (SHARED / "real" / "models.py").is_file():
        sys.exit(f"needs the models' module, {SHARED / 'real' / 'models.py'}, which is not there")
    sys.path.insert(0, str(SHARED / "real"))
    import models as module

    return module


def run(*arguments: str | Path) -> tuple[dict[str, Any], float]:
    """Runs frconvert with --json; returns its object and the wall seconds of the whole process."""
    began = time.monotonic()
    command = [PROGRAM, *map(str, arguments), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout), time.monotonic() - began


def cpu_seconds() -> float:
    """Processor time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


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
