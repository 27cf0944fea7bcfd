"""Batches cut from the arrays of a `.npz` or `.npy` file, which are read row by row, never as pickles."""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from frconvert.calibration.inputs import InputSpec, by_name, conform
from frconvert.errors import DamagedError, UnreadableError, UnsupportedError, UsageError, one_line, quoted

SUFFIXES = (".npy", ".npz")


@dataclass(frozen=True, slots=True)
class _Array:
    """An array in a file, whose rows are read one after the other; `where` is for messages."""

    where: str
    file: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    def read(self, shape: tuple[int, ...]) -> NDArray[np.generic]:
        """The next elements, in this shape."""
        size_bytes = prod(shape) * self.dtype.itemsize
        try:
            data = self.file.read(size_bytes)
        except Exception as error:  # zlib, zipfile and the checksum each raise their own
            raise DamagedError(f"{self.where} cannot be read: {one_line(error)}") from error
        if len(data) != size_bytes:
            raise DamagedError(f"{self.where} ends before it has all of its {list(self.shape)} elements")
        return np.frombuffer(data, self.dtype).reshape(shape)


def check(path: Path) -> None:
    """Opens the file and reads the headers of its arrays.

    Raises:
        UnreadableError: no NumPy file.
        DamagedError: a broken archive or header.
        UnsupportedError: pickled objects, or an array in Fortran order.
    """
    with ExitStack() as stack:
        _open(path, stack)


def batches(
    path: Path, inputs: Sequence[InputSpec] | None, batch: int
) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Batches of the file's arrays, by input name; see `frconvert.calibration` for how they are cut.

    Raises:
        UsageError: the arrays do not fit the inputs, or each other.
        FrqError: as for `check`; and damage found while reading.
    """
    with ExitStack() as stack:
        found = _open(path, stack)
        if inputs is None:
            arrays = {name.removeprefix("arr_"): array for name, array in found.items()}
            inputs = [_spec_of(name, array) for name, array in arrays.items()]
        else:
            arrays = by_name(found, [spec.name for spec in inputs], str(path))
        pairs = [(spec, arrays[spec.name]) for spec in inputs]
        if any(len(array.shape) > len(spec.shape) for spec, array in pairs):
            batch = 1  # whole inputs come one at a time
        cuts = {spec.name: _cut(array, spec, batch) for spec, array in pairs}
        counts = {name: cut.count for name, cut in cuts.items() if cut.count is not None}
        if len(set(counts.values())) > 1:
            (one, few), (other, many) = min(counts.items(), key=_second), max(counts.items(), key=_second)
            raise UsageError(f"{path}: {quoted(one)} makes {few} batches, {quoted(other)} makes {many}")
        constants = {spec.name: array.read(()) for spec, array in pairs if cuts[spec.name].count is None}
        for number in range(next(iter(counts.values()), 1)):
            made = {}
            for spec, array in pairs:
                cut = cuts[spec.name]
                value = constants[spec.name] if cut.count is None else array.read(cut.shape(number))
                made[spec.name] = conform(value, spec, array.where)
            yield made


@dataclass(frozen=True, slots=True)
class _Cut:
    """How an array makes batches.

    Attributes:
        count: number of batches; None for a value that serves in all.
        rows: rows of a batch; None where a batch is one whole row, without the axis of rows.
        total: rows in all.
        rest: lengths of the other axes.
    """

    count: int | None
    rows: int | None
    total: int
    rest: tuple[int, ...]

    def shape(self, number: int) -> tuple[int, ...]:
        if self.rows is None:
            return self.rest
        return (min(self.rows, self.total - number * self.rows), *self.rest)


def _cut(array: _Array, spec: InputSpec, batch: int) -> _Cut:
    more = len(array.shape) - len(spec.shape)
    if more == 0 and not array.shape:
        return _Cut(None, None, 1, ())
    if more == 1:
        return _Cut(array.shape[0], None, array.shape[0], array.shape[1:])
    if more == -1:
        return _Cut(1, 1, 1, array.shape)
    if more != 0:
        raise UsageError(f"{array.where}: the model's input is {spec}; this array is {list(array.shape)}")
    total, first = array.shape[0], spec.shape[0]
    if isinstance(first, int):
        return _Cut(total // first if first else 0, first, total, array.shape[1:])
    return _Cut(-(-total // batch), batch, total, array.shape[1:])


def _spec_of(name: str, array: _Array) -> InputSpec:
    return InputSpec(name, (None, *array.shape[1:]) if array.shape else (), array.dtype.name)


def _second(item: tuple[str, int]) -> int:
    return item[1]


def _open(path: Path, stack: ExitStack) -> dict[str, _Array]:
    """The arrays of a file, whose data begin where their files stand."""
    file = stack.enter_context(path.open("rb"))
    head = file.read(6)
    if head == npy.MAGIC_PREFIX:
        file.seek(0)
        return {"arr_0": _header(file, str(path))}
    if not head.startswith(b"PK"):
        raise UnreadableError(f"{path}: no NumPy file")
    arrays = {}
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
        members = [(each, stack.enter_context(archive.open(each))) for each in archive.namelist()]
    except Exception as error:  # zipfile raises many kinds for a hostile directory
        raise DamagedError(f"{path}: a broken zip archive: {one_line(error)}") from error
    for name, member in members:
        if name.endswith(".npy"):
            label = name.removesuffix(".npy")
            arrays[label] = _header(member, f"{path}: array {quoted(label)}")
    return arrays


def _header(file: IO[bytes], where: str) -> _Array:
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
    except Exception as error:  # whatever a header makes of Python's parser, numpy and zipfile
        raise DamagedError(f"{where} has a broken header: {one_line(error)}") from error
    if dtype.hasobject:
        raise UnsupportedError(f"{where} holds Python objects, which are not loaded; save it as numbers")
    if dtype.kind not in "biuf":
        raise UnsupportedError(f"{where} is {dtype}, not numbers that a model takes")
    if is_fortran and len(shape) > 1:
        raise UnsupportedError(f"{where} is in Fortran order; save numpy.ascontiguousarray of it")
    return _Array(where, file, tuple(int(length) for length in shape), dtype)
