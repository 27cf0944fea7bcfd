"""Variable-length integers and bit fields, the small change of the container.

Law: every reader accepts exactly what the writer of the same name makes, and raises DamagedError at the end
of its data instead of inventing values.
"""

import numpy as np
from numpy.typing import NDArray

from frconvert.errors import DamagedError


def varint(value: int) -> bytes:
    """Unsigned LEB128 of a value from 0 to 2^63 - 1."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class ByteReader:
    """Cursor over bytes that checks every read."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data)
        self.position = 0

    def take(self, count: int) -> memoryview:
        """The next `count` bytes."""
        piece = self.data[self.position : self.position + count]
        if len(piece) != count:
            raise DamagedError(f"{count} bytes expected at byte {self.position}, {len(piece)} found")
        self.position += count
        return piece

    def rest(self) -> memoryview:
        """All bytes not yet read."""
        return self.take(len(self.data) - self.position)

    def varint(self) -> int:
        """An unsigned LEB128 of at most 9 bytes in its shortest form."""
        value = 0
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                if byte == 0 and shift:
                    break
                return value
        raise DamagedError(f"a number that is no shortest LEB128 ends at byte {self.position}")


def pack_fields(values: NDArray[np.int32], width: int) -> NDArray[np.uint8]:
    """The low `width` bits of each value, most significant first, one after another: uint8 0/1 array."""
    bits = np.empty((values.size, width), np.uint8)
    for column in range(width):
        bits[:, column] = values >> (width - 1 - column) & 1
    return bits.reshape(-1)


def unpack_fields(bits: NDArray[np.uint8], width: int) -> NDArray[np.int32]:
    """Inverse of `pack_fields` for a whole number of fields."""
    fields = bits.reshape(-1, width)
    values = np.zeros(len(fields), np.int32)
    for column in range(width):
        values <<= 1
        values |= fields[:, column]
    return values


def pack_table(frequencies: NDArray[np.int64]) -> bytes:
    """One row of a frequency table that sums to 4096: first and last used symbol, then each frequency.

    A frequency f takes 4 bits for its bit length and that many bits less one for what follows the leading 1.
    """
    used = np.flatnonzero(frequencies)
    first, last = int(used[0]), int(used[-1])
    text = "".join(
        format(f.bit_length(), "04b") + format(f, "b")[1:] if f else "0000"
        for f in frequencies[first : last + 1].tolist()
    )
    text += "0" * (-len(text) % 8)
    return bytes([first, last]) + int(text, 2).to_bytes(len(text) // 8, "big")


def unpack_table(reader: ByteReader, alphabet: int) -> NDArray[np.int64]:
    """Inverse of `pack_table`, from a reader that stands at the table."""
    first, last = reader.take(2)
    if not first <= last < alphabet:
        raise DamagedError(f"a frequency table names symbols {first} to {last} of {alphabet}")
    frequencies = np.zeros(alphabet, np.int64)
    window = bits = 0
    for symbol in range(first, last + 1):
        while bits < 24:
            # Past the table's own end this looks at bytes that follow or at zeros, and consumes none of them.
            ahead = reader.position
            byte = reader.data[ahead] if ahead < len(reader.data) else 0
            window, bits = window << 8 | byte, bits + 8
            reader.position += 1
        length = window >> (bits - 4) & 15
        bits -= 4
        if length:
            bits -= length - 1
            frequencies[symbol] = 1 << (length - 1) | (window >> bits & ((1 << (length - 1)) - 1))
        window &= (1 << bits) - 1
    reader.position -= bits // 8
    if reader.position > len(reader.data):
        raise DamagedError("a frequency table is cut off")
    if window >> (bits // 8 * 8):
        raise DamagedError("a frequency table is padded with something else than zeros")
    return frequencies
