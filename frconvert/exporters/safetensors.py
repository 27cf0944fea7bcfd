"""safetensors files: a JSON header, then the tensors one after the other, one in memory at a time.

The header names the tensors in the checkpoint's order; their data lie by falling element size, as the
format's own library puts them, so that each is aligned. The bytes depend on the content alone.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from frconvert.checkpoint import SAFETENSORS_METADATA, Checkpoint
from frconvert.dtypes import ITEM_BYTES, SAFETENSORS_CODES
from frconvert.errors import DamagedError, UnsupportedError, one_line
from frconvert.exporters import tell_left_out

_MAX_HEADER_BYTES = 100_000_000  # readers refuse more


def save(checkpoint: Checkpoint, path: Path, notice: Callable[[str], None]) -> None:
    """Writes all tensors to one file; see `frconvert.exporters` for the contract.

    Raises:
        UnsupportedError: an element type that the format has not (complex128), a tensor named "__metadata__",
            or names of more than 100 MB.
        DamagedError: the metadata attachment is not an object of strings.
    """
    tell_left_out(checkpoint, "a safetensors file", notice, SAFETENSORS_METADATA, metadata=True)
    tied = [entry.name for entry in checkpoint if entry.tied_to is not None]
    if tied:
        names = ", ".join(tied[:4]) + (", ..." if len(tied) > 4 else "")
        notice(f"safetensors cannot share data: {len(tied)} tied tensors are written in full: {names}")
    by_size = sorted(checkpoint, key=lambda entry: -ITEM_BYTES[entry.dtype])
    begins: dict[str, int] = {}
    end = 0
    for entry in by_size:
        if entry.dtype not in SAFETENSORS_CODES or entry.name == "__metadata__":
            fault = "name" if entry.dtype in SAFETENSORS_CODES else f"element type {entry.dtype}"
            raise UnsupportedError(f"safetensors files cannot hold the {fault} of tensor {entry.name!r}")
        begins[entry.name] = end
        end += entry.size_bytes
    header: dict[str, object] = {"__metadata__": _metadata(checkpoint)}
    for entry in checkpoint:
        begin = begins[entry.name]
        header[entry.name] = {
            "dtype": SAFETENSORS_CODES[entry.dtype],
            "shape": entry.shape,
            "data_offsets": (begin, begin + entry.size_bytes),
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _MAX_HEADER_BYTES:
        raise UnsupportedError(f"a safetensors header of {len(text)} bytes; readers refuse more than 100 MB")
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in by_size:
            file.write(entry.read().reshape(-1).view(np.uint8).data)


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """The source's `__metadata__` and the checkpoint's own; "format" is there because readers ask for it."""
    try:
        metadata = json.loads(checkpoint.attachments.get(SAFETENSORS_METADATA, b"{}"))
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("not an object of strings")
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{SAFETENSORS_METADATA}: {one_line(error)}") from error
    return dict(sorted(({"format": "pt"} | metadata | dict(checkpoint.metadata)).items()))
