"""Fine-tuned tensors into a `.frq`: the integers that training ended with, in the cheapest form for each.

Law: what is restored from the file are exactly those integers times their steps (and the other values as they
are given), whichever form is chosen.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import sparse
from frconvert.coding.fit import fit
from frconvert.coding.quantize import round_mantissa, storable_step
from frconvert.coding.record import (
    INTEGERS,
    SPARSE,
    UNIFORM,
    Layout,
    Plan,
    Record,
    encode_chunk,
    group,
    restore,
)
from frconvert.encode import Outcome, Task, TensorResult, coded, difference, write
from frconvert.spectral import zigzag

VECTOR_MANTISSA_BITS = 6  # of values that are not trained as coefficients: within 0.8 %

_SMALL = 1 << 18  # coefficients up to which every form is tried
_RARE = 0.02  # share of coefficients other than 0 up to which a larger tensor may be sparse


@dataclass(frozen=True, slots=True)
class Tuned:
    """One tensor as training left it.

    Attributes:
        symbols: integer coefficients, of the tensor's shape or of `view`; None for values kept as floats.
        step: of the quantiser; the next storable one below counts.
        axes: the transformed ones, of the view if there is one.
        values: the floats, where there are no symbols.
        shape: of the tensor, where it is another than that of the symbols.
    """

    symbols: NDArray[np.int32] | None = field(default=None, repr=False)
    step: float = 1.0
    axes: tuple[int, ...] = ()
    values: NDArray[np.generic] | None = field(default=None, repr=False)
    shape: tuple[int, ...] | None = None

    def dense(self) -> NDArray[np.generic]:
        """The tensor as it will be restored: float32, or as the values are."""
        if self.symbols is None:
            return round_mantissa(np.asarray(self.values), VECTOR_MANTISSA_BITS)
        return restore(self._whole("float32", SPARSE))

    def record(self, dtype: str) -> Record:
        """The tensor in its cheapest form."""
        if self.symbols is None:
            values = self.dense()
            return Record(Layout(values.shape, dtype, stored=dtype), values.reshape(-1))
        return min(self._records(dtype), key=_payload_bytes)

    def _whole(self, dtype: str, kind: str) -> Record:
        """All symbols, as `INTEGERS` or `SPARSE`."""
        symbols = np.asarray(self.symbols)
        shape = symbols.shape if self.shape is None else self.shape
        view = None if shape == symbols.shape else symbols.shape
        layout = Layout(shape, dtype, self.axes, None, storable_step(self.step), kind, view=view)
        moved = np.moveaxis(symbols, self.axes, range(len(self.axes)))
        return Record(layout, moved.reshape(-1).astype(np.int32))

    def _records(self, dtype: str) -> list[Record]:
        symbols = np.asarray(self.symbols)
        whole = self._whole(dtype, SPARSE)
        layout = whole.layout
        last = _last_in_zigzag(symbols)
        if not last:
            empty = Layout(layout.shape, dtype, (), 0, layout.step, INTEGERS)
            return [Record(empty, np.empty(0, np.int32))]
        large = symbols.size > _SMALL
        rare = not large or np.count_nonzero(symbols) < _RARE * symbols.size
        made = [whole] if rare and int(np.abs(symbols).max()) <= sparse.LARGEST else []
        if layout.view is not None:
            return made or [whole]
        if symbols.ndim > 1:
            values = symbols.reshape(-1).astype(np.float32) * np.float32(layout.step or 1.0)
            made.append(Record(replace(layout, stored=UNIFORM), values, fit(values.reshape(symbols.shape))))
            if large:
                return made
        prefix = symbols.reshape(-1)[zigzag.prefix(symbols.shape, last)].astype(np.int32)
        made += [
            Record(replace(layout, keep=last, stored=INTEGERS), prefix),
            self._whole(dtype, INTEGERS),
        ]
        return made


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
    plan = Plan(layout.axes, layout.keep, layout.step, layout.stored, record.fit, view=layout.view)
    restored = restore(_fresh(record))
    return TensorResult(entry, plan, size_bytes, *difference(entry.read(), restored))


def _payload_bytes(record: Record) -> int:
    return len(encode_chunk([_fresh(record)])) if record.layout.count else 0


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
