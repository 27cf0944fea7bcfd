"""The data of an ONNX model's tensors in a file of its own beside the model, where it grows too large.

ONNX calls this external data. Tensors are written one at a time, so that memory holds the largest one only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from frconvert.checkpoint import TensorEntry
from frconvert.dtypes import numpy_dtype

SUFFIX = ".data"  # behind the name of the model

_SMALLEST = 1024  # bytes; runtimes want shapes and the like inside the model
_PAGE = 4096  # bytes; tensors that begin at a page can be mapped into memory
_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL


def data_path(path: Path) -> Path:
    """The data file of a model, whether there is one or not."""
    return path.with_name(path.name + SUFFIX)


def size_bytes(path: Path) -> int:
    """Of a model and its data file."""
    data = data_path(path)
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)


def fill(places: list[tuple[Any, TensorEntry]]) -> None:
    """Puts values into TensorProtos themselves."""
    for tensor, entry in places:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = entry.read().astype(numpy_dtype(entry.dtype), copy=False).tobytes()


def fill_outside(places: list[tuple[Any, TensorEntry]], path: Path, name: str) -> None:
    """Writes the values of all but small tensors into a data file, tied ones once.

    Args:
        places: a TensorProto each and what they are to hold.
        path: of the model that is being made; the file is `data_path(path)`.
        name: what the file will be called when it is beside the model.
    """
    fill([(tensor, entry) for tensor, entry in places if entry.size_bytes < _SMALLEST])
    offsets: dict[str, int] = {}
    with data_path(path).open("wb") as file:
        for tensor, entry in places:
            if entry.size_bytes < _SMALLEST:
                continue
            owner = entry.tied_to or entry.name
            if owner not in offsets:
                offsets[owner] = file.seek(-file.tell() % _PAGE, 1)
                values = entry.read().astype(numpy_dtype(entry.dtype), copy=False)
                file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
            tensor.ClearField("external_data")
            tensor.data_location = _EXTERNAL
            for key, value in (("location", name), ("offset", offsets[owner]), ("length", entry.size_bytes)):
                tensor.external_data.add(key=key, value=str(value))
