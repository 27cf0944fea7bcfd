"""Quantisation against what the original computes, in closed form: no training, no gradients.

Layers are taken in the order in which they run. Each is given the inputs that it will really have, those of
the already quantised layers before it, and for these

- its weights are moved to the least squares solution that reproduces the original's outputs on the
  original's inputs, with a prior towards the weights as they are;
- its coefficients are quantised with error feedback, in the DCT domain of the axes that the plan transforms
  (an orthonormal transform of the inputs' Gram matrix);
- its bias, or the shift of the normalisation behind it, takes up the mean error that is left;
- the scale and shift of normalisations are fitted to the original's outputs.

Rows of lookup tables are weighed by how often they are looked up, though only by the square root of that, and
as if each were looked up as often again as the mean row: the data are a sample, and rows that it lacks will
be asked for.

Law: a tensor is only changed where its plan quantises it; NaN and what is not used stay as they are.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from frconvert.coding.difference import OWN
from frconvert.coding.fit import fit
from frconvert.coding.quantize import round_mantissa
from frconvert.coding.record import INTEGERS, TRELLIS, UNIFORM, Plan
from frconvert.coding.scales import classes
from frconvert.coding.tables import FIRST_SERVED
from frconvert.distill import layers, paths
from frconvert.distill.feedback import (
    Prices,
    bits_of_symbols,
    damped,
    least_squares,
    round_rows,
    round_with_feedback,
    solved,
)
from frconvert.distill.layers import CONVOLUTION, LINEAR, LOOKUP, Norm, Use
from frconvert.distill.lookups import search_rows
from frconvert.encode import Settled
from frconvert.spectral import dct, zigzag

DAMPING = 0.1  # of Gram matrices: calibration data are few, and not quite like what the model will see
_TARGET_DAMPING = 0.3  # of those that the weights' own move is solved with, which generalises less well
_TRELLIS_WORTH, _UNIFORM_WORTH = 0.1, 0.14  # squared error of a bit, in squared steps
_POSITIONS = 6  # columns of a layer that are looked at for each of their elements, about; at least
_LEAST_POSITIONS = 4096
_MOST_WORK = 1 << 39  # multiplications for a Gram matrix, as long as there are two positions for a column
_UNSEEN = 1.0  # times of the mean row: what every row is thought to have been looked up
_NORM_PRIOR = 0.02
_SERVED_SHARE = 0.8  # of coefficients, from which on the trellis pays
_NEARLY_SERVED = FIRST_SERVED - 2

Pair = tuple[NDArray[Any], NDArray[Any]]
Values = dict[str, NDArray[Any]]


class Runner(Protocol):
    """Runs a model over the calibration data; names are those of the checkpoint."""

    @property
    def uses(self) -> tuple[Use | Norm, ...]:
        """What the model computes with tensors, in the order in which it runs."""

    @property
    def batches(self) -> int:
        """How many batches there are."""

    def walk(self, changed: Values | None) -> Iterator[Iterable[Pair]]:
        """For each of the uses pairs, one for each batch: of the original, and with the tensors `changed`.

        They hold what goes in, or of a `Norm` what comes out of it with the original's scale and shift.
        Tensors may be added to `changed` before the next use is asked for. None changes none, and the model
        runs only once.
        """

    def outputs(self, changed: Values) -> list[NDArray[Any]]:
        """The model's outputs on some of the data, with these tensors changed."""


def refine(
    runner: Runner, source: Callable[[str], NDArray[Any]], plans: Mapping[str, Plan], *, in_place: bool = True
) -> dict[str, Settled]:
    """New values for the tensors of a model.

    Args:
        runner: runs the model.
        source: gives the original values of a tensor.
        plans: of all tensors, by name.
        in_place: let each layer see the quantised layers before it; else each is refined as if alone.
    """
    found: dict[str, Settled] = {}
    changed: Values = {}
    uses = runner.uses
    for number, pairs in enumerate(runner.walk(changed if in_place else None)):
        use = uses[number]
        if isinstance(use, Norm):
            if in_place and plans[use.scale].step is None and plans[use.shift].step is None:
                _refine_norm(use, pairs, source, plans, found, changed)
            continue
        plan = plans.get(use.weight)
        if plan is None or not _is_refinable(plan) or use.weight in found:
            continue
        following = uses[number + 1] if number + 1 < len(uses) else None
        absorbed = use.bias is not None or _absorbs(following, use)
        refined, shift = _refine_layer(
            use, plan, source(use.weight), pairs, runner.batches, absorbed=absorbed, matched=in_place
        )
        found[use.weight] = refined
        changed[use.weight] = refined.values
        if use.bias is not None and shift is not None and use.bias not in found and use.bias in plans:
            _keep_vector(use.bias, source(use.bias) + shift, plans, found, changed)
    return found


