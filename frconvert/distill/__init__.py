"""Refining coefficients against what the original model computes.

The modules here that train import torch; nothing outside does because of them. The package can be called:
`frconvert.distill(...)` is `frconvert.finetune.distill`, under the name that users look for.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A package that is also the function of its name; Python sets it as an attribute of its parent."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return import_module("frconvert.finetune").distill(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
