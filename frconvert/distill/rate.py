"""A differentiable count of the bits that quantised coefficients will take in a `.frq`.

The codec knows of each coefficient how large it should be: one scale for each index of each axis, multiplied
up. So does this model: the probability that a coefficient is not 0 is that of the tensor times one factor for
each index of each axis (its share of nonzero coefficients over the tensor's), and the magnitudes of those
that are not 0 fall geometrically, with means that factor alike. Whole rows and columns that die then cost
next to nothing, which is what makes them die.

Between neighbouring integers the cost is the straight line between their code lengths. Its slope is what a
coefficient has to earn to stay, and steepest next to 0. The probabilities are counted anew every few steps
and held constant in between: they are the best ones for the counts, so their own gradient is 0.

Law: `total_bits` is the sum of the code lengths of the rounded coefficients; `add_gradients` adds the slopes
of those straight lines.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

_LEAST, _MOST = 2e-4, 0.66  # probabilities of "not 0" that a coefficient may have: 0 is never the dearest
_SOFTNESS = 0.2  # share of the count that also sees what is rounded to 0: what is near returns more cheaply
_PRIOR = 2.0  # coefficients of average probability that every index is thought to have seen
_MAGNITUDE_PRIOR = 8.0
_JUST_WITHIN = 0.45  # of a cell, from its integer


@dataclass(slots=True)
class Rate:
    """Code lengths of tensors by name, from the counts of the last `update`.

    Attributes:
        total_bits: of all tensors then, rounded.
        first: name -> bits by which +-1 is dearer than 0, of each coefficient.
        more: name -> bits of each further unit.
    """

    total_bits: float = 0.0
    first: dict[str, Tensor] = field(default_factory=dict)
    more: dict[str, Tensor] = field(default_factory=dict)

    def update(self, coefficients: Mapping[str, Tensor]) -> None:
        """Counts anew."""
        total = 0.0
        for name, coefficient in coefficients.items():
            size = coefficient.detach().abs()
            alive = (size >= 0.5).to(size.dtype)
            soft = (1 - _SOFTNESS) * alive + _SOFTNESS * size.clamp(max=1)
            chance = _factored(soft, torch.ones_like(soft), _PRIOR).clamp_(_LEAST, _MOST)
            rounded = size.round_()
            mean = _factored(rounded, alive, _MAGNITUDE_PRIOR).clamp_(min=1.02)
            again = (1 - 1 / mean).clamp_(0.02, 0.98)  # of the geometric distribution with that mean
            zero = -(1 - chance).log2()
            self.first[name] = 1 - (chance * (1 - again)).log2() - zero
            self.more[name] = -again.log2()
            bits = zero + alive * self.first[name] + (rounded - alive) * self.more[name]
            total += float(bits.sum())
        self.total_bits = total

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def add_gradients(
        self, coefficients: Mapping[str, Tensor], loss_per_bit: float, tables: Collection[str] = ()
    ) -> None:
        """Adds the gradient of the bits, times that, to the gradients of the coefficients.

        Of `tables` only the rows that have a gradient get one more: bits are weighed against what a row is
        worth when it is used, and rows that the data lack stay as they are.
        """
        for name, q in coefficients.items():
            slope = torch.where(q.abs() < 1, self.first[name], self.more[name]).mul_(q.sign())
            if name in tables:
                if q.grad is None:
                    continue
                slope *= q.grad.flatten(1).any(1).reshape(-1, *[1] * (q.ndim - 1))
            if q.grad is None:
                q.grad = slope.mul_(loss_per_bit)
            else:
                q.grad.add_(slope, alpha=loss_per_bit)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def balance(self, coefficients: Mapping[str, Tensor]) -> float:
        """Loss per bit at which the bits pull on all coefficients as much as their gradients, in the mean."""
        loss = bits = 0.0
        for name, q in coefficients.items():
            if q.grad is not None:
                loss += float(q.grad.abs().sum())
                bits += float((torch.where(q.abs() < 1, self.first[name], self.more[name]) * (q != 0)).sum())
        return loss / bits if bits else 0.0

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def trim(
        self, coefficients: Mapping[str, Tensor], bits: float, curvatures: Mapping[str, Tensor] | None = None
    ) -> None:
        """Moves coefficients one unit nearer to 0, about as many as make up those bits: see `_prices`.

        They stay just within their new cells, so training that goes on soon has them back where they matter.

        Args:
            coefficients: by name, as in the last `update`; changed in place.
            bits: to be saved.
            curvatures: how much a squared error in each coefficient matters; alike if it is not there.
        """
        curvatures = curvatures or {}
        found = {name: self._prices(name, q, curvatures.get(name)) for name, q in coefficients.items()}
        price = torch.cat([price for _, price, _ in found.values()])
        saved = torch.cat([saved for _, _, saved in found.values()])
        order = price.argsort()
        last = int((saved[order].double().cumsum(0) < bits).sum())
        if not len(order):
            return
        limit = price[order[min(last, len(order) - 1)]]
        for name, (places, own, _) in found.items():
            q = coefficients[name]
            chosen = torch.zeros(q.numel(), dtype=torch.bool, device=q.device)
            chosen[places[own <= limit]] = True
            chosen = chosen.reshape(q.shape)
            q[chosen] = (q[chosen].abs().round() - 1 + _JUST_WITHIN) * q[chosen].sign()

    def _prices(self, name: str, q: Tensor, curvature: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Places of what is not 0, error for each bit that is saved by one unit less, and those bits."""
        size = q.detach().abs().reshape(-1)
        places = (size >= 0.5).nonzero()[:, 0]
        rounded = size[places].round()
        first, more = (bits.reshape(-1)[places] for bits in (self.first[name], self.more[name]))
        saved = torch.where(rounded > 1, more, first)
        error = 1 + 2 * (size[places] - rounded)
        if curvature is not None:
            error *= curvature.reshape(-1)[places]
        return places, error / saved, saved


def _factored(values: Tensor, weights: Tensor, prior: float) -> Tensor:
    """Mean of values / weights: a product of the tensor's and one factor for each index of each axis."""
    total = (values.sum() + 0.5) / (weights.sum() + 1)
    product = total.expand(values.shape)
    for axis, length in enumerate(values.shape):
        if length == 1 or values.ndim == 1:
            continue
        others = [other for other in range(values.ndim) if other != axis]
        own = values.sum(others, keepdim=True) + prior * total
        product = product * (own / (weights.sum(others, keepdim=True) + prior) / total)
    return product
