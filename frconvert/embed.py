"""From a checkpoint and a target to an ONNX model with coefficients that meets it.

A `.frq`, or a model that has coefficients already, is taken as it is where no target is given: its very
integers. All else is planned for fixed-width words, see `embed_plan`, and attempts correct the estimates as
in `search`.

Law: on return the file is complete and the target holds for it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from math import inf
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frconvert import allocate
from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.coding.difference import OWN
from frconvert.coding.quantize import quantise, storable_step
from frconvert.coding.record import STATE_BITS, TRELLIS, Layout, Plan, Record
from frconvert.dtypes import is_float
from frconvert.embed_plan import Look, choose, look
from frconvert.encode import Options, Outcome, Progress, TensorResult, difference
from frconvert.errors import TargetError, UsageError, quoted
from frconvert.exporters import onnx_idct
from frconvert.exporters.onnx_data import size_bytes
from frconvert.idct.coefficients import FOLD_BYTES, Coefficients, weights
from frconvert.parallel import ordered_map
from frconvert.rules import Rule, merged
from frconvert.spectral import dct, zigzag
from frconvert.target import DEFAULT_SNR_DB, Target, coarseness_of

_ATTEMPTS = 8
_SLACK_DB = 0.05
_BYTES_SLACK = 0.01


def embed(
    checkpoint: Checkpoint,
    path: Path,
    options: Options,
    target: Target,
    progress: Progress = lambda *_: None,
    data_name: str | None = None,
) -> Outcome:
    """Writes the model to `path` so that the target holds.

    Args:
        checkpoint: one with an ONNX skeleton.
        path: the file.
        options: as for a `.frq`, and how the graph holds coefficients.
        target: what to reach.
        progress: called as tensors are done.
        data_name: of a data file for what stays dense, as for `exporters.onnx.save`.

    Raises:
        TargetError: this model cannot meet it.
        UsageError: the checkpoint carries no graph, or options contradict each other.
    """
    task = _Task(checkpoint, path, options, progress, data_name)
    if target.kind == "default" and any(_is_coded(entry) for entry in checkpoint):
        if options.include or options.exclude or options.rules:
            raise UsageError(
                "coefficients are copied as they are; --include, --exclude and --config need a target"
            )
        return task.copy()
    check_options(checkpoint, target, options)
    if target.kind == "lossless":
        return task.copy(coded_only=True)
    task.survey(target)
    return _SEARCHES[target.kind](task, target.value)


def check_options(checkpoint: Checkpoint, target: Target, options: Options) -> None:
    """Refuses patterns and rules that name nothing, and what an ONNX destination has no use for."""
    names = [entry.name for entry in checkpoint]
    for glob in (*options.include, *options.exclude, *(rule.name for rule in options.rules)):
        if not any(fnmatchcase(name, glob) for name in names):
            raise UsageError(
                f"pattern {glob!r} matches no tensor of the {len(names)}; see `frconvert analyze`"
            )
    if options.base is not None:
        raise UsageError("--base needs a .frq destination")
    if options.rules and target.kind in ("lossless", "keep", "max_error"):
        raise UsageError(f"--config and --{target.kind.replace('_', '-')} contradict each other")


def _is_coded(entry: TensorEntry) -> bool:
    layout = entry.encoded_layout
    return entry.read_coefficients is not None or (
        isinstance(layout, Layout) and not layout.is_plain and layout.relation == OWN
    )


def _is_difference(entry: TensorEntry) -> bool:
    return isinstance(entry.encoded_layout, Layout) and entry.encoded_layout.relation != OWN


class _Task:
    """What every attempt at one conversion shares."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        path: Path,
        options: Options,
        progress: Progress,
        data_name: str | None = None,
    ) -> None:
        self.checkpoint, self.options = checkpoint, options
        self._path, self._progress, self._data_name = path, progress, data_name
        self._looks: dict[str, Look] = {}
        self._keep_fraction: float | None = None
        self._too_large: list[str] = []

    # What is there already.

    def copy(self, *, coded_only: bool = False) -> Outcome:
        """Writes the coefficients that the source has; other tensors as they are."""
        by_name = {entry.name: entry for entry in self.checkpoint}
        makers = {}
        for entry in self.checkpoint:
            owner = entry if entry.tied_to is None else by_name[entry.tied_to]
            if owner.read_coefficients is not None or (_is_coded(owner) and not coded_only):
                makers[entry.name] = partial(existing, owner)
        sizes, notices = self._write(makers)
        differences = sum(_is_difference(entry) and is_float(entry.dtype) for entry in self.checkpoint.stored)
        if differences and not coded_only:
            told = f"{differences} of the tensors become dense, as they are differences to a base"
            notices += (f"{told}; with a target, such as --snr 30, they become coefficients",)
        results = []
        for entry in self.checkpoint.stored:
            layout = entry.encoded_layout
            plan = Plan()
            if entry.name in sizes and isinstance(layout, Layout):
                plan = Plan(layout.axes, layout.keep, layout.step, layout.stored)
            size = sizes.get(entry.name, entry.size_bytes)
            results.append(TensorResult(entry, plan, size, 0.0, 0.0, 0.0, copied=entry.name in sizes))
        return Outcome(size_bytes(self._path), tuple(results), notices)

    # What is planned.

    def survey(self, target: Target) -> None:
        """Looks at every tensor that may lose something."""
        if target.kind == "keep":
            self._keep_fraction = target.value
        places, has_transforms = onnx_idct.prospects(self.checkpoint)
        spatial = target.kind == "max_error" or not has_transforms
        candidates = [
            entry
            for entry in self.checkpoint.stored
            if entry.is_weight and entry.name in places and self._selected(entry.name)
        ]
        total, done = sum(entry.size_bytes for entry in candidates), 0

        def work(entry: TensorEntry) -> tuple[TensorEntry, Look | None]:
            rule = self._rule(entry.name)
            keep = rule.keep
            if self._keep_fraction is not None:
                keep = allocate.kept_count(self._keep_fraction, entry.size)
            return entry, look(entry.read(), entry.dtype, axes=rule.axes, keep=keep, spatial=spatial)

        for entry, found in ordered_map(work, candidates, self.options.jobs):
            if found is not None:
                self._looks[entry.name] = found
            elif entry.size_bytes >= FOLD_BYTES:
                self._too_large.append(entry.name)
            done += entry.size_bytes
            self._progress("surveying", done, total)

    def plans(self, coarseness: float) -> tuple[dict[str, Plan], float, float]:
        """A plan for each tensor that was looked at; their bytes and squared error, estimated."""
        names = list(self._looks)
        rules = [self._rule(name) for name in names]
        weight = [1.0 if rule.weight is None else rule.weight for rule in rules]
        units = allocate.units([self._looks[name].survey for name in names], self.options.importance, weight)
        plans, size, noise = {}, 0.0, 0.0
        for name, unit, rule in zip(names, units, rules, strict=True):
            found = self._looks[name]
            allowed = min(found.size * (coarseness * unit) ** 2 / 12, found.energy)
            plan, plan_bytes = choose(found, allowed)
            if rule.step is not None and plan.step is not None:
                plan = replace(plan, step=storable_step(rule.step))
            plans[name] = plan
            size += plan_bytes
            noise += 0.0 if plan.step is None else allowed
        return plans, size, noise

    def constant_plans(self, step: float) -> dict[str, Plan]:
        """The same step for all, in the tensors themselves."""
        return {name: Plan(step=step) for name in self._looks}

    @property
    def energy(self) -> float:
        """Sum of squares of all that was looked at."""
        return sum(found.energy for found in self._looks.values())

    @property
    def other_bytes(self) -> float:
        """Of the skeleton and the tensors that keep their values."""
        skeleton = sum(len(data) for data in self.checkpoint.attachments.values())
        return skeleton + sum(e.size_bytes for e in self.checkpoint.stored if e.name not in self._looks)

    def attempt(self, plans: Mapping[str, Plan]) -> Outcome:
        """Writes the file once."""
        figures: dict[str, tuple[float, float, float]] = {}
        entries = {entry.name: entry for entry in self.checkpoint.stored}

        def make(name: str, plan: Plan) -> Coefficients:
            entry = entries[name]
            values = entry.read()
            coefficients = planned(values, entry.dtype, plan)
            figures[name] = difference(values, weights(coefficients))
            return coefficients

        makers = {name: partial(make, name, plan) for name, plan in plans.items() if plan.step is not None}
        sizes, notices = self._write(makers)
        results = []
        for entry in self.checkpoint.stored:
            if entry.name in sizes:
                plan, size, found = plans[entry.name], sizes[entry.name], figures[entry.name]
            else:
                plan, size = Plan(), entry.size_bytes
                energy = self._looks[entry.name].energy if entry.name in self._looks else 0.0
                found = (energy, 0.0, 0.0)
            results.append(TensorResult(entry, plan, size, *found))
        return Outcome(size_bytes(self._path), tuple(results), notices)

    def _write(
        self, makers: Mapping[str, Callable[[], Coefficients]]
    ) -> tuple[dict[str, int], tuple[str, ...]]:
        notices = [
            f"{quoted(name)} stays dense: no runtime would fold the nodes of a weight of 1 GiB or more"
            for name in self._too_large
        ]
        total, done = max(len(makers), 1), 0

        def watched(make: Callable[[], Coefficients]) -> Coefficients:
            nonlocal done
            made = make()
            done += 1
            self._progress("encoding", done, total)
            return made

        sources = {name: partial(watched, make) for name, make in makers.items()}
        mode = self.options.onnx or onnx_idct.MODES[0]
        factors = self.options.onnx_factored == "auto"
        sizes = onnx_idct.save(
            self.checkpoint, sources, self._path, mode, notices.append,
            factors=factors, data_name=self._data_name,
        )  # fmt: skip
        return sizes, tuple(notices)

    def _rule(self, name: str) -> Rule:
        return merged(self.options.rules, name) if self.options.rules else Rule()

    def _selected(self, name: str) -> bool:
        included = not self.options.include or any(fnmatchcase(name, glob) for glob in self.options.include)
        excluded = any(fnmatchcase(name, glob) for glob in self.options.exclude)
        return included and not excluded and self._rule(name).method != "exact"


