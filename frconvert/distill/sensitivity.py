"""How much each tensor's error counts, measured at the outputs of the model.

One tensor after another is replaced by its quantised self, with the bias that takes up its mean error. The
model is run, and the squared error of its outputs is compared with the step: at the best allocation, with
rates that fall by one bit a weight when a step doubles, each tensor's output error is proportional to its
number of weights.

Law: weights are positive and have a geometric mean of about 1; a tensor without influence has the least.
"""

from collections.abc import Mapping

import numpy as np

from frconvert.allocate import Survey
from frconvert.distill.closed_form import Runner
from frconvert.distill.layers import LOOKUP, Use
from frconvert.encode import Settled

# Power of the measured weights. Errors of layers do not stay proportional to squared steps, and later layers
# make good a part of them: the whole of a measured difference does worse than half of it, in logarithms (at
# equal size the Keras CNN has 16.6 dB, not 19.5, and PP-OCR's classifier agrees with itself on 0.855, not
# 0.935). Nothing makes good a looked up row, and tables, the largest tensors, would get the least bits.
_TRUST, _TRUST_OF_TABLES = 0.5, 1.0
_SPREAD = 16.0  # weights are within this factor of the middle one


def weights(
    runner: Runner, refined: Mapping[str, Settled], surveys: Mapping[str, Survey | None]
) -> dict[str, float]:
    """By name, how many times the relative error of each tensor counts; see `allocate.units`."""
    expected = runner.outputs({})
    biases = {use.weight: use.bias for use in runner.uses if isinstance(use, Use)}
    found: dict[str, float] = {}
    for name, item in refined.items():
        survey = surveys.get(name)
        if survey is None or item.plan.step is None:
            continue
        bias = biases.get(name)
        changed = {
            each: refined[each].values for each in (name, bias) if each is not None and each in refined
        }
        outputs = runner.outputs(changed)
        error = sum(
            float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(outputs, expected, strict=True)
        )
        # Output error for a relative error of the tensor's of 1, as far as one is proportional to the other.
        found[name] = error / (item.plan.step / survey.scale) ** 2 if np.isfinite(error) else 0.0
    influential = [value for value in found.values() if value > 0]
    if not influential:
        return {}
    middle = float(np.exp(np.mean(np.log(influential))))
    tables = {use.weight for use in runner.uses if isinstance(use, Use) and use.kind == LOOKUP}
    return {
        name: float(
            np.clip(
                (value / middle) ** (_TRUST_OF_TABLES if name in tables else _TRUST), 1 / _SPREAD, _SPREAD
            )
        )
        for name, value in found.items()
    }
