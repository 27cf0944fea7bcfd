"""The paper's rule: how many coefficients of each layer, and how the prefix shrinks while training.

Law: the rule reproduces the budgets in the appendix of arXiv 2304.07973, see `tests/unit/test_distill.py`.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from frconvert.allocate import kept_count
from frconvert.errors import UsageError
from frconvert.spectral import zigzag

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

Schedule = Callable[[float], float]  # share of the steps that is done -> share of the way that is left


def budgets(module: nn.Module, keep: float) -> dict[str, int]:
    """Name of each layer's weight -> number of coefficients: max(keep x size, floor of its kind).

    Raises:
        UsageError: `keep` is no fraction, or the module has no such layer.
    """
    if not 0 <= keep <= 1:
        raise UsageError(f"keep is {keep}; it is a share of the coefficients, from 0 to 1")
    found: dict[str, int] = {}
    for name, part in module.named_modules():
        floor = 128 if isinstance(part, _CONVOLUTIONS) else 256 if isinstance(part, nn.Linear) else 0
        floor = 32 if isinstance(part, _TRANSPOSED) else floor
        if floor:
            size = part.weight.numel()
            count = min(max(kept_count(keep, size), floor), size)
            found[f"{name}.weight" if name else "weight"] = count
    if not found:
        raise UsageError("the module has no convolution and no linear layer")
    return found


def ranks(shape: tuple[int, ...]) -> Tensor:
    """Of each coefficient its place in the zigzag order, int64 of that shape."""
    size = 1
    for length in shape:
        size *= length
    order = torch.from_numpy(zigzag.prefix(shape, size))
    found = torch.empty(size, dtype=torch.int64)
    found[order] = torch.arange(size)
    return found.reshape(shape)


def evenly(ramp: float) -> Schedule:
    """Down to the last prefix over that share of the training."""
    return lambda share: max(0.0, 1 - share / ramp) if ramp else 0.0


def prefixes(counts: Mapping[str, int], sizes: Mapping[str, int], left: float) -> dict[str, int]:
    """Lengths of the prefixes when that share of the way (logarithmic, from all coefficients) is left."""
    return {
        name: min(sizes[name], round(count * (sizes[name] / count) ** left)) for name, count in counts.items()
    }
