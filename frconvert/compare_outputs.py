"""Two models beside each other by what they compute: output errors, latency, and the cost of opening them."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, sqrt
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert import importers
from frconvert.calibration import InputSpec, random_batches, read
from frconvert.checkpoint import ONNX_SKELETON, Checkpoint
from frconvert.errors import UsageError
from frconvert.runtime.graph_inputs import read_inputs
from frconvert.runtime.sessions import Session
from frconvert.runtime_cost import Cost, measure

RANDOM_BATCHES = 4
_LEAST_PAIRS, _MOST_PAIRS = 7, 200  # of runs, one of each model
_LATENCY_SECONDS = 4.0  # for which pairs of runs are repeated


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """One output of both models, over all batches.

    Attributes:
        name: in the first model.
        relative_error: |b - a| / |a| with Euclidean norms over all elements; infinite where a shape, a NaN or
            an infinity differs, or `a` is all zeros and `b` is not.
        max_error: largest absolute difference of an element.
        max_value: largest absolute value of `a`.
        identical: whether all elements are equal.
    """

    name: str
    relative_error: float
    max_error: float
    max_value: float
    identical: bool


@dataclass(frozen=True, slots=True)
class RunComparison:
    """What two models compute and cost.

    Attributes:
        outputs: in the order of the first model's.
        batches: how many were run.
        random: whether they were random.
        latency_seconds: median processor time of a run, of each model, on one thread.
        latency_ratio: median of second / first over runs in alternation.
        costs: of each model.
    """

    outputs: tuple[OutputComparison, ...]
    batches: int
    random: bool
    latency_seconds: tuple[float, float]
    latency_ratio: float
    costs: tuple[Cost, Cost]

    @property
    def worst(self) -> float:
        """The largest relative error of an output."""
        return max((output.relative_error for output in self.outputs), default=0.0)

    @property
    def more_operators(self) -> dict[str, int]:
        """How many more (or, below 0, fewer) of each operator the second optimised graph has."""
        first, second = (cost.operators for cost in self.costs)
        gaps = {
            name: second.get(name, 0) - first.get(name, 0) for name in sorted(first.keys() | second.keys())
        }
        return {name: gap for name, gap in gaps.items() if gap}

    def to_json(self) -> dict[str, Any]:
        """Plain data; null for infinite figures."""
        first, second = self.costs
        return {
            "batches": self.batches,
            "random": self.random,
            "outputs": [
                {
                    "name": output.name,
                    "relative_error": _finite(output.relative_error),
                    "max_error": _finite(output.max_error),
                    "max_value": _finite(output.max_value),
                    "identical": output.identical,
                }
                for output in self.outputs
            ],
            "latency_seconds": list(self.latency_seconds),
            "latency_ratio": self.latency_ratio,
            "session_seconds": [first.session_seconds, second.session_seconds],
            "memory_bytes": [first.memory_bytes, second.memory_bytes],
            "nodes": [first.nodes, second.nodes],
            "more_operators": self.more_operators,
        }


@contextlib.contextmanager
def as_onnx(location: str, bases: Sequence[Checkpoint] = ()) -> Iterator[Path]:
    """The path of an `.onnx`; a `.frq` that has a graph is made into one for the time being.

    Raises:
        UsageError: neither.
        FrqError: what is wrong with the file.
    """
    checkpoint = importers.load(location, base=bases)
    if checkpoint.format == "onnx":
        yield Path(location)
        return
    if ONNX_SKELETON not in checkpoint.attachments:
        raise UsageError(
            f"{location}: to compare outputs both must be .onnx files, or .frq files made from such; "
            f"this is a {checkpoint.format} without a graph"
        )
    from frconvert.exporters.onnx import save  # noqa: PLC0415

    with TemporaryDirectory(prefix="frconvert-") as folder:
        path = Path(folder) / f"{Path(location).stem}.onnx"
        save(checkpoint, path, lambda _: None)
        yield path


def compare_outputs(first: Path, second: Path, data: str | None = None) -> RunComparison:
    """Runs both models on the same inputs.

    Args:
        first: an `.onnx`, the reference.
        second: another that takes the same inputs and has as many outputs.
        data: calibration data, see `frconvert.calibration`; None for random inputs.

    Raises:
        UsageError: other inputs or outputs, data that do not fit, or a runtime that is not installed.
        UnsupportedError: onnxruntime cannot load a model.
    """
    inputs = read_inputs(first)
    _check_inputs(inputs, read_inputs(second), second)
    batches: Iterable[dict[str, NDArray[np.generic]]]
    batches = list(random_batches(inputs, RANDOM_BATCHES)) if data is None else read(data, inputs)
    sessions = (Session(first), Session(second))
    if len(sessions[0].output_names) != len(sessions[1].output_names):
        counts = [len(session.output_names) for session in sessions]
        raise UsageError(f"{first} has {counts[0]} outputs, {second} has {counts[1]}")
    totals = [_Total(name) for name in sessions[0].output_names]
    count, feeds = 0, None
    for batch in batches:
        count += 1
        feeds = feeds or batch
        for total, a, b in zip(totals, *(session.run(batch) for session in sessions), strict=True):
            total.add(a, b)
    feeds = feeds or {}  # a model may have no input
    latency = _latency(sessions, feeds)
    del sessions
    return RunComparison(
        tuple(total.figures() for total in totals),
        count,
        data is None,
        *latency,
        (measure(first, feeds), measure(second, feeds)),
    )


def compare_values(name: str, first: Any, second: Any) -> OutputComparison:
    """The figures of one pair of values: arrays, or lists and dicts of them."""
    total = _Total(name)
    total.add(first, second)
    return total.figures()


def _check_inputs(inputs: Sequence[InputSpec], others: Sequence[InputSpec], second: Path) -> None:
    known = {spec.name: spec for spec in others}
    for spec in inputs:
        other = known.pop(spec.name, None)
        if other is None or other.dtype != spec.dtype or len(other.shape) != len(spec.shape):
            raise UsageError(f"{second}: does not take the first model's input {spec}, but {other or 'none'}")
    if known:
        raise UsageError(f"{second}: takes an input {next(iter(known.values()))}, which the first does not")


class _Total:
    """Sums over batches for one output."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.energy = self.error = self.max_error = self.max_value = 0.0
        self.identical = True

    def add(self, first: Any, second: Any) -> None:
        arrays = [list(_arrays(value)) for value in (first, second)]
        if len(arrays[0]) != len(arrays[1]):
            self._differ()
            return
        for a, b in zip(*arrays, strict=True):
            self._add(a, b)

    def _add(self, a: NDArray[Any], b: NDArray[Any]) -> None:
        if a.shape != b.shape or a.dtype.kind not in "biufc" or b.dtype.kind not in "biufc":
            if a.shape != b.shape or not np.array_equal(a, b):
                self._differ()
            return
        wide = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
        a, b = a.astype(wide), b.astype(wide)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        self.identical &= bool(same.all())
        values = np.abs(a[np.isfinite(a)])
        with np.errstate(over="ignore"):
            self.energy += float(np.square(values).sum())
        self.max_value = max(self.max_value, float(values.max(initial=0)))
        with np.errstate(invalid="ignore", over="ignore"):
            gap = np.where(same, 0, np.abs(b - a))
        if not np.isfinite(gap).all():
            self._differ()
            return
        self.error += float(np.square(gap).sum())
        self.max_error = max(self.max_error, float(gap.max(initial=0)))

    def _differ(self) -> None:
        self.identical = False
        self.error = self.max_error = inf

    def figures(self) -> OutputComparison:
        relative = sqrt(self.error / self.energy) if self.energy else (inf if self.error else 0.0)
        return OutputComparison(self.name, relative, self.max_error, self.max_value, self.identical)


def _arrays(value: Any) -> Iterator[NDArray[Any]]:
    """The arrays of an output, which may be in lists and dicts."""
    if isinstance(value, Mapping):
        yield np.array(list(value))
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _arrays(item)
    else:
        yield np.asarray(value)


def _latency(
    sessions: tuple[Session, Session], feeds: Mapping[str, NDArray[np.generic]]
) -> tuple[tuple[float, float], float]:
    """Median seconds of a run of each, and the median ratio of neighbouring runs.

    Seconds are those of the processor: a run has one thread, and other processes disturb the wall clock.
    """
    times: tuple[list[float], list[float]] = ([], [])
    began = time.perf_counter()
    while len(times[0]) < _LEAST_PAIRS or (
        len(times[0]) < _MOST_PAIRS and time.perf_counter() - began < _LATENCY_SECONDS
    ):
        # Each goes first in every other pair, as whatever ran last has the caches.
        for which in (0, 1) if len(times[0]) % 2 else (1, 0):
            start = time.thread_time()
            sessions[which].run(feeds)
            times[which].append(time.thread_time() - start)
    ratio = median(b / a if a else 1.0 for a, b in zip(*times, strict=True))
    return (median(times[0]), median(times[1])), ratio


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
