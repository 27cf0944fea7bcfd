"""One tensor <-> one record: what is stored of it, before the bits.

A plan says how a tensor is to be stored; a record is a tensor stored that way: its layout and a 1-D sequence.
The kind of a record says which codec makes bytes of it; records of one kind share chunks, see `encode_chunk`:

  `TRELLIS`, `UNIFORM`: coefficients in C order, quantised by their codec (`coefficients.py`);
  `INTEGERS`: quantised coefficients, a prefix of the zigzag order, or C order after moving the transformed
    axes to the front (`integers.py`);
  `SPARSE`: the latter, of which most are zero (`sparse.py`);
  the name of a dtype: exact values in that dtype (`lossless.py`);
  `WORDS`: exact values as differences to those of a base (`difference.py`).

A record may hold the difference to a base instead, or nothing where the two are equal.

Law: `restore(record)` of an exact plan without transform has the same bytes as the tensor; of a quantised
plan it is within the quantiser's error in the coefficients, plus float rounding. Both hold for differences,
given the same base.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import coefficients, difference, integers, lossless, quantize, sparse
from frconvert.coding.difference import (
    DIFFERENCE,
    EQUAL,
    OWN,
    add_words,
    subtract,
    subtract_words,
)
from frconvert.coding.fit import Fit
from frconvert.dtypes import largest_finite, numpy_dtype
from frconvert.errors import DamagedError
from frconvert.spectral import dct, zigzag

INTEGERS, TRELLIS, UNIFORM, WORDS, SPARSE = "integers", "trellis", "uniform", "words", "sparse"
STATE_BITS = {TRELLIS: coefficients.STATE_BITS, UNIFORM: 0}  # of the kinds that `coefficients` codes
CHUNK_SYMBOLS = 1 << 21  # small tensors share a chunk up to this many symbols


@dataclass(frozen=True, slots=True)
class Plan:
    """How one tensor is to be stored.

    Attributes:
        axes: the transformed axes, ascending; () is spatial.
        keep: number of coefficients kept in zigzag order, or None for all.
        step: quantiser step, a storable one (`quantize.storable_step`), or None for exact values.
        kind: with a step: `TRELLIS`, `UNIFORM`, `INTEGERS` or `SPARSE`, see above.
        fit: for the first two of these: the scales of the coefficients.
        view: for `SPARSE`: the shape that the axes belong to, of as many elements; None is the tensor's own.
        mantissa_bits: for exact values of float32 or float64: round to so many bits first; None keeps all.
        stored: for exact values: the (narrower) dtype that holds them without loss; None is their own.
        relation: to the base, one of `difference.RELATIONS`.
    """

    axes: tuple[int, ...] = ()
    keep: int | None = None
    step: float | None = None
    kind: str = INTEGERS
    fit: Fit | None = field(default=None, repr=False, compare=False)
    mantissa_bits: int | None = None
    stored: str | None = None
    relation: str = OWN
    view: tuple[int, ...] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether values are stored as they are, rounded perhaps."""
        return self.step is None and not self.axes and self.keep is None

    @property
    def method(self) -> str:
        """One word for tables: exact, rounded, trellis, sparse or uniform."""
        if self.step is None:
            return "rounded" if self.mantissa_bits else "exact"
        return self.kind if self.kind in (TRELLIS, SPARSE) else "uniform"


@dataclass(frozen=True, slots=True)
class Layout:
    """What the container's index holds of a record; enough to restore it from its sequence.

    Attributes:
        shape, dtype: of the tensor.
        axes, keep, step: as in `Plan`.
        stored: for exact values the dtype they are stored in (possibly narrower), else the kind.
        relation, view: as in `Plan`.
    """

    shape: tuple[int, ...]
    dtype: str
    axes: tuple[int, ...] = ()
    keep: int | None = None
    step: float | None = None
    stored: str = INTEGERS
    relation: str = OWN
    view: tuple[int, ...] | None = None

    @property
    def array_shape(self) -> tuple[int, ...]:
        """The shape that the axes belong to."""
        return self.shape if self.view is None else self.view

    @property
    def count(self) -> int:
        """Length of the sequence."""
        if self.relation == EQUAL:
            return 0
        return prod(self.shape) if self.keep is None else self.keep

    @property
    def is_plain(self) -> bool:
        """Whether the sequence is the tensor's elements, or differences of their words."""
        return self.step is None and not self.axes and self.keep is None


