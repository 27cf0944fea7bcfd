"""Quantised coefficients as fixed-width words that a graph can unpack; numpy only.

A sequence of integers is cut into runs, each of the narrowest form that holds it:

  zeros: nothing is stored;
  digits: several numbers in one unsigned word, as digits of an odd base, shifted by half of it;
  plain: int8, int16 or int32.

The few words of a run with numbers that do not fit are stored beside it, by place and numbers. Runs are
chosen so that bytes and nodes together are fewest. Floats are stored in one run, in the narrowest type that
holds them exactly.

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
# About what the nodes of replaced words take, with rows of digits, with numbers, and more for upper bits.
_ROWS_NODES_BYTES, _NUMBERS_NODES_BYTES, _HIGH_NODES_BYTES = 260, 200, 140
_FORBIDDEN = 1e18  # bytes of a number that does not fit where there may be none


@dataclass(frozen=True, slots=True)
class Replaced:
    """Words of a run that stand for other numbers than they hold; zeros count as a word each.

    Attributes:
        places: of the words, ascending, [count].
        numbers: instead, [count, per_word], int8, int16 or int32.
    """

    places: NDArray[np.int64] = field(repr=False)
    numbers: NDArray[np.signedinteger] = field(repr=False)

    @property
    def low(self) -> NDArray[np.uint16]:
        """The lower 16 bits of the places."""
        return (self.places & 0xFFFF).astype(np.uint16)

    @property
    def high(self) -> NDArray[np.unsignedinteger] | None:
        """The upper bits, uint8 or uint16; None if they are all 0."""
        upper = self.places >> 16
        if not upper.any():
            return None
        return upper.astype(np.uint8 if upper.max() < 1 << 8 else np.uint16)

    @property
    def size_bytes(self) -> int:
        """What is stored."""
        return self.low.nbytes + self.numbers.nbytes + (0 if self.high is None else self.high.nbytes)


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive numbers in one form: `words` is what is stored of `count` of them, but for `replaced`."""

    form: Form
    count: int
    words: NDArray[np.generic] = field(repr=False)
    replaced: Replaced | None = None

    @property
    def is_full(self) -> bool:
        """Whether the last word, too, has all its digits."""
        return self.words.size * self.form.per_word == self.count

    @property
    def size_bytes(self) -> int:
        """About what it takes in a file, its nodes included."""
        size = self.words.nbytes + self.form.nodes_bytes
        if self.replaced is not None:
            size += self.replaced.size_bytes + (0 if self.replaced.high is None else _HIGH_NODES_BYTES)
            size += _ROWS_NODES_BYTES if self.form.base else _NUMBERS_NODES_BYTES
        return size


@dataclass(frozen=True, slots=True)
class Packed:
    """A sequence as it is stored."""

    runs: tuple[Run, ...]

    @property
    def count(self) -> int:
        """Length of the sequence."""
        return sum(run.count for run in self.runs)

    @property
    def size_bytes(self) -> int:
        """About what it takes in a file, its nodes included."""
        return sum(run.size_bytes for run in self.runs)

    @property
    def has_replaced(self) -> bool:
        """Whether words of a run are replaced."""
        return any(run.replaced is not None for run in self.runs)


def pack(values: NDArray[np.generic], blocks: int = _BLOCKS, *, plain: bool = False) -> Packed:
    """The cheapest storage of a 1-D sequence of int32 or floats.

    Args:
        values: not empty.
        blocks: at how many places a run may begin, about.
        plain: only with plain runs, and no word replaced.
    """
    if values.dtype.kind == "f":
        form = FORMS[_narrowest_float(values)]
        return Packed((Run(form, values.size, values.astype(form.word)),))
    magnitudes = np.abs(values.astype(np.int64))
    starts = _block_starts(values.size, blocks)
    forms = PLAIN_FORMS if plain else INTEGER_FORMS
    exceeding = {
        form.name: np.add.reduceat(magnitudes > form.limit, starts, dtype=np.int64) for form in forms
    }
    whole = [_Choice(form, form.nodes_bytes, _FORBIDDEN) for form in forms]
    index_bytes, more_nodes = (2, 0) if values.size < 1 << 16 else (3, _HIGH_NODES_BYTES)
    replaced = [
        _Choice(
            form,
            form.nodes_bytes + more_nodes + (_ROWS_NODES_BYTES if form.base else _NUMBERS_NODES_BYTES),
            index_bytes + form.per_word * (1 if form.base else 2),
        )
        for form in forms
    ]
    candidates = [
        _assemble(values, _cut(values.size, starts, choices, [exceeding[each.form.name] for each in choices]))
        for choices in ([whole] if plain else [whole, whole + replaced])
    ]
    # Replaced words take a runtime some memory more.
    return min(
        candidates, key=lambda packed: packed.size_bytes + (packed.count / 32 if packed.has_replaced else 0)
    )


