"""Quantised coefficients as fixed-width words that a graph can unpack; numpy only.

A sequence of integers is cut into runs, each of the narrowest form that holds it:

  zeros: nothing is stored;
  digits: several numbers in one unsigned word, as digits of an odd base, shifted by half of it;
  plain: int8, int16 or int32.

A few numbers that do not fit the form of their run are stored beside it, by index and value (outliers). Runs
and outliers are chosen so that bytes and nodes together are fewest. Floats are stored in one run, in the
narrowest type that holds them exactly.

Law: `unpack(pack(values)) == values` bit for bit, for integers and floats.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np
from numpy.typing import NDArray

from frconvert.spectral import zigzag


@dataclass(frozen=True, slots=True)
class Form:
    """How the numbers of a run are stored.

    Attributes:
        name: in metadata; that of a numpy dtype, "zeros", or "d" and the base.
        limit: the largest magnitude it holds.
        word: numpy dtype of what is stored.
        base, per_word: of digits; 0 and 1 for others.
        nodes_bytes: about what the nodes that unpack it take in a file.
    """

    name: str
    limit: int
    word: str
    base: int = 0
    per_word: int = 1
    nodes_bytes: int = 60

    @property
    def is_plain(self) -> bool:
        """Whether each number is a word."""
        return not self.base and self.name != "zeros"

    @property
    def bits(self) -> float:
        """Of one number."""
        return 0.0 if self.name == "zeros" else 8 * np.dtype(self.word).itemsize / self.per_word


def _digits(base: int, word: str, per_word: int) -> Form:
    return Form(f"d{base}", base // 2, word, base, per_word, 300)


# Each base is the largest odd one with so many digits a word. A word has 16 bits at most, so that a table of
# all words is small.
INTEGER_FORMS = (
    Form("zeros", 0, "uint8", nodes_bytes=40),
    _digits(3, "uint8", 5), _digits(5, "uint8", 3), _digits(9, "uint16", 5), _digits(15, "uint8", 2),
    _digits(39, "uint16", 3),
    Form("int8", 127, "int8"), Form("int16", 32767, "int16"), Form("int32", 2**31 - 1, "int32"),
)  # fmt: skip
PLAIN_FORMS = tuple(form for form in INTEGER_FORMS if form.is_plain)
FLOAT_FORMS = tuple(Form(name, 0, name) for name in ("float16", "float32", "float64"))
FORMS = {form.name: form for form in (*INTEGER_FORMS, *FLOAT_FORMS)}

_BLOCKS = 512  # of a sequence, at most; a run begins at a block
_SHORTEST_BLOCK = 32
_OUTLIERS_NODES_BYTES = 150
_FORBIDDEN = 1e18  # bytes of an outlier where there may be none


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive numbers in one form: `words` is what is stored of `count` of them."""

    form: Form
    count: int
    words: NDArray[np.generic] = field(repr=False)

    @property
    def is_full(self) -> bool:
        """Whether the last word, too, has all its digits."""
        return self.words.size * self.form.per_word == self.count


@dataclass(frozen=True, slots=True)
class Outliers:
    """Numbers that replace those of the runs (which are 0 there): int32 indices, int16 or int32 values."""

    indices: NDArray[np.int32] = field(repr=False)
    values: NDArray[np.generic] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Packed:
    """A sequence as it is stored."""

    runs: tuple[Run, ...]
    outliers: Outliers | None = None

    @property
    def count(self) -> int:
        """Length of the sequence."""
        return sum(run.count for run in self.runs)

    @property
    def size_bytes(self) -> int:
        """About what it takes in a file, its nodes included."""
        size = sum(run.words.nbytes + run.form.nodes_bytes for run in self.runs)
        if self.outliers is not None:
            size += self.outliers.indices.nbytes + self.outliers.values.nbytes + _OUTLIERS_NODES_BYTES
        return size


def pack(values: NDArray[np.generic], blocks: int = _BLOCKS, *, plain: bool = False) -> Packed:
    """The cheapest storage of a 1-D sequence of int32 or floats.

    Args:
        values: not empty.
        blocks: at how many places a run may begin, about.
        plain: only with plain runs, and without outliers.
    """
    if values.dtype.kind == "f":
        form = FORMS[_narrowest_float(values)]
        return Packed((Run(form, values.size, values.astype(form.word)),))
    magnitudes = np.abs(values.astype(np.int64))
    starts = _block_starts(values.size, blocks)
    forms = PLAIN_FORMS if plain else INTEGER_FORMS
    exceeding = np.array([np.add.reduceat(magnitudes > form.limit, starts, dtype=np.int64) for form in forms])
    candidates = [
        _assemble(values, _cut(values.size, starts, forms, exceeding, outlier_bytes))
        for outlier_bytes in ((_FORBIDDEN,) if plain else (_FORBIDDEN, 6.0))
    ]
    # Outliers take a runtime one more copy of the whole.
    return min(
        candidates, key=lambda packed: packed.size_bytes + (packed.count / 32 if packed.outliers else 0)
    )


