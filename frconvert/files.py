"""Destinations that appear whole or not at all."""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from frconvert.errors import UnreadableError, UsageError, WriteError, one_line


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
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; renamed to it when the block ends well, removed otherwise.

    Raises:
        WriteError: the folder cannot be written or is full.
        UnreadableError: another file that the block reads failed.
    """
    # A short name, as the destination's may be as long as the system allows; the suffix stays last, because
    # some writers look at it.
    temporary = path.with_name(f".{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        # h5py words its own messages and leaves strerror unset.
        reason = error.strerror or (os.strerror(error.errno) if error.errno else _system_reason(error))
        if error.filename is not None and Path(os.fsdecode(error.filename)).name != temporary.name:
            raise UnreadableError(f"{os.fsdecode(error.filename)}: {reason}") from error
        raise WriteError(f"{path}: cannot be written: {reason}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _system_reason(error: OSError) -> str:
    """What the system said, out of a library's long message where it quotes an errno, else that message."""
    quoted = re.search(r"errno = (\d+)", str(error))
    return os.strerror(int(quoted[1])) if quoted else one_line(error)
