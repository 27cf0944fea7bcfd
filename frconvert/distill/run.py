"""The fine-tuning loop: distillation loss plus what the file costs.

Each batch sees either the rounded weights (straight-through) or, in a share of the batches of the first three
quarters, noise of one step in the coefficients that are not 0. The rate, in loss per kilobyte, grows to its
value over the ramp; with a size as the target it follows the size instead, which falls geometrically from
that at the start. Learning rates fall along half a cosine over the last 70 % of the steps.

Law: settings, data and machine determine the result; a run that was killed and goes on from its state ends
with the same numbers as one that was not.
"""

import copy
import io
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import cos, exp, log, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from frconvert.checkpoint import Checkpoint
from frconvert.distill import losses
from frconvert.distill.coefficients import NOISE, ROUND, set_mode
from frconvert.distill.losses import Batch, TaskLoss
from frconvert.distill.modules import Student, checkpoint_of_module, load_tuned, make_student
from frconvert.distill.prefix import Schedule, evenly, prefixes, ranks
from frconvert.distill.rate import Rate
from frconvert.distill.settings import Settings
from frconvert.distill.state import load_state, save_state
from frconvert.distill.tuned import Tuned, write_tuned
from frconvert.encode import Options, Task
from frconvert.errors import TargetError, UsageError

_REFRESH = 10  # batches between two counts of the rate model
_STEP_RATE = 0.003  # learning rate of the logarithms of the steps
_NEAR = 1.02  # size over the one asked for, up to which an epoch before the last ends with trimming
_TRIMS, _UNDER = 12, 0.998  # attempts to come to a size after an epoch, and what share of it they aim at
_FLOOR = 0.1  # of the mean squared gradient, which each coefficient is thought to have at least
_AIM = 0.99  # of the size asked for, which is steered to
_FIRST_SHARE = 0.15  # of the pull of the loss: that of the bits with which the search for a size begins
_FIRST_RATE = 0.02  # loss per kB where there is no such pull
_ROOM = 1.15  # first size over the one asked for, at least
_TRAVEL = 4.0  # steps that a coefficient must be able to move for each further time that size
_FINEST, _COARSEST = 0.02, 3.0  # coarseness at which the search for a first size ends
_FAR = 100.0  # steps that a coefficient may move, where that is not known
_LARGEST_CHANGE = 0.03  # of the logarithm of the rate, each refresh
_FULL_SPEED = 0.3  # logarithm of size / goal from which on the rate moves that fast
_GAIN, _AT_ONCE = 20.0, 3.0  # logarithm of the rate for one of size / goal that counts at once; at most

