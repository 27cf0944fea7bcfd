"""Zigzag order: positions of a tensor sorted by (sum of frequency indices, C-order flat index).

The first `keep` positions are a tensor's "support". Cost is that of the corner box that holds the support,
not of the whole tensor, so a prefix of 33 in a tensor of 4 million is found at once.
"""

import numpy as np
from numpy.typing import NDArray


def positions_per_sum(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """How many positions of `shape` have index sum 0, 1, 2, ...: int64 of length sum(n - 1) + 1."""
    counts = np.ones(1, np.int64)
    for length in shape:
        # Multiplying the counts by 1 + x + ... + x^(length-1) is a running sum over a window of that length.
        running = np.cumsum(np.concatenate([counts, np.zeros(length - 1, np.int64)]))
        running[length:] -= running[:-length].copy()
        counts = running
    return counts


def prefix(shape: tuple[int, ...], keep: int) -> NDArray[np.int64]:
    """C-order flat indices of the first `keep` positions in zigzag order, int64 of length `keep`.

    Args:
        shape: lengths of the axes, none of them 0; () has the one position 0.
        keep: from 0 to the number of elements.
    """
    if keep == 0:
        return np.empty(0, np.int64)
    # An index of `keep` or more has that many positions before it on its own axis.
    per_sum = positions_per_sum(tuple(min(length, keep) for length in shape))
    last_sum = int(np.searchsorted(np.cumsum(per_sum), keep))
    sums = np.zeros((), np.int32)
    flat = np.zeros((), np.int64)
    for length in shape:
        index = np.arange(min(length, last_sum + 1))
        sums = sums[..., None] + index.astype(np.int32)
        flat = flat[..., None] * length + index
    inside = sums <= last_sum
    # A stable sort by the sum alone keeps ties in C order, because the box is enumerated in C order.
    order = np.argsort(sums[inside], kind="stable")[:keep]
    chosen: NDArray[np.int64] = flat[inside][order]
    return chosen


def rank(shape: tuple[int, ...], flat_index: int) -> int:
    """Position of a C-order flat index in the zigzag order: how many positions come before it."""
    coordinates = np.unravel_index(flat_index, shape)
    total = int(sum(int(c) for c in coordinates))
    before = int(positions_per_sum(shape)[:total].sum())
    # Among equal sums C order decides: count, axis by axis, the positions that agree up to there and are
    # lower.
    remaining = total
    for axis, coordinate in enumerate(coordinates):
        rest = positions_per_sum(shape[axis + 1 :])
        for lower in range(int(coordinate)):
            if 0 <= remaining - lower < rest.size:
                before += int(rest[remaining - lower])
        remaining -= int(coordinate)
    return before