def existing(entry: TensorEntry) -> Coefficients:
    """The coefficients that an entry of a `.frq` or of a model with coefficients has."""
    if entry.read_coefficients is not None:
        prefix = entry.read_coefficients()
        axes = tuple(range(len(entry.shape)))
        return Coefficients(entry.shape, entry.dtype, axes, prefix.size, None, prefix)
    record = entry.read_encoded() if entry.read_encoded is not None else None
    if not isinstance(record, Record):
        raise TypeError(f"{entry.name!r} has no coefficients")
    layout = record.layout
    values, step = record.values, layout.step
    if layout.stored in STATE_BITS and step is not None:
        if layout.stored == TRELLIS:
            step /= 2  # its two quantisers together have twice the values
        values = np.rint(values.astype(np.float64) / step).astype(np.int32)
    elif layout.keep is None:
        others = tuple(axis for axis in range(len(layout.shape)) if axis not in layout.axes)
        order = layout.axes + others
        moved = values.reshape([layout.shape[axis] for axis in order])
        values = np.ascontiguousarray(moved.transpose(np.argsort(order))).reshape(-1)
    return Coefficients(layout.shape, layout.dtype, layout.axes, layout.keep, step, values)


def planned(values: NDArray[np.generic], dtype: str, plan: Plan) -> Coefficients:
    """Coefficients of a tensor by a plan with a step."""
    if plan.step is None:
        raise ValueError("a plan without a step")
    transformed = dct.forward(values, plan.axes).reshape(-1)
    if plan.keep is not None:
        transformed = transformed[zigzag.prefix(values.shape, plan.keep)]
    integers = quantise(transformed, plan.step)
    return Coefficients(values.shape, dtype, plan.axes, plan.keep, plan.step, integers)


