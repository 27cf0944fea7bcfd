"""What happens inside a conversion: number of attempts, and where the bits of the coded chunks go."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np

from frconvert import search
from frconvert.coding import coefficients, rows, scales, segments, tables
from frconvert.coding.lanes import TOTAL


@dataclass
class Ledger:
    """Of the last attempt; `attempts` counts them all.

    Attributes:
        payload_bits: of the chunks that code coefficients; stream_bits: of the rANS streams in them;
        raw_bits: of the raw low bits.
        ideal_bits: what the symbols of the streams take by their frequencies.
        tails, steps, classes, errors: of each tensor in these chunks: tail shape, step, coefficients in each
            class, squared error of the coefficients.
    """

    attempts: int = 0
    payload_bits: float = 0
    stream_bits: float = 0
    raw_bits: float = 0
    ideal_bits: float = 0
    tails: list[int] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    classes: list[np.ndarray] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)


@contextmanager
def observed() -> Iterator[Ledger]:
    """Fills the ledger with what conversions (of one job) do within the block."""
    ledger = Ledger()
    attempt, encode, encode_rows, pack_raw = (
        search.attempt, coefficients.encode, rows.encode, segments._pack_raw
    )  # fmt: skip

    def count_attempt(*arguments: Any) -> Any:
        ledger.__init__(attempts=ledger.attempts + 1)
        return attempt(*arguments)

    def watch_encode(parts: Any, *arguments: Any, **settings: Any) -> bytes:
        before = [part.values.astype(np.float64) for part in parts]
        payload = encode(parts, *arguments, **settings)
        ledger.payload_bits += 8 * len(payload)
        for part, values in zip(parts, before, strict=True):
            found = scales.classes(part.scales, part.shape).reshape(-1)
            ledger.tails.append(part.scales.shape)
            ledger.steps.append(part.step)
            ledger.classes.append(np.bincount(found, minlength=tables.CLASSES))
            ledger.errors.append(float(np.square(values - part.values).sum()))
        return payload

    def watch_rows(symbols: np.ndarray, of: np.ndarray, frequencies: np.ndarray) -> bytes:
        stream = encode_rows(symbols, of, frequencies)
        ledger.stream_bits += 8 * len(stream)
        index = of.astype(np.int64) * frequencies.shape[1] + symbols
        counts = np.bincount(index, minlength=frequencies.size)
        used = counts > 0
        ledger.ideal_bits += float(counts[used] @ np.log2(TOTAL / frequencies.reshape(-1)[used]))
        return stream

    def watch_raw(*arguments: Any) -> bytes:
        packed = pack_raw(*arguments)
        ledger.raw_bits += 8 * len(packed)
        return packed

    with ExitStack() as stack:
        stack.enter_context(patch.object(search, "attempt", count_attempt))
        stack.enter_context(patch.object(coefficients, "encode", watch_encode))
        stack.enter_context(patch.object(rows, "encode", watch_rows))
        stack.enter_context(patch.object(segments, "_pack_raw", watch_raw))
        yield ledger
