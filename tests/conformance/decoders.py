"""The two decoders side by side."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np

from frconvert.checkpoint import TensorEntry
from frconvert.coding.record import INTEGERS, SPARSE

FORMATS = Path(__file__).resolve().parents[2] / "formats"
VECTORS = FORMATS / "vectors"
# Bits after the leading one, and the smallest positive value.
PRECISION = {
    "float64": (52, 2.0**-1074), "float32": (23, 2.0**-149),
    "float16": (10, 2.0**-24), "bfloat16": (7, 2.0**-133),
    "float8_e4m3fn": (3, 2.0**-9), "float8_e5m2": (2, 2.0**-16),
    "float8_e4m3fnuz": (3, 2.0**-10), "float8_e5m2fnuz": (2, 2.0**-17),
}  # fmt: skip


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_decoder", FORMATS / "reference_decoder.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = _load()


def stored_integers(entry: TensorEntry) -> np.ndarray:
    """The integers of a quantised tensor as the package decodes them, those of a trellis in half steps."""
    assert entry.read_encoded
    record = entry.read_encoded()
    if record.layout.stored in (INTEGERS, SPARSE):
        return record.values.astype("<i8")
    half_steps = record.values.astype(np.float64) / (record.layout.step / 2)
    assert np.array_equal(half_steps, np.rint(half_steps))
    return half_steps.astype("<i8")


def are_near(first: np.ndarray, second: np.ndarray, dtype: str, largest: float, decoders: int) -> bool:
    """Rule V8: whether values are as near as those of so many decoders (1: to exact arithmetic) must be."""
    bits, smallest = PRECISION[dtype]
    tolerance = decoders * largest * 2.0 ** (-48 if dtype == "float64" else -20)
    a, b = first.astype(np.float64), second.astype(np.float64)
    return bool((np.abs(a - b) <= tolerance + np.maximum(np.abs(a) * 2.0**-bits, smallest)).all())