def _search_default(task: _Task, _: float) -> Outcome:
    return _search_snr(task, DEFAULT_SNR_DB)


def _search_keep(task: _Task, _: float) -> Outcome:
    """The survey has settled what is kept; that is quantised at the default quality."""
    plans, _, _ = task.plans(coarseness_of(DEFAULT_SNR_DB))
    return task.attempt(plans)


def _search_snr(task: _Task, wanted_db: float) -> Outcome:
    """Corrects the estimate by what the last attempt missed it by."""
    asked_db, best = wanted_db + _SLACK_DB / 3, None
    for _ in range(_ATTEMPTS):
        budget = task.energy / 10 ** (asked_db / 10)

        def is_noisy(coarseness: float, budget: float = budget) -> bool:
            return task.plans(coarseness)[2] > budget

        coarseness, _ = allocate.bracket(is_noisy)
        plans = task.plans(coarseness)[0]
        outcome = task.attempt(plans)
        missed = wanted_db - outcome.sqnr_db
        if -_SLACK_DB <= missed <= 0 or outcome.sqnr_db == inf:
            return outcome
        if missed <= 0 and (best is None or outcome.sqnr_db < best[0]):
            best = outcome.sqnr_db, plans
        asked_db += max(wanted_db + _SLACK_DB / 3 - outcome.sqnr_db, -3.0) + (0.01 if missed > 0 else 0.0)
    if best is None:
        raise TargetError(f"{wanted_db:g} dB was not reached; exclude tensors, or ask for more dB")
    return task.attempt(best[1])


