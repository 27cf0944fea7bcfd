"""Rounding with error feedback: integers for a matrix whose inputs have a known Gram matrix.

A layer's output changes by (W - Q) x, so its squared error over a calibration set is the sum over rows e of
W - Q of e H e', H being the Gram matrix of the inputs. Columns are rounded one after another, and what each
rounding does wrong is made good by the columns that are still free (Frantar et al., "GPTQ", ICLR 2023; Chee
et al., "QuIP", NeurIPS 2023, show it to be the optimal linear feedback). A symbol is chosen by its error and
its bits together.

Law: with an H that is a multiple of the identity and free bits, the result is plain rounding.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frconvert.coding import tables
from frconvert.coding.fit import Fit
from frconvert.coding.scales import Scales, classes

_BLOCK = 128
_ROWS = 4096  # of a lookup table, rounded at a time
_LARGEST = 126  # magnitudes that have a frequency of their own

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prices:
    """Bits of symbols by scale class, so that a choice can weigh them.

    Attributes:
        bits: float32 [classes, 256], of the symbols -128..127.
        classes: uint8 [columns, rows].
    """

    bits: Matrix
    classes: NDArray[np.uint8]


def bits_of_symbols(tail: int) -> Matrix:
    """Bits of the symbols -128..127 of the uniform quantiser: float32 [classes, 256]."""
    return np.ascontiguousarray(prices_of_tail(tail)[:, 0])


def damped(gram: NDArray[np.floating], damping: float) -> NDArray[np.float64]:
    """The Gram matrix with `damping` times its mean diagonal added to it; the identity if it is zero."""
    result = gram.astype(np.float64)
    mean = float(np.trace(result)) / len(result)
    if not mean > 0:
        return np.eye(len(result))
    result[np.diag_indices_from(result)] += damping * mean
    return result


def prices_of_tail(tail: int) -> Matrix:
    """Bits of the symbols -128..127 of both quantisers: float32 [classes, quantiser bit, 256]."""
    prices = np.empty((tables.CLASSES, 2, tables.ALPHABET), np.float32)
    for number in range(tables.CLASSES):
        for half_way in (False, True):
            narrow = min(number, tables.WIDE_CLASS - 1)
            prices[number, int(half_way)] = np.minimum(tables.bits(tail, narrow, half_way=half_way), 24)
    return prices


def round_with_feedback(
    weights: NDArray[np.floating],
    gram: NDArray[np.float64],
    step: float,
    prices: Prices | None = None,
    worth: float = 0.0,
) -> NDArray[np.int32]:
    """Integers k for which k * step makes little output error, and few bits.

    Args:
        weights: [rows, columns].
        gram: [columns, columns] symmetric, positive definite.
        step: of the quantiser.
        prices: of the symbols; None rounds to nearest.
        worth: squared error, in squared steps times the mean error weight of the columns, that a bit is
            worth.
    """
    rest = (weights / step).astype(np.float32)
    order = np.argsort(-np.diag(gram), kind="stable")
    upper = inverse_factor(gram[np.ix_(order, order)])
    diagonal = np.diag(upper).astype(np.float64)
    error_weight = 1 / np.square(diagonal)
    worth *= float(error_weight.mean())
    upper = upper.astype(np.float32)
    working = np.ascontiguousarray(rest[:, order].T)  # a column of the weights is a row here
    symbols = np.zeros(working.shape, np.float32)
    columns = len(order)
    for first in range(0, columns, _BLOCK):
        last = min(first + _BLOCK, columns)
        errors = np.empty((last - first, working.shape[1]), np.float32)
        for place in range(first, last):
            column = working[place]
            chosen = _choose(column, prices, int(order[place]), worth / error_weight[place])
            symbols[place] = chosen
            error = (column - chosen) / np.float32(diagonal[place])
            errors[place - first] = error
            if place + 1 < last:
                working[place + 1 : last] -= upper[place, place + 1 : last, None] * error
        working[last:] -= upper[first:last, last:].T @ errors
    result = np.empty(symbols.shape, np.int32)
    result[order] = symbols
    return np.ascontiguousarray(result.T)


def least_squares(
    weights: NDArray[np.floating], gram: NDArray[np.float64], support: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The rows without what is not in their support and with the least output error.

    Args:
        weights: [rows, columns].
        gram: [columns, columns] symmetric, positive definite.
        support: of the same shape as the weights.
    """
    result = np.zeros(weights.shape)
    masks, which = np.unique(support, axis=0, return_inverse=True)
    for number, mask in enumerate(masks):
        kept, dropped = np.flatnonzero(mask), np.flatnonzero(~mask)
        rows = np.flatnonzero(which.reshape(-1) == number)
        if not kept.size:
            continue
        found = weights[np.ix_(rows, kept)].astype(np.float64)
        if dropped.size:
            lost = weights[np.ix_(rows, dropped)] @ gram[np.ix_(dropped, kept)]
            found += np.linalg.solve(gram[np.ix_(kept, kept)], lost.T).T
        result[np.ix_(rows, kept)] = found
    return result


