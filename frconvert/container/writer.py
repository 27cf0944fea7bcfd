"""Forward-only writer of `.frq`: head index first, chunks as they come, then attachments, tail and footer.

Nothing is written twice and nothing is sought, so the target may be a pipe.
"""

import hashlib
import zlib
from collections.abc import Mapping
from typing import IO

from frconvert.container import MAGIC
from frconvert.container.deflate import deflate
from frconvert.container.frames import Frame, checksum, lay_out, pack_footer, pack_tail, seed_of
from frconvert.container.head import Head, pack
from frconvert.container.limits import tensor_excess, total_excess
from frconvert.errors import UnsupportedError


class Writer:
    """Writes one `.frq` file to a binary stream.

    Call `add_chunk` for each of `head.groups` in order, then `finish` once.

    Args:
        stream: takes bytes.
        head: what the file will hold; its attachments' sizes are those of `attachments`.
        attachments: name -> content.
    """

    def __init__(self, stream: IO[bytes], head: Head, attachments: Mapping[str, bytes]) -> None:
        if {name: len(data) for name, data in attachments.items()} != head.attachments:
            raise ValueError("the head index names other attachments")
        self._stream = stream
        self._head = head
        self._attachments = attachments
        self._digest = hashlib.sha256()
        self._frames: list[Frame] = []
        self.size_bytes = 0
        packed = pack(head)
        self._seed, self._head_length = seed_of(packed), len(packed)
        self._write(MAGIC)
        (frame,) = lay_out(self.size_bytes, [(len(packed), zlib.crc32(packed))])
        self._write(frame.header)
        self._write(packed)

    def add_chunk(self, payload: bytes) -> None:
        """Appends the next chunk."""
        if len(self._frames) == len(self._head.groups):
            raise ValueError("more chunks than the head index has")
        self._add(payload)

    def finish(self) -> int:
        """Appends everything else and returns the size of the file in bytes.

        Raises:
            UnsupportedError: it expands so much that the reader would take it for an attack.
        """
        if len(self._frames) != len(self._head.groups):
            raise ValueError("fewer chunks than the head index has")
        for data in self._attachments.values():
            self._add(deflate(data))
        tail = pack_tail(self._frames)
        self._write(tail)
        self._write(pack_footer(self._head_length, tail))
        self._write(self._digest.digest())
        self._write(MAGIC)
        excess = total_excess(self._head.layouts, sum(self._head.attachments.values()), self.size_bytes)
        for name, layout in zip(self._head.names, self._head.layouts, strict=True):
            excess = excess or tensor_excess(name, layout, self.size_bytes)
        if excess:
            raise UnsupportedError(f"no reader would open the .frq: {excess}")
        return self.size_bytes

    def _add(self, payload: bytes) -> None:
        number = len(self._frames) + 1
        pieces = [(len(payload), checksum(self._seed, number, payload))]
        self._frames += lay_out(self.size_bytes, pieces)
        self._write(self._frames[-1].header)
        self._write(payload)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:  # an unbuffered stream may take less than all
            rest = rest[self._stream.write(rest) :]
        self._digest.update(data)
        self.size_bytes += len(data)
