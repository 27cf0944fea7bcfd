"""Matrices that are in a graph twice, once as the transpose, as exporters write tied embeddings.

The second one needs a Transpose of the first, and no storage: its coefficients are the same words in another
order of the axes.

Law: where `key(a) == key(b, turned=True)`, `restored(turned(arranged(a))) == b`, bit for bit.
"""

import hashlib
from dataclasses import replace

from frconvert.idct.coefficients import Arranged, Coefficients

Key = tuple[object, ...]


def key(coefficients: Coefficients, *, turned: bool = False) -> Key | None:
    """What two equal matrices have in common, or with `turned` a matrix and the transpose of another.

    None for what is no matrix, or a prefix of a zigzag order, which is not that of the transpose.
    """
    if len(coefficients.shape) != 2 or coefficients.keep is not None:
        return None
    shape, axes = coefficients.shape, coefficients.axes
    values = coefficients.values.reshape(shape)
    if turned:
        shape, axes, values = shape[::-1], _turned(axes), values.T
    digest = hashlib.sha256(values.tobytes()).digest()
    return shape, coefficients.dtype, tuple(sorted(axes)), coefficients.step, values.dtype.name, digest


def turned(stored: Arranged) -> Arranged:
    """The transpose, of the same words.

    Raises:
        ValueError: they are in zigzag order.
    """
    if stored.order is None:
        raise ValueError("a zigzag order is not that of the transpose")
    axes, order = tuple(sorted(_turned(stored.axes))), _turned(stored.order)
    return replace(stored, shape=stored.shape[::-1], axes=axes, order=order, box=stored.box[::-1])


def _turned(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 - axis for axis in axes)
