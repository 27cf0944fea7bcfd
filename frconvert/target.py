"""What the user wants of a file: one target of one kind."""

import re
from dataclasses import dataclass
from math import inf, isfinite, sqrt

from frconvert.errors import UsageError

DEFAULT_SNR_DB = 36.0

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_RANGES = {
    "keep": (0.0, 1.0),
    "bits": (0.0, 64.0),
    "ratio": (0.0, inf),
    "size": (0.0, inf),
    "snr": (0.0, 300.0),
    "max_error": (0.0, inf),
}


def coarseness_of(sqnr_db: float) -> float:
    """The step, in units of the root mean square, whose rounding noise (step / sqrt(12)) is that far down."""
    return sqrt(12) * 10 ** (-sqnr_db / 20)


@dataclass(frozen=True, slots=True)
class Target:
    """A kind and its value.

    Attributes:
        kind: "default", "lossless", or one of: "keep" (fraction of the coefficients of each tensor), "bits"
            (per float parameter, of the whole file), "ratio" (bytes of the source's tensors / bytes of the
            file), "size" (bytes of the file, at most), "snr" (dB, at least), "max_error" (absolute, at most).
        value: 0 for the first two kinds.
    """

    kind: str = "default"
    value: float = 0.0

    def __post_init__(self) -> None:
        if self.kind in _RANGES:
            low, high = _RANGES[self.kind]
            if not low < self.value <= high or not isfinite(self.value):
                option = self.kind.replace("_", "-")
                above = f" and at most {high:g}" if isfinite(high) else ""
                raise UsageError(f"--{option} {self.value:g} is out of range; it must be above 0{above}")


def parse_size(text: str) -> int:
    """Bytes from "4.5kB", "2MiB", "1000"; kB is 1000, KiB is 1024 bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise UsageError(f"size {text!r} is not understood; write it like 4.5kB, 2MiB or 1000")
    size = float(match[1]) * unit
    if size >= 2**63:
        raise UsageError(f"size {text!r} is beyond any file")
    return int(size)


def make_target(**wishes: float | str | bool | None) -> Target:
    """A target from keyword arguments as `convert` takes them: at most one may be set.

    `size` may be a string such as "4.5kB"; `lossless` is a flag.
    """
    given = {kind: value for kind, value in wishes.items() if value is not None and value is not False}
    if len(given) > 1:
        names = " and ".join("--" + kind.replace("_", "-") for kind in given)
        raise UsageError(f"{names} contradict each other; give one target")
    for kind, value in given.items():
        if kind == "lossless":
            return Target("lossless")
        if kind not in _RANGES:
            raise UsageError(f"unknown target {kind!r}; known: lossless, {', '.join(_RANGES)}")
        number = parse_size(value) if isinstance(value, str) and kind == "size" else value
        if isinstance(number, str | bool):
            raise UsageError(f"{kind} {value!r} is no number")
        return Target(kind, float(number))
    return Target()
