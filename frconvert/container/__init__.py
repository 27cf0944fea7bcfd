r"""The `.frq` file: chunks, then an index, then a footer. Written forward only, read by ranges.

    "FRQ" 0x01 | chunk ... chunk | attachment ... attachment | index | footer

The footer is 44 bytes: length of the index and its CRC-32 (uint32 each), SHA-256 of all bytes before that
digest, and "FRQ\\x01" again. The index is raw DEFLATE. All numbers are little-endian. Nothing in a file is
code, a clock or random.
"""

MAGIC = b"FRQ\x01"
FOOTER_BYTES = 4 + 4 + 32 + 4
