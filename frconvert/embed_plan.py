"""Plans of tensors whose coefficients are stored as fixed-width words in an ONNX graph.

A look at a tensor tries a few transforms and prefixes of the zigzag order at a few steps, on a sample where
it is large, and keeps what storage and error came of them. From that the cheapest way to an allowed error is
read off.

Law: `choose(look, error)` falls in bits and grows in error as the allowed error grows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf, log2, prod

import numpy as np
from numpy.typing import NDArray

from frconvert.allocate import Survey
from frconvert.coding import cost, quantize
from frconvert.coding.quantize import storable_step
from frconvert.coding.record import Plan
from frconvert.coding.scales import MOST_AXES
from frconvert.dtypes import ITEM_BYTES
from frconvert.idct.coefficients import BASIS_BYTES, FOLD_BYTES
from frconvert.idct.storage import pack
from frconvert.spectral import analyze, dct, zigzag

_GRID = np.arange(-10, 3.0)  # log2 of step / root mean square
_DROPPED_DB = np.arange(10, 72, 4.0)  # how far below a tensor's energy lies what a prefix leaves out
_LONGEST_PREFIX = 0.5  # of the elements; a longer one saves nothing
_BLOCKS = 64  # for an estimate of storage
_WORTH = {False: 1.0, True: 1.03}  # a transform takes a runtime time and memory, so it must save something
_NODES_BYTES = 250  # nodes, names and metadata of a tensor, about


@dataclass(frozen=True, slots=True)
class Way:
    """One way to store a tensor, and what comes of it.

    Attributes:
        axes, keep: as in `Plan`.
        bytes_at, error_at: for each step of `_GRID`, in units of `scale`: bytes, and squared error in total.
        scale: root mean square of what is quantised.
    """

    axes: tuple[int, ...]
    keep: int | None
    scale: float
    bytes_at: NDArray[np.float64] = field(repr=False)
    error_at: NDArray[np.float64] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Look:
    """What planning knows of a tensor.

    Attributes:
        size: number of elements; dense_bytes: at its own type.
        energy: sum of squares.
        ways: to store it.
        is_settled: the support is given, and what it leaves out no matter of the step.
    """

    size: int
    dense_bytes: int
    energy: float
    ways: tuple[Way, ...]
    is_settled: bool = False

    @property
    def survey(self) -> Survey:
        """What `allocate.units` asks for."""
        nothing = np.zeros(0, np.int64)
        return Survey(
            (),
            None,
            self.size,
            self.size,
            self.energy,
            self.energy,
            0.0,
            None,
            nothing,
            nothing,
            32.0,
            Plan(),
        )


def look(
    weights: NDArray[np.generic],
    dtype: str,
    *,
    axes: tuple[int, ...] | None = None,
    keep: int | None = None,
    spatial: bool = False,
) -> Look | None:
    """Looks at one tensor of real floats; None if only exact storage is possible.

    Args:
        weights: with two or more axes and at least one element.
        dtype: the name of its dtype.
        axes: transform these; None tries some.
        keep: so many coefficients of all axes.
        spatial: transform nothing.
    """
    shape = weights.shape
    item = max(4, ITEM_BYTES[dtype])
    if weights.ndim > MOST_AXES or prod(shape) * item >= FOLD_BYTES or not analyze.all_finite(weights):
        return None
    if (weights == weights.reshape(-1)[0]).all():  # one value, which is stored as that
        return None
    energy = analyze.sum_of_squares(weights)
    if not 1e-60 < energy / weights.size < 1e60:
        return None
    everywhere = tuple(range(weights.ndim))
    if keep is not None:
        way = _prefix_way(dct.forward(weights, everywhere), 0.0, keep)
        return Look(weights.size, prod(shape) * ITEM_BYTES[dtype], energy, (way,), is_settled=True)
    if spatial or axes is not None:
        ways = [_dense_way(weights, () if axes is None else axes)]
    else:
        ways = [_dense_way(weights, ())]
        chosen = cost.choose_axes(weights)
        if chosen and not _is_costly(shape, chosen):
            ways.append(_dense_way(weights, chosen))
        if not _is_costly(shape, everywhere):
            ways += _prefix_ways(dct.forward(weights, everywhere), energy)
    return Look(weights.size, prod(shape) * ITEM_BYTES[dtype], energy, tuple(ways))


def choose(found: Look, error: float) -> tuple[Plan, float]:
    """The plan of least bytes with that squared error in total, and about how many bytes it takes."""
    best, least = Plan(), inf if found.is_settled else float(found.dense_bytes)
    for way in found.ways:
        level = _level(way, error)
        if level is None:
            continue
        size = _WORTH[bool(way.axes)] * float(np.interp(level, _GRID, way.bytes_at)) + _NODES_BYTES
        if size < least:
            best, least = Plan(way.axes, way.keep, storable_step(way.scale * 2**level)), size
    return best, least


def _level(way: Way, error: float) -> float | None:
    """log2 of the coarsest step, in units of the scale, that keeps within the error."""
    if error >= way.error_at[-1]:
        return float(_GRID[-1])
    if error < way.error_at[0]:
        # Far below the grid the error of rounding is known; that of a prefix never gets there.
        if way.keep is not None or not error:
            return None
        return max(float(_GRID[0]) + 0.5 * log2(error / way.error_at[0]), -40.0)
    return float(np.interp(np.log2(error), np.log2(way.error_at), _GRID))


def _is_costly(shape: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    return any(4 * shape[axis] ** 2 > BASIS_BYTES for axis in axes)


def _dense_way(weights: NDArray[np.generic], axes: tuple[int, ...]) -> Way:
    """All coefficients, those of the same frequency together."""
    sample = analyze.crop(weights)
    values = dct.forward(sample, axes)
    others = tuple(axis for axis in range(values.ndim) if axis not in axes)
    sequence = values.transpose(axes + others).reshape(-1)
    return _way(sequence, axes, None, weights.size / sample.size, 0.0)


def _prefix_ways(coefficients: NDArray[np.floating], energy: float) -> Iterator[Way]:
    """Prefixes that leave out about so and so much."""
    shape = coefficients.shape
    sums = np.zeros((1,) * coefficients.ndim, np.int32)
    for axis, length in enumerate(shape):
        sums = sums + np.arange(length, dtype=np.int32).reshape(
            [-1 if a == axis else 1 for a in range(len(shape))]
        )
    by_sum = np.bincount(sums.reshape(-1), np.square(coefficients.astype(np.float64)).reshape(-1))
    kept = np.cumsum(zigzag.positions_per_sum(shape))
    dropped = np.maximum(energy - np.cumsum(by_sum), 0.0)
    wanted = energy * 10 ** (-_DROPPED_DB / 10)
    shells = np.searchsorted(-dropped, -wanted)
    for shell in dict.fromkeys(shells.tolist()):
        if shell < len(kept) and kept[shell] <= _LONGEST_PREFIX * coefficients.size:
            yield _prefix_way(coefficients, energy, int(kept[shell]))


def _prefix_way(coefficients: NDArray[np.floating], energy: float, keep: int) -> Way:
    sequence = coefficients.reshape(-1)[zigzag.prefix(coefficients.shape, keep)]
    dropped = max(energy - analyze.sum_of_squares(sequence), 0.0)
    stride = -(-sequence.size // analyze.SAMPLE)
    sample = sequence[::stride]
    return _way(sample, tuple(range(coefficients.ndim)), keep, sequence.size / sample.size, dropped)


def _way(
    sequence: NDArray[np.floating], axes: tuple[int, ...], keep: int | None, repeats: float, dropped: float
) -> Way:
    scale = analyze.root_mean_square(sequence) or 1.0
    sizes, errors = [], []
    wide = sequence.astype(np.float64)
    for step in (scale * 2**_GRID).tolist():
        integers = quantize.quantise(wide.copy(), step)
        sizes.append(pack(integers, _BLOCKS).size_bytes * repeats)
        errors.append(float(np.square(wide - integers * step).sum()) * repeats + dropped)
    # Interpolation wants both to be monotonous.
    bytes_at = np.minimum.accumulate(np.array(sizes))
    error_at = np.maximum.accumulate(np.maximum(np.array(errors), 1e-300))
    return Way(axes, keep, scale, bytes_at, error_at)
