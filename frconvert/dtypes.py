"""Names of element types and their numpy dtypes.

A dtype is written by its numpy or ml_dtypes name everywhere in this package ("float32", "bfloat16", "int64").
The position of a name in `DTYPE_NAMES` is its code in `.frq` files: append only, never reorder.
"""

import numpy as np

DTYPE_NAMES: tuple[str, ...] = (
    "bool",
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
    "float16", "float32", "float64", "bfloat16",
    "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
    "complex64", "complex128",
)  # fmt: skip

_EXTENSION_NAMES = frozenset(name for name in DTYPE_NAMES if name.startswith(("bfloat", "float8")))

ITEM_BYTES: dict[str, int] = {
    name: 1 if name in ("bool", "uint8", "int8") or name.startswith("float8")
    else 2 if name.endswith("16")
    else 4 if name.endswith("32")
    else 16 if name == "complex128"
    else 8
    for name in DTYPE_NAMES
}  # fmt: skip


# How safetensors files spell those dtypes that they can hold.
SAFETENSORS_CODES: dict[str, str] = {
    "bool": "BOOL",
    "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16",
    "uint32": "U32", "int32": "I32", "uint64": "U64", "int64": "I64",
    "float16": "F16", "float32": "F32", "float64": "F64", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "complex64": "C64",
}  # fmt: skip


def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """The little-endian numpy dtype of a name in `DTYPE_NAMES` (ml_dtypes is loaded only where needed)."""
    if name in _EXTENSION_NAMES:
        import ml_dtypes  # noqa: PLC0415  (start-up of light commands)

        dtype: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, name))
        return dtype
    return np.dtype(name).newbyteorder("<")


def dtype_name(dtype: np.dtype[np.generic]) -> str | None:
    """The name of a numpy dtype (any byte order), or None if this package has no such element type."""
    name = dtype.name
    return name if name in ITEM_BYTES else None


def largest_finite(name: str) -> float:
    """The largest finite value of a real floating-point type."""
    if name in _EXTENSION_NAMES:
        import ml_dtypes  # noqa: PLC0415

        return float(ml_dtypes.finfo(name).max)
    return float(np.finfo(name).max)


def is_float(name: str) -> bool:
    """True for the real floating-point types, the ones that lossy coding may touch.

    float8_e8m0fnu is none: it holds powers of two without zero or sign, scales of blocks.
    """
    return name.startswith(("float", "bfloat")) and name != "float8_e8m0fnu"
