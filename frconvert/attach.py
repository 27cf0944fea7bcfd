"""Files that travel in a `.frq`: taken along by name, given back into a folder and never beside it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from frconvert.errors import UnreadableError, UnsupportedError, UsageError, quoted
from frconvert.files import check_destination, replacing

_MOST_BYTES = 1 << 28  # as much as readers restore of any file
# Names that are no plain file in some system: separators, drives and streams, control characters, devices.
_UNSAFE = re.compile(r'[\\:*?"<>|\x00-\x1f\x7f]|[. ]$')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_LONGEST = 200  # characters of a part of a name


def read_files(paths: Sequence[str | Path]) -> dict[str, bytes]:
    """Content of files by their names without folders.

    Raises:
        UsageError: two of one name, or one that could not be given back.
        UnreadableError: a file that cannot be read or is too large.
    """
    found: dict[str, bytes] = {}
    for path in map(Path, paths):
        if path.name in found:
            raise UsageError(f"{path}: another attached file has the same name")
        if not is_safe(path.name):
            raise UsageError(f"{path}: not a name that every system can restore; rename it")
        try:
            with path.open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise UnreadableError(f"{path}: {error.strerror}") from error
        if len(data) > _MOST_BYTES:
            raise UnreadableError(f"{path}: attached files may have {_MOST_BYTES} bytes at most")
        found[path.name] = data
    return found


def is_safe(name: str) -> bool:
    """Whether a name, its parts separated by "/", stays inside the folder it is restored into, anywhere."""
    parts = name.split("/")
    return name.isprintable() and all(
        part and len(part) <= _LONGEST and not _UNSAFE.search(part) and not _DEVICES.match(part)
        for part in parts
    )


def restore_files(attachments: Mapping[str, bytes], folder: Path, *, overwrite: bool) -> list[Path]:
    """Writes attachments into a folder, which is made if need be; returns the files.

    All names are checked before the first file is written.

    Raises:
        UnsupportedError: a name that would leave the folder or that some system takes for something else.
        UsageError: a file exists, or the way to it leads through a link out of the folder.
        DamagedError: an attachment is broken.
        WriteError: a file cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: exists and is no folder")
    root = folder.resolve()
    places = {}
    for name in attachments:
        if not is_safe(name):
            raise UnsupportedError(f"attachment {quoted(name)}: not a name to restore a file by")
        places[name] = folder.joinpath(*name.split("/"))
        if not places[name].parent.resolve().is_relative_to(root):
            raise UsageError(f"{places[name]}: a link leads out of {folder}")
    taken = {name.casefold() for name in attachments}  # some systems do not tell "A" from "a"
    parents = {str(parent).casefold() for name in attachments for parent in PurePosixPath(name).parents}
    if len(taken) < len(attachments) or taken & parents:
        raise UnsupportedError("attachments: names that some systems cannot restore side by side")
    for path in places.values():
        if path.parent.is_dir():
            check_destination(path, overwrite=overwrite)
    for name, path in places.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{path.parent}: cannot be made: {error.strerror}") from error
        data = attachments[name]
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    return list(places.values())
