"""What it costs to open a model and to run it, each in a process of its own.

`python -m frconvert.runtime_cost MODEL.onnx FEEDS.npz` prints the fields of `Cost` as JSON; what it fails
with is its last line on stderr.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frconvert.errors import FrqError, UnsupportedError, printable
from frconvert.runtime.sessions import Session, onnxruntime, optimized_operators
from frconvert.summary import peak_rss_bytes

_CREATIONS = 3  # the fastest counts, as other processes disturb
_CREATION_SECONDS = 3.0  # but no further one after so long


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a model.

    Attributes:
        session_seconds: to read the file and create a session.
        memory_bytes: largest resident size while creating and running the first session, beyond that of a
            process that has loaded onnxruntime; 0 where the platform does not tell.
        operators: how often each is in the optimised graph.
    """

    session_seconds: float
    memory_bytes: int
    operators: dict[str, int]

    @property
    def nodes(self) -> int:
        """Number of nodes of the optimised graph, those of its branches and bodies included."""
        return sum(self.operators.values())


def measure(path: Path, feeds: Mapping[str, NDArray[np.generic]]) -> Cost:
    """The cost of the model, with one run on these inputs, in a new process.

    Raises:
        UnsupportedError: the process failed.
    """
    with tempfile.TemporaryDirectory(prefix="frconvert-") as folder:
        stored = Path(folder) / "feeds.npz"
        # By number, as not every name of an input is a file's.
        np.savez(stored, *feeds.values(), names=np.array(list(feeds)))
        command = [sys.executable, "-m", "frconvert.runtime_cost", str(path.resolve()), str(stored)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        last = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        raise UnsupportedError(f"{path}: measuring it failed: {printable(last, 300)}")
    return Cost(**json.loads(done.stdout))


def _main(path: Path, stored: Path) -> None:
    with np.load(stored, allow_pickle=False) as arrays:
        feeds = {str(name): arrays[f"arr_{number}"] for number, name in enumerate(arrays["names"])}
    onnxruntime()
    before = peak_rss_bytes()
    began = time.perf_counter()
    session = Session(path)
    times = [time.perf_counter() - began]
    session.run(feeds)
    memory = peak_rss_bytes() - before
    del session
    while len(times) < _CREATIONS and sum(times) < _CREATION_SECONDS:
        began = time.perf_counter()
        Session(path)
        times.append(time.perf_counter() - began)
    print(json.dumps(asdict(Cost(min(times), memory, optimized_operators(path)))))  # noqa: T201


if __name__ == "__main__":
    try:
        _main(Path(sys.argv[1]), Path(sys.argv[2]))
    except FrqError as error:
        sys.exit(str(error))
