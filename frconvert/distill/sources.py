"""What the command line names: modules and batches, from functions of the user's or from files."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from frconvert import calibration
from frconvert.calibration import InputSpec, functions
from frconvert.calibration.inputs import by_name, conform
from frconvert.errors import UsageError, one_line


def module_of(source: str) -> nn.Module:
    """What `module:function` returns.

    Raises:
        UsageError: it fails, or returns something else.
    """
    try:
        module = functions.find(source)()
    except Exception as error:  # it is the user's code
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{source}: failed: {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"{source}: gave {type(module).__name__}, not a torch.nn.Module")
    return module


def batches_of(
    source: str, *, labelled: bool, inputs: Sequence[InputSpec] | None = None
) -> Callable[[int], Iterable[Any]]:
    """A function of the epoch that yields batches.

    A function of the user's is called with the number of the epoch if it takes an argument, and what it
    yields is taken as it is. Of a file, samples are cut into batches of 32, in the order of the file, and an
    array "target" is what a task loss compares with. Where it is known what the model takes, its inputs are
    found by their names, and batches are as long as it says.
    """
    if Path(source.partition("?")[0]).exists():
        found = calibration.read(source, None if labelled else inputs, batch=32)

        def from_file(_: int) -> Iterable[Any]:
            for each in found:
                batch = _fitting(each, inputs, source) if labelled and inputs is not None else each
                arrays = [torch.from_numpy(array.copy()) for name, array in batch.items() if name != "target"]
                if not labelled:
                    yield tuple(arrays)
                elif "target" in batch:
                    yield tuple(arrays), torch.from_numpy(batch["target"].copy())
                else:
                    raise UsageError(f"{source}: has no array 'target' for the task loss")

        return from_file
    function = functions.find(source)
    takes_epoch = bool(inspect.signature(function).parameters)

    def from_function(epoch: int) -> Iterable[Any]:
        try:
            yield from function(epoch) if takes_epoch else function()
        except Exception as error:  # it is the user's code
            raise UsageError(f"{source}: failed: {type(error).__name__}: {one_line(error)}") from error

    return from_function


def _fitting(
    batch: Mapping[str, NDArray[np.generic]], inputs: Sequence[InputSpec], source: str
) -> dict[str, NDArray[np.generic]]:
    """The arrays of the inputs, and the target if there is one."""
    known = {name: array for name, array in batch.items() if name != "target"}
    chosen = by_name(known, [spec.name for spec in inputs], source)
    fitting = {spec.name: conform(chosen[spec.name], spec, source) for spec in inputs}
    return fitting | {name: array for name, array in batch.items() if name == "target"}
