"""From a checkpoint, calibration data and, for what does not run by itself, a model to a refinement."""

from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from frconvert import calibration
from frconvert.allocate import Survey
from frconvert.checkpoint import Checkpoint
from frconvert.coding.record import Plan
from frconvert.distill import sensitivity
from frconvert.distill.closed_form import Runner, refine
from frconvert.encode import Settled
from frconvert.errors import UsageError


class ClosedForm:
    """Refines the tensors of a model that a runner runs; see `search.Refinement`."""

    def __init__(self, runner: Runner, checkpoint: Checkpoint) -> None:
        self._runner, self._checkpoint = runner, checkpoint

    def settle(self, plans: Mapping[str, Plan]) -> Mapping[str, Settled]:
        """See `search.Refinement`."""
        return refine(self._runner, self._read, plans)

    def weights(self, plans: Mapping[str, Plan], surveys: Mapping[str, Survey | None]) -> Mapping[str, float]:
        """See `search.Refinement`."""
        alone = refine(self._runner, self._read, plans, in_place=False)
        return sensitivity.weights(self._runner, alone, surveys)

    def _read(self, name: str) -> NDArray[np.generic]:
        return self._checkpoint[name].read()


def refinement(checkpoint: Checkpoint, calib: str, model: str | None) -> ClosedForm:
    """Makes ready to run a model on calibration data.

    Args:
        checkpoint: the source.
        calib: DATA, see `frconvert.calibration`.
        model: module:factory, which returns a torch module; not needed for ONNX sources.

    Raises:
        UsageError: the source cannot be run, or model and data do not fit it.
        UnreadableError: no such data.
    """
    runner: Runner
    if model is not None:
        from frconvert.distill.torch_model import runner_of  # noqa: PLC0415

        runner = runner_of(checkpoint, model, calibration.read(calib))
    elif checkpoint.format == "onnx":
        from frconvert.distill import onnx_run  # noqa: PLC0415

        runner = onnx_run.runner_of(checkpoint, partial(calibration.read, calib))
    else:
        raise UsageError(
            f"--calib: a {checkpoint.format} file does not say how the model runs; name it with --model "
            "module:factory"
        )
    return ClosedForm(runner, checkpoint)
