"""From a module to a fine-tuned `.frq`: `distill` by what the file costs, `regularize` by the paper."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from frconvert.checkpoint import Checkpoint
from frconvert.distill import graphs
from frconvert.distill.losses import TaskLoss
from frconvert.distill.modules import checkpoint_of_module
from frconvert.distill.prefix import Schedule, budgets
from frconvert.distill.results import Epoch, Run
from frconvert.distill.run import Data, Metric, fine_tune
from frconvert.distill.settings import Settings
from frconvert.distill.start import closed_form
from frconvert.distill.tuned import Tuned, write_tuned
from frconvert.encode import Options, Task
from frconvert.errors import UsageError
from frconvert.files import check_destination, replacing
from frconvert.provenance import check_metadata, reserved
from frconvert.summary import Summary, summarise
from frconvert.target import parse_size
from frconvert.version import __version__

_REFINED = {"learning_rate": 0.001, "noise": 0.0}  # what is refined already, more would undo


def distill(  # noqa: PLR0913  (one argument for each thing a user may say)
    module: nn.Module | graphs.Source | Checkpoint | str | Path,
    data: Data,
    destination: str | Path,
    *,
    rate: float | None = None,
    size: float | str | None = None,
    teacher: nn.Module | None = None,
    task_loss: TaskLoss | None = None,
    metric: Metric | None = None,
    refine_first: bool = False,
    resume: str | Path | None = None,
    metadata: Mapping[str, str] | None = None,
    provenance: bool = True,
    overwrite: bool = False,
    report: Callable[[Epoch], None] = lambda _: None,
    **settings: Any,
) -> Summary:
    """Fine-tunes the coefficients of a module against its original and writes a `.frq`.

    Args:
        module: the original, a `torch.nn.Module`, which stays as it is; or an ONNX model, as a file (an
            `.onnx`, or a `.frq` that was made of one) or a checkpoint. Its inputs come by position or by
            name, and the result becomes an `.onnx` again.
        data: batches, or a function of the epoch that yields them, see `frconvert.distill.run.fine_tune`.
        destination: ends in .frq.
        rate: loss that a kilobyte of the file costs; or
        size: bytes of the file at most, or a text such as "4.5kB".
        teacher: another module to distil from.
        task_loss: outputs, target -> scalar, where batches are pairs.
        metric: module -> number, higher is better; chooses the epoch.
        refine_first: begin with weights that are refined in closed form, on the first of the batches, to the
            size. The learning rate is then 0.001, and without noise, if nothing else is said.
        resume: a file that keeps the state: a run that was stopped goes on from it.
        metadata: key -> value.
        provenance: whether the file says how it was made.
        overwrite: replace an existing destination.
        report: called after each epoch.
        settings: any other of `frconvert.distill.settings.Settings`.

    Raises:
        FrqError: one line that says what, where and what to do; nothing was written then.
    """
    target = parse_size(size) if isinstance(size, str) else size
    graph = None
    if not isinstance(module, nn.Module):
        graph = module if isinstance(module, graphs.Source) else graphs.open_graph(module)
    if graph is not None:
        settings = {"outputs": graph.outputs, **settings}
    if refine_first:
        settings = {**_REFINED, **settings}
    chosen = Settings(rate=rate, size=target, **settings)
    words = f"distill --size {target:g}" if target is not None else f"distill --rate {rate:g}"
    options: dict[str, Any] = {
        "overwrite": overwrite, "provenance": provenance, "teacher": teacher, "task_loss": task_loss,
        "metric": metric, "state": Path(resume) if resume else None, "report": report,
    }  # fmt: skip
    words = f"{words} --epochs {chosen.epochs} --seed {chosen.seed}"
    network: Any = module if graph is None else graph.module(chosen.outputs)
    if refine_first:
        if target is None:
            raise UsageError("refining first needs a size, not a rate")
        if chosen.bases:
            raise UsageError("refining first chooses axes itself; leave out the bases")
        words = f"{words} --refine-first"
        held = checkpoint_of_module(network) if graph is None else graph.as_trained()
        options["start"] = lambda: closed_form(network, _inputs(data, task_loss), held, chosen)
    if graph is None:
        return _run(network, data, destination, chosen, words, metadata=metadata or {}, **options)
    options["metric"] = metric and graph.judged_by(metric)
    return _run(
        network, data, destination, chosen, words, graph=graph,
        metadata={**graph.checkpoint.metadata, **(metadata or {})}, **options,
    )  # fmt: skip


def _inputs(data: Data, task_loss: TaskLoss | None) -> Iterator[Any]:
    """The inputs of the first epoch's batches."""
    for batch in data(0) if callable(data) else data:
        yield batch if task_loss is None else batch[0]


