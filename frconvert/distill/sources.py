"""What the command line names: modules and batches, from functions of the user's or from files."""

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from frconvert import calibration
from frconvert.calibration import functions
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


def batches_of(source: str, *, labelled: bool) -> Callable[[int], Iterable[Any]]:
    """A function of the epoch that yields batches.

    A function of the user's is called with the number of the epoch if it takes an argument, and what it
    yields is taken as it is. Of a file, samples are cut into batches of 32, in the order of the file, and an
    array "target" is what a task loss compares with.
    """
    if Path(source.partition("?")[0]).exists():
        found = calibration.read(source, batch=32)

        def from_file(_: int) -> Iterable[Any]:
            for batch in found:
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