@dataclass(frozen=True, slots=True)
class Record:
    """A tensor as stored: its layout and its sequence.

    Attributes:
        values: int32 for `INTEGERS` and `SPARSE`; int64 for `WORDS`; floats for `TRELLIS` and `UNIFORM`,
            which `encode_chunk` overwrites with what `decode_chunk` will give; else of the stored dtype.
        fit: for those two, when they are to be encoded.
    """

    layout: Layout
    values: NDArray[np.generic] = field(repr=False)
    fit: Fit | None = field(default=None, repr=False, compare=False)


def make_record(
    weights: NDArray[np.generic], dtype: str, plan: Plan, base: NDArray[np.generic] | None = None
) -> Record:
    """Stores dense weights (of the dtype that `dtype` names) as the plan says; may overwrite them.

    Args:
        weights: the tensor.
        dtype: the name of its dtype.
        plan: how to store it.
        base: of the same shape and dtype, where the plan is that of a difference.
    """
    if (base is not None) != (plan.relation == DIFFERENCE):
        raise ValueError("a difference needs a base, and nothing else does")
    if plan.is_plain:
        values = weights.reshape(-1)
        if plan.mantissa_bits is not None:
            values = quantize.round_mantissa(values, plan.mantissa_bits)
        if base is None:
            return Record(Layout(weights.shape, dtype, stored=dtype), values)
        layout = Layout(weights.shape, dtype, stored=WORDS, relation=DIFFERENCE)
        return Record(layout, subtract_words(values, base))
    if base is not None:
        weights = subtract(weights, base)
    array = weights if plan.view is None else weights.reshape(plan.view)
    transformed = dct.forward(array, plan.axes, reuse=True)
    if plan.step is not None and plan.kind in STATE_BITS:
        layout = Layout(weights.shape, dtype, plan.axes, None, plan.step, plan.kind, plan.relation)
        return Record(layout, transformed.reshape(-1), plan.fit)
    return record_of_coefficients(_sequence(transformed, plan.axes, plan.keep), weights.shape, dtype, plan)


def record_of_coefficients(
    sequence: NDArray[np.generic], shape: tuple[int, ...], dtype: str, plan: Plan
) -> Record:
    """Stores coefficients that are already in the order of `Record.values`; may overwrite them."""
    if plan.step is None:
        stored = plan.stored or sequence.dtype.name
        layout = Layout(shape, dtype, plan.axes, plan.keep, None, stored, plan.relation)
        return Record(layout, sequence.astype(stored))
    symbols = quantize.quantise(sequence, plan.step)
    kind = SPARSE if plan.kind == SPARSE else INTEGERS
    layout = Layout(shape, dtype, plan.axes, plan.keep, plan.step, kind, plan.relation, plan.view)
    return Record(layout, symbols)


def restore(
    record: Record, base: NDArray[np.generic] | None = None, *, reuse: bool = False
) -> NDArray[np.generic]:
    """The dense tensor of a record, C-contiguous, of its own shape and dtype.

    Args:
        record: as decoded or encoded.
        base: what a difference is added to; without it the result is the difference alone.
        reuse: the record's values may be overwritten, as they are not needed any more.
    """
    layout = record.layout
    target = numpy_dtype(layout.dtype)
    if layout.is_plain:
        if base is not None:
            return add_words(record.values, base)
        if layout.relation == DIFFERENCE:
            return record.values.reshape(layout.shape)
        return record.values.astype(target, copy=not reuse).reshape(layout.shape)
    working = dct.working_dtype(target)
    if layout.stored in (INTEGERS, SPARSE) and layout.step is not None:
        sequence = quantize.dequantise(record.values.astype(np.int32, copy=False), layout.step, working)
    else:
        sequence = record.values.astype(working, copy=not reuse)
    if layout.stored in STATE_BITS:
        transformed = sequence.reshape(layout.shape)
    else:
        transformed = _unsequence(sequence, layout.array_shape, layout.axes, layout.keep)
    weights = dct.inverse(transformed, layout.axes).reshape(layout.shape)
    if base is not None:
        with np.errstate(over="ignore", invalid="ignore"):  # only where a file was made to do so
            weights += base.astype(working)
    if target != working:
        # Rounding may have pushed the largest values past the end of a narrow dtype.
        largest = largest_finite(layout.dtype)
        np.clip(weights, -largest, largest, out=weights)
    return np.asarray(weights.astype(target, copy=False), order="C")


