"""From a checkpoint and a target to a `.frq` stream that meets it.

A survey gives estimates, bisection on them the first coarseness, near which they are made right; each attempt
corrects the next until the target holds for what was really written. A tensor whose dtype is too coarse for
the wished precision is stored exactly.

Law: on return the stream holds a complete file and the target holds for it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from math import exp, inf, log
from typing import IO, Protocol

from frconvert import allocate
from frconvert.allocate import Survey
from frconvert.checkpoint import Checkpoint
from frconvert.coding.difference import EQUAL, OWN
from frconvert.coding.quantize import storable_step
from frconvert.coding.record import UNIFORM, Plan
from frconvert.copying import copy
from frconvert.delta import against, is_reproducible
from frconvert.dtypes import is_float
from frconvert.encode import Options, Outcome, Progress, Settled, Task, attempt
from frconvert.errors import TargetError, UsageError, quoted
from frconvert.surveys import recalibrate, survey_all
from frconvert.target import DEFAULT_SNR_DB, Target, coarseness_of

_ATTEMPTS = 10
_BYTES_SLACK = 0.006  # a size target is reached within this, where the model allows
_REFINED_BYTES_SLACK = 0.03  # with calibration data, where an attempt costs minutes
_SNR_SLACK_DB = 0.04
_USUAL_COARSENESS = 1.2  # about two bits, where calibration serves


class Refinement(Protocol):
    """Decides on values by what a model computes with them."""

    def settle(self, plans: Mapping[str, Plan]) -> Mapping[str, Settled]:
        """Values for tensors with these plans, by name; those left out stay as planned."""

    def weights(self, plans: Mapping[str, Plan], surveys: Mapping[str, Survey | None]) -> Mapping[str, float]:
        """How much the relative errors of tensors count, measured at such plans."""


def compress(
    checkpoint: Checkpoint,
    open_stream: Callable[[], IO[bytes]],
    target: Target,
    options: Options = Options(),  # noqa: B008  (frozen)
    progress: Progress = lambda *_: None,
    refinement: Refinement | None = None,
    provenance: Callable[[], Mapping[str, str]] = dict,
) -> Outcome:
    """Writes `checkpoint` as `.frq` so that `target` holds.

    Args:
        checkpoint: the source.
        open_stream: gives an empty binary stream; called again for each attempt.
        target: what to reach.
        options: see `Options`.
        progress: called from any thread as tensors are done.
        refinement: None leaves the values to the quantisers.
        provenance: further metadata, asked for once the tensors are surveyed.

    Raises:
        TargetError: this model cannot meet the target; the message says what it can.
        UsageError: a glob matches no tensor.
    """
    for glob in options.include + options.exclude:
        if not any(fnmatchcase(entry.name, glob) for entry in checkpoint):
            raise UsageError(
                f"pattern {glob!r} matches no tensor of the {len(checkpoint)}; see `frconvert analyze`"
            )
    if options.importance not in ("mse", "tensor"):
        raise UsageError(f"importance {options.importance!r} is unknown; it is mse or tensor")
    task = Task(checkpoint, open_stream, options, progress, dict(checkpoint.metadata))
    if target.kind == "default" and checkpoint.is_encoded:
        if options.include or options.exclude or options.rules:
            raise UsageError("a .frq is copied as it is; --include, --exclude and --config need a target")
        if options.base is not None and checkpoint.base is None:
            raise UsageError("a .frq is copied as it is; --base needs a target such as --lossless")
        task.metadata |= provenance()
        return copy(task)
    task.checkpoint = checkpoint = against(checkpoint, options.base)
    _check_rules(task, target)
    survey_all(task, target)
    task.metadata |= provenance()
    if refinement is not None:
        if target.kind in ("lossless", "max_error") or options.base is not None:
            other = "base" if options.base is not None else target.kind.replace("_", "-")
            raise UsageError(f"--calib changes values, which --{other} does not allow")
        names = [entry.name for entry in task.checkpoint.stored]
        plans = dict(zip(names, task.plans(_USUAL_COARSENESS), strict=True))
        task.weights, task.refine = refinement.weights(plans, task.surveys), refinement.settle
    if options.rules and all(task.rule(name).step for name, survey in task.surveys.items() if survey):
        if target.kind != "default":
            raise UsageError(
                "the plan file fixes every step, so that a target can change nothing; leave it out"
            )
        outcome = attempt(task, task.plans(coarseness_of(DEFAULT_SNR_DB)))
    else:
        outcome = _SEARCHES[target.kind](task, target.value)
    return replace(outcome, notices=_notices(outcome, task.checkpoint))


def _check_rules(task: Task, target: Target) -> None:
    """Refuses wishes that contradict the target, the tensors or each other."""
    rules = task.options.rules
    if rules and target.kind in ("lossless", "keep", "max_error"):
        raise UsageError(f"--config and --{target.kind.replace('_', '-')} contradict each other")
    for rule in rules:
        if not any(fnmatchcase(entry.name, rule.name) for entry in task.checkpoint):
            raise UsageError(f"plan file: {quoted(rule.name)} matches no tensor")
    for entry in task.checkpoint.stored if rules else ():
        rule = task.rule(entry.name)
        rank = len(entry.shape)
        if entry.is_weight and rule.axes and rule.axes[-1] >= rank:
            raise UsageError(f"plan file: {quoted(entry.name)} has {rank} axes, not an axis {rule.axes[-1]}")
        if entry.is_weight and rule.keep and rule.keep > entry.size:
            raise UsageError(f"plan file: {quoted(entry.name)} has {entry.size} elements, not {rule.keep}")


def _search_lossless(task: Task, _: float) -> Outcome:
    return attempt(task, task.plans(None))


def _search_default(task: Task, _: float) -> Outcome:
    return _search_snr(task, DEFAULT_SNR_DB)


def _search_keep(task: Task, _: float) -> Outcome:
    """The survey has settled what is kept; that is quantised at the default quality."""
    return attempt(task, task.plans(coarseness_of(DEFAULT_SNR_DB)))


def _search_snr(task: Task, wanted_db: float) -> Outcome:
    """Corrects the estimate by what the last attempt missed it by; keeps the best attempt that holds."""
    if all(survey is None for survey in task.surveys.values()):
        return attempt(task, task.plans(coarseness_of(wanted_db)))
    aim_db = wanted_db + _SNR_SLACK_DB / 3
    asked_db, best_db, best, latest = aim_db, inf, None, None
    # What is exact, or nearly in the base, has next to no error; not all that this saves may be spent on the
    # rest. Without a base the floor has room for estimates that are off.
    room = 1.0 if task.checkpoint.base is not None else 1.5
    task.coarsest = coarseness_of(wanted_db - room * allocate.FLOOR_DB)
    recalibrate(task, _coarseness_for(task, asked_db))
    for _ in range(_ATTEMPTS):
        coarseness = _coarseness_for(task, asked_db)
        if coarseness == latest:
            break
        outcome, latest = attempt(task, task.plans(coarseness)), coarseness
        missed = wanted_db - outcome.sqnr_db
        if missed > 0:
            exact = _limited_by_dtype(task, outcome)
            task.exact |= exact
            if exact:
                continue
        elif outcome.sqnr_db == inf:
            return outcome
        elif outcome.sqnr_db < best_db:
            best_db, best = outcome.sqnr_db, coarseness
            if missed > -_SNR_SLACK_DB:
                return outcome
        else:
            break
        # The estimate is off by much the same next time; a miss that stays needs more.
        asked_db += max(aim_db - outcome.sqnr_db, -10.0) + (0.01 if missed > 0 else 0.0)
    if best is None:
        return attempt(task, task.plans(None))
    return outcome if best == latest else attempt(task, task.plans(best))


def _search_bytes(task: Task, wanted: float) -> Outcome:
    """Closes in from both sides: by the corrected estimate first, then between a miss and a hit."""
    ratio, latest = 1.0, None
    miss: tuple[float, int] | None = None  # coarseness and size of the smallest file that is too large
    hit: tuple[float, int] | None = None  # and of the largest that is not
    slack = _BYTES_SLACK if task.refine is None else _REFINED_BYTES_SLACK
    aim = wanted * (1 - slack / 2)
    recalibrate(task, allocate.bracket(partial(_fits, task, aim))[1])
    for number in range(_ATTEMPTS):
        # A little further each time, in case the estimate follows the size badly.
        least = 1 + 0.005 * 4 ** min(number, 3)
        if miss is not None and hit is not None:
            if hit[0] < 1.002 * miss[0]:  # steps are storable only this finely
                break
            coarseness = _between(miss, hit, aim)
        else:
            _, coarseness = allocate.bracket(partial(_fits, task, aim / ratio))
        outcome, latest = attempt(task, task.plans(coarseness)), coarseness
        size = outcome.size_bytes
        if size > wanted:
            miss = coarseness, size
            if coarseness >= allocate.COARSEST:
                raise TargetError(f"the file cannot be made {int(wanted)} bytes; the smallest is {size}")
            ratio = max(size / _estimated_bytes(task, coarseness), least * ratio)
        else:
            hit = coarseness, size
            if size >= wanted * (1 - slack) or coarseness <= 1.01 * allocate.FINEST:
                return outcome
            ratio = min(size / _estimated_bytes(task, coarseness), ratio / least)
    if hit is None:
        raise TargetError(f"no file of {int(wanted)} bytes was found; try a larger size")
    return outcome if hit[0] == latest else attempt(task, task.plans(hit[0]))


def _between(miss: tuple[float, int], hit: tuple[float, int], aim: float) -> float:
    """The coarseness at which the size would be `aim` if it fell evenly with the logarithm of coarseness."""
    part = (miss[1] - aim) / (miss[1] - hit[1])
    return miss[0] * exp(min(max(part, 0.1), 0.9) * log(hit[0] / miss[0]))


def _search_bits(task: Task, bits: float) -> Outcome:
    return _search_bytes(task, bits * float_parameters(task.checkpoint) / 8)


def _search_ratio(task: Task, ratio: float) -> Outcome:
    return _search_bytes(task, task.checkpoint.tensor_bytes / ratio)


def _search_max_error(task: Task, limit: float) -> Outcome:
    """Rounding to multiples of twice the limit; where the dtype's own rounding adds too much, exact."""
    step = storable_step(2 * limit * (1 - 2**-10))
    for _ in range(2):
        plans = task.plans(None)
        for number, entry in enumerate(task.checkpoint.stored):
            survey = task.surveys.get(entry.name)
            if survey is not None and entry.name not in task.exact:
                plans[number] = allocate.plan_tensor(survey, step, UNIFORM)
        outcome = attempt(task, plans)
        broken = {result.entry.name for result in outcome.results if result.max_error > limit}
        if not broken:
            return outcome
        task.exact |= broken
    raise TargetError(f"a maximum error of {limit:g} cannot be met for {_listing(sorted(broken))}")


