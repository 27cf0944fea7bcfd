"""Choice of the importer: by the file's content first, by its suffix only where content says nothing.

Every importer is a module with `load(path: Path) -> Checkpoint`. It reads names, shapes and dtypes at once
and tensor data lazily; it runs no code from the file; and for anything wrong it raises an `FrqError` of one
line.
"""

import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from frconvert.checkpoint import Checkpoint, Origin, select
from frconvert.container.sources import Location, is_url
from frconvert.errors import UnreadableError, UsageError, one_line
from frconvert.importers.pt2 import is_program

Base = Location | Checkpoint

FORMATS = ("frq", "pytorch", "safetensors", "onnx", "hdf5", "keras", "npz", "pt2", "frereg")

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_SUFFIXES = {".onnx": "onnx"} | dict.fromkeys((".pt", ".pth", ".bin", ".ckpt", ".th"), "pytorch")


def load(
    source: Location,
    format: str | None = None,  # noqa: A002  (the option's name)
    *,
    names: Sequence[str] | None = None,
    base: Base | Sequence[Base] | None = None,
) -> Checkpoint:
    """Opens a checkpoint of any supported format.

    Args:
        source: the file; for sharded safetensors its `*.index.json`. A `.frq` may also be a URL or a seekable
            binary file; no more of it is read than is needed.
        format: one of `FORMATS` to overrule the choice by content ("frereg" can only be asked for).
        names: names or globs of the tensors that are wanted; None for all, and attachments.
        base: for a `.frq` of differences to another one: that one, and where it is of differences itself also
            its own base, and so on, in any order. Other files need none.

    Raises:
        UnreadableError: no such file, no permission, or no known format; or another base is needed.
        UsageError: unknown format, or nothing of that name.
        FrqError: what the importer found wrong.
    """
    if format is not None and format not in FORMATS:
        raise UsageError(f"unknown format {format!r}; known: {', '.join(FORMATS)}")
    checkpoint = _load(source, format, _as_sequence(base))
    if isinstance(source, str | os.PathLike):
        checkpoint = replace(checkpoint, origin=Origin(os.fspath(source), format))
    return checkpoint if names is None else select(checkpoint, names)


def load_bases(base: Base | Sequence[Base] | None) -> tuple[Checkpoint, ...]:
    """Opens bases, see `load`; each may have its own among the others.

    Raises:
        UsageError: one is no `.frq`.
    """
    given = _as_sequence(base)
    opened = []
    for number, item in enumerate(given):
        rest = [*given[:number], *given[number + 1 :]]
        whole = item if isinstance(item, Checkpoint) else load(item, base=rest)
        if whole.sha256 is None:
            raise UsageError(
                f"{whole.origin.location if whole.origin else 'the base'}: a base is a .frq file"
            )
        opened.append(whole)
    return tuple(opened)


def _as_sequence(base: Base | Sequence[Base] | None) -> Sequence[Base]:
    if base is None:
        return ()
    return base if isinstance(base, list | tuple) else (base,)


def _load(source: Location, format: str | None, bases: Sequence[Base]) -> Checkpoint:  # noqa: A002
    if is_url(source) or not isinstance(source, str | os.PathLike):
        if format not in (None, "frq"):
            raise UsageError(
                f"{source}: only .frq files are read from URLs and open files; download it first"
            )
        from frconvert.importers.frq import load as load_frq  # noqa: PLC0415

        return load_frq(source, bases)
    path = Path(source)
    try:
        chosen = format or sniff(path)
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror or one_line(error)}") from error
    module = import_module(f"frconvert.importers.{chosen}")
    loader: Callable[..., Checkpoint] = module.load
    try:
        return loader(path, bases) if chosen == "frq" else loader(path)
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror or one_line(error)}") from error


def sniff(path: Path) -> str:  # noqa: PLR0911  (one return a format reads best)
    """Name of the format of the file at `path`, from its first bytes or the members of a zip archive."""
    size = path.stat().st_size
    if size == 0:
        raise UnreadableError(f"{path}: the file is empty")
    with path.open("rb") as file:
        head = file.read(1024)
    if head.startswith(b"FRQ"):
        return "frq"
    if head.startswith(b"PK\x03\x04"):
        return _sniff_zip(path)
    if head.startswith(b"\x93NUMPY"):
        return "npz"
    if head.startswith(_HDF5_MAGIC) or head[512:520] == _HDF5_MAGIC:
        return "hdf5"
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    if path.name.endswith(".index.json") and head.lstrip().startswith(b"{"):
        return "safetensors"
    if (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05") or head[257:262] == b"ustar":
        return "pytorch"
    if head[:1] == b"\x08" or path.suffix == ".onnx":
        return "onnx"
    if path.suffix in _SUFFIXES:
        return _SUFFIXES[path.suffix]
    raise UnreadableError(
        f"{path}: no format frconvert knows (PyTorch, safetensors, ONNX, HDF5/Keras, NumPy, .frq); "
        "is the download complete?"
    )


def _sniff_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UnreadableError(
            f"{path}: a broken zip archive ({one_line(error)}); is the download complete?"
        ) from error
    if is_program(names):
        return "pt2"
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return "pytorch"
    if "model.weights.h5" in names:
        return "keras"
    if any(name.endswith(".npy") for name in names):
        return "npz"
    raise UnreadableError(f"{path}: a zip archive, but neither of PyTorch, Keras nor NumPy")
