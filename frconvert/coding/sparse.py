"""Very sparse integers as bytes: the form of small tensors of which little is left.

One binary arithmetic coder (32 bits, probabilities of 12 bits) codes, tensor after tensor:

  for each axis longer than 1 and each index of it whether the index is *live*, that is, whether there is a
  number other than 0; an axis without live index ends the tensor;
  for each cell whose indices are all live, in C order, whether it holds a number other than 0 and, if so, its
  sign and its magnitude less 1 in unary.

So a dead row or column costs next to nothing, however long it is. Probabilities are learnt on the way. That
of a number other than 0 mixes one of the tensor with one of each index of each axis, in the logistic domain
(Mahoney, "Adaptive weighing of context models for lossless data compression", 2005): rows and columns have
their own densities, and nothing about them is stored. A tensor takes a second for 30,000 cells in Python and
a hundredth of it in the compiled twin; the number of decisions is limited by that of the bytes.

All of it is integer arithmetic, in which // and >> round down, and part of the format.
Law: `decode(encode(tensors), shapes)` gives equal tensors.
"""

from collections.abc import Sequence
from functools import cache
from math import prod

import numpy as np
from numpy.typing import NDArray

from frconvert.coding.native import native
from frconvert.errors import DamagedError

LARGEST = 1 << 12  # magnitude
_FREE_DECISIONS, _DECISIONS_PER_BYTE = 4096, 64
_HALF, _ONE = 1 << 15, (1 << 16) - 1
_LEAST = 32  # of a probability and of its complement, in 1/65536
_SLOWEST = 4095  # a probability that was used more often moves no slower
_MAGNITUDES = 6  # contexts of the unary code
_FIRST_WEIGHT = 45000  # in 1/65536
_LARGEST_WEIGHT = 1 << 20
_LARGEST_LOGIT = 2047  # in 1/256
# 4096 / (1 + exp(-x)) at x = -8, -7.5, ... 8
_KNOTS = (
    1, 2, 3, 6, 10, 16, 27, 45, 73, 120, 194, 310, 488, 747, 1101, 1546, 2047, 2549, 2994, 3348, 3607, 3785,
    3901, 3975, 4022, 4050, 4068, 4079, 4085, 4089, 4092, 4093, 4094,
)  # fmt: skip


def budget(payload_bytes: int) -> int:
    """The most decisions that so many bytes may stand for: a bound of the time that decoding takes."""
    return _FREE_DECISIONS + _DECISIONS_PER_BYTE * payload_bytes


def squash(logit: int) -> int:
    """The logistic function: a probability in 1/4096 of a logit in 1/256, both clipped."""
    if abs(logit) > _LARGEST_LOGIT:
        return 4095 if logit > 0 else 1
    low, weight = (logit >> 7) + 16, logit & 127
    return max((_KNOTS[low] * (128 - weight) + _KNOTS[low + 1] * weight + 64) >> 7, 1)


@cache
def stretches() -> NDArray[np.int32]:
    """The least logit whose `squash` is at least p, for p = 0..4095; 2047 where there is none."""
    squashed = [squash(logit) for logit in range(-_LARGEST_LOGIT, _LARGEST_LOGIT + 1)]
    found = np.searchsorted(squashed, np.arange(4096)) - _LARGEST_LOGIT
    return np.minimum(found, _LARGEST_LOGIT).astype(np.int32)


