"""From one `.frq` to another without loss: chunks as they are, where all of their tensors come along.

A chunk of the trellis cannot be taken apart, as the path of a tensor depends on its neighbours. Where only
some of its tensors come along, these are coded anew by the uniform quantiser at half the step, which holds
the same values.

Law: the restored tensors have the same bytes as before.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from frconvert.checkpoint import TensorEntry
from frconvert.coding.fit import Fit, fit
from frconvert.coding.quantize import storable_step
from frconvert.coding.record import STATE_BITS, TRELLIS, UNIFORM, Layout, Plan, Record, group
from frconvert.encode import Outcome, Task, TensorResult, coded, write


def copy(task: Task) -> Outcome:
    """Writes the tensors of a checkpoint that was read from a `.frq`."""
    stored = task.checkpoint.stored
    names = {entry.name for entry in stored}
    complete = all(entry.chunk is None or names.issuperset(entry.chunk.names) for entry in stored)
    kept = [complete or _survives(entry, names) for entry in stored]
    layouts = [_layout(entry, keep=keep) for entry, keep in zip(stored, kept, strict=True)]
    whole: dict[tuple[str, ...], list[int]] = {}
    others: list[int] = []
    for member, (entry, keep) in enumerate(zip(stored, kept, strict=True)):
        if keep and entry.chunk is not None:
            whole.setdefault(entry.chunk.names, []).append(member)
        else:
            others.append(member)
    grouped = group([(layouts[member].stored, layouts[member].count) for member in others])
    chunks = sorted([*whole.values(), *([others[place] for place in places] for places in grouped)])

    def work(members: list[int]) -> tuple[bytes, list[TensorResult]]:
        chunk = stored[members[0]].chunk
        if kept[members[0]] and chunk is not None:
            payload = chunk.read()
            size = sum(stored[member].size for member in members)
            sizes = [round(len(payload) * stored[member].size / size) for member in members]
        else:
            payload, sizes = coded([_record(stored[member], layouts[member]) for member in members])
        return payload, [_result(stored[m], layouts[m], size) for m, size in zip(members, sizes, strict=True)]

    return write(task, layouts, chunks, work)


def _survives(entry: TensorEntry, names: set[str]) -> bool:
    """Whether the chunk is taken as it is although others are taken apart.

    Only those of the trellis are: what is taken apart never becomes one of them, so their order stays.
    """
    return entry.chunk is not None and entry.chunk.kind == TRELLIS and names.issuperset(entry.chunk.names)


def _layout(entry: TensorEntry, *, keep: bool) -> Layout:
    layout = entry.encoded_layout
    if not isinstance(layout, Layout):
        return Layout(entry.shape, entry.dtype, stored=entry.dtype)
    if keep or layout.stored != TRELLIS or layout.step is None:
        return layout
    return replace(layout, stored=UNIFORM, step=storable_step(layout.step / 2))


def _record(entry: TensorEntry, layout: Layout) -> Record:
    record = (
        entry.read_encoded() if entry.read_encoded is not None else Record(layout, entry.read().reshape(-1))
    )
    if not isinstance(record, Record):
        raise TypeError(f"read_encoded of {entry.name!r} gave no record")
    if layout.stored in STATE_BITS:
        # Encoding overwrites them, and others may hold them too.
        values: NDArray[np.floating] = record.values.astype(record.values.dtype)
        shaped = values.reshape(entry.shape)
        # A difference may be all zeros, which have no scale: take one that is far below the step.
        none = Fit(0, (layout.step or 1.0) / 256, (None,) * shaped.ndim)
        return Record(layout, values, fit(shaped) if values.any() else none)
    return record


def _result(entry: TensorEntry, layout: Layout, size_bytes: int) -> TensorResult:
    plan = Plan(layout.axes, layout.keep, layout.step, layout.stored, relation=layout.relation)
    return TensorResult(entry, plan, size_bytes, 0.0, 0.0, 0.0, copied=True)
