"""Fine-tuned tensors into a `.frq`: the integers that training ended with, in the cheapest form for each.

Law: what is restored from the file are exactly those integers times their steps (and the other values as they
are given), whichever form is chosen.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from frconvert.coding.fit import fit
from frconvert.coding.quantize import round_mantissa, storable_step
from frconvert.coding.record import INTEGERS, UNIFORM, Layout, Plan, Record, encode_chunk, group, restore
from frconvert.encode import Outcome, Task, TensorResult, coded, difference, write
from frconvert.spectral import zigzag

VECTOR_MANTISSA_BITS = 6  # of values that are not trained as coefficients: within 0.8 %


@dataclass(frozen=True, slots=True)
class Tuned:
    """One tensor as training left it.

    Attributes:
        symbols: integer coefficients, of the tensor's shape; None for values that are kept as floats.
        step: of the quantiser, a storable one.
        axes: the transformed ones.
        values: the floats, where there are no symbols.
    """

    symbols: NDArray[np.int32] | None = field(default=None, repr=False)
    step: float = 1.0
    axes: tuple[int, ...] = ()
    values: NDArray[np.generic] | None = field(default=None, repr=False)

    def dense(self) -> NDArray[np.generic]:
        """The tensor as it will be restored: float32, or as the values are."""
        if self.symbols is None:
            return round_mantissa(np.asarray(self.values), VECTOR_MANTISSA_BITS)
        layout = Layout(self.symbols.shape, "float32", self.axes, None, self.step, UNIFORM)
        return restore(Record(layout, self._coefficients()))

    def record(self, dtype: str) -> Record:
        """The tensor in its cheapest form."""
        if self.symbols is None:
            values = self.dense()
            return Record(Layout(values.shape, dtype, stored=dtype), values.reshape(-1))
        return min(self._records(dtype), key=lambda record: len(encode_chunk([_fresh(record)]))
                   if record.layout.count else 0)  # fmt: skip

    def _records(self, dtype: str) -> list[Record]:
        symbols = np.asarray(self.symbols)
        step = storable_step(self.step)
        last = _last_in_zigzag(symbols)
        prefix = symbols.reshape(-1)[zigzag.prefix(symbols.shape, last)]
        kept = Record(Layout(symbols.shape, dtype, self.axes, last, step, INTEGERS), prefix.astype(np.int32))
        if not last:
            return [kept]
        moved = np.moveaxis(symbols, self.axes, range(len(self.axes))).reshape(-1).astype(np.int32)
        made = [kept, Record(Layout(symbols.shape, dtype, self.axes, None, step, INTEGERS), moved)]
        if symbols.ndim > 1:
            layout = Layout(symbols.shape, dtype, self.axes, None, step, UNIFORM)
            values = self._coefficients()
            made.append(Record(layout, values, fit(values.reshape(symbols.shape))))
        return made

    def _coefficients(self) -> NDArray[np.float32]:
        return np.asarray(self.symbols).reshape(-1).astype(np.float32) * np.float32(storable_step(self.step))


def write_tuned(task: Task, tuned: Mapping[str, Tuned]) -> Outcome:
    """Writes the tensors of the task's checkpoint as training left them; others as they are."""
    records: list[Record] = []
    for entry in task.checkpoint.stored:
        found = tuned.get(entry.name)
        if found is None:
            values = entry.read().reshape(-1)
            records.append(Record(Layout(entry.shape, entry.dtype, stored=entry.dtype), values))
        else:
            records.append(found.record(entry.dtype))
    layouts = [record.layout for record in records]

    def work(members: list[int]) -> tuple[bytes, list[TensorResult]]:
        payload, sizes = coded([_fresh(records[member]) for member in members])
        return payload, [
            _result(task, member, records[member], size) for member, size in zip(members, sizes, strict=True)
        ]

    return write(task, layouts, group([(layout.stored, layout.count) for layout in layouts]), work)


def _result(task: Task, member: int, record: Record, size_bytes: int) -> TensorResult:
    entry, layout = task.checkpoint.stored[member], record.layout
    plan = Plan(layout.axes, layout.keep, layout.step, layout.stored, record.fit)
    restored = restore(_fresh(record))
    return TensorResult(entry, plan, size_bytes, *difference(entry.read(), restored))


def _fresh(record: Record) -> Record:
    """A copy, as encoding overwrites the values of some kinds."""
    return replace(record, values=record.values.copy())


def _last_in_zigzag(symbols: NDArray[np.int32]) -> int:
    """How long a prefix of the zigzag order must be to hold all that is not 0."""
    places = np.flatnonzero(symbols)
    if not places.size:
        return 0
    sums = sum(np.unravel_index(places, symbols.shape))
    farthest = places[sums == np.max(sums)].max()
    return zigzag.rank(symbols.shape, int(farthest)) + 1
