"""Two checkpoints beside each other: what differs, tensor by tensor and in total."""

from dataclasses import dataclass
from math import isfinite
from typing import Any

from frconvert.checkpoint import Checkpoint
from frconvert.encode import decibel, difference


@dataclass(frozen=True, slots=True)
class TensorComparison:
    """One tensor of both: energy of the first, sum of squared errors and largest error of the second."""

    name: str
    shape: tuple[int, ...]
    dtypes: tuple[str, str]
    is_weight: bool
    energy: float
    error: float
    max_error: float

    @property
    def sqnr_db(self) -> float:
        """Infinite where both are equal, minus infinite where a NaN or infinity changed."""
        return decibel(self.energy, self.error)

    def to_json(self) -> dict[str, Any]:
        """Plain data; null for infinite figures."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtypes": list(self.dtypes),
            "sqnr_db": _finite(self.sqnr_db),
            "max_error": _finite(self.max_error),
            "identical": self.error == 0,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """All tensors that both have, and the names that do not match up."""

    tensors: tuple[TensorComparison, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    other_shape: tuple[str, ...]

    @property
    def matches(self) -> bool:
        """Both have the same tensors with the same shapes."""
        return not (self.only_first or self.only_second or self.other_shape)

    @property
    def sqnr_db(self) -> float:
        """In total over the float tensors with two or more axes."""
        weights = [tensor for tensor in self.tensors if tensor.is_weight]
        return decibel(sum(t.energy for t in weights), sum(t.error for t in weights))

    @property
    def max_error(self) -> float:
        """Largest absolute difference of any element."""
        return max((tensor.max_error for tensor in self.tensors), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain data; null for infinite figures."""
        return {
            "sqnr_db": _finite(self.sqnr_db),
            "max_error": _finite(self.max_error),
            "identical": self.matches and all(tensor.error == 0 for tensor in self.tensors),
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
            "other_shape": list(self.other_shape),
            "tensors": [tensor.to_json() for tensor in self.tensors],
        }


def compare(first: Checkpoint, second: Checkpoint) -> Comparison:
    """Compares the tensors of equal names, reading one pair at a time."""
    others = {entry.name: entry for entry in second}
    tensors, other_shape = [], []
    for entry in first:
        other = others.get(entry.name)
        if other is None:
            continue
        if other.shape != entry.shape:
            other_shape.append(entry.name)
            continue
        figures = difference(entry.read(), other.read())
        tensors.append(
            TensorComparison(entry.name, entry.shape, (entry.dtype, other.dtype), entry.is_weight, *figures)
        )
    names = {entry.name for entry in first}
    return Comparison(
        tuple(tensors),
        tuple(entry.name for entry in first if entry.name not in others),
        tuple(name for name in others if name not in names),
        tuple(other_shape),
    )


def _finite(value: float) -> float | None:
    return round(value, 9) if isfinite(value) else None
