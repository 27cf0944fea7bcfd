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
from dataclasses import replace
from itertools import islice
from math import cos, pi
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
from frconvert.distill.results import Epoch, Run
from frconvert.distill.settings import Settings
from frconvert.distill.size_control import REFRESH, SizeControl
from frconvert.distill.start import Begin
from frconvert.distill.state import load_state, save_state
from frconvert.distill.tuned import write_tuned
from frconvert.encode import Options, Task
from frconvert.errors import TargetError, UsageError

_STEP_RATE = 0.003  # learning rate of the logarithms of the steps
_NUMBERS = ("rate", "slow_rate", "first_size", "factor")  # of the size control, that a state has

Data = Sequence[Batch] | Callable[[int], Iterable[Batch]]  # batches, or epoch -> batches
Metric = Callable[[nn.Module], float]


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
    start: Callable[[], Mapping[str, Begin]] | None = None,
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
        start: makes what training begins with instead of the original; not called for a run that goes on.
        report: called after each epoch.

    Raises:
        UsageError: settings, data and module do not fit together; or the state is that of another run.
        TargetError: no epoch's file was as small as asked.
    """
    with torch.random.fork_rng(devices=_cuda_devices(settings)):
        saved = load_state(state) if state is not None and state.exists() else None
        if saved is not None:
            begin = {name: Begin(tuple(axes), step) for name, axes, step in saved["begin"]}
        else:
            _seed(settings.seed)  # data may be drawn
            begin = dict(start()) if start is not None else {}
        loop = _Loop(
            module, data, settings, teacher, task_loss, metric, schedule, metadata or {}, checkpoint, begin
        )
        if saved is not None:
            loop.restore(saved)
        elif begin:
            loop.judge_start()
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
        begin: Mapping[str, Begin] | None = None,
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
        self.control = SizeControl(settings, self.model, settings.rate or 0.0)
        lengths = [len(data)] if isinstance(data, Sequence) else []
        lengths += [] if settings.limit is None else [settings.limit]
        self.steps_per_epoch = min(lengths, default=0)  # else counted in the first epoch that is complete
        self.begin = dict(begin or {})
        self._start(module)
        parts = self.student.parts
        self.ranks = {
            name: ranks(parts[name].basis.view or parts[name].shape).to(self.device)
            for name in settings.budgets
            if name in parts
        }
        self.optimizer = torch.optim.Adam(
            [
                *(
                    {"params": [q], "base": settings.learning_rate / self.student.coarseness[name]}
                    for name, q in self.student.coefficients.items()
                ),
                {"params": [part.log_step for part in parts.values()], "base": _STEP_RATE},
                {"params": list(self.student.others.values()), "base": settings.other_rate},
            ],
            betas=(0.9, 0.99),
        )
        self.lengths: dict[str, int] = {}  # of prefixes
        self.best_metric = 0.0
        self.epochs: list[Epoch] = []
        self.best: dict[str, Any] | None = None
        self.waited = 0

    def _start(self, module: nn.Module) -> None:
        """Makes the student, with steps as coarse as a size needs where they are not given."""
        coarseness, was_finer = self.settings.coarseness, False
        while True:
            student = copy.deepcopy(module).to(self.device).train(self.settings.train_mode)
            chosen = replace(self.settings, coarseness=coarseness)
            self.student: Student = make_student(student.requires_grad_(True), chosen, self.begin)
            self.model.update(self.student.coefficients)
            if self.settings.size is None:
                return
            size = self._size()
            if self.begin:
                self.control.first_size = float(size)
                return
            found = self.control.next_coarseness(coarseness, size, self._all_batches, was_finer=was_finer)
            if found is None:
                return
            coarseness, was_finer = found, found < coarseness

    @property
    def _all_batches(self) -> int:
        """Of the whole run, 0 while they are not known."""
        return self.settings.epochs * self.steps_per_epoch

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
        if count % REFRESH == 0:
            self.model.update(self.student.coefficients)
            self.control.steer(share, self._all_batches)
            self._shrink(share)
        noisy = share < 0.75 and float(torch.rand(())) < self.settings.noise
        set_mode(self.student.module, NOISE if noisy else ROUND)
        loss = self._loss(losses.to_device(batch, self.device), ours, theirs)
        plain = float(loss.detach())
        ramp = min(1.0, share / self.settings.ramp) if self.settings.ramp else 1.0
        loss.backward()
        self.control.begin(self.student.coefficients)
        rate = self.control.rate * (ramp if self.settings.rate is not None else 1.0)
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

    def _shrink(self, share: float) -> None:
        """Prefixes as long as they should be by now."""
        sizes = {name: rank.numel() for name, rank in self.ranks.items()}
        counts = {name: self.settings.budgets[name] for name in sizes}
        lengths = prefixes(counts, sizes, self.schedule(share))
        for name, length in lengths.items():
            if length != self.lengths.get(name):
                self.student.parts[name].limit(self.ranks[name] < length)
        self.lengths = lengths

    def _size(self) -> int:
        """Bytes of the whole file as it would be written now; corrects the estimate."""
        stream = io.BytesIO()
        task = Task(self.checkpoint, lambda: _emptied(stream), Options(), lambda *_: None, self.metadata)
        size = write_tuned(task, self.student.tuned()).size_bytes
        self.model.update(self.student.coefficients)
        self.control.measured(size)
        return size

    def _judge(self, loss: float) -> Epoch:
        settings = self.settings
        is_last = len(self.epochs) + 1 >= settings.epochs
        size = self.control.trimmed(
            self._size(), self.student.coefficients, self.optimizer, self._size, is_last=is_last
        )
        metric = self._restored_metric()
        epoch = Epoch(len(self.epochs) + 1, settings.epochs, loss, size, self.control.rate, metric)
        self.epochs.append(epoch)
        small = settings.size is None or size <= settings.size
        ramped = settings.size is not None or epoch.number >= settings.ramp * settings.epochs
        if self.ranks:
            ramped = self._is_shrunk()
        if small and ramped:
            value = -loss if metric is None else metric
            self.waited += 1
            if self.best is None or value > self.best_metric or (metric is None):
                self._keep(epoch.number, value)
                self.waited = 0
        return epoch

    def judge_start(self) -> None:
        """What training begins with is the best so far, if it is small enough."""
        metric = self._restored_metric()
        if metric is not None and self.control.first_size <= (self.settings.size or 0):
            self._keep(0, metric)

    def _restored_metric(self) -> float | None:
        """The metric of what the file would restore."""
        if self.metric is None or self.restored is None:
            return None
        load_tuned(self.restored, self.student.tuned())
        with torch.no_grad():
            return float(self.metric(self.restored))

    def _keep(self, epoch: int, value: float) -> None:
        self.best_metric = value
        self.best = {"epoch": epoch, "module": _copied(self.student.module.state_dict())}

    def _is_shrunk(self) -> bool:
        return all(self.lengths[name] <= self.settings.budgets[name] for name in self.ranks)

    def saved(self) -> dict[str, Any]:
        """Everything that the next epoch depends on."""
        return {
            "settings": repr(replace(self.settings, device="cpu")),
            "begin": [[name, list(item.axes), item.step] for name, item in self.begin.items()],
            "module": self.student.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps_per_epoch": self.steps_per_epoch,
            "numbers": [*(getattr(self.control, name) for name in _NUMBERS), self.best_metric],
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
        *numbers, self.best_metric = saved["numbers"]
        for name, number in zip(_NUMBERS, numbers, strict=True):
            setattr(self.control, name, number)
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
        self._shrink(1.0)
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