_SEARCHES: dict[str, Callable[[Task, float], Outcome]] = {
    "default": _search_default,
    "lossless": _search_lossless,
    "keep": _search_keep,
    "bits": _search_bits,
    "ratio": _search_ratio,
    "size": _search_bytes,
    "snr": _search_snr,
    "max_error": _search_max_error,
}


def float_parameters(checkpoint: Checkpoint) -> int:
    """Number of float parameters, what bits per weight refer to."""
    return sum(entry.size for entry in checkpoint.stored if is_float(entry.dtype))


def _coarseness_for(task: Task, sqnr_db: float) -> float:
    """The largest coarseness whose estimated SQNR is at least that."""
    energy = sum(survey.tensor_energy for survey in task.surveys.values() if survey is not None)
    energy += sum(task.equal.values())
    coarseness, _ = allocate.bracket(partial(_breaks_budget, task, energy / 10 ** (sqnr_db / 10)))
    return coarseness


def _breaks_budget(task: Task, budget: float, coarseness: float) -> bool:
    return _estimated_error(task, coarseness) > budget


def _fits(task: Task, size_bytes: float, coarseness: float) -> bool:
    return _estimated_bytes(task, coarseness) <= size_bytes


def _estimated_error(task: Task, coarseness: float) -> float:
    total = 0.0
    for entry, plan in zip(task.checkpoint.stored, task.plans(coarseness), strict=True):
        survey = task.surveys.get(entry.name)
        if survey is not None:
            total += (
                allocate.estimated_error(survey, plan.step)
                if plan.step is not None
                else survey.energy - survey.kept_energy
            )
    return total


