"""One look at every tensor that may be quantised, before a search by estimates begins.

What equals a base's tensor is found here too, and what is nearer to it than to nothing. The estimates of the
largest tensors can be made right once more, near the steps that a first search has found.

Law: what is found does not depend on the number of jobs.
"""

from collections.abc import Callable, Sequence
from functools import partial

from frconvert import allocate
from frconvert.allocate import Survey
from frconvert.checkpoint import TensorEntry
from frconvert.coding import cost, lossless
from frconvert.coding.difference import subtract
from frconvert.coding.record import Plan
from frconvert.delta import are_equal, is_reproducible
from frconvert.encode import Task
from frconvert.parallel import begin, ordered_map
from frconvert.spectral import dct
from frconvert.spectral.analyze import sum_of_squares
from frconvert.target import DEFAULT_SNR_DB, Target, coarseness_of

_PARTS = 1 << 22  # coefficients that are held in memory between survey and search
_CLEARLY_LESS = 2.0**-10  # of a tensor's energy: a difference that is smaller needs no comparing
_LESS = 0.99  # of its estimated bits, below which a difference is worth that it needs the base


def survey_all(task: Task, target: Target) -> None:
    """Fills `task.surveys` and `task.equal`."""
    lossless_only = target.kind == "lossless"
    lossy = {
        entry.name
        for entry in task.checkpoint.stored
        if entry.is_weight
        and task.selected(entry.name)
        and (not lossless_only or entry.read_coefficients is not None)
    }
    candidates = [
        entry
        for entry in task.checkpoint.stored
        if entry.name in lossy or (entry.base is not None and is_reproducible(entry.base))
    ]
    keep_fraction = target.value if target.kind == "keep" else None
    with_part = _largest(candidates)

    def look(entry: TensorEntry) -> tuple[TensorEntry, Survey | None, float | None]:
        # The third is the sum of squares of what equals the base's tensor.
        if entry.base is not None:
            values = entry.read()
            if are_equal(values, entry.base.read(), bits=entry.name not in lossy):
                return entry, None, sum_of_squares(values) if entry.is_weight else 0.0
            del values
        if entry.name not in lossy:
            return entry, None, None
        if entry.read_coefficients is not None:
            prefix = entry.read_coefficients()
            if keep_fraction is not None:
                prefix = prefix[: allocate.kept_count(keep_fraction, entry.size)]
            axes = tuple(range(len(entry.shape)))
            exact = Plan(axes, prefix.size, stored=lossless.narrowest(prefix))
            found = allocate.survey_coefficients(prefix, entry.dtype, axes, prefix.size, exact)
            return entry, found, None
        rule = task.rule(entry.name)
        fraction = keep_fraction if rule.keep is None else rule.keep / entry.size
        wished = () if target.kind == "max_error" else rule.axes
        own = partial(allocate.survey, dtype=entry.dtype, keep_fraction=fraction, axes=wished)
        return entry, own(entry.read()) if entry.base is None else _survey_of_difference(entry, own), None

    if lossy and task.options.jobs > 1:
        begin(dct.prepare)
    total, done = sum(entry.size_bytes for entry in candidates), 0
    looks = ordered_map(look, candidates, task.options.jobs, lambda entry: entry.size_bytes)
    for entry, found, energy in looks:
        if energy is not None:
            task.equal[entry.name] = energy
        elif entry.name in lossy:
            keeps = entry.name in with_part
            task.surveys[entry.name] = found if keeps or found is None else allocate.recalibrated(found, None)
        done += entry.size_bytes
        task.progress("surveying", done, total)


def recalibrate(task: Task, coarseness: float) -> None:
    """Makes the estimates right near a coarseness; an attempt more would cost ten times as much."""

    def look(pair: tuple[TensorEntry, Plan]) -> Survey | None:
        item = task.surveys.get(pair[0].name)
        return None if item is None else allocate.recalibrated(item, pair[1].step)

    pairs = list(zip(task.checkpoint.stored, task.plans(coarseness), strict=True))
    for (entry, _), item in zip(pairs, ordered_map(look, pairs, task.options.jobs), strict=True):
        if item is not None:
            task.surveys[entry.name] = item


def _largest(entries: Sequence[TensorEntry]) -> set[str]:
    """The names of the largest tensors, as many as parts are to be held in memory of."""
    names, room = set(), _PARTS
    for entry in sorted(entries, key=lambda entry: -entry.size):
        room -= cost.part_size(entry.size)
        if room < 0:
            break
        names.add(entry.name)
    return names


def _survey_of_difference(entry: TensorEntry, survey: Callable[..., Survey | None]) -> Survey | None:
    """The survey of a tensor's difference to the base, or of itself where that is cheaper."""
    if entry.base is None:
        raise ValueError(f"{entry.name!r} has no base")
    values = entry.read()
    energy = sum_of_squares(values)
    values = subtract(values, entry.base.read())
    near = survey(values, signal=energy)
    del values
    if near is not None and near.energy < _CLEARLY_LESS * energy:
        return near
    own = survey(entry.read())
    if near is None or own is None:
        return own
    step = own.scale * coarseness_of(DEFAULT_SNR_DB)
    is_cheaper = allocate.estimated_bits(near, step) < _LESS * allocate.estimated_bits(own, step)
    return near if is_cheaper else own
