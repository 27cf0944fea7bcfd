"""Forward-only writer of `.frq`: chunks as they come, then attachments, index and footer.

Nothing is written twice and nothing is sought, so the target may be a pipe.
"""

import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import IO

from frconvert.coding.record import Layout
from frconvert.container import MAGIC
from frconvert.container.index import Chunk, Index, StoredAttachment, deflate, pack
from frconvert.container.limits import tensor_excess, total_excess
from frconvert.errors import UnsupportedError


class Writer:
    """Writes one `.frq` file to a binary stream. Call `add_chunk` for each chunk, then `finish` once."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self._chunks: list[Chunk] = []
        self.size_bytes = 0
        self._write(MAGIC)

    def add_chunk(self, kind: str, records: int, payload: bytes) -> None:
        """Appends a chunk that holds the next `records` tensors of that kind."""
        self._chunks.append(Chunk(kind, records, self.size_bytes, len(payload), zlib.crc32(payload)))
        self._write(payload)

    def finish(
        self,
        names: Sequence[str],
        layouts: Sequence[Layout],
        ties: Mapping[str, str],
        attachments: Mapping[str, bytes],
        metadata: Mapping[str, str],
    ) -> int:
        """Appends everything else and returns the size of the file in bytes.

        Raises:
            UnsupportedError: it expands so much that the reader would take it for an attack.
        """
        stored = []
        for name, data in attachments.items():
            packed = deflate(data)
            stored.append(StoredAttachment(name, len(data), self.size_bytes, len(packed), zlib.crc32(packed)))
            self._write(packed)
        index = pack(
            Index(
                tuple(names), tuple(layouts), dict(ties), tuple(self._chunks), tuple(stored), dict(metadata)
            )
        )
        self._write(index)
        self._write(struct.pack("<II", len(index), zlib.crc32(index)))
        self._write(self._digest.digest())
        self._write(MAGIC)
        attachment_bytes = sum(len(data) for data in attachments.values())
        excess = total_excess(layouts, attachment_bytes, self.size_bytes)
        for name, layout in zip(names, layouts, strict=True):
            excess = excess or tensor_excess(name, layout, self.size_bytes)
        if excess:
            raise UnsupportedError(f"no reader would open the .frq: {excess}")
        return self.size_bytes

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self.size_bytes += len(data)