def _estimated_bytes(task: Task, coarseness: float) -> float:
    bits = 8 * (50 + 24.0 * len(task.checkpoint))  # footer and index
    for entry, plan in zip(task.checkpoint.stored, task.plans(coarseness), strict=True):
        survey = task.surveys.get(entry.name)
        if plan.relation == EQUAL:
            continue
        if survey is not None and plan.step is not None:
            bits += allocate.estimated_bits(survey, plan.step)
        elif survey is not None:
            bits += survey.exact_bits * survey.count
        elif plan.mantissa_bits is not None:
            bits += entry.size * (plan.mantissa_bits + 4)
        else:
            bits += 8 * entry.size_bytes
    return bits / 8


def _limited_by_dtype(task: Task, outcome: Outcome) -> set[str]:
    """Tensors whose restored error is far above the quantiser's: rounding to their dtype adds more."""
    return {
        result.entry.name
        for result in outcome.results
        if (survey := task.surveys.get(result.entry.name)) is not None
        and result.plan.step is not None
        and result.error > 3 * allocate.estimated_error(survey, result.plan.step)
    }


def _notices(outcome: Outcome, checkpoint: Checkpoint) -> tuple[str, ...]:
    notices = []
    weak = [r.entry.name for r in outcome.results if r.energy > 0 and r.error >= r.energy / 2]
    if weak:
        what = "1 tensor keeps" if len(weak) == 1 else f"{len(weak)} tensors keep"
        notices.append(f"{what} less than half of the energy: {_listing(weak)}")
    if checkpoint.base is not None:
        if all(result.plan.relation == OWN for result in outcome.results):
            notices.append("no tensor is stored as a difference to the base: they have too little in common")
        exact = [
            result.entry.name
            for result in outcome.results
            if result.plan.is_plain
            and result.plan.relation == OWN
            and result.entry.base is not None
            and not is_reproducible(result.entry.base)
        ]
        if exact:
            what = "1 exact tensor stands" if len(exact) == 1 else f"{len(exact)} exact tensors stand"
            notices.append(f"{what} alone, as the base's are not exact: {_listing(exact)}")
    return tuple(notices)


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
