r"""The `.frq` file: an index of what is in it, the data in frames, an index of where they are.

    "FRQ" 0x01 | head index | chunk ... chunk | attachment ... attachment | tail index | footer

The head index (`head`) describes the tensors and is complete before the first chunk is coded, so a file can
be written and read as a stream; names stand nowhere else. Head index, chunks and attachments are frames
(`frames`): length, checksum, payload, one after another. The tail index repeats lengths and checksums, so
that any tensor is one range read away. Only the payloads are information; all else of a file follows from
them, which is what `salvage` builds on. All numbers are little-endian. Nothing in a file is code, a clock or
random.
"""

MAGIC = b"FRQ\x01"
RESERVED = "frconvert."
"""Metadata keys that begin so are ours: they say how the file was made."""
BASE_NAME = RESERVED + "base"
"""The key of the name of the file to which tensors are differences."""
