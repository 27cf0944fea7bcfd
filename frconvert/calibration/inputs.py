"""What a model takes: names, shapes and types of its inputs; values put into that form, or made at random."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from frconvert.errors import UsageError, quoted

_T = TypeVar("_T")

FREE_BATCH = 1  # samples of a random batch where the model leaves it free
FREE_IMAGE = 64  # height and width of a random image where free: what most networks can halve five times
FREE_LENGTH = 16  # of any other free axis


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input of a model.

    Attributes:
        name: as the model calls it.
        shape: lengths of its axes; None for a free one, or a string for free ones that are equal by name.
        dtype: numpy's name of its element type, such as "float32".
        below: of integers that are indices: all values must be less; None if that is not known.
    """

    name: str
    shape: tuple[int | str | None, ...]
    dtype: str
    below: int | None = None

    def __str__(self) -> str:
        lengths = ", ".join("?" if axis is None else str(axis) for axis in self.shape)
        return f"{quoted(self.name)}, {self.dtype} [{lengths}]"


def conform(array: NDArray[np.generic], spec: InputSpec, source: str) -> NDArray[np.generic]:
    """A whole input, checked against its specification and cast to its type, C-contiguous.

    Integers become floats, and wide types narrow ones of the same kind; floats never become integers.

    Raises:
        UsageError: another shape, a type that would lose what matters, or an index beyond its table.
    """
    fits = len(array.shape) == len(spec.shape) and all(
        not isinstance(wanted, int) or wanted == length
        for wanted, length in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise UsageError(f"{source}: the model's input is {spec}; this array is {list(array.shape)}")
    dtype = np.dtype(spec.dtype)
    are_integers = array.dtype.kind in "iu" and dtype.kind in "iu"
    if not are_integers and not np.can_cast(array.dtype, dtype, "same_kind"):
        raise UsageError(f"{source}: the model's input is {spec}; this array is {array.dtype}")
    if dtype.kind in "iu" and array.size:
        least, most = int(array.min()), int(array.max())
        bounds = np.iinfo(dtype)
        last = bounds.max if spec.below is None else spec.below - 1
        if least < bounds.min or most > last:
            raise UsageError(
                f"{source}: values from {least} to {most} for the input {spec}, which takes up to {last}"
            )
    return np.asarray(array, dtype, order="C")


def by_name(found: Mapping[str, _T] | Sequence[_T], names: Sequence[str], source: str) -> dict[str, _T]:
    """The arrays of the inputs of these names, see `frconvert.calibration` for how they are found.

    Raises:
        UsageError: an input has no array.
    """
    if not isinstance(found, Mapping):
        found = {f"arr_{number}": array for number, array in enumerate(found)}
    if len(found) == len(names) == 1:
        return {names[0]: next(iter(found.values()))}
    are_numbered = all(name == f"arr_{number}" for number, name in enumerate(found))
    if are_numbered and len(found) >= len(names):
        return dict(zip(names, found.values(), strict=False))
    missing = [name for name in names if name not in found]
    if missing:
        has = ", ".join(quoted(name) for name in found) or "nothing"
        raise UsageError(f"{source}: has no array for the input {quoted(missing[0])}; it has {has}")
    return {name: found[name] for name in names}


def random_batches(
    inputs: Sequence[InputSpec], count: int = 1, *, seed: int = 0
) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Batches of random inputs, the same for the same seed.

    Floats are standard normal, booleans fair coins, bytes uniform. Integers are uniform below the size of the
    table that they index; where that is not known they are 1, which is a valid index, count, flag and mask.
    Free axes: the first is `FREE_BATCH` long, the last two of four (or the middle ones, where the last is of
    channels) `FREE_IMAGE`, others `FREE_LENGTH`; axes of the same name are as long as the first of them.
    """
    rng = np.random.default_rng(seed)
    free: dict[str, int] = {}
    shapes = [tuple(_length(spec, axis, free) for axis in range(len(spec.shape))) for spec in inputs]
    for _ in range(count):
        yield {spec.name: _random(rng, spec, shape) for spec, shape in zip(inputs, shapes, strict=True)}


def _length(spec: InputSpec, axis: int, free: dict[str, int]) -> int:
    length = spec.shape[axis]
    if isinstance(length, int):
        return length
    if axis == 0:
        default = FREE_BATCH
    elif len(spec.shape) == 4:
        image = (1, 2) if spec.shape[3] in (1, 3, 4) else (2, 3)
        default = FREE_IMAGE if axis in image else 3
    else:
        default = FREE_LENGTH
    return default if length is None else free.setdefault(length, default)


def _random(rng: np.random.Generator, spec: InputSpec, shape: tuple[int, ...]) -> NDArray[np.generic]:
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if dtype.kind in "iu":
        if spec.below is None and dtype.itemsize > 1:
            return np.ones(shape, dtype)
        most = np.iinfo(dtype).max
        return rng.integers(0, most + 1 if spec.below is None else min(spec.below, most + 1), shape).astype(
            dtype
        )
    return rng.standard_normal(shape).astype(dtype)
