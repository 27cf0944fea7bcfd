"""All operators by name. ONNX's own domain only: those of others are not known."""

from collections.abc import Callable, Mapping
from typing import Any

from frconvert.torch_graph import (
    control,
    elementwise,
    indexing,
    matrices,
    recurrent,
    reductions,
    sampling,
    shapes,
    windows,
)

CONTROL: Mapping[str, Callable[..., Any]] = control.OPERATORS

OPERATORS: Mapping[str, Callable[..., Any]] = {
    **elementwise.OPERATORS,
    **indexing.OPERATORS,
    **matrices.OPERATORS,
    **recurrent.OPERATORS,
    **reductions.OPERATORS,
    **sampling.OPERATORS,
    **shapes.OPERATORS,
    **windows.OPERATORS,
    **CONTROL,
}


def find(domain: str, operator: str) -> Callable[..., Any] | None:
    """What computes an operator, or None; "" is ONNX's own domain."""
    return OPERATORS.get(operator) if domain == "" else None
