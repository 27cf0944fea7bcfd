"""What a fine-tuning run says of each epoch, and what comes of it."""

from dataclasses import dataclass

from frconvert.checkpoint import Checkpoint
from frconvert.distill.tuned import Tuned


@dataclass(frozen=True, slots=True)
class Epoch:
    """What is said after each pass.

    Attributes:
        number: from 1; of: in total.
        loss: mean over the batches, without the rate.
        size_bytes: of the whole file as it would be written now.
        rate: loss per kB, at the end of the epoch.
        metric: of the rounded module, None without one.
    """

    number: int
    of: int
    loss: float
    size_bytes: int
    rate: float
    metric: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run.

    Attributes:
        tuned: the best tensors, by the names of the state dict.
        checkpoint: the original.
        epochs: the curve, best: the number of the epoch that was taken, 0 for what it began with.
    """

    tuned: dict[str, Tuned]
    checkpoint: Checkpoint
    epochs: tuple[Epoch, ...]
    best: int
