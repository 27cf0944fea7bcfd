"""What a conversion did, as data: the object that `--json` prints and `frconvert.convert` returns."""

from dataclasses import asdict, dataclass
from math import isfinite, prod
from pathlib import Path
from typing import Any

from frconvert.checkpoint import Checkpoint
from frconvert.coding.difference import OWN
from frconvert.dtypes import is_float
from frconvert.encode import Outcome, TensorResult


@dataclass(frozen=True, slots=True)
class TensorSummary:
    """One tensor of a `Summary`; `size_bytes` is its share of a chunk it may share with others.

    `method` is exact, rounded, uniform or copied; `axes`, `keep` and `step` are those of the plan;
    `relation` is that to the base: own, difference or equal; `sqnr_db` is infinite where the restored tensor
    equals the source.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    method: str
    axes: tuple[int, ...]
    keep: int | None
    step: float | None
    size_bytes: int
    sqnr_db: float
    relation: str = OWN

    def to_json(self) -> dict[str, Any]:
        """As the command line promises; null for an infinite SQNR; `relation` only where it is not own."""
        size = prod(self.shape)
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "method": self.method,
            "axes": list(self.axes),
            "keep": self.keep,
            "step": self.step,
            "bytes": self.size_bytes,
            "bits_per_weight": round(8 * self.size_bytes / size, 4) if size else 0.0,
            "sqnr_db": round(self.sqnr_db, 3) if isfinite(self.sqnr_db) else None,
        } | ({} if self.relation == OWN else {"relation": self.relation})


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of a whole conversion.

    Attributes:
        source_bytes: of the source's tensors at their own dtypes, tied ones counted once.
        destination_bytes: of the whole destination file.
        ratio: source_bytes / destination_bytes.
        parameters: number of elements of all tensors.
        bits_per_weight: 8 * destination_bytes / number of float elements.
        sqnr_db: over the float tensors with two or more axes in total; infinite where nothing was lost.
        seconds: wall time; peak_rss_bytes: largest memory of the process so far.
        tensors: in source order, aliases of tied ones left out.
        notices: sentences about what was left out, changed or nearly destroyed.
    """

    source_bytes: int
    destination_bytes: int
    ratio: float
    parameters: int
    bits_per_weight: float
    sqnr_db: float
    seconds: float
    peak_rss_bytes: int
    tensors: tuple[TensorSummary, ...]
    notices: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As printed by `--json`: infinite figures become null."""
        plain = asdict(self) | {"tensors": [tensor.to_json() for tensor in self.tensors]}
        plain["sqnr_db"] = round(self.sqnr_db, 3) if isfinite(self.sqnr_db) else None
        plain["notices"] = list(self.notices)
        return plain


def peak_rss_bytes() -> int:
    """Largest resident size of this process so far, 0 where the platform does not tell."""
    try:
        # Unlike getrusage this does not count what the parent held when it started us.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    try:
        import resource  # noqa: PLC0415  (not on Windows)
    except ImportError:
        return 0
    import sys  # noqa: PLC0415

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def summarise(checkpoint: Checkpoint, outcome: Outcome, seconds: float, notices: tuple[str, ...]) -> Summary:
    """Puts the figures of a finished conversion together."""
    floats = sum(entry.size for entry in checkpoint.stored if is_float(entry.dtype))
    size = outcome.size_bytes
    return Summary(
        source_bytes=checkpoint.tensor_bytes,
        destination_bytes=size,
        ratio=round(checkpoint.tensor_bytes / size, 4) if size else 0.0,
        parameters=sum(entry.size for entry in checkpoint.stored),
        bits_per_weight=round(8 * size / floats, 4) if floats else 0.0,
        sqnr_db=outcome.sqnr_db,
        seconds=round(seconds, 3),
        peak_rss_bytes=peak_rss_bytes(),
        tensors=tuple(_tensor(result) for result in outcome.results),
        notices=notices,
    )


def _tensor(result: TensorResult) -> TensorSummary:
    entry, plan = result.entry, result.plan
    return TensorSummary(
        entry.name,
        entry.shape,
        entry.dtype,
        result.method,
        plan.axes,
        plan.keep,
        plan.step,
        result.size_bytes,
        result.sqnr_db,
        plan.relation,
    )
