"""Batches that a function of the user's yields, named as `module:function`."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.calibration.inputs import InputSpec, by_name, conform
from frconvert.errors import FrqError, UsageError, one_line


def find(source: str) -> Callable[..., Any]:
    """The function that `module:function` names; the module is imported, from the current folder too.

    Raises:
        UsageError: no such module or function, or the import failed.
    """
    module_name, _, name = source.partition(":")
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109  (sys.path holds strings)
        sys.path.insert(0, here)
    try:
        function = getattr(import_module(module_name), name)
    except AttributeError:
        raise UsageError(f"{source}: the module {module_name} has no {name}") from None
    except Exception as error:  # it is the user's code
        raise UsageError(f"{source}: import failed: {type(error).__name__}: {one_line(error)}") from error
    if not callable(function):
        raise UsageError(f"{source}: is no function")
    return function  # type: ignore[no-any-return]


def batches(
    source: str, function: Callable[[], Iterable[Any]], inputs: Sequence[InputSpec] | None
) -> Iterator[dict[str, NDArray[np.generic]]]:
    """What the function yields, by input name and in the inputs' types.

    Raises:
        UsageError: it failed, or what it yields are no such batches.
    """
    try:
        for item in function():
            arrays = _arrays(item, source)
            if inputs is None:
                yield arrays if isinstance(arrays, dict) else {str(n): each for n, each in enumerate(arrays)}
            else:
                chosen = by_name(arrays, [spec.name for spec in inputs], source)
                yield {spec.name: conform(chosen[spec.name], spec, source) for spec in inputs}
    except FrqError:
        raise
    except Exception as error:  # it is the user's code
        raise UsageError(f"{source}: failed: {type(error).__name__}: {one_line(error)}") from error


def _arrays(item: Any, source: str) -> dict[str, NDArray[np.generic]] | list[NDArray[np.generic]]:
    if isinstance(item, Mapping):
        return {str(name): _array(value, source) for name, value in item.items()}
    if isinstance(item, list | tuple):
        return [_array(value, source) for value in item]
    return [_array(item, source)]


def _array(value: Any, source: str) -> NDArray[np.generic]:
    if hasattr(value, "detach"):  # a torch tensor
        value = value.detach().cpu()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{source}: yields {type(value).__name__} of {array.dtype}, not an array of numbers")
    return array