def unpack(packed: Packed) -> NDArray[np.generic]:
    """Inverse of `pack`: int32, or floats of the stored type."""
    parts = [_unpack_run(run) for run in packed.runs]
    return np.concatenate(parts) if len(parts) != 1 else parts[0]


def word_count(form: Form, count: int) -> int:
    """How many words are stored of so many numbers."""
    return 0 if form.name == "zeros" else place_count(form, count)


def place_count(form: Form, count: int) -> int:
    """How many words so many numbers are; a zero is one, if none is stored."""
    return ceil(count / form.per_word)


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


@dataclass(frozen=True, slots=True)
class _Choice:
    """A form for a run: bytes to begin one, and bytes of a number that does not fit."""

    form: Form
    opening_bytes: float
    misfit_bytes: float


def _cut(
    size: int, starts: NDArray[np.intp], choices: Sequence[_Choice], exceeding: Sequence[NDArray[np.int64]]
) -> list[tuple[Form, int, int]]:
    """The cheapest runs (form, first, last + 1), by dynamic programming over blocks.

    `exceeding` counts, for each choice and block, the numbers that do not fit.
    """
    lengths = np.diff(starts, append=size)
    bits = np.array([choice.form.bits for choice in choices])
    opening = np.array([choice.opening_bytes for choice in choices])
    misfits = np.array([choice.misfit_bytes for choice in choices])
    costs = bits[:, None] / 8 * lengths + misfits[:, None] * np.array(exceeding)
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
            runs.append((choices[state].form, int(starts[block]), last))
            last = int(starts[block])
        state = before
    return runs[::-1]


def _assemble(values: NDArray[np.generic], cuts: list[tuple[Form, int, int]]) -> Packed:
    runs = []
    for form, first, last in cuts:
        part = values[first:last]
        misfits = np.flatnonzero(np.abs(part.astype(np.int64)) > form.limit)
        replaced = None
        if misfits.size:
            places = np.unique(misfits // form.per_word)
            replaced = Replaced(places, _narrowest(_rows(part, form)[places]))
            part = part.copy()
            part[misfits] = 0
        runs.append(Run(form, last - first, _words(part, form), replaced))
    return Packed(tuple(runs))


def _rows(part: NDArray[np.generic], form: Form) -> NDArray[np.int64]:
    """The numbers word by word, [words, per_word], with zeros behind the last."""
    rows = np.zeros(place_count(form, part.size) * form.per_word, np.int64)
    rows[: part.size] = part
    return rows.reshape(-1, form.per_word)


def _narrowest(numbers: NDArray[np.int64]) -> NDArray[np.signedinteger]:
    largest = int(np.abs(numbers).max())
    return numbers.astype(next(form.word for form in PLAIN_FORMS if form.limit >= largest))


def _words(part: NDArray[np.generic], form: Form) -> NDArray[np.generic]:
    if form.name == "zeros":
        return np.zeros(0, form.word)
    if not form.base:
        return part.astype(form.word)
    weights = form.base ** np.arange(form.per_word, dtype=np.int64)
    return ((_rows(part, form) + form.limit) @ weights).astype(form.word)


def _unpack_run(run: Run) -> NDArray[np.generic]:
    form = run.form
    if run.words.dtype.kind == "f":
        return run.words
    if form.name == "zeros":
        rows = np.zeros((run.count, 1), np.int64)
    elif form.base:
        weights = form.base ** np.arange(form.per_word, dtype=np.int64)
        rows = run.words.astype(np.int64)[:, None] // weights % form.base - form.limit
    else:
        rows = run.words.astype(np.int64)[:, None]
    if run.replaced is not None:
        rows[run.replaced.places] = run.replaced.numbers
    return rows.reshape(-1)[: run.count].astype(np.int32)
