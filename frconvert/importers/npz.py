"""NumPy files: `.npz` archives and single `.npy` arrays, never their pickles.

Headers are read at once and checked against the sizes of the members; data are read, one member at a time,
when asked for.
"""

import math
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.dtypes import dtype_name, numpy_dtype
from frconvert.errors import DamagedError, UnsupportedError, one_line, quoted

_MAX_AXES = 32  # what every numpy can hold
_MAX_DEFLATE_RATIO = 1032  # the most that deflate can shrink anything
_READ_BYTES = 1 << 24  # asked of a member at once

_Open = Callable[[], IO[bytes]]
_Header = tuple[tuple[int, ...], bool, np.dtype[np.generic]]  # shape, Fortran order, element type


def load(path: Path) -> Checkpoint:
    """Opens a `.npz` or `.npy` file; see `frconvert.importers` for the contract.

    The tensor of a `.npy` file is named after the file. The bfloat16 of ml_dtypes, which numpy saves as raw
    values of two bytes, comes back as bfloat16.

    Raises:
        UnsupportedError: an array of Python objects, an element type unknown here, an encrypted member.
        DamagedError: a broken archive or header, or a size that contradicts the shape.
    """
    with path.open("rb") as file:
        is_array = file.read(6) == npy.MAGIC_PREFIX
    notices: list[str] = []
    entries: list[TensorEntry] = []
    for name, member_bytes, opened in _single(path) if is_array else _members(path, notices):
        entry = _entry(path, name, member_bytes, opened, notices)
        if entry is not None:
            entries.append(entry)
    raw = [entry.name for entry in entries if entry.dtype == "bfloat16"]
    if raw:
        notices.append(
            f"{len(raw)} arrays of raw 2-byte values are read as bfloat16, the first {quoted(raw[0])}"
        )
    return Checkpoint(tuple(entries), "npz", notices=tuple(notices))


def _single(path: Path) -> Iterator[tuple[str, int, _Open]]:
    def opened() -> IO[bytes]:
        return path.open("rb")

    yield path.stem, path.stat().st_size, opened


def _members(path: Path, notices: list[str]) -> Iterator[tuple[str, int, _Open]]:
    """Name, size in bytes and opener of each array in an archive that is no bomb."""
    try:
        # Stays open as long as an entry is alive; zipfile lets several threads read from it.
        archive = zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises many kinds for a hostile directory
        raise DamagedError(f"{path}: a broken zip archive: {one_line(error)}") from error
    file_bytes = path.stat().st_size
    stored_bytes = 0
    left_out: list[str] = []
    for member in archive.infolist():
        if not member.filename:  # is_dir() needs a name
            raise DamagedError(f"{path}: a member without a name")
        if member.is_dir():
            continue
        if not member.filename.endswith(".npy"):
            left_out.append(member.filename)
            continue
        where = f"{path}: member {quoted(member.filename)}"
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            fault = "encrypted" if member.flag_bits & 1 else f"compressed by method {member.compress_type}"
            raise UnsupportedError(f"{where} is {fault}; numpy.savez_compressed writes what can be read")
        ratio = 1 if member.compress_type == zipfile.ZIP_STORED else _MAX_DEFLATE_RATIO
        stored_bytes += member.compress_size
        if member.file_size > ratio * member.compress_size or stored_bytes > file_bytes:
            raise DamagedError(f"{where} claims {member.file_size} bytes, more than the file can hold")
        yield member.filename.removesuffix(".npy"), member.file_size, partial(archive.open, member)
    if left_out:
        notices.append(f"left out {len(left_out)} members that are no arrays (first {quoted(left_out[0])})")


def _entry(path: Path, name: str, member_bytes: int, opened: _Open, notices: list[str]) -> TensorEntry | None:
    where = f"{path}: array {quoted(name)}"
    try:
        name.encode()
        with opened() as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote
            header = _header(file)
            header_bytes = file.tell()
    except OSError:
        raise
    except Exception as error:  # whatever a header makes of Python's parser, numpy and zipfile
        raise DamagedError(f"{where} has a broken header: {one_line(error)}") from error
    if header is None:
        notices.append(f"left out array {quoted(name)}: records with named fields")
        return None
    shape, is_fortran, stored = header
    if stored.hasobject:
        raise UnsupportedError(
            f"{where} holds Python objects, which only running their code can load; save it as numbers"
        )
    extent = math.prod(length or 1 for length in shape)
    if any(length < 0 for length in shape) or extent * max(stored.itemsize, 1) >= 1 << 63:
        raise DamagedError(f"{where} has an impossible shape")
    if len(shape) > _MAX_AXES:
        raise UnsupportedError(f"{where} has {len(shape)} axes; at most {_MAX_AXES} can be handled")
    data_bytes = math.prod(shape) * stored.itemsize
    if data_bytes != member_bytes - header_bytes:
        raise DamagedError(
            f"{where} has {member_bytes - header_bytes} bytes of data, its header says {data_bytes}"
        )
    dtype = dtype_name(stored)
    if stored.str[1:] == "V2":
        dtype = "bfloat16"
    elif dtype is None and stored.kind in "SUMmV":
        notices.append(f"left out array {quoted(name)}: {stored} is not numeric")
        return None
    elif dtype is None:
        raise UnsupportedError(
            f"{where} has element type {stored}; save it as float64 or another common type"
        )
    read = partial(_read, where, opened, header_bytes, data_bytes, (shape, is_fortran, stored), dtype)
    return TensorEntry(name, shape, dtype, read)


def _header(file: IO[bytes]) -> _Header | None:
    """Shape, order and element type; None for records, the only arrays that need version 3 of the format."""
    version = npy.read_magic(file)
    if version == (3, 0):
        return None
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format version {version}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if dtype.names is not None or dtype.subdtype is not None:
        return None
    return tuple(int(length) for length in shape), bool(is_fortran), dtype


def _read(
    where: str, opened: _Open, header_bytes: int, data_bytes: int, header: _Header, dtype: str
) -> NDArray[np.generic]:
    shape, is_fortran, stored = header
    try:
        data = np.empty(data_bytes, np.uint8)
        with opened() as file:
            file.read(header_bytes)
            count = 0
            while chunk := file.read(_READ_BYTES):
                if count + len(chunk) > data_bytes:
                    raise ValueError(f"more than the {data_bytes} bytes that its header says")
                data[count : count + len(chunk)] = np.frombuffer(chunk, np.uint8)
                count += len(chunk)
        if count != data_bytes:
            raise ValueError(f"{count} of {data_bytes} bytes")
    except Exception as error:  # zlib, zipfile and the checksum each raise their own
        raise DamagedError(f"{where} cannot be read: {one_line(error)}") from error
    if dtype == "bool":  # a byte other than 0 and 1 is True to numpy, too
        data = (data != 0).view(np.uint8)
    kind = numpy_dtype(dtype) if dtype in ("bool", "bfloat16") else stored
    array = data.view(kind).reshape(shape, order="F" if is_fortran else "C")
    return np.asarray(array, numpy_dtype(dtype), order="C")