def group(layouts: Sequence[tuple[str, int]]) -> list[list[int]]:
    """Which records share a chunk: indices into `layouts`, a list of (kind, sequence length).

    Records of one kind fill a chunk in order until it holds `CHUNK_SYMBOLS`; chunks are in the order of their
    first record. Empty sequences are in no chunk. Part of the format only as far as the index records it.
    """
    chunks: list[list[int]] = []
    open_chunk: dict[str, tuple[int, int]] = {}  # kind -> (position in chunks, symbols so far)
    for index, (kind, count) in enumerate(layouts):
        if count == 0:
            continue
        position, filled = open_chunk.get(kind, (-1, 0))
        if position < 0 or filled + count > CHUNK_SYMBOLS:
            chunks.append([])
            position, filled = len(chunks) - 1, 0
        chunks[position].append(index)
        open_chunk[kind] = (position, filled + count)
    return chunks


def encode_chunk(records: Sequence[Record], *, aware: bool = True) -> bytes:
    """Bytes of records of one kind, one after another in one stream; see `Record.values`.

    Args:
        records: not empty.
        aware: whether the trellis weighs bits against errors; else values on a path of it stay as they are.
    """
    kind = records[0].layout.stored
    if kind in STATE_BITS:
        parts = [_coded(record) for record in records]
        return coefficients.encode(parts, STATE_BITS[kind], aware=aware and kind == TRELLIS)
    if kind == SPARSE:
        return sparse.encode(
            [r.values.astype(np.int32, copy=False).reshape(_moved_shape(r.layout)) for r in records]
        )
    sequence = records[0].values if len(records) == 1 else np.concatenate([r.values for r in records])
    if kind == INTEGERS:
        return integers.encode(sequence.astype(np.int32, copy=False))
    if kind == WORDS:
        return difference.encode(sequence.astype(np.int64, copy=False))
    return lossless.encode(sequence, kind)


def decode_chunk(payload: bytes | memoryview, layouts: Sequence[Layout]) -> list[Record]:
    """Inverse of `encode_chunk`, given the layouts of its records.

    Raises:
        DamagedError: the payload does not hold exactly those records.
    """
    count = sum(layout.count for layout in layouts)
    kind = layouts[0].stored
    if kind in STATE_BITS:
        shapes = [layout.shape for layout in layouts]
        steps = [layout.step or 0.0 for layout in layouts]
        dtypes = [dct.working_dtype(numpy_dtype(layout.dtype)) for layout in layouts]
        found = coefficients.decode(payload, shapes, steps, dtypes)
        return [Record(layout, part.values) for layout, part in zip(layouts, found, strict=True)]
    if kind == SPARSE:
        arrays = sparse.decode(payload, [_moved_shape(layout) for layout in layouts])
        return [Record(layout, array.reshape(-1)) for layout, array in zip(layouts, arrays, strict=True)]
    sequence: NDArray[np.generic]
    if kind == INTEGERS:
        sequence = integers.decode(payload, count)
    elif kind == WORDS:
        sequence = difference.decode(payload, count)
    else:
        sequence = lossless.decode(payload, kind, count)
    bounds = np.cumsum([layout.count for layout in layouts])
    if bounds[-1] != sequence.size:
        raise DamagedError("a chunk and its records differ in length")
    pieces = np.split(sequence, bounds[:-1])
    return [Record(layout, piece) for layout, piece in zip(layouts, pieces, strict=True)]


def _coded(record: Record) -> coefficients.Coded:
    layout = record.layout
    if record.fit is None or layout.step is None:
        raise ValueError("a record without scales or step cannot be quantised")
    values: NDArray[Any] = record.values
    return coefficients.Coded(values, layout.shape, layout.step, record.fit.scales(layout.step))


def _moved_shape(layout: Layout) -> tuple[int, ...]:
    return _axes_first(layout.array_shape, layout.axes)


def _axes_first(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape after moving the transformed axes to the front: the order of a sequence without `keep`."""
    others = (axis for axis in range(len(shape)) if axis not in axes)
    return tuple(shape[axis] for axis in (*axes, *others))


def _sequence(
    transformed: NDArray[np.floating], axes: tuple[int, ...], keep: int | None
) -> NDArray[np.floating]:
    if keep is None:
        return np.moveaxis(transformed, axes, range(len(axes))).reshape(-1)
    return transformed.reshape(-1)[zigzag.prefix(transformed.shape, keep)]


def _unsequence(
    sequence: NDArray[np.floating], shape: tuple[int, ...], axes: tuple[int, ...], keep: int | None
) -> NDArray[np.floating]:
    if keep is None:
        moved = sequence.reshape(_axes_first(shape, axes))
        return np.asarray(np.moveaxis(moved, range(len(axes)), axes), order="C")
    transformed = np.zeros(prod(shape), sequence.dtype)
    transformed[zigzag.prefix(shape, keep)] = sequence
    return transformed.reshape(shape)
