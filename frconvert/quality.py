"""The smallest file whose metric drops by no more than a given amount: `--max-drop`.

A metric is a function of the user's: it gets the restored checkpoint and returns a number, higher is better.
The signal to noise ratio of the weights is what is searched, as everything else follows from it: first in
strides until one ratio passes and a lower one fails, then by halving, until the two are close. The metric is
taken to fall with the ratio; where it is too noisy for that, the result still passes, but a smaller one may
exist.

Law: the file that is written has passed, on the metric as given; the curve has every file that was tried.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from frconvert import importers, pipeline
from frconvert.checkpoint import Checkpoint
from frconvert.encode import Options
from frconvert.errors import FrqError, TargetError, UsageError, one_line
from frconvert.files import check_destination, replacing
from frconvert.pipeline import Extras
from frconvert.summary import Summary
from frconvert.target import Target

_FIRST_DB, _STRIDE_DB, _LOWEST_DB, _HIGHEST_DB = 18.0, 6.0, 1.0, 60.0
_CLOSE_DB = 0.5
MOST_EVALUATIONS = 12

Metric = Callable[[Checkpoint], float]


@dataclass(frozen=True, slots=True)
class Point:
    """One file that was tried: signal to noise ratio asked for, bytes, metric, and whether it passed."""

    snr_db: float
    size_bytes: int
    metric: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Found:
    """The summary of the file that was written, the metric of the original, and every file tried."""

    summary: Summary
    original: float
    curve: tuple[Point, ...]

    def to_json(self) -> dict[str, Any]:
        """The summary's fields and the curve."""
        points = [
            {
                "snr_db": point.snr_db,
                "bytes": point.size_bytes,
                "metric": point.metric,
                "passed": point.passed,
            }
            for point in self.curve
        ]
        return self.summary.to_json() | {"metric_before": self.original, "curve": points}


def convert(
    checkpoint: Checkpoint,
    destination: Path,
    metric: Metric,
    max_drop: float,
    *,
    options: Options = Options(),  # noqa: B008  (frozen)
    extras: Extras = Extras(),  # noqa: B008
    overwrite: bool = False,
    report: Callable[[Point], None] = lambda _: None,
) -> Found:
    """Writes the smallest `.frq` found that loses no more than `max_drop`.

    Raises:
        TargetError: even the finest file loses more.
        UsageError: the metric failed, or gave no finite number.
    """
    if not (isfinite(max_drop) and max_drop >= 0):
        raise UsageError(f"--max-drop {max_drop:g} is out of range; it is a number from 0 on")
    if destination.suffix != ".frq":
        raise UsageError(f"{destination}: a target needs a .frq destination")
    check_destination(destination, overwrite=overwrite)
    original = _measured(metric, checkpoint)
    points: dict[float, Point] = {}
    summaries: dict[float, Summary] = {}
    with tempfile.TemporaryDirectory(prefix="frconvert-") as folder:
        best = Path(folder) / "best.frq"

        def passes(snr_db: float) -> bool:
            path = Path(folder) / "tried.frq"
            summary = pipeline.save(
                checkpoint, path, target=Target("snr", snr_db), options=options, extras=extras, overwrite=True
            )
            value = _measured(metric, importers.load(path))
            point = Point(snr_db, summary.destination_bytes, value, original - value <= max_drop)
            passed = [known.size_bytes for known in points.values() if known.passed]
            points[snr_db], summaries[snr_db] = point, summary
            if point.passed and point.size_bytes < min(passed, default=point.size_bytes + 1):
                path.replace(best)
            report(point)
            return point.passed

        _search(passes)
        passed = [point for point in points.values() if point.passed]
        if not passed:
            closest = max(points.values(), key=lambda point: point.metric)
            raise TargetError(
                f"no file loses at most {max_drop:g} of {original:g}; at {closest.snr_db:g} dB "
                f"({closest.size_bytes:,} bytes) the metric is {closest.metric:g}; use --lossless"
            )
        smallest = min(passed, key=lambda point: point.size_bytes)
        with replacing(destination) as temporary:
            shutil.copyfile(best, temporary)
    return Found(summaries[smallest.snr_db], original, tuple(points.values()))


def _search(passes: Callable[[float], bool]) -> None:
    """Asks for few ratios, the last of them close to the lowest that passes."""
    low, high = _FIRST_DB, _FIRST_DB
    left = MOST_EVALUATIONS - 1
    if passes(_FIRST_DB):
        while left and low > _LOWEST_DB:
            low, left = max(low - _STRIDE_DB, _LOWEST_DB), left - 1
            if not passes(low):
                break
            high = low
    else:
        while left and high < _HIGHEST_DB:
            high, left = min(high + _STRIDE_DB, _HIGHEST_DB), left - 1
            if passes(high):
                break
            low = high
    while left and high - low > _CLOSE_DB:
        middle = (low + high) / 2
        left -= 1
        if passes(middle):
            high = middle
        else:
            low = middle


def _measured(metric: Metric, checkpoint: Checkpoint) -> float:
    try:
        value = float(metric(checkpoint))
    except FrqError:
        raise
    except Exception as error:  # it is the user's code
        raise UsageError(f"the metric failed: {type(error).__name__}: {one_line(error)}") from error
    if not isfinite(value):
        raise UsageError(f"the metric gave {value}, which is no finite number")
    return value
