"""NumPy `.npz` archives as `numpy.savez` writes them, one tensor in memory at a time.

Members are stored uncompressed and without a date: the bytes depend on the content alone.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.errors import UnsupportedError
from frconvert.exporters import tell_left_out

_NO_DATE = (1980, 1, 1, 0, 0, 0)
_ZIP64_FROM = (1 << 31) - 10_000  # bytes of data, where a member may need zipfile's wider header


def save(checkpoint: Checkpoint, path: Path, notice: Callable[[str], None]) -> None:
    """Writes all tensors as members that `numpy.load` reads; see `frconvert.exporters` for the contract.

    Raises:
        UnsupportedError: a name that a zip archive cannot hold.
    """
    tell_left_out(checkpoint, "a .npz file", notice)
    tied = [entry.name for entry in checkpoint if entry.tied_to is not None]
    if tied:
        notice(f"a .npz file cannot share data: {len(tied)} tied tensors are written in full: {_some(tied)}")
    widened = [entry.name for entry in checkpoint if _is_foreign(entry)]
    if widened:
        notice(f"numpy has no bfloat16 or float8: {len(widened)} tensors are float32 now: {_some(widened)}")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for entry in checkpoint:
            _write(archive, entry)


def _write(archive: zipfile.ZipFile, entry: TensorEntry) -> None:
    member = zipfile.ZipInfo(f"{entry.name}.npy", _NO_DATE)
    member.create_system = 3  # the same bytes from every platform
    if member.filename != f"{entry.name}.npy" or len(member.filename.encode()) > 0xFFFF:
        raise UnsupportedError(f"a .npz file cannot hold the name {entry.name[:200]!r}")
    array = entry.read()
    if _is_foreign(entry):
        array = array.astype(np.float32)
    with archive.open(member, "w", force_zip64=array.nbytes >= _ZIP64_FROM) as file:
        npy.write_array(file, array, allow_pickle=False)


def _is_foreign(entry: TensorEntry) -> bool:
    return entry.dtype == "bfloat16" or entry.dtype.startswith("float8")


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
