"""What brings a file to a size while its coefficients are trained: the rate, in loss per kilobyte.

The size is to fall geometrically from that at the start to the one asked for, over the ramp. What is over at
the end of an epoch is taken from the coefficients where it does the least harm.

Law: without a size the rate stays what it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp, log

import torch
from torch import Tensor

from frconvert.distill.rate import Rate
from frconvert.distill.settings import Settings

REFRESH = 10  # batches between two counts of the rate model
_NEAR = 1.02  # size over the one asked for, up to which an epoch before the last ends with trimming
_TRIMS, _UNDER = 12, 0.998  # attempts to come to a size after an epoch, and what share of it they aim at
_FLOOR = 0.1  # of the mean squared gradient, which each coefficient is thought to have at least
_AIM = 0.99  # of the size asked for, which is steered to
_FIRST_SHARE = 0.15  # of the pull of the loss: that of the bits with which the search for a size begins
_HOLDING_SHARE = 0.01  # the same where the size is there from the start
_FIRST_RATE = 0.02  # loss per kB where there is no such pull
_ROOM = 1.15  # first size over the one asked for, at least
_TRAVEL = 4.0  # steps that a coefficient must be able to move for each further time that size
_FINEST, _COARSEST = 0.02, 3.0  # coarseness at which the search for a first size ends
_FAR = 100.0  # steps that a coefficient may move, where that is not known
_LARGEST_CHANGE = 0.03  # of the logarithm of the rate, each refresh
_FULL_SPEED = 0.3  # logarithm of size / goal from which on the rate moves that fast
_GAIN, _AT_ONCE = 20.0, 3.0  # logarithm of the rate for one of size / goal that counts at once; at most


@dataclass(slots=True)
class SizeControl:
    """The rate, and what it follows from.

    Attributes:
        settings: of the run.
        model: estimates bytes.
        rate: loss per kB.
        slow_rate: the same without what the size is off just now; 0 until there are gradients.
        first_size: bytes of the file before it is trained.
        factor: bytes of the file over those estimated, when it was last written.
    """

    settings: Settings
    model: Rate
    rate: float
    slow_rate: float = 0.0
    first_size: float = 0.0
    factor: float = 0.0

    def measured(self, size: int) -> None:
        """Corrects the estimate by a file of the coefficients that the model has just counted."""
        self.factor = size / self._estimate()

    def _estimate(self) -> float:
        """Bytes of the rounded coefficients by the rate model, as of its last count."""
        return self.model.total_bits / 8 + 1

    def next_coarseness(self, coarseness: float, size: int, batches: int, *, was_finer: bool) -> float | None:
        """The coarseness to begin with instead; None if this one does.

        Training makes a file smaller, never much larger: the steps are fine enough to leave room. What it
        can take away is little in a short run, though, which therefore begins with coarser steps.

        Args:
            coarseness: of the file just made.
            size: its bytes.
            batches: of the whole run, 0 if they are not known.
            was_finer: whether coarser steps were too coarse.
        """
        wanted = self.settings.size
        if wanted is None:
            return None
        travel = 0.65 * batches * self.settings.learning_rate / coarseness if batches else _FAR
        most = (_ROOM + min(_FAR, travel) / _TRAVEL) * wanted
        if size < _ROOM * wanted and coarseness >= _FINEST:
            return coarseness / (1.1 if was_finer else 1.5)
        if size > 1.1 * most and not was_finer and coarseness < _COARSEST:
            return coarseness * 1.2
        self.first_size = float(size)
        return None

    def begin(self, coefficients: Mapping[str, Tensor]) -> None:
        """Takes the first rate from the first gradients."""
        if self.settings.size is not None and not self.slow_rate:
            balance = 8000 * self.model.balance(coefficients)
            share = _FIRST_SHARE if self.first_size > self.settings.size else _HOLDING_SHARE
            self.rate = self.slow_rate = share * balance or _FIRST_RATE

    def steer(self, share: float, batches: int) -> None:
        """Moves the rate towards the one at which the size is what it should be by now.

        The size is what the rate has added up to, so a rate that itself only adds up what the size is off
        would swing about its goal: what it is off now counts too, at once.

        Args:
            share: of all steps, those that are done.
            batches: of the whole run, 0 if they are not known.
        """
        if self.settings.size is None:
            return
        left = max(0.0, 1 - share / self.settings.ramp) if self.settings.ramp else 0.0
        least = _AIM * self.settings.size
        goal = least * (max(self.first_size, least) / least) ** left
        off = log(self._estimate() * self.factor / goal)
        # Short runs move faster: whatever their length, the rate may come a factor of e^6 up.
        short = 6 * REFRESH / max(batches, REFRESH * self.settings.epochs) if batches else 0.0
        largest = max(_LARGEST_CHANGE, short)
        self.slow_rate *= exp(largest * max(-1.0, min(1.0, off / _FULL_SPEED)))
        self.rate = self.slow_rate * exp(max(-_AT_ONCE, min(_AT_ONCE, off * _GAIN)))

    def trimmed(
        self,
        size: int,
        coefficients: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        measure: Callable[[], int],
        *,
        is_last: bool,
    ) -> int:
        """Takes away what the file is too large by, if that is little or the epoch the last; its new size.

        Args:
            size: bytes of the file.
            coefficients: by name; some are moved.
            optimizer: Adam, which knows their mean squared gradients.
            measure: bytes of the file that the coefficients would make now; see `measured`.
            is_last: whether this is the last epoch.
        """
        goal = self.settings.size
        if goal is None or not (is_last or size <= _NEAR * goal):
            return size
        for attempt in range(_TRIMS):
            if size <= goal:
                break
            # Estimates of what a file would lose may be too high: each attempt asks for more.
            bits = 8 * (size - _UNDER * goal) / self.factor * (1 + attempt / 4)
            self.model.trim(coefficients, bits, _curvatures(coefficients, optimizer))
            size = measure()
        return size


def _curvatures(coefficients: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Mean squared gradients, which are near to second derivatives, and a part of their mean."""
    found = {}
    for name, q in coefficients.items():
        squares = optimizer.state.get(q, {}).get("exp_avg_sq")
        found[name] = torch.ones_like(q) if squares is None else squares
    count = sum(each.numel() for each in found.values())
    mean = sum(float(each.sum()) for each in found.values()) / count
    return {name: each + _FLOOR * mean for name, each in found.items()}
