"""Orthonormal DCT-II over a chosen subset of a tensor's axes, and its inverse.

The transform is `scipy.fft.dctn(norm="ortho")`: it keeps the sum of squares, so an error made in the
coefficients is the same error in the weights. Laws: `inverse(forward(x, axes), axes)` equals x within float
rounding; the empty set of axes is the identity ("spatial").
"""

import numpy as np
from numpy.typing import NDArray


def working_dtype(dtype: np.dtype[np.generic]) -> type[np.floating]:
    """The float type in which a tensor is transformed: float64 for float64, else float32."""
    return np.float64 if dtype == np.float64 else np.float32


def prepare() -> None:
    """Loads what the transforms need: a quarter of a second that other threads can use."""
    from scipy import fft  # noqa: F401, PLC0415


def forward(
    weights: NDArray[np.generic], axes: tuple[int, ...], *, reuse: bool = False
) -> NDArray[np.floating]:
    """Coefficients of `weights` (any real float dtype) in `working_dtype`, same shape.

    Always a new array, unless `reuse` allows to overwrite the weights and they can be.
    """
    values = weights.astype(working_dtype(weights.dtype), copy=not (reuse and weights.flags.writeable))
    if not axes or not values.size:
        return values
    from scipy import fft  # noqa: PLC0415  (a quarter of a second that `inspect` does not need)

    coefficients: NDArray[np.floating] = fft.dctn(values, axes=axes, norm="ortho", overwrite_x=True)
    return coefficients


def inverse(coefficients: NDArray[np.floating], axes: tuple[int, ...]) -> NDArray[np.floating]:
    """Weights from coefficients, same shape and dtype. May use the memory of its argument."""
    if not axes or not coefficients.size:
        return coefficients
    from scipy import fft  # noqa: PLC0415

    weights: NDArray[np.floating] = fft.idctn(coefficients, axes=axes, norm="ortho", overwrite_x=True)
    return weights