def regularize(  # noqa: PLR0913  (as above)
    module: nn.Module,
    data: Data,
    destination: str | Path,
    *,
    keep: float,
    schedule: Schedule | None = None,
    task_loss: TaskLoss | None = None,
    metric: Metric | None = None,
    distillation: float = 0.0,
    resume: str | Path | None = None,
    metadata: Mapping[str, str] | None = None,
    provenance: bool = True,
    overwrite: bool = False,
    report: Callable[[Epoch], None] = lambda _: None,
    **settings: Any,
) -> Summary:
    """Trains a module by the rule of the Frequency Regularization paper and writes a `.frq`.

    Every convolution and linear layer is trained as its DCT over all axes, of which only the first
    max(keep x size, floor) in zigzag order may be other than 0; the floor is 128 for a convolution, 256 for a
    linear layer and 32 for a transposed convolution (arXiv 2304.07973, appendix). The prefixes shrink while
    it trains, from all coefficients, by `schedule`.

    Args:
        module: fresh or pretrained; a copy is trained.
        data: batches as for `distill`; pairs of input and target where there is a task loss.
        destination: ends in .frq.
        keep: share of each tensor's coefficients.
        schedule: share of the training that is done (0 to 1) -> how much of the way from all coefficients
            to the last prefix, on a logarithmic scale, is left (1 to 0). None: evenly over `ramp`.
        task_loss: outputs, target -> scalar; needed unless there is distillation.
        metric: as for `distill`, and so are the next five.
        distillation: weight of the distance to the module as it was given.
        resume: a file that keeps the state.
        metadata: key -> value.
        provenance: whether the file says how it was made.
        overwrite: replace an existing destination.
        report: called after each epoch.
        settings: any other of `frconvert.distill.settings.Settings`.
    """
    if task_loss is None and not distillation:
        raise UsageError("regularize needs a task loss, or distillation from the module itself")
    defaults = {"coarseness": 0.05, "noise": 0.0, "other_rate": 1e-3, "train_mode": True, "task_weight": 1.0}
    chosen = Settings(**{**defaults, **settings}, budgets=budgets(module, keep), distill_weight=distillation)
    return _run(
        module, data, destination, chosen, f"regularize --keep {keep:g} --epochs {chosen.epochs}",
        overwrite=overwrite, metadata=metadata or {}, provenance=provenance, schedule=schedule,
        task_loss=task_loss, metric=metric, state=Path(resume) if resume else None, report=report,
    )  # fmt: skip


def _run(  # noqa: PLR0913  (as above)
    module: nn.Module,
    data: Data,
    destination: str | Path,
    settings: Settings,
    words: str,
    *,
    overwrite: bool,
    metadata: Mapping[str, str],
    provenance: bool,
    graph: graphs.Source | None = None,
    **options: Any,
) -> Summary:
    path = Path(destination)
    if path.suffix != ".frq":
        raise UsageError(f"{path}: fine-tuning writes .frq files")
    check_destination(path, overwrite=overwrite)
    check_metadata(metadata)
    began = time.monotonic()
    made = {"options": words, "version": __version__} if provenance else {}
    whole = {**metadata, **reserved(made)}
    held = None if graph is None else graph.as_trained()
    run: Run = fine_tune(module, data, settings, metadata=whole, checkpoint=held, **options)
    seconds = time.monotonic() - began
    checkpoint, tuned = run.checkpoint, run.tuned
    if graph is not None:
        checkpoint, tuned = graph.checkpoint, graph.named(run.tuned)
    return write(checkpoint, tuned, path, metadata=whole, overwrite=overwrite, seconds=seconds)


def write(
    checkpoint: Checkpoint,
    tuned: Mapping[str, Tuned],
    destination: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
    seconds: float = 0.0,
) -> Summary:
    """Writes tensors as training left them, by the names of a checkpoint, which gives the other ones."""
    path = Path(destination)
    check_destination(path, overwrite=overwrite)
    whole = replace(checkpoint, metadata={**checkpoint.metadata, **(metadata or {})})
    with replacing(path) as temporary:
        task = Task(whole, lambda: temporary.open("wb"), Options(), lambda *_: None, dict(whole.metadata))
        outcome = write_tuned(task, tuned)
    return summarise(checkpoint, outcome, seconds, checkpoint.notices)
