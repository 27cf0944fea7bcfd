"""Uniform scalar quantisation and the step sizes that the format can name.

A coefficient c becomes k = round(c / step) and is restored as k * step, so |c - k * step| <= step / 2 before
the inverse transform. A step is stored in 16 bits: those after the sign of a positive normal float32 (8 bits
of exponent, 8 of mantissa), fine enough to be within 0.4 % of any wish.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.coding.models import MAXIMUM_MAGNITUDE
from frconvert.errors import DamagedError

_SMALLEST_CODE, _LARGEST_CODE = 0x0100, 0xFE00  # 2^-126 to 2^127


def step_code(step: float) -> int:
    """Code of the largest storable step that is not above `step`, clipped to the storable range."""
    bits = int(np.float32(min(step, 2.0**127)).view(np.uint32)) if step > 0 else 0
    code = min(max(bits >> 15, _SMALLEST_CODE), _LARGEST_CODE)
    # The conversion to float32 may have rounded up across a code.
    return code - 1 if code > _SMALLEST_CODE and step_of_code(code) > step else code


def step_of_code(code: int) -> float:
    """The step that a code stands for; a positive normal float32.

    Raises:
        DamagedError: the code stands for no step.
    """
    if not _SMALLEST_CODE <= code <= _LARGEST_CODE:
        raise DamagedError(f"quantiser step code {code:#06x} is out of range")
    return float(np.uint32(code << 15).view(np.float32))


def storable_step(step: float) -> float:
    """The largest storable step not above `step`."""
    return step_of_code(step_code(step))


def quantise(coefficients: NDArray[Any], step: float) -> NDArray[np.int32]:
    """Nearest multiples of `step`, clipped to what the coder takes. Overwrites its finite input."""
    scaled = np.divide(coefficients, coefficients.dtype.type(step), out=coefficients)
    np.rint(scaled, out=scaled)
    np.clip(scaled, -MAXIMUM_MAGNITUDE, MAXIMUM_MAGNITUDE, out=scaled)
    symbols: NDArray[np.int32] = scaled.astype(np.int32)
    return symbols


def dequantise(symbols: NDArray[np.int32], step: float, dtype: type[np.floating]) -> NDArray[np.floating]:
    """The multiples of `step` as floats of `dtype`."""
    values: NDArray[np.floating] = symbols.astype(dtype)
    with np.errstate(over="ignore"):  # only where a file was made to do so
        values *= dtype(step)
    return values


def round_mantissa(values: NDArray[np.generic], mantissa_bits: int) -> NDArray[np.generic]:
    """float32 or float64 values rounded to nearest with `mantissa_bits` bits after the leading one.

    The relative error is at most 2^-(mantissa_bits + 1), whatever the magnitude, which is what biases and
    normalisation statistics need: their small values matter as much as their large ones. NaN and infinities
    stay; a finite value that would round up to infinity stays exact.
    """
    total = {np.dtype(np.float32): 23, np.dtype(np.float64): 52}.get(values.dtype)
    if total is None or mantissa_bits >= total:
        return values
    words: NDArray[Any] = values.view(np.uint32 if total == 23 else np.uint64)
    drop = total - mantissa_bits
    half_less_one = (1 << (drop - 1)) - 1
    rounded = (words + half_less_one + ((words >> drop) & 1)) >> drop << drop
    result = rounded.view(values.dtype)
    return np.where(np.isfinite(values) & np.isfinite(result), result, values)
