"""Model-local functions (domain `ai.frconvert`) that make a graph with coefficients readable."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto

OLDEST_IR = 8


def add(model: ModelProto, used: set[str], opset: int) -> None:
    """Puts the functions of those names into a model."""
