"""A torch module that belongs to a checkpoint."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from frconvert.calibration.functions import find
from frconvert.checkpoint import Checkpoint
from frconvert.distill.torch_run import TorchRunner
from frconvert.errors import FrqError, UsageError, one_line


def runner_of(
    checkpoint: Checkpoint, model: str, batches: Iterable[Mapping[str, NDArray[np.generic]]]
) -> TorchRunner:
    """Runs the module that `model` (module:factory) makes, with the checkpoint's values, over all batches.

    Raises:
        UsageError: the factory fails or gives no module, the module and the checkpoint have no tensor in
            common, or the module does not run on the data.
    """
    factory = find(model)
    try:
        module = factory()
    except Exception as error:  # it is the user's code
        raise UsageError(f"{model}: failed: {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"{model}: returns {type(module).__name__}, not a torch module")
    module = module.eval().float().cpu()
    names = match(module, checkpoint)
    if not any(len(checkpoint[name].shape) >= 2 for name in names.values()):
        raise UsageError(f"{model}: has no weight in common with the source, by name and shape or by value")
    tensors = [tuple(torch.from_numpy(np.array(part)) for part in batch.values()) for batch in batches]
    try:
        return TorchRunner(module, tensors, names)
    except FrqError:
        raise
    except Exception as error:  # it is the user's code
        raise UsageError(f"{model}: does not run: {type(error).__name__}: {one_line(error)}") from error


def match(module: torch.nn.Module, checkpoint: Checkpoint) -> dict[str, str]:
    """The module's parameters -> the checkpoint's tensors that they are, by name and shape or else by value.

    Those that agree by name take the checkpoint's values, and so do buffers.
    """
    known = {entry.name: entry for entry in checkpoint.stored}
    tied = {entry.name: entry.tied_to for entry in checkpoint if entry.tied_to is not None}
    names: dict[str, str] = {}
    rest: dict[str, torch.Tensor] = {}
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, tensor in module.state_dict(keep_vars=True).items():
            entry = known.get(tied.get(name) or name)
            if entry is not None and entry.shape == tuple(tensor.shape):
                tensor.copy_(torch.from_numpy(_plain(entry.read())))
                if name in parameters:
                    names[name] = entry.name
            elif name in parameters:
                rest[name] = tensor
    if rest:
        by_value = {tensor.detach().numpy().tobytes(): name for name, tensor in rest.items()}
        shapes = {tuple(tensor.shape) for tensor in rest.values()}
        for entry in checkpoint.stored:
            if entry.shape in shapes and entry.name not in names.values():
                found = by_value.get(_plain(entry.read()).astype(np.float32).tobytes())
                if found is not None:
                    names[found] = entry.name
    return names


def _plain(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """A writable array of a type that torch knows."""
    is_narrow = values.dtype.kind == "f" and values.dtype.itemsize < 4
    return values.astype(np.float32) if is_narrow or values.dtype.kind not in "biuf" else np.array(values)


__all__ = ["match", "runner_of"]
