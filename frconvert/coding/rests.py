"""The low bits of words whose high bits are symbols: cut into runs, stripped of zeros, stored or coded.

A rest has `shift` low bits and, of a float, the sign above them. Rests are cut into runs of words; of a run,
low bits that are always zero are dropped, and what is left is stored in fields just wide enough. The lowest
byte of what is left may be coded instead, with the class of the word's symbol as context.

Bytes: varint number of runs; of each run: varint number of its words / 128 (not of the last run, which takes
all that are left), number of zeros dropped, width of what is left, plus 128 if its lowest byte is coded, in
which case the stream of those bytes follows. Then the fields of all runs, less their first bytes: those are
what the streams here carry, one stream after another, followed by what the stream of the symbols carries.

Law: decode(encode(rests)) == rests.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import fields, lanes, symbols
from frconvert.coding.bits import ByteReader, varint
from frconvert.errors import DamagedError

BLOCK = 128  # words; a run is whole blocks of them, but the last one takes all that is left
_RUN_GAIN_BITS = 512  # what a run of its own must save: it takes 40 bits, and time
_CODED = 128  # added to the width


def encode(
    rest: NDArray[Any], shift: int, signed: bool, classes: NDArray[np.uint8] | None
) -> tuple[list[bytes], list[memoryview]]:
    """Heads of the runs with their streams, and the contents of the fields that these do not carry.

    Args:
        rest: [count] unsigned, below 2^shift, or below 2^(shift + 1) if `signed`.
        shift: 0 up to the word's width.
        signed: whether there is a sign above the low bits.
        classes: [count] classes of the words' symbols, below 32, or None if there are no symbols.
    """
    if not rest.size or not shift + signed:
        return [], []
    runs = _runs(rest, shift)
    heads: list[bytes] = [varint(len(runs))]
    raw: list[memoryview] = []
    lows = []
    first = 0
    for size, zeros in runs:
        values = rest[first : first + size]
        values = values >> zeros if zeros else values
        width = int(np.bitwise_or.reduce(values)).bit_length()
        context = None if classes is None else classes[first : first + size]
        first += size
        if first < rest.size:
            heads.append(varint(size // BLOCK))
        if context is not None and width >= 8 and _low_byte_depends(values, context):
            heads.append(bytes([zeros, width + _CODED]))
            lows.append((len(heads), values.astype(np.uint8), context))
            heads.append(b"")
            values, width = values >> 8, width - 8
        else:
            heads.append(bytes([zeros, width]))
        raw += [part.view(np.uint8).data for part in fields.pack(values, width) if part.size]
    for place, low, context in lows:
        heads[place] = symbols.encode(low, 256, take_first(raw, lanes.capacity(low.size)), context)
    return heads, raw


def take_first(parts: list[memoryview], count: int) -> bytes:
    """Removes the first bytes from the list and returns them, `count` or as many as there are."""
    taken = []
    while parts and count:
        part = parts.pop(0)
        taken.append(part[:count])
        if len(part) > count:
            parts.insert(0, part[count:])
        count -= len(taken[-1])
    return b"".join(taken)


def decode(
    reader: ByteReader,
    carried: bytes,
    rest: NDArray[Any],
    shift: int,
    signed: bool,
    classes: NDArray[np.uint8] | None,
) -> None:
    """Fills `rest`, [count] of an unsigned type, from a reader that stands at the heads.

    With no bits in a rest there is nothing to read, and `rest` becomes zero.

    Raises:
        DamagedError: the bytes end too early, or are nothing that `encode` makes.
    """
    runs: list[tuple[int, int, int, NDArray[np.uint8] | None]] = []
    if not shift + signed:
        rest[:] = 0
    first = 0
    left = reader.varint() if rest.size and shift + signed else 0
    pool = b""
    while first < rest.size and shift + signed:
        left -= 1
        size = BLOCK * reader.varint() if left else rest.size - first
        zeros, width = reader.take(2)
        coded, width = width >= _CODED, width % _CODED
        if left < 0 or not 0 < size <= rest.size - first or zeros + width > shift + signed:
            raise DamagedError(f"a run of {size} words with {zeros} + {width} bits does not fit")
        low = None
        if coded:
            if classes is None or width < 8:
                raise DamagedError("a low byte is coded where there is none")
            low, bytes_of_stream = symbols.decode(reader, size, 256, classes[first : first + size])
            pool += bytes_of_stream
        runs.append((size, zeros, width, low))
        first += size
    if left:
        raise DamagedError("more runs than words")
    source = _Joined(pool + carried, reader)
    first = 0
    for size, zeros, width, low in runs:
        values = rest[first : first + size]
        fields.unpack(source.take, values, width - 8 * (low is not None))
        if low is not None:
            values <<= 8
            values |= low
        if zeros:
            values <<= zeros
        first += size
    source.finish()


class _Joined:
    """The bytes that streams carried, then those of a reader."""

    def __init__(self, carried: bytes, reader: ByteReader) -> None:
        self.carried, self.reader = memoryview(carried), reader

    def take(self, count: int) -> bytes | memoryview:
        first, self.carried = self.carried[:count], self.carried[count:]
        if len(first) == count:
            return first
        return (
            b"".join([first, self.reader.take(count - len(first))]) if len(first) else self.reader.take(count)
        )

    def finish(self) -> None:
        if any(self.carried):
            raise DamagedError("a stream carries more than there are fields")


def _runs(rest: NDArray[Any], shift: int) -> list[tuple[int, int]]:
    """Number of words and of trailing zeros of each run; the sign does not count as zero."""
    whole = rest.size // BLOCK * BLOCK
    grain = np.bitwise_or.reduce(rest[:whole].reshape(-1, BLOCK), axis=1)
    if whole < rest.size:
        grain = np.append(grain, np.bitwise_or.reduce(rest[whole:]))
    grain |= rest.dtype.type(1 << shift) if shift < 8 * rest.itemsize else rest.dtype.type(0)
    zeros = np.bitwise_count((grain & -grain) - rest.dtype.type(1)).astype(np.int64)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(zeros)) + 1, [zeros.size]]).tolist()
    runs: list[tuple[int, int]] = []
    for first, end in pairwise(starts):
        size, depth = min(end * BLOCK, rest.size) - first * BLOCK, int(zeros[first])
        while runs:
            size_before, depth_before = runs[-1]
            if (
                size_before * max(0, depth_before - depth) + size * max(0, depth - depth_before)
                >= _RUN_GAIN_BITS
            ):
                break
            size, depth = size + size_before, min(depth, depth_before)
            runs.pop()
        runs.append((size, depth))
    return runs


def _low_byte_depends(values: NDArray[Any], classes: NDArray[np.uint8]) -> bool:
    """Whether coding the lowest byte saves an eighth of a bit or more, by samples: of 4 bits, then of 8."""
    for mask, size in ((15, 1 << 15), (255, 1 << 18)):
        stride = -(-values.size // size)
        low = (values[::stride] & values.dtype.type(mask)).astype(np.intp)
        low += classes[::stride].astype(np.intp) * (mask + 1)
        counts = np.bincount(low, minlength=symbols.CLASSES * (mask + 1)).reshape(symbols.CLASSES, -1)
        if int(symbols.cost(counts).sum()) > low.size * (mask.bit_length() * 4096 - 512):
            return False
    return True
