"""Where fine-tuning may begin: at weights refined in closed form, on the grid of the uniform quantiser.

Training then need not find again what the Gram matrices of the inputs say. Closed form aims at the size that
is asked for, so that training has nothing to take away: in a short run that costs more than it brings.

Law: rounding the coefficients of what is begun with changes nothing.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frconvert import importers
from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.coding.record import UNIFORM, Layout
from frconvert.distill import losses
from frconvert.distill.calibrated import ClosedForm
from frconvert.distill.settings import Settings
from frconvert.distill.torch_run import TorchRunner
from frconvert.encode import Options
from frconvert.errors import TargetError, UsageError, one_line
from frconvert.rules import Rule
from frconvert.search import compress
from frconvert.target import Target
from frconvert.torch_graph import GraphModule

_SHARE = 0.97  # of the bytes asked for: fine-tuned tensors take a little more than what closed form writes
_MOST_SAMPLES, _MOST_VALUES = 4000, 1 << 25  # of the inputs that are looked at


@dataclass(frozen=True, slots=True)
class Begin:
    """One tensor to begin with.

    Attributes:
        axes: the transformed ones.
        step: of the quantiser; None if it is not quantised.
        values: dense; None where they are known from elsewhere.
    """

    axes: tuple[int, ...]
    step: float | None
    values: NDArray[np.generic] | None = field(default=None, repr=False)


def closed_form(
    module: nn.Module,
    batches: Iterable[losses.Batch],
    checkpoint: Checkpoint,
    settings: Settings,
) -> dict[str, Begin]:
    """Refines a module on the first of the batches, for a file of the size that is asked for.

    Args:
        module: the original; it is not changed.
        batches: of inputs.
        checkpoint: what the file will hold, by the names of the module's state dict.
        settings: of the run, with a size.

    Returns:
        All parameters, by name.

    Raises:
        FrqError: the model cannot be refined on these data, or not to that size.
    """
    taken: list[tuple[Tensor, ...]] = []
    samples = values = 0
    for batch in batches:
        taken.append(_by_position(module, batch))
        samples += len(taken[-1][0]) if taken[-1][0].ndim else 1
        values += sum(part.numel() for part in taken[-1])
        if samples >= _MOST_SAMPLES or values >= _MOST_VALUES:
            break
    if not taken:
        raise UsageError("the calibration data have no batches")
    names = {name: name for name, _ in module.named_parameters()}
    try:
        runner = TorchRunner(copy.deepcopy(module).eval().cpu().float(), taken, names)
    except Exception as error:  # it is the user's code
        raise UsageError(
            f"refining first: the model does not run: {type(error).__name__}: {one_line(error)}"
        ) from error
    options = Options(include=settings.include, exclude=settings.exclude, rules=(Rule(method="uniform"),))
    target = Target("size", _SHARE * (settings.size or 0.0))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "start.frq"
        try:
            refinement = ClosedForm(runner, checkpoint)
            compress(checkpoint, lambda: path.open("wb"), target, options, refinement=refinement)
        except TargetError as error:
            raise TargetError(f"refining first, for {_SHARE:g} of the size: {error}") from error
        refined = {entry.name: entry for entry in importers.load(path)}
        return {name: _begin(refined[name]) for name in names if name in refined}


def _by_position(module: nn.Module, batch: losses.Batch) -> tuple[Tensor, ...]:
    if isinstance(batch, Mapping):
        known = module.inputs if isinstance(module, GraphModule) else signature(module.forward).parameters
        names = list(known)[: len(batch)]
        if set(names) != set(batch):
            raise UsageError(
                f"batches name {', '.join(batch)}; the model's first inputs are {', '.join(names)}"
            )
        batch = [batch[name] for name in names]
    parts = batch if isinstance(batch, tuple | list) else (batch,)
    tensors = (torch.as_tensor(part).cpu() for part in parts)
    return tuple(part.float() if part.is_floating_point() else part for part in tensors)


def _begin(entry: TensorEntry) -> Begin:
    layout = entry.encoded_layout
    values = entry.read()
    if isinstance(layout, Layout) and layout.stored == UNIFORM:
        return Begin(layout.axes, layout.step, values)
    return Begin((), None, values)
