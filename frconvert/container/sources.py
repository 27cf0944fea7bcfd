"""Where the bytes of a `.frq` file come from: a path, an open file, or a URL; all are read by ranges.

Law: `read(offset, length)` returns exactly that many bytes, from any thread, or raises an FrqError. Nothing
of the network is imported before a URL is opened.
"""

import tempfile
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Protocol

from frconvert.errors import DamagedError, UnreadableError, UsageError, one_line

Location = str | Path | IO[bytes]
_BLOCK_BYTES = 1 << 23


class Source(Protocol):
    """Something of known size that gives any range of its bytes; `name` is for messages."""

    name: str
    size_bytes: int

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` on."""


def is_url(location: object) -> bool:
    """Whether this names something for fsspec instead of a local path."""
    return isinstance(location, str) and "://" in location


def open_source(location: Location) -> Source:
    """The source for a path, a URL or a seekable binary file."""
    if is_url(location):
        return UrlSource(str(location))
    if isinstance(location, str | Path):
        return PathSource(Path(location))
    return FileSource(location)


class PathSource:
    """A file that is opened for each read, so that no descriptor is held and threads do not meet."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        try:
            with path.open("rb") as file:
                self.size_bytes = file.seek(0, 2)
        except OSError as error:
            raise UnreadableError(f"{path}: {error.strerror or one_line(error)}") from error

    def read(self, offset: int, length: int) -> bytes:
        """See `Source`."""
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                return _whole(self, offset, length, file.read(length))
        except OSError as error:
            raise UnreadableError(f"{self.path}: {error.strerror or one_line(error)}") from error


class FileSource:
    """An open seekable binary file; byte 0 is its byte 0, wherever it stands. The caller closes it."""

    def __init__(self, file: IO[bytes]) -> None:
        name = getattr(file, "name", None)
        self.name = name if isinstance(name, str) else "the open file"
        self._file, self._lock = file, threading.Lock()
        try:
            self.size_bytes = file.seek(0, 2)
            is_binary = isinstance(file.read(0), bytes)
        except (OSError, ValueError, AttributeError) as error:
            raise UsageError(f"{self.name}: needs a seekable binary file ({one_line(error)})") from error
        if not is_binary:
            raise UsageError(f"{self.name}: is open as text; open it with 'rb'")

    def read(self, offset: int, length: int) -> bytes:
        """See `Source`."""
        pieces = []
        try:
            with self._lock:
                self._file.seek(offset)
                while length and (piece := self._file.read(length)):
                    pieces.append(piece)
                    length -= len(piece)
        except (OSError, ValueError) as error:
            raise UnreadableError(f"{self.name}: {one_line(error)}") from error
        data = b"".join(pieces)
        return _whole(self, offset, len(data) + length, data)


class UrlSource:
    """A URL that fsspec understands. The first block, the end of the file, is kept: indices are there."""

    def __init__(self, url: str) -> None:
        self.name = url
        try:
            from fsspec.core import url_to_fs  # noqa: PLC0415  (network code, only where it is asked for)
        except ImportError:
            raise UsageError(f"{url}: URLs need fsspec; pip install 'frconvert[remote]'") from None
        self._kept: tuple[int, bytes] | None = None
        try:
            self._system, self._path = url_to_fs(url)
            facts = self._system.info(self._path)
        except ImportError as error:
            raise UsageError(f"{url}: {one_line(error)}; pip install 'frconvert[remote]'") from error
        except Exception as error:
            raise self._refusal(error) from error
        if not isinstance(facts.get("size"), int):
            raise UnreadableError(f"{url}: the server does not tell its size; download it first")
        self.size_bytes: int = facts["size"]

    def read(self, offset: int, length: int) -> bytes:
        """See `Source`."""
        if self._kept is not None:
            start, block = self._kept
            if start <= offset and offset + length <= start + len(block):
                return block[offset - start : offset - start + length]
        if not length:
            return b""
        try:
            data: bytes = self._system.cat_file(self._path, start=offset, end=offset + length)
        except Exception as error:
            raise self._refusal(error) from error
        if len(data) > length:
            raise UnreadableError(f"{self.name}: the server ignores ranges; download it first")
        data = _whole(self, offset, length, data)
        if self._kept is None:
            self._kept = offset, data
        return data

    def downloaded(self) -> FileSource:
        """All of it in a temporary file, for what reads it more than once."""
        file = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the source)
        for offset in range(0, self.size_bytes, _BLOCK_BYTES):
            file.write(self.read(offset, min(_BLOCK_BYTES, self.size_bytes - offset)))
        local = FileSource(file)
        local.name = self.name
        weakref.finalize(local, file.close)
        return local

    def _refusal(self, error: Exception) -> UnreadableError:
        """Each of fsspec's file systems has its own exceptions, few of them OSErrors."""
        missing = isinstance(error, FileNotFoundError)
        reason = "no such file" if missing else one_line(error)
        return UnreadableError(f"{self.name}: {reason}; check the address and your access")


class Patched:
    """Another source with some of its bytes replaced."""

    def __init__(self, base: Source, patches: Mapping[int, bytes]) -> None:
        self.name, self.size_bytes = base.name, base.size_bytes
        self._base, self._patches = base, dict(patches)

    def read(self, offset: int, length: int) -> bytes:
        """See `Source`."""
        data = bytearray(self._base.read(offset, length))
        for start, piece in self._patches.items():
            first, last = max(start, offset), min(start + len(piece), offset + length)
            if first < last:
                data[first - offset : last - offset] = piece[first - start : last - start]
        return bytes(data)


class Metered:
    """Another source, and how many bytes were read of it."""

    def __init__(self, base: Source) -> None:
        self.name, self.size_bytes, self.read_bytes = base.name, base.size_bytes, 0
        self._base, self._lock = base, threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        """See `Source`."""
        with self._lock:
            self.read_bytes += length
        return self._base.read(offset, length)


def _whole(source: Source, offset: int, length: int, data: bytes) -> bytes:
    if len(data) != length:
        raise DamagedError(f"{source.name}: {length} bytes at byte {offset} end early; is it complete?")
    return data
