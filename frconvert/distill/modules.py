"""A torch module as a checkpoint, and its parameters as coefficients."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.coding import cost
from frconvert.distill.coefficients import Basis, Coefficients, forward_dct, register, trained
from frconvert.distill.settings import Settings
from frconvert.distill.start import Begin
from frconvert.distill.tuned import Tuned
from frconvert.dtypes import is_float
from frconvert.errors import UnsupportedError, UsageError
from frconvert.spectral import zigzag
from frconvert.torch_graph import GraphModule

_LONGEST_TRANSFORM = 8192  # a basis is a dense matrix


def checkpoint_of_module(module: nn.Module) -> Checkpoint:
    """All parameters and buffers of a module's state dict; tied ones once."""
    entries: list[TensorEntry] = []
    owners: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise UnsupportedError(f"the state of the module has {name!r}, which is no tensor")
        values = _to_numpy(tensor)
        key = tensor.data_ptr(), tuple(tensor.shape), tensor.stride()
        owner = owners.setdefault(key, name) if tensor.numel() else name
        tied = None if owner == name else owner
        dtype = str(values.dtype)
        entries.append(TensorEntry(name, tuple(values.shape), dtype, partial(values.copy), tied))
    return Checkpoint(tuple(entries), "pytorch")


def _to_numpy(tensor: Tensor) -> NDArray[np.generic]:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes  # noqa: PLC0415

        words: NDArray[Any] = tensor.view(torch.uint16).numpy()
        return words.view(ml_dtypes.bfloat16)
    found: NDArray[Any] = tensor.numpy()
    return found


@dataclass(slots=True)
class Student:
    """A module that is being fine-tuned.

    Attributes:
        module: with parametrised weights.
        parts: how, by name of the parameter.
        coarseness: of each, its step at the start in root mean squares of the original, or of the prefix of
            it that will be left.
        tables: those of which rows are looked up.
    """

    module: nn.Module
    parts: dict[str, Coefficients]
    coarseness: dict[str, float]
    tables: frozenset[str] = frozenset()

    @property
    def coefficients(self) -> dict[str, nn.Parameter]:
        """The q of each."""
        return {name: trained(self.module, name) for name in self.parts}

    @property
    def others(self) -> dict[str, nn.Parameter]:
        """All other float parameters: biases, normalisation."""
        ours = {id(q) for q in self.coefficients.values()}
        ours |= {id(part.log_step) for part in self.parts.values()}
        return {
            name: value
            for name, value in self.module.named_parameters()
            if id(value) not in ours and value.is_floating_point()
        }

    def tuned(self) -> dict[str, Tuned]:
        """Everything trained, by the names of the original's state dict."""
        found = {}
        for name, part in self.parts.items():
            symbols = trained(self.module, name).detach().round()
            if part.support is not None:
                symbols = symbols * part.support
            integers = symbols.to(torch.int32).cpu().numpy()
            found[name] = Tuned(integers, part.step, part.basis.axes, shape=part.shape)
        rest = dict(self.others)
        rest |= {name: each for name, each in self.module.named_buffers() if each.is_floating_point()}
        persistent = self.module.state_dict()
        return found | {name: Tuned(values=_to_numpy(rest[name])) for name in rest if name in persistent}


def make_student(module: nn.Module, settings: Settings, begin: Mapping[str, Begin] | None = None) -> Student:
    """Parametrises the float parameters with two or more axes that the settings select, in place.

    A parameter that several parts of the module share stays as it is, and is not trained.

    Args:
        module: the original, which becomes the student.
        settings: of the run.
        begin: by name, tensors to begin with instead of the original's.

    Raises:
        UsageError: a name in `settings.bases` is no such parameter; or nothing is selected.
    """
    shared = _shared(module)
    parts: dict[str, Coefficients] = {}
    coarseness: dict[str, float] = {}
    tables = _tables(module, settings)
    weights = {
        name: value
        for name, value in module.named_parameters()
        if value.ndim >= 2 and value.numel() and is_float(str(value.dtype).removeprefix("torch."))
    }
    for name in settings.bases:
        if name not in weights:
            raise UsageError(f"the module has no float parameter {name!r} with two or more axes")
    scales = {name: float(value.detach().square().mean().sqrt()) for name, value in weights.items()}
    state = module.state_dict()
    for name, item in (begin or {}).items():
        if item.values is not None:
            state[name].copy_(torch.from_numpy(item.values.astype(np.float32)))
    for name, value in weights.items():
        selected = not settings.include or any(fnmatchcase(name, glob) for glob in settings.include)
        excluded = any(fnmatchcase(name, glob) for glob in settings.exclude)
        excluded = excluded or bool(settings.budgets and name not in settings.budgets)
        if not selected or excluded or id(value) in shared or not scales[name]:
            value.requires_grad_(False)
            continue
        paper = Basis(tuple(range(value.ndim))) if settings.budgets else None
        basis = settings.bases.get(name) or paper or _cheapest(value)
        if name in tables and 0 in basis.axes:  # its rows must stay apart
            basis = Basis(tuple(axis for axis in basis.axes if axis))
        if name in settings.budgets:
            scales[name] = _prefix_scale(value, basis, settings.budgets[name]) or scales[name]
        step = settings.coarseness * scales[name]
        known = (begin or {}).get(name)
        if known is not None and known.step is not None:
            basis, step = Basis(known.axes), known.step
        coarseness[name] = step / scales[name]
        parts[name] = register(module, name, basis, step)
    if not parts:
        raise UsageError("no parameter is selected for fine-tuning; loosen --include and --exclude")
    return Student(module, parts, coarseness, tables & parts.keys())


def _prefix_scale(weight: Tensor, basis: Basis, count: int) -> float:
    """Root mean square of the first coefficients in zigzag order."""
    shape = basis.view or tuple(weight.shape)
    coefficients = forward_dct(weight.detach().reshape(shape), basis.axes).reshape(-1)
    return float(coefficients[torch.from_numpy(zigzag.prefix(shape, count))].square().mean().sqrt())


def _tables(module: nn.Module, settings: Settings) -> frozenset[str]:
    """Parameters of which rows are looked up."""
    found = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Embedding)}
    if isinstance(module, GraphModule):
        found |= module.tables
    for name, _ in module.named_parameters():
        if any(fnmatchcase(name, glob) for glob in settings.tables):
            found.add(name)
    return frozenset() if settings.budgets else frozenset(found)


def _cheapest(weight: Tensor) -> Basis:
    axes = cost.choose_axes(weight.detach().float().cpu().numpy())
    return Basis(tuple(axis for axis in axes if weight.shape[axis] <= _LONGEST_TRANSFORM))


def _shared(module: nn.Module) -> set[int]:
    seen: dict[int, int] = {}
    for _, value in module.named_parameters(remove_duplicate=False):
        seen[id(value)] = seen.get(id(value), 0) + 1
    return {key for key, count in seen.items() if count > 1}


def load_tuned(module: nn.Module, tuned: Mapping[str, Tuned]) -> None:
    """Puts what a file restores into a plain module of the same structure."""
    state = module.state_dict()
    for name, item in tuned.items():
        state[name].copy_(torch.from_numpy(item.dense().astype(np.float32)))
