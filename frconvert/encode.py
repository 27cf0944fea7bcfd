"""One attempt at a `.frq`: every tensor read, made a record, coded, written and measured.

Law: the bytes depend on checkpoint and plans alone, not on the number of jobs; the figures are those of the
restored tensors, not estimates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import inf, log10
from typing import IO

import numpy as np
from numpy.typing import NDArray

from frconvert import allocate
from frconvert.allocate import Survey
from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.coding import cost
from frconvert.coding.record import (
    STATE_BITS,
    TRELLIS,
    Layout,
    Plan,
    Record,
    encode_chunk,
    group,
    make_record,
    record_of_coefficients,
    restore,
)
from frconvert.container.writer import Writer
from frconvert.parallel import ordered_map

Progress = Callable[[str, int, int], None]  # stage, bytes done, bytes in total


@dataclass(frozen=True, slots=True)
class Options:
    """How to compress, apart from the target.

    Attributes:
        importance: what is made small: the sum of the tensors' relative errors ("tensor") or of all squared
            errors ("mse").
        include, exclude: globs on tensor names; only included and not excluded tensors are quantised.
        jobs: threads that work on tensors side by side; the bytes do not depend on it.
    """

    importance: str = "tensor"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    jobs: int = 1


@dataclass(frozen=True, slots=True)
class TensorResult:
    """One tensor as written: its plan, its share of the file, and what decoding it gives.

    Attributes:
        size_bytes: its share of its chunk.
        energy, error: sum of squares of the source, and of the difference, over finite values.
        max_error: largest absolute difference.
    """

    entry: TensorEntry
    plan: Plan
    size_bytes: int
    energy: float
    error: float
    max_error: float
    copied: bool = False

    @property
    def method(self) -> str:
        """One word: exact, rounded, uniform, or copied from another `.frq`."""
        return "copied" if self.copied else self.plan.method

    @property
    def sqnr_db(self) -> float:
        """10 log10(energy / error); infinite without error."""
        return decibel(self.energy, self.error)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished attempt."""

    size_bytes: int
    results: tuple[TensorResult, ...]
    notices: tuple[str, ...] = ()

    @property
    def sqnr_db(self) -> float:
        """10 log10(energy / error) over the float tensors with two or more axes; infinite without error."""
        weights = [result for result in self.results if result.entry.is_weight]
        return decibel(sum(result.energy for result in weights), sum(result.error for result in weights))


@dataclass(slots=True)
class Task:
    """What every attempt at one conversion shares."""

    checkpoint: Checkpoint
    open_stream: Callable[[], IO[bytes]]
    options: Options
    progress: Progress
    metadata: dict[str, str]
    kind: str = TRELLIS  # the quantiser
    surveys: dict[str, Survey | None] = field(default_factory=dict)
    exact: set[str] = field(default_factory=set)  # names that quantisation cannot serve well enough

    def plans(self, coarseness: float | None) -> list[Plan]:
        """A plan for each stored tensor; None is lossless."""
        stored = self.checkpoint.stored
        surveys = [None if entry.name in self.exact else self.surveys.get(entry.name) for entry in stored]
        units = allocate.units(surveys, self.options.importance)
        plans = []
        for entry, survey, unit in zip(stored, surveys, units, strict=True):
            known = self.surveys.get(entry.name)
            if survey is not None and coarseness is not None:
                plans.append(allocate.plan_tensor(survey, coarseness, unit, self.kind))
            elif known is not None:
                plans.append(known.exact)
            else:
                noisy = coarseness is not None and not entry.is_weight and self.selected(entry.name)
                plans.append(allocate.plan_exact(entry.dtype, entry.shape, coarseness if noisy else None))
        return plans

    def selected(self, name: str) -> bool:
        """Whether the globs allow to quantise that tensor."""
        included = not self.options.include or any(fnmatchcase(name, glob) for glob in self.options.include)
        return included and not any(fnmatchcase(name, glob) for glob in self.options.exclude)


def attempt(task: Task, plans: Sequence[Plan], *, copy: bool = False) -> Outcome:
    """Writes the whole file once."""
    stored = task.checkpoint.stored
    sequences = [_kind_and_count(entry, plan, copy) for entry, plan in zip(stored, plans, strict=True)]
    chunks = group(sequences)
    lossy = any(not _is_exact(plan) for plan in plans)

    def work(members: list[int]) -> tuple[list[int], bytes, list[Layout], list[TensorResult]]:
        records = [_record(stored[member], plans[member], copy) for member in members]
        shares = [_share(record) for record in records]
        payload = encode_chunk(records)
        layouts = [record.layout for record in records]
        results = []
        for member, share in zip(members, shares, strict=True):
            size_bytes = round(len(payload) * share / sum(shares))
            # Each record is let go as soon as it is measured.
            result = _result(stored[member], plans[member], records.pop(0), copy=copy, lossy=lossy)
            results.append(replace(result, size_bytes=size_bytes))
        return members, payload, layouts, results

    layouts: dict[str, Layout] = {}
    results: dict[str, TensorResult] = {}
    total, done = sum(entry.size_bytes for entry in stored), 0
    with task.open_stream() as stream:
        writer = Writer(stream)
        for members, payload, new_layouts, new_results in ordered_map(work, chunks, task.options.jobs):
            writer.add_chunk(new_layouts[0].stored, len(members), payload)
            for layout, result in zip(new_layouts, new_results, strict=True):
                layouts[result.entry.name], results[result.entry.name] = layout, result
                done += result.entry.size_bytes
            task.progress("encoding", done, total)
        for entry, plan in zip(stored, plans, strict=True):
            if entry.name not in layouts:  # nothing to store, so in no chunk
                record = _record(entry, plan, copy)
                layouts[entry.name] = record.layout
                results[entry.name] = _result(entry, plan, record, copy=copy, lossy=lossy)
        size_bytes = writer.finish(
            [entry.name for entry in task.checkpoint],
            [layouts[entry.name if entry.tied_to is None else entry.tied_to] for entry in task.checkpoint],
            {entry.name: entry.tied_to for entry in task.checkpoint if entry.tied_to is not None},
            task.checkpoint.attachments,
            task.metadata,
        )
    return Outcome(size_bytes, tuple(results[entry.name] for entry in stored))