def unpack(packed: Packed) -> NDArray[np.generic]:
    """Inverse of `pack`: int32, or floats of the stored type."""
    parts = [_unpack_run(run) for run in packed.runs]
    values = np.concatenate(parts) if len(parts) != 1 else parts[0]
    if packed.outliers is not None:
        values = values.copy()
        values[packed.outliers.indices] = packed.outliers.values
    return values


def word_count(form: Form, count: int) -> int:
    """How many words hold so many numbers."""
    return 0 if form.name == "zeros" else ceil(count / form.per_word)


def corner_box(shape: Sequence[int], axes: Sequence[int], count: int) -> tuple[int, ...]:
    """Extents of the smallest corner box that holds the first `count` positions of the zigzag order.

    Axes that are not transformed keep their whole length.
    """
    places = np.unravel_index(zigzag.prefix(tuple(shape), count), tuple(shape))
    return tuple(
        int(place.max(initial=0)) + 1 if axis in axes else length
        for axis, (place, length) in enumerate(zip(places, shape, strict=True))
    )


def _narrowest_float(values: NDArray[np.generic]) -> str:
    for form in FLOAT_FORMS:
        with np.errstate(over="ignore"):
            if np.array_equal(values.astype(form.word).astype(values.dtype), values, equal_nan=True):
                return form.name
    return "float64"


def _block_starts(size: int, blocks: int) -> NDArray[np.intp]:
    length = max(_SHORTEST_BLOCK, ceil(size / blocks))
    return np.arange(0, size, length)


def _cut(
    size: int,
    starts: NDArray[np.intp],
    forms: Sequence[Form],
    exceeding: NDArray[np.int64],
    outlier_bytes: float,
) -> list[tuple[Form, int, int]]:
    """The cheapest runs (form, first, last + 1), by dynamic programming over blocks.

    `exceeding` counts, for each form and block, the numbers that do not fit.
    """
    lengths = np.diff(starts, append=size)
    bits = np.array([form.bits for form in forms])
    opening = np.array([form.nodes_bytes for form in forms], np.float64)
    costs = bits[:, None] / 8 * lengths + outlier_bytes * exceeding
    total = opening + costs[:, 0]
    came_from = np.zeros((len(starts), len(bits)), np.intp)
    for block in range(1, len(starts)):
        cheapest = int(total.argmin())
        changes = total[cheapest] + opening < total
        came_from[block] = np.where(changes, cheapest, np.arange(len(bits)))
        total = np.where(changes, total[cheapest] + opening, total) + costs[:, block]
    state = int(total.argmin())
    runs: list[tuple[Form, int, int]] = []
    last = size
    for block in range(len(starts) - 1, -1, -1):
        before = int(came_from[block, state]) if block else -1
        if before != state:
            runs.append((forms[state], int(starts[block]), last))
            last = int(starts[block])
        state = before
    return runs[::-1]


def _assemble(values: NDArray[np.generic], cuts: list[tuple[Form, int, int]]) -> Packed:
    runs, indices = [], []
    for form, first, last in cuts:
        part = values[first:last]
        misfits = np.flatnonzero(np.abs(part.astype(np.int64)) > form.limit)
        if misfits.size:
            part = part.copy()
            part[misfits] = 0
            indices.append(misfits + first)
        runs.append(Run(form, last - first, _words(part, form)))
    if not indices:
        return Packed(tuple(runs))
    places = np.concatenate(indices).astype(np.int32)
    found = values[places]
    narrow = np.abs(found.astype(np.int64)).max() <= np.iinfo(np.int16).max
    return Packed(tuple(runs), Outliers(places, found.astype(np.int16 if narrow else np.int32)))


def _words(part: NDArray[np.generic], form: Form) -> NDArray[np.generic]:
    if form.name == "zeros":
        return np.zeros(0, form.word)
    if not form.base:
        return part.astype(form.word)
    shifted = np.full(word_count(form, part.size) * form.per_word, form.limit, np.int64)
    shifted[: part.size] += part.astype(np.int64)
    weights = form.base ** np.arange(form.per_word, dtype=np.int64)
    return (shifted.reshape(-1, form.per_word) @ weights).astype(form.word)


def _unpack_run(run: Run) -> NDArray[np.generic]:
    if run.form.name == "zeros":
        return np.zeros(run.count, np.int32)
    if not run.form.base:
        return run.words if run.words.dtype.kind == "f" else run.words.astype(np.int32)
    weights = run.form.base ** np.arange(run.form.per_word, dtype=np.int64)
    digits = run.words.astype(np.int64)[:, None] // weights % run.form.base
    return (digits.reshape(-1)[: run.count] - run.form.limit).astype(np.int32)
