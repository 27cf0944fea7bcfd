"""ONNX's element types as torch has them."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from frconvert.errors import UnsupportedError

# By the numbers of TensorProto.DataType.
_DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.int32, 5: torch.int16, 6: torch.int32,
    7: torch.int64, 9: torch.bool, 10: torch.float32, 11: torch.float64, 12: torch.int64, 13: torch.int64,
    16: torch.float32,
}  # fmt: skip
_HELD = {
    "float16": np.float32,
    "bfloat16": np.float32,
    "uint16": np.int32,
    "uint32": np.int64,
    "uint64": np.int64,
}


def dtype_of(number: int) -> Any:
    """The torch type that stands for an ONNX one.

    Raises:
        UnsupportedError: strings, complex numbers, types of eight bits and less that are no integers.
    """
    if number not in _DTYPES:
        raise UnsupportedError(f"fine-tuning does not know ONNX's element type {number}")
    return _DTYPES[number]


def to_torch(values: NDArray[Any]) -> torch.Tensor:
    """An array as a tensor of its own memory, in the type that stands for its own."""
    name = values.dtype.name
    if values.dtype.kind not in "biuf" and name not in _HELD:
        raise UnsupportedError(f"fine-tuning does not know tensors of {name}")
    return torch.from_numpy(np.array(values.astype(_HELD.get(name, values.dtype))))
