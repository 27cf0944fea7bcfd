"""What ONNX modules of both directions name alike: element types by number, names of ours."""

DOMAIN = "ai.frconvert"  # of the model-local functions
KEY = "ai.frconvert.idct"

# TensorProto.DataType, by number because older versions of onnx lack some names.
DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128",
    16: "bfloat16", 17: "float8_e4m3fn", 18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz",
    24: "float8_e8m0fnu",
}  # fmt: skip
_CODES = {name: code for code, name in DTYPES.items()}


def code_of(dtype: str) -> int:
    """The number of an element type."""
    return _CODES[dtype]
