"""One attempt at a `.frq`: every tensor read, made a record, coded, written and measured.

Law: the bytes depend on checkpoint and plans alone, not on the number of jobs; the figures are those of the
restored tensors, not estimates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import inf, log10
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from frconvert import allocate
from frconvert.allocate import Survey
from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.coding import cost
from frconvert.coding.difference import DIFFERENCE, EQUAL, OWN
from frconvert.coding.record import (
    STATE_BITS,
    TRELLIS,
    UNIFORM,
    WORDS,
    Layout,
    Plan,
    Record,
    encode_chunk,
    group,
    make_record,
    record_of_coefficients,
    restore,
)
from frconvert.container.head import Group, Head
from frconvert.container.writer import Writer
from frconvert.delta import settled
from frconvert.dtypes import numpy_dtype
from frconvert.parallel import ordered_map
from frconvert.rules import Rule, merged
from frconvert.spectral import dct

_NO_WISHES = Rule()
_BLOCK = 1 << 17  # elements compared at a time, so that what is made of them stays in the cache

Progress = Callable[[str, int, int], None]  # stage, bytes done, bytes in total


@dataclass(frozen=True, slots=True)
class Options:
    """How to compress, apart from the target.

    Attributes:
        importance: what is made small: the sum of the tensors' relative errors ("tensor") or of all squared
            errors ("mse").
        include, exclude: globs on tensor names; only included and not excluded tensors are quantised.
        rules: wishes for single tensors.
        jobs: threads that work on tensors side by side; the bytes do not depend on it.
        base: a `.frq` that tensors may be stored as differences to.
        onnx: how an `.onnx` holds its weights: "dense", or as coefficients, "idct" or "functions"; None goes
            by its name.
        onnx_factored: "auto" where products of small matrices are clearly fewer multiplications, or "never".
        onnx_names: "keep", or "short" for names inside the graph, see `frconvert.exporters.onnx_names`.
        calib: calibration data, see `frconvert.calibration`; tensors are then refined against what the model
            computes for them.
        model: where those come from whose checkpoint says nothing of how they run: module:factory.
    """

    importance: str = "tensor"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    jobs: int = 1
    base: Checkpoint | None = None
    onnx: str | None = None
    onnx_factored: str = "auto"
    onnx_names: str = "keep"
    calib: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """A tensor's values as they are to come out of the file.

    Attributes:
        values: dense, floats of the tensor's shape.
        plan: stores them exactly: where it has a step, they are on its grid, or on a path of its trellis.
    """

    values: NDArray[Any] = field(repr=False)
    plan: Plan


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
    coarsest: float = inf  # no step is larger than this many times the tensor's root mean square
    equal: dict[str, float] = field(default_factory=dict)  # names that equal the base's -> sums of squares
    settled: dict[tuple[str, int | None], Plan] = field(default_factory=dict)  # by name and mantissa bits
    refine: Callable[[Mapping[str, Plan]], Mapping[str, Settled]] | None = None  # decides on values
    weights: Mapping[str, float] = field(default_factory=dict)  # how much the tensors' errors count

    def plans(self, coarseness: float | None) -> list[Plan]:
        """A plan for each stored tensor; None is lossless."""
        stored = self.checkpoint.stored
        rules = [self.rule(entry.name) for entry in stored]
        surveys = [None if entry.name in self.exact else self.surveys.get(entry.name) for entry in stored]
        weights = [
            self.weights.get(entry.name, 1.0) if rule.weight is None else rule.weight
            for entry, rule in zip(stored, rules, strict=True)
        ]
        units = allocate.units(surveys, self.options.importance, weights)
        plans = []
        for entry, rule, survey, unit in zip(stored, rules, surveys, units, strict=True):
            known = self.surveys.get(entry.name)
            if entry.name in self.equal:
                plans.append(Plan(relation=EQUAL))
            elif survey is not None and coarseness is not None:
                step = min(coarseness * unit, self.coarsest * survey.scale)
                step = step if rule.step is None else rule.step
                kind = UNIFORM if rule.method == UNIFORM else self.kind
                plans.append(allocate.plan_tensor(survey, step, kind))
            elif known is not None:
                plans.append(known.exact)
            else:
                noise = None
                if coarseness is not None and not entry.is_weight and self.selected(entry.name):
                    noise = min(coarseness, self.coarsest)
                plans.append(allocate.plan_exact(entry.dtype, entry.shape, noise, rule.mantissa_bits))
        return plans

    def rule(self, name: str) -> Rule:
        """What is wished for a tensor."""
        return merged(self.options.rules, name) if self.options.rules else _NO_WISHES

    def selected(self, name: str) -> bool:
        """Whether globs and rules allow to change that tensor."""
        included = not self.options.include or any(fnmatchcase(name, glob) for glob in self.options.include)
        excluded = any(fnmatchcase(name, glob) for glob in self.options.exclude)
        return included and not excluded and self.rule(name).method != "exact"


Work = Callable[[list[int]], tuple[bytes, list[TensorResult]]]  # members of a chunk -> payload, results


def attempt(task: Task, plans: Sequence[Plan]) -> Outcome:
    """Writes the whole file once, from the source's values or from those that the task refines them to."""
    stored = task.checkpoint.stored
    plans = _settled(task, plans)
    names = [entry.name for entry in stored]
    refined = task.refine(dict(zip(names, plans, strict=True))) if task.refine else {}
    plans = [refined[name].plan if name in refined else plan for name, plan in zip(names, plans, strict=True)]
    layouts = [_layout(entry, plan) for entry, plan in zip(stored, plans, strict=True)]
    lossy = any(not _is_exact(plan) for plan in plans)

    def work(members: list[int]) -> tuple[bytes, list[TensorResult]]:
        records = [_record(stored[member], plans[member], refined.get(names[member])) for member in members]
        payload, sizes = coded(records, is_path=names[members[0]] in refined)
        results = []
        for member, size_bytes in zip(members, sizes, strict=True):
            # Each record is let go as soon as it is measured.
            settled = names[member] in refined
            record = records.pop(0)
            results.append(
                _result(stored[member], plans[member], record, size_bytes, lossy=lossy, settled=settled)
            )
        return payload, results

    kinds, paths = [], 0
    for layout, name in zip(layouts, names, strict=True):
        kind = layout.stored
        if kind == TRELLIS:
            # The lanes of a path are those of a chunk that holds nothing else. Readers take the tensors of a
            # kind in order, so no other chunk may reach over it.
            paths += name in refined
            kind = f"{kind}: {name}" if name in refined else f"{kind} after {paths}"
        kinds.append(kind)
    chunks = group([(kind, layout.count) for kind, layout in zip(kinds, layouts, strict=True)])
    return write(task, layouts, chunks, work)