def _search_bytes(task: _Task, wanted: float) -> Outcome:
    """Closes in on the size, by the estimate as corrected by the last attempt."""
    ratio, best = 1.0, None
    for _ in range(_ATTEMPTS):
        aim = wanted * (1 - _BYTES_SLACK / 2) / ratio

        def fits(coarseness: float, aim: float = aim) -> bool:
            return task.plans(coarseness)[1] + task.other_bytes <= aim

        _, coarseness = allocate.bracket(fits)
        plans, estimated, _ = task.plans(coarseness)
        outcome = task.attempt(plans)
        size = outcome.size_bytes
        if size <= wanted and (best is None or size > best[0]):
            best = size, plans
        if wanted * (1 - _BYTES_SLACK) <= size <= wanted or coarseness <= 1.01 * allocate.FINEST:
            return outcome
        if size > wanted and coarseness >= allocate.COARSEST / 1.01:
            raise TargetError(f"the file cannot be made {int(wanted)} bytes; the smallest is {size}")
        ratio = size / (estimated + task.other_bytes)
    if best is None:
        raise TargetError(f"no file of {int(wanted)} bytes was found; try a larger size")
    return task.attempt(best[1])


def _search_bits(task: _Task, bits: float) -> Outcome:
    floats = sum(entry.size for entry in task.checkpoint.stored if is_float(entry.dtype))
    return _search_bytes(task, bits * floats / 8)


def _search_ratio(task: _Task, ratio: float) -> Outcome:
    return _search_bytes(task, task.checkpoint.tensor_bytes / ratio)


def _search_max_error(task: _Task, limit: float) -> Outcome:
    """Rounding to multiples of twice the limit, or of less by what a narrow dtype's own rounding adds.

    Where that adds too much, exact.
    """
    plans = task.constant_plans(storable_step(2 * limit * (1 - 2**-10)))
    outcome = task.attempt(plans)
    for is_last in (False, True):
        excess = {r.entry.name: r.max_error - limit for r in outcome.results if r.max_error > limit}
        if not excess:
            break
        for name, more in excess.items():
            left = limit - 2 * more  # twice, as the worst element may be another with another step
            if is_last or left <= 0:
                del plans[name]
            else:
                plans[name] = Plan(step=storable_step(2 * left))
        outcome = task.attempt(plans)
    return outcome


_SEARCHES: dict[str, Callable[[_Task, float], Outcome]] = {
    "default": _search_default,
    "keep": _search_keep,
    "bits": _search_bits,
    "ratio": _search_ratio,
    "size": _search_bytes,
    "snr": _search_snr,
    "max_error": _search_max_error,
}
