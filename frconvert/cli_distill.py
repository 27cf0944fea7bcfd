"""The command `frconvert distill`: options in, one call, figures out."""

from typing import TYPE_CHECKING, Any

import click

from frconvert.cli_common import json_option, print_json, print_notices, quiet_option
from frconvert.errors import UsageError

if TYPE_CHECKING:
    from frconvert.distill.results import Epoch


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="[SRC] DST")
@click.option(
    "--model",
    metavar="MODULE:FUNCTION",
    help="Instead of SRC: a function of yours that returns the original, a torch.nn.Module with its weights.",
)
@click.option(
    "--calib",
    required=True,
    metavar="DATA",
    help="What to go through in each epoch: .npz, .npy, a folder, or MODULE:FUNCTION, which returns batches "
    "(or yields them, given the number of the epoch): tensors, tuples of arguments, dicts.",
)
@click.option("--rate", type=float, metavar="LOSS", help="Loss that a kilobyte of DST costs.")
@click.option("--size", metavar="SIZE", help="Bytes of DST at most, such as 4.5kB.")
@click.option(
    "--refine-first",
    is_flag=True,
    help="Begin with weights that are refined in closed form, on the first of the data; needs --size.",
)
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True, help="Passes over the data.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option(
    "--eval",
    "metric",
    metavar="MODULE:FUNCTION",
    help="A metric of a module, higher is better, that chooses the epoch. Give it data of its own.",
)
@click.option(
    "--task-loss",
    metavar="MODULE:FUNCTION",
    help="A loss of (outputs, target), added to that of distillation; batches are then pairs.",
)
@click.option(
    "--feature",
    "features",
    multiple=True,
    metavar="NAME",
    help="A submodule, or a value of the graph, that is matched too; repeatable.",
)
@click.option(
    "--outputs",
    type=click.Choice(["logits", "probabilities", "values"]),
    help="What the model's outputs are: logits are compared by their softmax, probabilities by their "
    "logarithms, values as they are. By default logits; of a graph that does not end in a softmax, values.",
)
@click.option("--temperature", type=float, default=2.0, show_default=True, help="Of the logits.")
@click.option(
    "--learning-rate",
    type=float,
    help="Of the coefficients, in root mean squares of their tensor.  [default: 0.01, or 0.001 with "
    "--refine-first]",
)
@click.option(
    "--coarseness",
    type=float,
    default=0.5,
    show_default=True,
    help="The first quantiser step, in root mean squares.",
)
@click.option("--patience", type=click.IntRange(1), help="Epochs without a better metric that end the run.")
@click.option(
    "--include", multiple=True, metavar="GLOB", help="Train only parameters of such names; repeatable."
)
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave parameters of such names; repeatable.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option(
    "--resume", metavar="FILE", help="Keeps the state of the run: one that was stopped goes on from it."
)
@click.option("--no-provenance", is_flag=True, help="Do not note in DST how it was made.")
@json_option
@quiet_option
@click.option("--overwrite", is_flag=True, help="Replace DST if it exists.")
def distill(  # noqa: PLR0913  (one argument for each option)
    files: tuple[str, ...],
    *,
    model: str | None,
    calib: str,
    metric: str | None,
    task_loss: str | None,
    resume: str | None,
    no_provenance: bool,
    as_json: bool,
    quiet: bool,
    overwrite: bool,
    **settings: Any,
) -> None:
    """Fine-tune the coefficients of a model against its original, and write DST, a .frq.

    The model is SRC, an .onnx (or a .frq of one), or a PyTorch module of yours. The weights are quantised
    while they are trained, and the loss counts what DST will cost. --model, --calib, --eval and --task-loss
    name functions of your own code, which runs as such; the current folder is on Python's path.
    """  # fmt: skip
    from frconvert import finetune  # noqa: PLC0415
    from frconvert.calibration import functions  # noqa: PLC0415
    from frconvert.distill.graphs import open_graph  # noqa: PLC0415
    from frconvert.distill.sources import batches_of, module_of  # noqa: PLC0415

    if len(files) != (1 if model else 2):
        raise UsageError("give SRC and DST, or --model and DST")
    dst = files[-1]
    source = module_of(model) if model else open_graph(files[0])
    inputs = None if model else source.inputs
    options = {name: value for name, value in settings.items() if value is not None}

    def report(epoch: "Epoch") -> None:
        if not quiet and not as_json:
            facts = [
                f"epoch {epoch.number}/{epoch.of}",
                f"loss {epoch.loss:.5g}",
                f"{epoch.size_bytes:,} bytes",
            ]
            facts += [f"rate {epoch.rate:.3g}"] + (
                [] if epoch.metric is None else [f"metric {epoch.metric:.5g}"]
            )
            click.echo(", ".join(facts), err=True)

    if settings["size"] is None and settings["rate"] is None:
        raise UsageError("give --size or --rate")
    if settings["refine_first"] and not quiet and not as_json:
        click.echo("refining in closed form first; on a large model that takes minutes", err=True)
    summary = finetune.distill(
        source, batches_of(calib, labelled=task_loss is not None, inputs=inputs), dst, overwrite=overwrite,
        report=report,
        metric=functions.find(metric) if metric else None, resume=resume, provenance=not no_provenance,
        task_loss=functions.find(task_loss) if task_loss else None, **options,
    )  # fmt: skip
    if as_json:
        print_json(summary.to_json())
    elif not quiet:
        facts = f"{summary.destination_bytes:,} bytes, 1/{summary.ratio:.2f} of its tensors"
        click.echo(f"{dst} is {facts}, {summary.bits_per_weight:.4f} bits a weight, {summary.seconds:.1f} s")
    print_notices(summary.notices, quiet=quiet)
