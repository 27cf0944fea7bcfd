"""Keras archives (`.keras`), put together again from a source that was one: weights and other members.

Members are stored uncompressed, as Keras does, and without a date: the bytes depend on the content alone.
"""

import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from frconvert.checkpoint import HDF5_SKELETON, KERAS_FILES, Checkpoint
from frconvert.errors import DamagedError, UsageError
from frconvert.exporters import hdf5, tell_left_out

_CONFIG = "config.json"
_WEIGHTS = "model.weights.h5"
_NO_DATE = (1980, 1, 1, 0, 0, 0)
_ZIP64_FROM = (1 << 31) - 10_000  # bytes of data, where a member may need zipfile's wider header


def save(checkpoint: Checkpoint, path: Path, notice: Callable[[str], None]) -> None:
    """Writes `checkpoint` as a Keras archive at `path`; see `frconvert.exporters`.

    Raises:
        UsageError: the source carries no Keras configuration.
        DamagedError: an attachment has a name that no archive should have, or the skeleton is damaged.
    """
    files = {
        name.removeprefix(KERAS_FILES): data
        for name, data in checkpoint.attachments.items()
        if name.startswith(KERAS_FILES)
    }
    if _CONFIG not in files:
        raise UsageError(
            f"a .keras archive needs the model's {_CONFIG}, which only a .keras source carries; "
            "write .h5 or another format"
        )
    for name in files:
        if not _is_plain(name) or name == _WEIGHTS:
            raise DamagedError(f"attachment {KERAS_FILES + name!r} has a name that no Keras archive can have")
    tell_left_out(checkpoint, "a Keras archive", notice, HDF5_SKELETON, KERAS_FILES)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".frconvert-") as folder:
        weights = Path(folder) / _WEIGHTS
        hdf5.write(checkpoint, weights, notice)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(files, key=lambda name: (name not in ("metadata.json", _CONFIG), name)):
                archive.writestr(_member(name), files[name])
            is_large = weights.stat().st_size >= _ZIP64_FROM
            with (
                weights.open("rb") as source,
                archive.open(_member(_WEIGHTS), "w", force_zip64=is_large) as target,
            ):
                shutil.copyfileobj(source, target, 1 << 20)


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, _NO_DATE)
    member.create_system = 3  # the same bytes from every platform
    member.external_attr = 0o644 << 16
    return member


def _is_plain(name: str) -> bool:
    """True for a relative path that stays below where it starts, on any system, and fits a zip archive."""
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        return False
    is_below = not any(part in ("", ".", "..") for part in name.split("/")) and not set(name) & set("\\:\0")
    return is_below and size_bytes <= 0xFFFF
