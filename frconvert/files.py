"""Destinations that appear whole or not at all.

A file is written beside its destination under a name `.frconvert-XXXXXXXX.tmp.SUFFIX`, brought to the disk,
and renamed. Errors and the signals that ask a program to end remove it; after SIGKILL or a power failure it
stays. It is not removed by a later run, which cannot know whether another one is still writing it: whoever
knows that none is may delete all files of that name.

Two files that belong together (an ONNX model and its data) cannot be renamed at once: the older model is
removed first, then the data are renamed, and the model last, so that no model ever meets data of another.
"""

import contextlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from frconvert.errors import FrqError, UnreadableError, UsageError, WriteError, one_line


def check_destination(path: Path, *, overwrite: bool) -> None:
    """Refuses early what could only fail after the work is done.

    Raises:
        UsageError: the file exists and may not be overwritten, is a folder, or its folder does not exist.
        WriteError: the system does not let us look.
    """
    try:
        if path.is_dir():
            raise UsageError(f"{path}: is a folder; name a file")
        if os.path.lexists(path) and not overwrite:
            raise UsageError(f"{path}: exists; use --overwrite to replace it")
        if not path.parent.is_dir():
            raise UsageError(f"{path}: there is no folder {path.parent}")
        path.stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or one_line(error)}") from error


@contextlib.contextmanager
def replacing(path: Path, *, data: str = "", overwrite: bool = True) -> Iterator[Path]:
    """Gives a temporary path beside `path`; renamed to it when the block ends well, removed otherwise.

    Args:
        path: the file to write.
        data: what may be added to the temporary name for a second file that belongs to the first. It is
            renamed likewise, after an older file at `path` is removed: that would find data of another one.
        overwrite: whether an older second file may be replaced.

    Raises:
        UsageError: there is one.
        WriteError: the folder cannot be written or is full.
        UnreadableError: another file that the block reads failed.
    """
    # A short name, as the destination's may be as long as the system allows; the suffix stays last, because
    # some writers look at it.
    temporary = path.with_name(f".frconvert-{secrets.token_hex(4)}.tmp{path.suffix}")
    second = temporary.with_name(temporary.name + data)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if data and second.exists():
            _bring_second(second, path, path.with_name(path.name + data), overwrite=overwrite)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _failure(error, str(path), temporary) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
            second.unlink(missing_ok=True)


def _bring_second(second: Path, first: Path, destination: Path, *, overwrite: bool) -> None:
    check_destination(destination, overwrite=overwrite)
    with second.open("rb+") as file:
        os.fsync(file.fileno())
    first.unlink(missing_ok=True)
    _sync_folder(first.parent)
    second.replace(destination)
    _sync_folder(first.parent)


def is_stream(path: Path) -> bool:
    """Whether a destination is something to write into, not to replace: a pipe or a device."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


@contextlib.contextmanager
def delivering(destination: str | Path | IO[bytes]) -> Iterator[Callable[[], IO[bytes]]]:
    """Gives a function that opens an empty temporary file; its last content goes to a pipe or stream.

    So nothing is written to `destination` before all of it is made, and nothing at all if that fails. An
    open file is flushed, not closed.

    Raises:
        WriteError: the destination or the temporary file cannot be written.
    """
    name = str(destination) if isinstance(destination, str | Path) else _name_of(destination)
    with tempfile.TemporaryDirectory(prefix="frconvert-") as folder:
        path = Path(folder) / "made.frq"
        try:
            yield lambda: path.open("wb")
        except OSError as error:
            raise _failure(error, name, path) from error
        try:
            if isinstance(destination, str | Path):
                with Path(destination).open("wb") as stream, path.open("rb") as made:
                    shutil.copyfileobj(made, stream)
            else:
                with path.open("rb") as made:
                    _pour(made, destination)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
            raise WriteError(f"{name}: cannot be written: {reason}") from error


def _pour(source: IO[bytes], stream: IO[bytes]) -> None:
    while block := source.read(1 << 20):
        rest = memoryview(block)
        while rest:  # an unbuffered stream may take less than all
            rest = rest[stream.write(rest) :]
    stream.flush()


def _failure(error: OSError, destination: str, temporary: Path) -> FrqError:
    """What a system's refusal means: a source that is not read, or a destination that is not written."""
    # h5py words its own messages and leaves strerror unset.
    reason = error.strerror or (os.strerror(error.errno) if error.errno else _system_reason(error))
    if error.filename is not None and not Path(os.fsdecode(error.filename)).name.startswith(temporary.name):
        return UnreadableError(f"{os.fsdecode(error.filename)}: {reason}")
    return WriteError(f"{destination}: cannot be written: {reason}")


def _name_of(stream: IO[bytes]) -> str:
    name = getattr(stream, "name", None)
    return {"<stdout>": "standard output"}.get(name, name) if isinstance(name, str) else "the open file"


def _sync_folder(folder: Path) -> None:
    """Makes a rename last; on systems where folders cannot be opened there is nothing to do."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _system_reason(error: OSError) -> str:
    """What the system said, out of a library's long message where it quotes an errno, else that message."""
    quoted = re.search(r"errno = (\d+)", str(error))
    return os.strerror(int(quoted[1])) if quoted else one_line(error)