Data = Sequence[Batch] | Callable[[int], Iterable[Batch]]  # batches, or epoch -> batches
Metric = Callable[[nn.Module], float]


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
        epochs: the curve, best: the number of the epoch that was taken.
    """

    tuned: dict[str, Tuned]
    checkpoint: Checkpoint
    epochs: tuple[Epoch, ...]
    best: int


def fine_tune(  # noqa: PLR0913  (one argument for each thing a user may say)
    module: nn.Module,
    data: Data,
    settings: Settings,
    *,
    teacher: nn.Module | None = None,
    task_loss: TaskLoss | None = None,
    metric: Metric | None = None,
    schedule: Schedule | None = None,
    metadata: Mapping[str, str] | None = None,
    state: Path | None = None,
    checkpoint: Checkpoint | None = None,
    report: Callable[[Epoch], None] = lambda _: None,
) -> Run:
    """Fine-tunes a copy of the module.

    Args:
        module: the original; it is not changed.
        data: batches, gone through once an epoch, or a function of the epoch (from 0) that yields them; it
            is seeded before each call. A batch is a tensor, a tuple of arguments or a dict of keyword
            arguments; with a `task_loss` a pair of such a batch and the target.
        settings: everything else.
        teacher: what to distil from; None is the original.
        task_loss: outputs, target -> scalar.
        metric: of a module with the weights as they would be restored, higher is better. It chooses the
            epoch; give it data that you do not judge the result by.
        schedule: of the prefixes' lengths, where the settings have budgets; None: evenly over the ramp.
        metadata: that the file will have, which counts in its size.
        state: file from which the run goes on if it is there, and into which it is saved after each epoch.
        checkpoint: what the file holds, by the names of the module's state dict; None is that state alone.
        report: called after each epoch.

    Raises:
        UsageError: settings, data and module do not fit together; or the state is that of another run.
        TargetError: no epoch's file was as small as asked.
    """
    with torch.random.fork_rng(devices=_cuda_devices(settings)):
        loop = _Loop(module, data, settings, teacher, task_loss, metric, schedule, metadata or {}, checkpoint)
        if state is not None and state.exists():
            loop.restore(load_state(state))
        while not loop.finished:
            report(loop.epoch())
            if state is not None:
                save_state(state, loop.saved())
        return loop.result()


class _Loop:
    """One run, between its epochs."""

    def __init__(  # noqa: PLR0913, PLR0917  (one argument for each thing a user may say)
        self,
        module: nn.Module,
        data: Data,
        settings: Settings,
        teacher: nn.Module | None,
        task_loss: TaskLoss | None,
        metric: Metric | None,
        schedule: Schedule | None,
        metadata: Mapping[str, str],
        checkpoint: Checkpoint | None = None,
    ) -> None:
        checkpoint = checkpoint or checkpoint_of_module(module)
        self.metadata, self.checkpoint = dict(metadata), checkpoint
        _seed(settings.seed)
        self.schedule = schedule or evenly(settings.ramp)
        self.settings, self.data, self.task_loss, self.metric = settings, data, task_loss, metric
        self.device = torch.device(settings.device)
        self.teacher: nn.Module | None = None
        if settings.distill_weight or settings.features:
            self.teacher = copy.deepcopy(module if teacher is None else teacher).to(self.device).eval()
            self.teacher.requires_grad_(False)
        self.restored = None if metric is None else copy.deepcopy(module).to(self.device).eval()
        self.model = Rate()
        self.factor = 0.0
        lengths = [len(data)] if isinstance(data, Sequence) else []
        lengths += [] if settings.limit is None else [settings.limit]
        self.steps_per_epoch = min(lengths, default=0)  # else counted in the first epoch that is complete
        coarseness, self.first_size = self._start(module)
        parts = self.student.parts
        self.ranks = {
            name: ranks(parts[name].shape).to(self.device) for name in settings.budgets if name in parts
        }
        in_steps = settings.learning_rate / coarseness
        self.optimizer = torch.optim.Adam(
            [
                {"params": list(self.student.coefficients.values()), "base": in_steps},
                {"params": [part.log_step for part in parts.values()], "base": _STEP_RATE},
                {"params": list(self.student.others.values()), "base": settings.other_rate},
            ],
            lr=in_steps,
            betas=(0.9, 0.99),
        )
        self.rate = settings.rate or 0.0
        self.slow_rate = 0.0  # without what the size is off just now
        self.best_metric = 0.0
        self.epochs: list[Epoch] = []
        self.best: dict[str, Any] | None = None
        self.waited = 0

    def _start(self, module: nn.Module) -> tuple[float, float]:
        """Makes the student; returns the coarseness of its steps and, where a size is asked for, its size.

        Training makes a file smaller, never much larger: the steps are fine enough to leave room. What it
        can take away is little in a short run, though, which therefore begins with coarser steps.
        """
        settings = self.settings
        coarseness, finer = settings.coarseness, False
        while True:
            student = copy.deepcopy(module).to(self.device).train(settings.train_mode).requires_grad_(True)
            chosen = replace(settings, coarseness=coarseness)
            self.student: Student = make_student(student, chosen)
            self.model.update(self.student.coefficients)
            if settings.size is None:
                return coarseness, 0.0
            size = float(self._size())
            most = (_ROOM + self._travel(coarseness) / _TRAVEL) * settings.size
            if size < _ROOM * settings.size and coarseness >= _FINEST:
                coarseness, finer = coarseness / (1.1 if finer else 1.5), True
            elif size > 1.1 * most and not finer and coarseness < _COARSEST:
                coarseness *= 1.2
            else:
                return coarseness, size

    def _travel(self, coarseness: float) -> float:
        """How many steps of the quantiser a coefficient may move in all of the run, about."""
        if not self.steps_per_epoch:
            return _FAR
        batches = self.settings.epochs * self.steps_per_epoch
        return min(_FAR, 0.65 * batches * self.settings.learning_rate / coarseness)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or no better one is expected."""
        patience = self.settings.patience
        return len(self.epochs) >= self.settings.epochs or (patience is not None and self.waited >= patience)

    def epoch(self) -> Epoch:
        """One pass over the data."""
        number = len(self.epochs)
        _seed(self.settings.seed + 1_000_003 * number)
        total, count = 0.0, 0
        with losses.watched(self.teacher or nn.Module(), self.settings.features) as theirs, losses.watched(
            self.student.module, self.settings.features
        ) as ours:  # fmt: skip
            for batch in self._batches(number):
                total += self._step(batch, number, count, ours, theirs)
                count += 1
        if not count:
            raise UsageError("the calibration data have no batches")
        self.steps_per_epoch = count
        return self._judge(total / count)

    def _batches(self, number: int) -> Iterator[Batch]:
        batches = self.data(number) if callable(self.data) else self.data
        return islice(iter(batches), self.settings.limit)

    def _step(
        self, batch: Batch, epoch: int, count: int, ours: dict[str, Any], theirs: dict[str, Any]
    ) -> float:
        share = self._share(epoch, count)
        fall = 0.01 + 0.99 * (1 + cos(pi * max(0.0, (share - 0.3) / 0.7))) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * fall
        if count % _REFRESH == 0:
            self.model.update(self.student.coefficients)
            self._steer(share)
            self._shrink(share)
        noisy = share < 0.75 and float(torch.rand(())) < self.settings.noise
        set_mode(self.student.module, NOISE if noisy else ROUND)
        loss = self._loss(losses.to_device(batch, self.device), ours, theirs)
        plain = float(loss.detach())
        ramp = min(1.0, share / self.settings.ramp) if self.settings.ramp else 1.0
        loss.backward()
        if self.settings.size is not None and not self.slow_rate:
            balance = 8000 * self.model.balance(self.student.coefficients)
            self.rate = self.slow_rate = _FIRST_SHARE * balance or _FIRST_RATE
        rate = self.rate * (ramp if self.settings.rate is not None else 1.0)
        if rate:
            self.model.add_gradients(self.student.coefficients, rate / 8000, self.student.tables)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return plain

    def _loss(self, batch: Batch, ours: dict[str, Any], theirs: dict[str, Any]) -> Tensor:
        settings = self.settings
        inputs, target = batch if self.task_loss is not None else (batch, None)
        with parametrize.cached():  # some modules look at a weight more than once
            found = losses.call(self.student.module, inputs)
        loss = torch.zeros((), device=self.device)
        expected = None
        if self.teacher is not None:
            with torch.no_grad():
                expected = losses.call(self.teacher, inputs)
        if settings.distill_weight:
            apart = losses.distance(found, expected, settings.outputs, settings.temperature)
            loss = loss + settings.distill_weight * apart
        for name in settings.features:
            feature = losses.distance(ours[name], theirs[name], losses.VALUES, 1.0)
            loss = loss + settings.feature_weight / len(settings.features) * feature
        if self.task_loss is not None:
            loss = loss + settings.task_weight * self.task_loss(found, target)
        return loss

    def _share(self, epoch: int, count: int) -> float:
        """Of all steps, those that are done; within the first epoch as if it had only begun."""
        inside = min(count / self.steps_per_epoch, 1.0) if self.steps_per_epoch else 0.0
        return (epoch + inside) / self.settings.epochs

    def _steer(self, share: float) -> None:
        """Moves the rate towards the one at which the size is what it should be by now.

        The size is what the rate has added up to, so a rate that itself only adds up what the size is off
        would swing about its goal: what it is off now counts too, at once.
        """
        if self.settings.size is None:
            return
        left = max(0.0, 1 - share / self.settings.ramp) if self.settings.ramp else 0.0
        least = _AIM * self.settings.size
        goal = least * (max(self.first_size, least) / least) ** left
        off = log((self._estimate() * self.factor) / goal)
        # Short runs move faster: whatever their length, the rate may come a factor of e^6 up.
        done = self.settings.epochs * max(self.steps_per_epoch, _REFRESH) / _REFRESH
        largest = max(_LARGEST_CHANGE, 6 / done if self.steps_per_epoch else 0.0)
        self.slow_rate *= exp(largest * max(-1.0, min(1.0, off / _FULL_SPEED)))
        self.rate = self.slow_rate * exp(max(-_AT_ONCE, min(_AT_ONCE, off * _GAIN)))

    def _shrink(self, share: float) -> None:
        """Prefixes as long as they should be by now."""
        sizes = {name: rank.numel() for name, rank in self.ranks.items()}
        counts = {name: self.settings.budgets[name] for name in sizes}
        for name, length in prefixes(counts, sizes, self.schedule(share)).items():
            self.student.parts[name].support = self.ranks[name] < length

    def _estimate(self) -> float:
        """Bytes of the rounded coefficients by the rate model, as of its last count."""
        return self.model.total_bits / 8 + 1

    def _size(self) -> int:
        """Bytes of the whole file as it would be written now; corrects the estimate."""
        stream = io.BytesIO()
        task = Task(self.checkpoint, lambda: _emptied(stream), Options(), lambda *_: None, self.metadata)
        size = write_tuned(task, self.student.tuned()).size_bytes
        self.model.update(self.student.coefficients)
        self.factor = size / self._estimate()
        return size

    def _trimmed(self, size: int) -> int:
        """Takes away what the file is too large by, where it does the least harm; returns its new size."""
        goal = self.settings.size or 0.0
        for attempt in range(_TRIMS):
            if size <= goal:
                break
            # Estimates of what a file would lose may be too high: each attempt asks for more.
            bits = 8 * (size - _UNDER * goal) / self.factor * (1 + attempt / 4)
            self.model.trim(self.student.coefficients, bits, self._curvatures())
            size = self._size()
        return size

    def _curvatures(self) -> dict[str, Tensor]:
        """Mean squared gradients, which are near to second derivatives, and a part of their mean."""
        found = {}
        for name, q in self.student.coefficients.items():
            squares = self.optimizer.state.get(q, {}).get("exp_avg_sq")
            found[name] = torch.ones_like(q) if squares is None else squares
        mean = sum(float(each.sum()) for each in found.values()) / sum(
            each.numel() for each in found.values()
        )
        return {name: each + _FLOOR * mean for name, each in found.items()}

    def _judge(self, loss: float) -> Epoch:
        settings = self.settings
        size = self._size()
        done = (len(self.epochs) + 1) / settings.epochs
        if settings.size is not None and (done >= 1 or size <= _NEAR * settings.size):
            size = self._trimmed(size)
        metric = None
        if self.metric is not None and self.restored is not None:
            load_tuned(self.restored, self.student.tuned())
            with torch.no_grad():
                metric = float(self.metric(self.restored))
        epoch = Epoch(len(self.epochs) + 1, settings.epochs, loss, size, self.rate, metric)
        self.epochs.append(epoch)
        small = settings.size is None or size <= settings.size
        ramped = settings.size is not None or epoch.number >= settings.ramp * settings.epochs
        if self.ranks:
            ramped = self._is_shrunk()
        if small and ramped:
            value = -loss if metric is None else metric
            self.waited += 1
            if self.best is None or value > self.best_metric or (metric is None):
                self.best_metric, self.waited = value, 0
                self.best = {"epoch": epoch.number, "module": _copied(self.student.module.state_dict())}
        return epoch

    def _is_shrunk(self) -> bool:
        supports = {name: self.student.parts[name].support for name in self.ranks}
        return all(
            support is not None and int(support.sum()) <= self.settings.budgets[name]
            for name, support in supports.items()
        )

    def saved(self) -> dict[str, Any]:
        """Everything that the next epoch depends on."""
        return {
            "settings": repr(replace(self.settings, device="cpu")),
            "module": self.student.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps_per_epoch": self.steps_per_epoch,
            "numbers": [self.rate, self.slow_rate, self.first_size, self.factor, self.best_metric],
            "waited": self.waited,
            "epochs": [[getattr(e, name) for name in Epoch.__slots__] for e in self.epochs],
            "best": self.best,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Goes on from there."""
        if saved["settings"] != repr(replace(self.settings, device="cpu")):
            raise UsageError(
                "the state to resume from is that of a run with other settings; remove it or name another"
            )
        self.student.module.load_state_dict(saved["module"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.steps_per_epoch = saved["steps_per_epoch"]
        self.rate, self.slow_rate, self.first_size, self.factor, self.best_metric = saved["numbers"]
        self.waited = saved["waited"]
        self.epochs = [Epoch(*fields) for fields in saved["epochs"]]
        self.best = saved["best"]

    def result(self) -> Run:
        """The best epoch."""
        if self.best is None:
            smallest = min((epoch.size_bytes for epoch in self.epochs), default=0)
            raise TargetError(
                f"no epoch's file was at most {self.settings.size:.0f} bytes, the smallest {smallest}; "
                "give it more epochs, a shorter ramp or a larger size"
            )
        self.student.module.load_state_dict(self.best["module"])
        return Run(self.student.tuned(), self.checkpoint, tuple(self.epochs), self.best["epoch"])


def _seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002  (what the user's data may draw from)
    torch.manual_seed(number)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in state.items()}


def _emptied(stream: io.BytesIO) -> io.BytesIO:
    stream.seek(0)
    stream.truncate()
    return stream


def _cuda_devices(settings: Settings) -> list[int]:
    device = torch.device(settings.device)
    return [device.index or 0] if device.type == "cuda" else []
