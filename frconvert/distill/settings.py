"""The settings of a fine-tuning run: data, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from frconvert.distill.coefficients import Basis
from frconvert.distill.losses import LOGITS, PROBABILITIES, VALUES
from frconvert.errors import UsageError


@dataclass(frozen=True, slots=True)
class Settings:
    """How to fine-tune.

    Attributes:
        rate: loss that a kilobyte (1,000 bytes) of the file costs; or
        size: bytes of the file at most, from which the rate follows step by step.
        epochs: passes over the data.
        ramp: share of the steps over which the rate grows to its value, or the size falls to its target.
        seed: of everything random.
        outputs: LOGITS (softmax follows), PROBABILITIES (softmax was) or VALUES; see `losses.distance`.
        temperature: of the logits.
        task_weight: of the task's loss, where one is given.
        features: names of submodules whose outputs are matched too.
        feature_weight: of these.
        distill_weight: of the distance to the teacher; 0 leaves the teacher out.
        learning_rate: of the coefficients, in root mean squares (at the start) for each step of Adam.
        other_rate: of biases, normalisation and all else that is not coefficients.
        coarseness: the first quantiser step, in root mean squares of a tensor's coefficients.
        noise: share of the batches that see noise instead of rounding, until three quarters of the steps.
        include, exclude: globs on parameter names; others of two or more axes keep their values.
        tables: globs on names of parameters of which rows are looked up, beside those of `nn.Embedding`
            and of a graph's Gather; rows that a batch does not use are not moved by it.
        bases: name -> form in which a tensor is trained; others get the axes that are cheapest at the start.
        budgets: name -> coefficients that are left at the end, a prefix of the zigzag order of the DCT over
            all axes (the paper's rule, see `prefix`); then there is neither rate nor size.
        train_mode: whether dropout and batch statistics work as in training.
        patience: epochs without a better metric, at the size that is asked for, after which training ends.
        limit: batches an epoch, None for all.
        device: "cpu", "cuda", "cuda:1" ...
    """

    rate: float | None = None
    size: float | None = None
    epochs: int = 20
    ramp: float = 0.6
    seed: int = 0
    outputs: str = LOGITS
    temperature: float = 2.0
    task_weight: float = 0.5
    features: tuple[str, ...] = ()
    feature_weight: float = 1.0
    distill_weight: float = 1.0
    learning_rate: float = 0.01
    other_rate: float = 2e-4
    coarseness: float = 0.5
    noise: float = 0.3
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    bases: Mapping[str, Basis] = field(default_factory=dict)
    budgets: Mapping[str, int] = field(default_factory=dict)
    train_mode: bool = False
    patience: int | None = None
    limit: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if [self.rate is None, self.size is None, not self.budgets].count(False) != 1:
            raise UsageError("fine-tuning needs a rate (loss per kB) or a size, and only one of them")
        positive = {"epochs": self.epochs, "learning rate": self.learning_rate, "coarseness": self.coarseness}
        positive |= {"temperature": self.temperature, "rate": self.rate or 1.0, "size": self.size or 1.0}
        for name, value in positive.items():
            if not value > 0:
                raise UsageError(f"the {name} is {value}; it must be positive")
        if not 0 <= self.ramp <= 1:
            raise UsageError(f"the ramp is {self.ramp}; it is a share of the steps, from 0 to 1")
        if self.outputs not in (LOGITS, PROBABILITIES, VALUES):
            raise UsageError(f"outputs are {LOGITS!r}, {PROBABILITIES!r} or {VALUES!r}, not {self.outputs!r}")