def write(task: Task, layouts: Sequence[Layout], chunks: Sequence[list[int]], work: Work) -> Outcome:
    """Writes a file of the stored tensors, whose layouts are given, with the chunks that `work` makes."""
    stored = task.checkpoint.stored
    results: dict[int, TensorResult] = {}
    total, done = sum(entry.size_bytes for entry in stored), 0
    with task.open_stream() as stream:
        attachments = dict(task.checkpoint.attachments)
        writer = Writer(stream, _head(task, layouts, chunks, attachments), attachments)
        sizes = [entry.size_bytes for entry in stored]
        made = ordered_map(work, chunks, task.options.jobs, lambda members: sum(sizes[m] for m in members))
        for members, (payload, chunk_results) in zip(chunks, made, strict=True):
            writer.add_chunk(payload)
            results |= zip(members, chunk_results, strict=True)
            done += sum(stored[member].size_bytes for member in members)
            task.progress("encoding", done, total)
        size_bytes = writer.finish()
    return Outcome(
        size_bytes,
        tuple(
            # Without elements or equal to the base's, and so in no chunk.
            results.get(member)
            or TensorResult(
                entry, Plan(relation=layout.relation), 0, task.equal.get(entry.name, 0.0), 0.0, 0.0
            )
            for member, (entry, layout) in enumerate(zip(stored, layouts, strict=True))
        ),
    )


def _settled(task: Task, plans: Sequence[Plan]) -> list[Plan]:
    """The plans, those of exact values being differences to the base where that is shorter."""

    def settle(pair: tuple[TensorEntry, Plan]) -> Plan:
        entry, plan = pair
        if entry.base is None or not plan.is_plain or plan.relation == EQUAL:
            return plan
        key = entry.name, plan.mantissa_bits
        if key not in task.settled:
            task.settled[key] = settled(entry, plan)
        return task.settled[key]

    pairs = list(zip(task.checkpoint.stored, plans, strict=True))
    return list(ordered_map(settle, pairs, task.options.jobs))


