"""Keras archives (`.keras`): zip files of `config.json`, `metadata.json`, `model.weights.h5`, maybe assets.

The weights go through `hdf5.py`; their names are those within `model.weights.h5`. All other members become
attachments, byte for byte. Nothing is unpacked by name, so a member's name cannot lead anywhere.

Keras stores its members uncompressed, and then the weights are read where they lie in the archive. If they
are compressed they are unpacked once into an anonymous temporary file, which goes away with the checkpoint.
Either way their checksum is verified on opening, for HDF5 has none of its own.
"""

import io
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import finalize

from frconvert.checkpoint import KERAS_FILES, Checkpoint
from frconvert.errors import DamagedError, UnreadableError, UnsupportedError, one_line, quoted
from frconvert.importers.hdf5 import load_source
from frconvert.importers.hdf5_file import EXPANSION_FLOOR_BYTES, MAX_EXPANSION, Source

_WEIGHTS = "model.weights.h5"
_COPY_BYTES = 1 << 20
# What zipfile raises for broken archives, NotImplementedError (for methods and versions it lacks) aside.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, KeyError, struct.error)


def load(path: Path) -> Checkpoint:
    """Opens a Keras archive.

    Raises:
        UnreadableError: no such file, or no zip archive with a `model.weights.h5`.
        DamagedError: a broken archive, hostile names or sizes, or broken weights (see `hdf5.load`).
        UnsupportedError: an encrypted member or an unknown compression method.
    """
    with _archive(path) as archive:
        members = _members(path, archive)
        if _WEIGHTS not in members:
            raise UnreadableError(f"{path}: no Keras archive, it has no {_WEIGHTS}")
        source = _weights(path, archive, members.pop(_WEIGHTS))
        files = {KERAS_FILES + name: archive.read(member) for name, member in members.items()}
    checkpoint = load_source(source)
    return replace(checkpoint, format="keras", attachments={**checkpoint.attachments, **files})


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror or one_line(error)}") from error
    with file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive
        except (NotImplementedError, RuntimeError) as error:  # RuntimeError: encrypted
            raise UnsupportedError(f"{path}: cannot read this zip archive: {one_line(error)}") from error
        except _ZIP_ERRORS as error:
            raise DamagedError(f"{path}: broken zip archive: {one_line(error)}") from error


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files in the archive by name, their names and sizes checked."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        if not member.filename:  # is_dir() needs a name
            raise DamagedError(f"{path}: the archive has a member without a name")
        if member.is_dir():
            continue
        if not _is_plain(member.filename):
            raise DamagedError(
                f"{path}: the archive has a member with the unsafe name {quoted(member.filename)}"
            )
        if member.filename in members:
            raise DamagedError(f"{path}: the archive has two members {quoted(member.filename)}")
        members[member.filename] = member
    size_bytes = path.stat().st_size
    unpacked_bytes = sum(member.file_size for member in members.values())
    if unpacked_bytes > max(EXPANSION_FLOOR_BYTES, MAX_EXPANSION * size_bytes):
        raise DamagedError(
            f"{path}: its members declare {unpacked_bytes} bytes, over {MAX_EXPANSION} times the archive's "
            f"{size_bytes}; refused as a bomb"
        )
    return members


def _is_plain(name: str) -> bool:
    """True for a relative path that stays below where it starts, on any system."""
    return not any(part in ("", ".", "..") for part in name.split("/")) and not set(name) & set("\\:\0")


def _weights(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Source:
    """Where to read the weights from, after one pass over them in which zipfile verifies their checksum."""
    name = f"{path}: {_WEIGHTS}"
    with archive.open(member) as weights:
        if member.compress_type == zipfile.ZIP_STORED:
            while weights.read(_COPY_BYTES):
                pass
            return Source(name, member.file_size, lambda: path.open("rb"), _data_offset(path, member))
        unpacked = _Unpacked()
        shutil.copyfileobj(weights, unpacked.file, _COPY_BYTES)
        return Source(name, member.file_size, unpacked.open)


def _data_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Where the member's data begin: its local header has lengths of its own (zip specification, 4.3.7)."""
    if member.compress_size != member.file_size:
        raise DamagedError(
            f"{path}: member {quoted(member.filename)} is stored as is, but declares two sizes"
        )
    with path.open("rb") as file:
        file.seek(member.header_offset)
        name_bytes, extra_bytes = struct.unpack_from("<26x2H", file.read(30))
    return member.header_offset + 30 + int(name_bytes) + int(extra_bytes)


class _Unpacked:
    """A temporary file without a name, closed when nothing refers to this any more."""

    def __init__(self) -> None:
        self.file: Any = tempfile.TemporaryFile()  # noqa: SIM115  (closed by the finalizer)
        finalize(self, self.file.close)

    def open(self) -> AbstractContextManager[io.BufferedIOBase]:
        return nullcontext(self.file)
