"""What a student should do like its teacher: outputs, intermediate features, and the task itself."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from frconvert.errors import UsageError

LOGITS, PROBABILITIES, VALUES = "logits", "probabilities", "values"

_LEAST = 1e-7  # probability, before its logarithm is taken

Batch = Any  # a tensor, a tuple of arguments, or a dict of keyword arguments
TaskLoss = Callable[[Any, Any], Tensor]  # outputs of the student, target -> scalar


def call(module: nn.Module, inputs: Batch) -> Any:
    """The module's outputs for a batch of whatever form."""
    if isinstance(inputs, Mapping):
        return module(**inputs)
    return module(*inputs) if isinstance(inputs, tuple | list) else module(inputs)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """All tensors of a batch, however nested, on that device."""
    if isinstance(batch, Mapping):
        return {name: to_device(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(to_device(value, device) for value in batch)
    return torch.as_tensor(batch).to(device)


def tensors_of(outputs: Any) -> list[Tensor]:
    """The floating-point tensors of a module's outputs, in order."""
    if isinstance(outputs, Tensor):
        return [outputs] if outputs.is_floating_point() else []
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, tuple | list):
        return [each for item in outputs for each in tensors_of(item)]
    return []


def distance(student: Any, teacher: Any, kind: str, temperature: float) -> Tensor:
    """How far outputs are from the teacher's.

    LOGITS: T^2 times the Kullback-Leibler divergence of softmax(teacher / T) and softmax(student / T) along
    the last axis (Hinton, Vinyals, Dean, arXiv 1503.02531). PROBABILITIES: the same of their logarithms, for
    models that end in a softmax. VALUES: the squared error over the teacher's
    mean square. Each is a mean over samples; several outputs are added up.
    """
    pairs = list(zip(tensors_of(student), tensors_of(teacher), strict=True))
    if not pairs:
        raise UsageError("the module's outputs have no floating-point tensor to distil from")
    losses = []
    if kind == PROBABILITIES:
        pairs = [(ours.clamp(min=_LEAST).log(), theirs.clamp(min=_LEAST).log()) for ours, theirs in pairs]
    for ours, theirs in pairs:
        if kind != VALUES:
            width = theirs.shape[-1]
            log_student = functional.log_softmax(ours.reshape(-1, width) / temperature, 1)
            target = functional.log_softmax(theirs.reshape(-1, width) / temperature, 1)
            divergence = functional.kl_div(log_student, target, reduction="batchmean", log_target=True)
            losses.append(divergence * temperature**2)
        else:
            losses.append((ours - theirs).square().mean() / theirs.square().mean().clamp(min=1e-12))
    return torch.stack(losses).sum()


@contextmanager
def watched(module: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A dict that holds, after each call of the module, the outputs of its submodules of those names."""
    seen: dict[str, Any] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            seen[name] = output

        return hook

    handles = []
    try:
        for name in names:
            try:
                part = module.get_submodule(name)
            except AttributeError:
                raise UsageError(f"the module has no part {name!r} whose features could be matched") from None
            handles.append(part.register_forward_hook(keep(name)))
        yield seen
    finally:
        for handle in handles:
            handle.remove()