class _Bit:
    """The probability of a one, in 1/65536, and how often it was used."""

    __slots__ = ("probability", "used")

    def __init__(self, probability: int = _HALF) -> None:
        self.probability, self.used = probability, 0

    def update(self, bit: int) -> None:
        moved = self.probability + (
            ((_ONE if bit else 0) - self.probability) * (65536 // (self.used + 2)) >> 16
        )
        self.probability = min(max(moved, _LEAST), _ONE - _LEAST)
        self.used = min(self.used + 1, _SLOWEST)


class _Coder:
    """What encoder and decoder share: an interval, and the number of decisions."""

    def __init__(self) -> None:
        self.low, self.high, self.decisions = 0, 0xFFFFFFFF, 0

    def code(self, bit: int, probability: int) -> int:
        """Codes a decision whose probability of a one is given in 1/4096; returns it."""
        middle = self.low + (self.high - self.low >> 12) * probability
        bit = self.decide(bit, middle)
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while not (self.low ^ self.high) >> 24:
            self.shift()
            self.low, self.high = self.low << 8 & 0xFFFFFFFF, self.high << 8 & 0xFFFFFFFF | 255
        self.decisions += 1
        return bit

    def learn(self, bit: int, context: _Bit) -> int:
        """Codes a decision by a probability that learns from it."""
        bit = self.code(bit, min(max(context.probability >> 4, 1), 4095))
        context.update(bit)
        return bit

    def decide(self, bit: int, middle: int) -> int:
        """The decision: that which is given, or that which was coded."""
        raise NotImplementedError

    def shift(self) -> None:
        """Lets the highest byte of the interval go."""
        raise NotImplementedError


class _Encoder(_Coder):
    def __init__(self) -> None:
        super().__init__()
        self.out = bytearray()

    def decide(self, bit: int, middle: int) -> int:  # noqa: ARG002
        return bit

    def shift(self) -> None:
        self.out.append(self.high >> 24)

    def finish(self) -> bytes:
        """The fewest bytes that, with zeros after them, lie in the interval."""
        for count in range(5):
            unit = 1 << 32 - 8 * count
            value = -(-self.low // unit) * unit
            if value <= self.high:
                break
        return bytes(self.out + value.to_bytes(4)[:count]).rstrip(b"\0")


class _Decoder(_Coder):
    def __init__(self, payload: bytes | memoryview) -> None:
        super().__init__()
        self.payload, self.position = payload, 4
        self.value = int.from_bytes(bytes(payload[:4]).ljust(4, b"\0"))
        self.budget = budget(len(payload))

    def decide(self, bit: int, middle: int) -> int:  # noqa: ARG002
        if self.decisions == self.budget:
            raise DamagedError(f"{len(self.payload)} bytes of more than {self.budget} decisions")
        return int(self.value <= middle)

    def shift(self) -> None:
        following = self.payload[self.position] if self.position < len(self.payload) else 0
        self.value = self.value << 8 & 0xFFFFFFFF | following
        self.position += 1


def encode(tensors: Sequence[NDArray[np.int32]]) -> bytes:
    """Bytes of tensors of any rank.

    Raises:
        ValueError: a magnitude is larger than `LARGEST`.
    """
    if any(int(np.abs(tensor).max(initial=0)) > LARGEST for tensor in tensors):
        raise ValueError(f"magnitudes above {LARGEST}")
    coder = _Encoder()
    if native is not None:
        payload: bytes
        payload, decisions = native.sparse_encode(*_flat(tensors), stretches())
    else:
        for tensor in tensors:
            _code(coder, tensor)
        payload, decisions = coder.finish(), coder.decisions
    # Where decisions are too cheap for the budget, zeros make the bytes enough.
    return payload.ljust(-(-(decisions - _FREE_DECISIONS) // _DECISIONS_PER_BYTE), b"\0")


def decode(payload: bytes | memoryview, shapes: Sequence[tuple[int, ...]]) -> list[NDArray[np.int32]]:
    """Inverse of `encode`.

    Raises:
        DamagedError: the payload does not decode to exactly such tensors.
    """
    tensors = [np.zeros(shape, np.int32) for shape in shapes]
    if native is not None:
        *places, values = _flat(tensors)
        position = native.sparse_decode(*places, values, stretches(), payload, budget(len(payload)))
        if position < 0:
            raise DamagedError(f"{len(payload)} bytes of more than {budget(len(payload))} decisions")
        ends = np.cumsum([tensor.size for tensor in tensors])
        pieces = [values[end - tensor.size : end] for end, tensor in zip(ends, tensors, strict=True)]
        tensors = [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]
    else:
        coder = _Decoder(payload)
        for tensor in tensors:
            _code(coder, tensor)
        position = coder.position
    if any(payload[position:]):
        raise DamagedError("bytes after the last decision")
    return tensors


def _flat(
    tensors: Sequence[NDArray[np.int32]],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Ranks, lengths of axes and values of all tensors."""
    ranks = np.array([tensor.ndim for tensor in tensors], np.int64)
    lengths = np.array([length for tensor in tensors for length in tensor.shape], np.int64)
    values = [np.empty(0, np.int32), *(tensor.reshape(-1) for tensor in tensors)]
    return ranks, lengths, np.concatenate(values)


def _code(coder: _Coder, values: NDArray[np.int32]) -> None:
    """Codes one tensor; a decoder finds it zero and fills it."""
    live = [_code_axis(coder, values, axis) for axis in range(values.ndim)]
    if prod(map(len, live)) == 0:
        return
    long = [axis for axis, indices in enumerate(live) if len(indices) > 1]
    whole, magnitudes = _Bit(), [_Bit() for _ in range(_MAGNITUDES)]
    known: list[dict[int, _Bit]] = [{} for _ in long]
    weights = [0] + [_FIRST_WEIGHT] * len(long)
    stretch = stretches().tolist()
    for place in np.ndindex(*map(len, live)):
        cell = tuple(indices[number] for indices, number in zip(live, place, strict=True))
        base = stretch[whole.probability >> 4]
        own = [
            found.setdefault(place[axis], _Bit(whole.probability))
            for found, axis in zip(known, long, strict=True)
        ]
        inputs = [256] + [(stretch[bit.probability >> 4] - base) * bit.used // (bit.used + 1) for bit in own]
        mixed = base + (sum(weight * value for weight, value in zip(weights, inputs, strict=True)) >> 16)
        probability = squash(mixed)
        value = int(values[cell])
        found_bit = coder.code(int(value != 0), probability)
        error = 2 * ((found_bit << 12) - probability)
        weights = [
            min(max(weight + (number * error + 512 >> 10), -_LARGEST_WEIGHT), _LARGEST_WEIGHT)
            for weight, number in zip(weights, inputs, strict=True)
        ]
        for bit in (whole, *own):
            bit.update(found_bit)
        if found_bit:
            values[cell] = _code_number(coder, value, magnitudes)


def _code_axis(coder: _Coder, values: NDArray[np.int32], axis: int) -> list[int]:
    """The live indices of an axis."""
    length = values.shape[axis]
    if length == 1:
        return [0]
    flags = (values != 0).any(axis=tuple(other for other in range(values.ndim) if other != axis))
    contexts, before, live = (_Bit(), _Bit()), 1, []
    for index, flag in enumerate(flags.tolist()):
        before = coder.learn(int(flag), contexts[before])
        if before:
            live.append(index)
    return live


def _code_number(coder: _Coder, value: int, magnitudes: list[_Bit]) -> int:
    """A number other than 0."""
    negative = coder.code(int(value < 0), 2048)
    magnitude = 1
    while magnitude < LARGEST:
        if not coder.learn(int(abs(value) > magnitude), magnitudes[min(magnitude, _MAGNITUDES) - 1]):
            break
        magnitude += 1
    return -magnitude if negative else magnitude