def _is_refinable(plan: Plan) -> bool:
    if plan.step is None or plan.relation != OWN:
        return False
    return plan.keep is not None or plan.kind != INTEGERS


def _absorbs(following: Use | Norm | None, use: Use) -> bool:
    """Whether a normalisation right behind a convolution can take up a constant of each channel."""
    return isinstance(following, Norm) and following.channel_axis == 1 and use.kind == CONVOLUTION


def _refine_layer(
    use: Use,
    plan: Plan,
    weights: NDArray[Any],
    pairs: Iterable[Pair],
    batches: int,
    *,
    absorbed: bool,
    matched: bool,
) -> tuple[Settled, NDArray[np.float64] | None]:
    """The new tensor, and what its bias should be moved by."""
    working = dct.working_dtype(weights.dtype)
    weights = weights.astype(working)
    if use.kind == LOOKUP and plan.keep is not None:
        return Settled(weights, plan), None
    if use.kind == LOOKUP:
        counts = np.zeros(len(weights))
        for indices, _ in pairs:
            counts += np.bincount(indices.reshape(-1), minlength=len(weights))
        counts += _UNSEEN * max(counts.mean(), 1.0 / len(counts))
        return _quantise_rows(weights, np.sqrt(counts), plan), None
    matrix = layers.matrices(use, weights).astype(np.float64)
    most = _positions(matrix.shape[2]) // batches + 1
    gram, lost, mean, new_mean = _moments(use, weights.shape, pairs, most, matrix if matched else None)
    if absorbed:
        gram -= new_mean[:, :, None] * new_mean[:, None, :]
        lost = lost - (matrix @ (mean - new_mean)[:, :, None]) * new_mean[:, None, :]
    target = matrix
    if matched:
        target = matrix + np.stack(
            [solved(damped(of, _TARGET_DAMPING), rows) for rows, of in zip(lost, gram, strict=True)]
        )
    wished = layers.tensor_of(use, target, weights.shape).astype(working)
    if plan.keep is None:
        refined = _quantise(use, wished, gram, plan)
    else:
        refined = _keep_support(use, wished, gram, plan)
    result = layers.matrices(use, refined.values).astype(np.float64)
    shift = np.einsum("grk,gk->gr", matrix, mean) - np.einsum("grk,gk->gr", result, new_mean)
    return refined, shift.reshape(-1)


