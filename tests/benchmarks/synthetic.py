"""Rate and distortion of synthetic weights, and coded size against ideal entropy, as a Markdown table.

The bound for Gaussian weights is their rate-distortion function, D = s^2 2^(-2R); for Laplacian weights it is
Shannon's lower bound, which no coder reaches but which is close at these rates. Rates are those of a whole
chunk: tables, states and all. The ideal is the conditional entropy of the coded symbols given the table row
of each, plus their raw bits.
"""

from dataclasses import dataclass
from math import e, log2, log10, pi
from unittest import mock

import numpy as np

from frconvert.coding import coefficients, cost, rows, segments, tables
from frconvert.coding.coefficients import Coded
from frconvert.coding.fit import fit
from frconvert.coding.quantize import storable_step

KINDS, BITS, COUNTS = ("Gaussian", "Laplacian"), (2, 3, 4), (1_000_000, 100_000, 10_000)


@dataclass(frozen=True)
class Point:
    """What coding some weights gave.

    Attributes:
        bits: of the whole chunk, a weight.
        gap_db: error above the bound at that rate.
        excess: of the chunk's bytes over the ideal, as a fraction.
    """

    bits: float
    gap_db: float
    excess: float


def weights_of(kind: str, count: int, seed: int = 0) -> np.ndarray:
    """Independent weights in a matrix."""
    rng = np.random.default_rng(seed)
    shape = (100, count // 100)
    drawn = rng.standard_normal(shape) if kind == "Gaussian" else rng.laplace(size=shape)
    return drawn.astype(np.float32)


def bound(weights: np.ndarray, kind: str, bits: float) -> float:
    """Least mean squared error at so many bits a weight; Shannon's lower bound of it if Laplacian."""
    if kind == "Gaussian":
        return float(np.square(weights.astype(float)).mean()) * 2 ** (-2 * bits)
    entropy = log2(2 * e * float(np.abs(weights.astype(float)).mean()))
    return 2 ** (2 * (entropy - bits)) / (2 * pi * e)


def measure(weights: np.ndarray, kind: str, bits: float, state_bits: int = coefficients.STATE_BITS) -> Point:
    """Codes weights at about so many bits each."""
    found = fit(weights)
    counted = cost.count_classes(found, weights.shape)
    low, high = found.mean / 2**20, found.mean * 2**3
    for _ in range(40):
        middle = (low * high) ** 0.5
        too_many = cost.estimated_bits(found, counted, middle, state_bits) > bits * weights.size
        low, high = (middle, high) if too_many else (low, middle)
    step = storable_step(low)
    part = Coded(weights.reshape(-1).copy(), weights.shape, step, found.scales(step))
    with (
        mock.patch.object(rows, "encode", wraps=rows.encode) as encode,
        mock.patch.object(segments, "_pack_raw", wraps=segments._pack_raw) as pack_raw,
    ):
        payload = coefficients.encode([part], state_bits, aware=bool(state_bits))
    ideal = sum(conditional_entropy(*call.args[:2]) for call in encode.call_args_list)
    ideal += sum(
        int(tables.RAW_BITS.take(call.args[1]).sum(dtype=np.int64)) for call in pack_raw.call_args_list
    )
    error = float(np.square(weights.reshape(-1).astype(float) - part.values).mean())
    rate = 8 * len(payload) / weights.size
    return Point(rate, 10 * log10(error / bound(weights, kind, rate)), 8 * len(payload) / ideal - 1)


def conditional_entropy(symbols: np.ndarray, table_rows: np.ndarray) -> float:
    """Bits of all symbols given their rows, by their own frequencies."""
    total = 0.0
    for row in np.unique(table_rows):
        counts = np.bincount(symbols[table_rows == row])
        counts = counts[counts > 0]
        total += float(counts @ np.log2(counts.sum() / counts))
    return total


def main() -> None:
    """Prints the table."""
    print("| weights | number | target, bits | coded, bits | gap to the bound, dB | coded above entropy |")
    print("|---|---|---|---|---|---|")
    for kind in KINDS:
        for count in COUNTS:
            for bits in BITS:
                point = measure(weights_of(kind, count), kind, bits)
                print(
                    f"| {kind} | {count:,} | {bits} | {point.bits:.3f} | {point.gap_db:.2f} "
                    f"| {point.excess:+.2%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