def coded(records: Sequence[Record], *, is_path: bool = False) -> tuple[bytes, list[int]]:
    """A chunk of records, and each one's share of its bytes.

    Args:
        records: of one kind.
        is_path: whether the values of one record of the trellis are on a path already, which is kept.
    """
    weights = [_share(record) for record in records]
    payload = encode_chunk(records, aware=not is_path)
    return payload, [round(len(payload) * weight / sum(weights)) for weight in weights]


def _layout(entry: TensorEntry, plan: Plan) -> Layout:
    """How `_record` will store the tensor, known before it is read: the head index comes first."""
    if plan.step is not None:
        fields = plan.axes, plan.keep, plan.step, plan.kind, plan.relation, plan.view
        return Layout(entry.shape, entry.dtype, *fields)
    if plan.is_plain:
        stored = WORDS if plan.relation == DIFFERENCE else entry.dtype
        return Layout(entry.shape, entry.dtype, stored=stored, relation=plan.relation)
    stored = plan.stored or np.dtype(dct.working_dtype(numpy_dtype(entry.dtype))).name
    return Layout(entry.shape, entry.dtype, plan.axes, plan.keep, None, stored, plan.relation)


def _head(
    task: Task, layouts: Sequence[Layout], chunks: Sequence[list[int]], attachments: dict[str, bytes]
) -> Head:
    checkpoint = task.checkpoint
    in_file = [member for members in chunks for member in members]
    for stored in {layouts[member].stored for member in in_file}:
        order = [member for member in in_file if layouts[member].stored == stored]
        if order != sorted(order):
            raise ValueError(
                f"chunks of {stored} reach over one another; a reader would mix up their tensors"
            )
    by_name = {entry.name: layout for entry, layout in zip(checkpoint.stored, layouts, strict=True)}
    return Head(
        tuple(entry.name for entry in checkpoint),
        tuple(by_name[entry.name if entry.tied_to is None else entry.tied_to] for entry in checkpoint),
        {entry.name: entry.tied_to for entry in checkpoint if entry.tied_to is not None},
        tuple(Group(layouts[members[0]].stored, len(members)) for members in chunks),
        {name: len(data) for name, data in attachments.items()},
        task.metadata,
        checkpoint.base if any(layout.relation != OWN for layout in layouts) else None,
    )


def _record(entry: TensorEntry, plan: Plan, settled: Settled | None = None) -> Record:
    if settled is not None:
        # A grid of coefficients survives no rounding to a narrow dtype in between.
        values = settled.values.copy() if plan.step else settled.values.astype(numpy_dtype(entry.dtype))
        return make_record(values, entry.dtype, plan)
    if entry.read_coefficients is not None and plan.keep is not None:
        prefix = entry.read_coefficients()[: plan.keep]
        return record_of_coefficients(prefix, entry.shape, entry.dtype, plan)
    return make_record(entry.read(), entry.dtype, plan, _base(entry, plan.relation))


def _base(entry: TensorEntry, relation: str) -> NDArray[np.generic] | None:
    return entry.base.read() if entry.base is not None and relation == DIFFERENCE else None


def _is_exact(plan: Plan) -> bool:
    """Whether a plan gives back the very bits of a tensor."""
    return plan.is_plain and not plan.mantissa_bits


def _result(
    entry: TensorEntry, plan: Plan, record: Record, size_bytes: int, *, lossy: bool, settled: bool = False
) -> TensorResult:
    """What came of a record that has been encoded; its values are used up.

    In a file that is `lossy` somewhere the energy of exact weights counts, in the total. Values that are
    `settled` are not the source's even where they are stored exactly.
    """
    if _is_exact(plan) and not settled:
        if not (lossy and entry.is_weight):
            return TensorResult(entry, plan, size_bytes, 0.0, 0.0, 0.0)
        values = record.values if plan.relation == OWN else entry.read()
        return TensorResult(entry, plan, size_bytes, *difference(values, values))
    # The source is read once more, so that it need not be in memory while it is encoded.
    base = _base(entry, plan.relation)
    restored = restore(record, base, reuse=record.layout.stored in STATE_BITS)
    del base
    return TensorResult(entry, plan, size_bytes, *difference(entry.read(), restored))


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
    for start in range(0, first.size, _BLOCK):
        with np.errstate(all="ignore"):  # signalling NaN, squares of huge values
            a = first.reshape(-1)[start : start + _BLOCK].astype(wide)
            b = second.reshape(-1)[start : start + _BLOCK].astype(wide)
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