def _kind_and_count(entry: TensorEntry, plan: Plan, copy: bool) -> tuple[str, int]:
    if copy and isinstance(entry.encoded_layout, Layout):
        return entry.encoded_layout.stored, entry.encoded_layout.count
    kind = plan.kind if plan.step is not None else plan.stored or entry.dtype
    return kind, entry.size if plan.keep is None else plan.keep


def _record(entry: TensorEntry, plan: Plan, copy: bool) -> Record:
    if copy and entry.read_encoded is not None:
        record = entry.read_encoded()
        if not isinstance(record, Record):
            raise TypeError(f"read_encoded of {entry.name!r} gave no record")
        return record
    if entry.read_coefficients is not None and plan.keep is not None:
        prefix = entry.read_coefficients()[: plan.keep]
        return record_of_coefficients(prefix, entry.shape, entry.dtype, plan)
    return make_record(entry.read(), entry.dtype, plan)


def _is_exact(plan: Plan) -> bool:
    """Whether a plan gives back the very bits of a tensor, without any arithmetic."""
    return not (plan.axes or plan.step or plan.keep is not None or plan.mantissa_bits)


def _result(entry: TensorEntry, plan: Plan, record: Record, *, copy: bool, lossy: bool) -> TensorResult:
    """What came of a record that has been encoded; its values are used up. The size is not known here.

    In a file that is `lossy` somewhere the energy of exact weights counts, in the total.
    """
    layout = record.layout
    if copy:
        plan = Plan(layout.axes, layout.keep, layout.step, layout.stored)
        return TensorResult(entry, plan, 0, 0.0, 0.0, 0.0, copied=True)
    if _is_exact(plan):
        if not (lossy and entry.is_weight):
            return TensorResult(entry, plan, 0, 0.0, 0.0, 0.0)
        return TensorResult(entry, plan, 0, *difference(record.values, record.values))
    # The source is read once more, so that it need not be in memory while it is encoded.
    restored = restore(record, reuse=layout.stored in STATE_BITS)
    return TensorResult(entry, plan, 0, *difference(entry.read(), restored))


def decibel(energy: float, error: float) -> float:
    """10 log10(energy / error): infinite without error, minus infinite where a value was destroyed."""
    if error == 0:
        return inf
    return 10 * log10(energy / error) if 0 < energy < inf and error < inf else -inf


def difference(first: NDArray[np.generic], second: NDArray[np.generic]) -> tuple[float, float, float]:
    """Energy of the first, sum of squared errors and largest error of the second, of equal shapes.

    A changed NaN or infinity is an infinite error, and so is any change of integers or booleans of one dtype.
    Values of different dtypes are compared as numbers.
    """
    if first.dtype == second.dtype and first.dtype.kind in "biu":
        error = 0.0 if np.array_equal(first, second) else inf
        return 0.0, error, error
    wide = np.complex128 if "c" in (first.dtype.kind, second.dtype.kind) else np.float64
    energy = error = largest = 0.0
    for start in range(0, first.size, 1 << 20):
        with np.errstate(all="ignore"):  # signalling NaN, squares of huge values
            a = first.reshape(-1)[start : start + (1 << 20)].astype(wide)
            b = second.reshape(-1)[start : start + (1 << 20)].astype(wide)
            finite = np.isfinite(a) & np.isfinite(b)
            if not finite.all():
                if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
                    return energy, inf, inf
                a, b = a[finite], b[finite]
            gap = np.abs(a - b)
            energy += float(np.square(np.abs(a)).sum())
            error += float(np.square(gap).sum())
            largest = max(largest, float(gap.max(initial=0)))
    return energy, error, largest


def _share(record: Record) -> float:
    """Weight of a record in its chunk, for reporting: about its bits."""
    layout = record.layout
    if record.fit is not None and layout.step is not None:
        counted = cost.count_classes(record.fit, layout.shape)
        return cost.estimated_bits(record.fit, counted, layout.step, STATE_BITS[layout.stored])
    if layout.step is None:
        return float(record.values.size) or 1.0
    return float(np.log2(1 + np.abs(record.values.astype(np.float32))).sum()) + record.values.size / 2