def _positions(columns: int) -> int:
    """How many columns of a layer's inputs are looked at."""
    wished = max(_POSITIONS * columns, _LEAST_POSITIONS)
    return min(wished, max(_MOST_WORK // columns**2, 2 * columns))


def _moments(
    use: Use,
    shape: tuple[int, ...],
    pairs: Iterable[Pair],
    most: int,
    matrix: NDArray[np.float64] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Means over the columns: of x' x', of M (x - x') x', of x and of x', x being the original's, x' the new.

    Of each batch about `most` are taken; the second mean is 0 without a matrix M.
    """
    gram: Any = 0.0
    lost: Any = 0.0
    mean: Any = 0.0
    new_mean: Any = 0.0
    count = 0
    kernel = shape[2:]
    weights = None if matrix is None else matrix.astype(np.float32)
    for number, (inputs, new_inputs) in enumerate(pairs):
        columns = layers.columns(use, inputs, kernel, most, number)
        new = layers.columns(use, new_inputs, kernel, most, number)
        gram = gram + new.swapaxes(1, 2) @ new
        if weights is not None:
            lost = lost + (weights @ (columns - new).swapaxes(1, 2)) @ new
        mean = mean + columns.sum(axis=1, dtype=np.float64)
        new_mean = new_mean + new.sum(axis=1, dtype=np.float64)
        count += columns.shape[1]
    return (
        np.asarray(gram, np.float64) / count,
        np.asarray(lost, np.float64) / count,
        mean / count,
        new_mean / count,
    )


def _quantise(use: Use, weights: NDArray[Any], gram: NDArray[np.float64], plan: Plan) -> Settled:
    step = float(plan.step or 0.0)
    axes = plan.axes if use.groups == 1 else tuple(axis for axis in plan.axes if axis != 0)
    coefficients = dct.forward(weights, axes)
    matrix = layers.matrices(use, coefficients)
    gram = layers.transformed_gram(gram, use, weights.shape, axes)
    found = fit(coefficients)
    if _suits_trellis(use, plan, coefficients, found.scales(step)):
        served = paths.served_fit(matrix[0], step)
        integers = paths.search(matrix[0], damped(gram[0], DAMPING), step, served, _TRELLIS_WORTH)
        values = (integers.astype(weights.dtype) * weights.dtype.type(step / 2)).reshape(weights.shape)
        kind, last = TRELLIS, paths.served_fit(values, step)
    else:
        of = layers.matrices(use, np.ascontiguousarray(classes(found.scales(step), coefficients.shape)))
        bits = bits_of_symbols(found.shape)
        rounded = [
            round_with_feedback(rows, damped(g, DAMPING), step, Prices(bits, c.T), _UNIFORM_WORTH)
            for rows, g, c in zip(matrix, gram, of, strict=True)
        ]
        values = layers.tensor_of(
            use, np.stack(rounded).astype(weights.dtype) * weights.dtype.type(step), weights.shape
        )
        kind, last = UNIFORM, fit(values) if values.any() else found
    return Settled(dct.inverse(values.copy(), axes), Plan(axes, None, step, kind, last))


def _keep_support(use: Use, weights: NDArray[Any], gram: NDArray[np.float64], plan: Plan) -> Settled:
    """The least squares solution with no coefficients but the plan's."""
    shape = weights.shape
    if use.groups > 1:  # the transform mixes groups, whose inputs differ
        return Settled(weights, plan)
    support = np.zeros(weights.size, np.bool_)
    support[zigzag.prefix(shape, int(plan.keep or 0))] = True
    gram = layers.transformed_gram(gram, use, shape, plan.axes)
    matrix = layers.matrices(use, dct.forward(weights, plan.axes))[0]
    kept = layers.matrices(use, support.reshape(shape))[0]
    solved = least_squares(matrix, damped(gram[0], DAMPING), kept).astype(weights.dtype)
    return Settled(dct.inverse(layers.tensor_of(use, solved[None], shape).copy(), plan.axes), plan)


def _suits_trellis(use: Use, plan: Plan, coefficients: NDArray[Any], scales: Any) -> bool:
    if plan.kind != TRELLIS or use.kind not in (LINEAR, CONVOLUTION) or use.groups != 1:
        return False
    if not paths.patterns((len(coefficients), coefficients.size // len(coefficients))):
        return False
    return float(np.mean(classes(scales, coefficients.shape) >= _NEARLY_SERVED)) >= _SERVED_SHARE


def _quantise_rows(weights: NDArray[Any], counts: NDArray[np.float64], plan: Plan) -> Settled:
    step = float(plan.step or 0.0)
    axes = tuple(axis for axis in plan.axes if axis != 0)
    coefficients = dct.forward(weights, axes)
    flat = coefficients.reshape(len(weights), -1)
    found = fit(flat)
    integers = round_rows(flat, counts, step, found, _TRELLIS_WORTH)
    values = (integers.astype(weights.dtype) * weights.dtype.type(step)).reshape(weights.shape)
    last, kind = fit(values) if values.any() else fit(coefficients), UNIFORM
    if plan.kind == TRELLIS:
        # The scales are those of rows with their different losses, which rounding has shown.
        kind = TRELLIS
        on_path = search_rows(coefficients, counts, step, last, _TRELLIS_WORTH)
        values = on_path.astype(weights.dtype) * weights.dtype.type(step / 2)
    return Settled(dct.inverse(values.copy(), axes), Plan(axes, None, step, kind, last))


def _refine_norm(
    use: Norm,
    pairs: Iterable[Pair],
    source: Callable[[str], NDArray[Any]],
    plans: Mapping[str, Plan],
    found: dict[str, Settled],
    changed: Values,
) -> None:
    """Fits the original's outputs by the new ones, a channel at a time; that goes into scale and shift."""
    sums: Any = 0.0
    count = 0
    for output, new_output in pairs:
        y, z = (np.moveaxis(part, use.channel_axis, -1) for part in (output, new_output))
        y, z = (part.reshape(-1, part.shape[-1]).astype(np.float64) for part in (y, z))
        sums = sums + np.stack([y.sum(0), z.sum(0), (z * z).sum(0), (y * z).sum(0)])
        count += len(y)
    mean, new_mean, square, product = sums / count
    variance = square - new_mean * new_mean
    covariance = product - mean * new_mean
    usable = variance > 1e-12 * np.maximum(square, 1e-30)
    gain = np.where(usable, covariance + _NORM_PRIOR * variance, 1.0)
    gain = np.clip(gain / np.where(usable, (1 + _NORM_PRIOR) * variance, 1.0), 0.5, 2.0)
    _keep_vector(use.scale, gain * source(use.scale), plans, found, changed)
    shift = gain * source(use.shift) + mean - gain * new_mean
    _keep_vector(use.shift, shift, plans, found, changed)


def _keep_vector(
    name: str, values: NDArray[Any], plans: Mapping[str, Plan], found: dict[str, Settled], changed: Values
) -> None:
    plan = plans[name]
    if plan.step is not None or not plan.is_plain or plan.relation != OWN or not np.isfinite(values).all():
        return
    values = values.astype(np.float32)
    found[name] = Settled(values, plan)
    changed[name] = values if plan.mantissa_bits is None else round_mantissa(values, plan.mantissa_bits)
