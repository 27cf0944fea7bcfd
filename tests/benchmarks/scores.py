"""Scores of the public models' networks, and how far a network's outputs are from the original's."""

import inspect
from collections.abc import Callable
from functools import partial
from math import log10
from typing import Any

import shared
import torch


class Watched:
    """A network that remembers its outputs by its inputs, or compares them with those of another such.

    As a teacher it answers from memory. Outputs of inputs that the reference has not seen do not count.
    """

    def __init__(self, network: Callable[..., torch.Tensor], reference: "Watched | None" = None) -> None:
        self._network, self._reference = network, reference
        self._outputs: dict[tuple[bytes, ...], torch.Tensor] = {}
        self._energy = self._error = 0.0

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        key = tuple(part.contiguous().numpy().tobytes() for part in inputs)
        if key not in self._outputs:
            output = self._network(*inputs)
            self._outputs[key] = output
            expected = None if self._reference is None else self._reference._outputs.get(key)
            if expected is not None:
                self._energy += float(expected.double().square().sum())
                self._error += float((expected.double() - output.double()).square().sum())
        return self._outputs[key]

    @property
    def sqnr_db(self) -> float:
        """10 log10(energy of the reference's outputs / squared error) of all inputs so far."""
        return 10 * log10(self._energy / self._error) if self._error else float("inf")


def scorer(name: str, teacher: Any) -> Callable[[Any], dict[str, float]]:
    """The model's metrics of a network; where they compare with a teacher, with that."""
    score = getattr(shared.models(), f"eval_{name}")
    score = partial(score, teacher=teacher) if "teacher" in inspect.signature(score).parameters else score
    return lambda network: {metric: value for metric, value in score(network).items() if metric != "n"}