def round_rows(
    weights: NDArray[np.floating], counts: NDArray[np.float64], step: float, found: Fit, worth: float
) -> NDArray[np.int32]:
    """As `round_with_feedback`, for rows whose errors count so many times and no feedback between columns."""
    scale = found.scales(step)
    bits = bits_of_symbols(scale.shape)
    result = np.empty(weights.shape, np.int32)
    relative = counts / counts.mean()
    rows_of_scale, others = scale.offsets[0], scale.offsets[1:]
    for first in range(0, len(weights), _ROWS):
        here = slice(first, first + _ROWS)
        part = (weights[here] / step).astype(np.float32)
        own = None if rows_of_scale is None else rows_of_scale[here]
        of = classes(Scales(scale.shape, scale.base, (own, *others)), part.shape)
        price = (worth / relative[here, None]).astype(np.float32)
        result[here] = cheapest(part, of.astype(np.int32) * 256 + 128, bits, price)
    return result


def _choose(column: Matrix, prices: Prices | None, number: int, worth: float) -> Matrix:
    nearest = np.clip(np.rint(column), -_LARGEST, _LARGEST)
    if prices is None or not worth:
        return nearest
    row = prices.classes[number].astype(np.int32) * 256 + 128
    return cheapest(column, row, prices.bits, np.float32(worth))


def cheapest(column: Matrix, row: NDArray[np.int32], bits: Matrix, worth: Matrix | np.float32) -> Matrix:
    """Of the nearest integer, the next one towards zero and zero the one with the least cost."""
    nearest = np.clip(np.rint(column), -_LARGEST, _LARGEST)
    best, least = nearest, _cost(nearest, column, row, bits, worth)
    inner = nearest - np.sign(nearest)
    for candidate in (inner, np.zeros_like(nearest)):
        cost = _cost(candidate, column, row, bits, worth)
        better = cost < least
        best = np.where(better, candidate, best)
        least = np.where(better, cost, least)
    return best


def _cost(
    symbols: Matrix, column: Matrix, row: NDArray[np.int32], bits: Matrix, worth: Matrix | np.float32
) -> Matrix:
    gap = column - symbols
    cost: Matrix = gap * gap + worth * bits.take(row + symbols.astype(np.int32))
    return cost


def inverse_factor(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper triangular U with U' U = inverse of the Gram matrix."""
    from scipy import linalg  # noqa: PLC0415  (a quarter of a second)

    # gram = V V' with V upper triangular, from the factor of the reversed matrix; U is V's inverse.
    lower = linalg.cholesky(gram[::-1, ::-1], lower=True)
    inverse: NDArray[np.float64]
    inverse, singular = linalg.lapack.dtrtri(lower[::-1, ::-1], lower=0)
    if singular:
        raise linalg.LinAlgError(f"the Gram matrix is singular at column {singular - 1}")
    return inverse


def solved(gram: NDArray[np.float64], sides: NDArray[np.floating]) -> NDArray[np.float64]:
    """`sides` [rows, columns] times the inverse of the Gram matrix."""
    from scipy import linalg  # noqa: PLC0415  (as above)

    factor = linalg.cho_factor(gram, check_finite=False)
    result: NDArray[np.float64] = linalg.cho_solve(factor, sides.T, check_finite=False).T
    return result
