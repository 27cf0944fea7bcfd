"""The command line. Options in, calls to the package, tables out; no logic of its own.

Imports are inside the commands, so that `inspect` and `--help` start at once and only what a command needs is
loaded.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from frconvert import __version__, cli_archive, cli_compare, cli_distill
from frconvert.cli_common import (
    base_option,
    from_option,
    jobs_option,
    json_option,
    print_json,
    print_notices,
    progress_bar,
    quiet_option,
    standard_output,
)
from frconvert.errors import FrqError, UsageError, one_line

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _target_options(command: _Command) -> _Command:
    options = [
        click.option("--lossless", is_flag=True, help="Every bit of every tensor."),
        click.option("--keep", type=float, metavar="FRACTION",
                     help="Keep this fraction of each tensor's DCT coefficients, in zigzag order."),
        click.option("--bits", type=float, metavar="BITS",
                     help="8 x bytes of the file / float parameters, at most."),
        click.option("--ratio", type=float, metavar="R",
                     help="Bytes of the tensors / bytes of the file, at least."),
        click.option("--size", metavar="SIZE", help="Bytes of the file at most, such as 4.5kB or 2MiB."),
        click.option("--snr", type=float, metavar="DB",
                     help="SQNR in dB, in total over the float tensors with two or more axes, at least."),
        click.option("--max-error", type=float, metavar="ABS", help="Largest absolute error of any weight."),
        click.option("--max-drop", type=float, metavar="DROP",
                     help="The smallest file whose metric, see --eval, falls by at most this."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="frconvert", message="%(prog)s %(version)s")
def cli() -> None:
    """Compresses and converts neural-network weights.

    Exit status: 0 done; 1 a check failed or a target cannot be met; 2 wrong usage; 3 unreadable, damaged or
    unsupported input, or a destination that cannot be written.
    """


@cli.command()
@click.argument("src")
@click.argument("dst")
@_target_options
@click.option(
    "--include", multiple=True, metavar="GLOB", help="Quantise only tensors with such names; repeatable."
)
@click.option(
    "--exclude", multiple=True, metavar="GLOB", help="Store tensors with such names exactly; repeatable."
)
@click.option(
    "--importance",
    type=click.Choice(["tensor", "mse"]),
    default="tensor",
    show_default=True,
    help="What is made small: the sum of the tensors' errors relative to their own energies, or the total "
    "squared error. In both no tensor falls more than about 6 dB below the total.",
)
@click.option(
    "--calib",
    metavar="DATA",
    help="Refine the weights against what the model computes for these inputs: .npz or .npy, a folder of "
    "images or arrays, or module:function (your code) that yields batches. Some hundred samples without "
    "labels are enough. ONNX sources run by themselves, others need --model.",
)
@click.option(
    "--model",
    metavar="MODULE:FACTORY",
    help="With --calib: a function (your code) that returns the torch module that SRC belongs to.",
)
@click.option("--config", metavar="FILE", help="A plan file (TOML): wishes for single tensors, by globs.")
@click.option(
    "--plan", metavar="FILE", help="Write into FILE what was decided for each tensor, for --config."
)
@click.option(
    "--base",
    multiple=True,
    metavar="FILE",
    help="A .frq to store the differences to; reading needs it again. Also the base of SRC, if that is such "
    "a .frq itself. Repeatable: the first is DST's.",
)
@click.option(
    "--onnx",
    type=click.Choice(["dense", "idct", "functions"]),
    help="How an .onnx holds its weights: dense, or as coefficients that nodes of the graph (idct) or "
    "model-local functions turn into weights when a runtime loads it. Without this option it is idct for a "
    "DST that ends in .idct.onnx, and dense else.",
)
@click.option(
    "--onnx-factored",
    type=click.Choice(["auto", "never"]),
    default="auto",
    show_default=True,
    help="Whether linear layers of few coefficients may be computed in the basis, without their weights.",
)
@click.option(
    "--onnx-names",
    type=click.Choice(["keep", "short"]),
    default="keep",
    show_default=True,
    help="Whether nodes and values between them get short names in an .onnx. Inputs, outputs and weights "
    "keep theirs.",
)
@click.option(
    "--eval",
    "metric",
    metavar="MODULE:FUNCTION",
    help="For --max-drop: a function of yours that is given the restored frconvert.Checkpoint (.numpy() has "
    "its tensors, frconvert.save makes a model file of it) and returns a number, higher is better.",
)
@from_option
@jobs_option
@click.option("--meta", multiple=True, metavar="KEY=VALUE", help="A line of metadata for a .frq; repeatable.")
@click.option(
    "--attach", multiple=True, metavar="FILE", help="A file that travels in a .frq, by its name; repeatable."
)
@click.option("--no-provenance", is_flag=True, help="Do not note in a .frq what it was made of and how.")
@click.option("--salvage", is_flag=True, help="SRC is a damaged .frq: restore what is left of it.")
@click.option("--dry-run", is_flag=True, help="Do everything but write DST.")
@json_option
@quiet_option
@click.option("--overwrite", is_flag=True, help="Replace DST if it exists.")
def convert(  # noqa: PLR0913  (one argument for each option)
    src: str,
    dst: str,
    *,
    source_format: str | None,
    meta: tuple[str, ...],
    attach: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    importance: str,
    calib: str | None,
    model: str | None,
    config: str | None,
    plan: str | None,
    base: tuple[str, ...],
    onnx: str | None,
    onnx_factored: str,
    onnx_names: str,
    max_drop: float | None,
    metric: str | None,
    jobs: int,
    no_provenance: bool,
    salvage: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    overwrite: bool,
    **target: Any,
) -> None:
    """Convert SRC into DST; the suffix of DST says into what.

    SRC is a PyTorch (also .pt2), safetensors (also sharded: *.index.json), ONNX, HDF5, Keras, NumPy or .frq
    file; a .frq may be a URL. DST ends in .frq, .pt, .safetensors, .h5, .keras, .npz or .onnx; "-" writes a
    .frq to standard output, and a pipe may have the name of one. Such a stream begins when all of it is made.

    Targets are for a .frq, or for an .onnx with coefficients: one that ends in .idct.onnx, or --onnx idct or
    functions. Such a file runs in any ONNX runtime. From a .frq, without a target, it gets the very same
    coefficients, and from it a .frq gets them back.

    Without a target the weights keep 36 dB (errors of 1.6 % of a typical weight), which does not
    visibly change a model; every single tensor keeps about 30 dB. Biases and normalisation lose 20 dB
    less than weights. Integers and other non-float tensors always keep their exact values.
    """
    from pathlib import Path  # noqa: PLC0415

    from frconvert import importers, pipeline  # noqa: PLC0415
    from frconvert.attach import read_files  # noqa: PLC0415
    from frconvert.encode import Options  # noqa: PLC0415
    from frconvert.provenance import parse_metadata  # noqa: PLC0415
    from frconvert.rules import read_plan  # noqa: PLC0415
    from frconvert.target import make_target  # noqa: PLC0415

    if salvage and source_format not in (None, "frq"):
        raise UsageError("--salvage reads .frq files only")
    rules = read_plan(config) if config else ()
    common: dict[str, Any] = {
        "target": make_target(**target),
        "options": Options(
            importance, include, exclude, rules, jobs, None, onnx, onnx_factored, onnx_names, calib, model
        ),
        "extras": pipeline.Extras(
            parse_metadata(meta), read_files(attach), not no_provenance, Path(plan) if plan else None
        ),
        "bases": importers.load_bases(base),
        "overwrite": overwrite,
        "dry_run": dry_run,
    }
    if max_drop is not None or metric is not None:
        _convert_by_metric(
            src, dst, max_drop, metric, source_format, salvage=salvage, as_json=as_json, quiet=quiet, **common
        )
        return
    destination = standard_output(as_json=as_json) if dst == "-" else dst
    is_hurt = False
    with progress_bar(hidden=quiet or as_json) as progress:
        if salvage:
            summary, found = pipeline.salvage(src, destination, progress=progress, **common)
            is_hurt = bool(found.lost_tensors or found.lost_attachments)
            for line in found.lines():
                click.echo(f"frconvert: {src}: {line}", err=True)
        else:
            summary = pipeline.convert(
                src, destination, source_format=source_format, progress=progress, **common
            )
    if as_json:
        print_json(summary.to_json())
    elif not quiet:
        verb = "would be" if dry_run else "is"
        facts = [f"{'the .frq' if dst == '-' else dst} {verb} {summary.destination_bytes:,} bytes"]
        if any(tensor.method not in ("exact", "copied") for tensor in summary.tensors):
            facts.append(f"weights at {summary.sqnr_db:.2f} dB")
        else:
            facts.append("all values as in the source")
        facts += [f"1/{summary.ratio:.2f} of its tensors", f"{summary.bits_per_weight:.3f} bits a weight"]
        click.echo(f"{', '.join(facts)}, {summary.seconds:.1f} s", err=dst == "-")
    print_notices(summary.notices, quiet=quiet)
    if is_hurt:
        raise SystemExit(1)


def _convert_by_metric(
    src: str,
    dst: str,
    max_drop: float | None,
    metric: str | None,
    source_format: str | None,
    *,
    salvage: bool,
    as_json: bool,
    quiet: bool,
    **common: Any,
) -> None:
    from dataclasses import replace  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    from frconvert import importers, quality  # noqa: PLC0415
    from frconvert.calibration import functions  # noqa: PLC0415

    if max_drop is None or metric is None:
        raise UsageError("--max-drop and --eval need each other")
    if salvage or dst == "-" or common["dry_run"] or common["target"].kind != "default":
        raise UsageError("--max-drop goes with no other target, --dry-run, --salvage or standard output")

    def report(point: quality.Point) -> None:
        if not quiet and not as_json:
            verdict = "passes" if point.passed else "falls too far"
            figures = f"{point.snr_db:6.2f} dB  {point.size_bytes:>12,} bytes  metric {point.metric:.6g}"
            click.echo(f"{figures}  {verdict}", err=True)

    bases = common["bases"]
    found = quality.convert(
        importers.load(src, source_format, base=bases), Path(dst), functions.find(metric), max_drop,
        options=replace(common["options"], base=bases[0] if bases else None), extras=common["extras"],
        overwrite=common["overwrite"], report=report,
    )  # fmt: skip
    if as_json:
        print_json(found.to_json())
    elif not quiet:
        summary = found.summary
        facts = f"{summary.destination_bytes:,} bytes, 1/{summary.ratio:.2f} of its tensors"
        click.echo(f"{dst} is {facts}, {len(found.curve)} evaluations, metric before {found.original:.6g}")
    print_notices(found.summary.notices, quiet=quiet)


@cli.command()
@click.argument("src")
@from_option
@base_option
@jobs_option
@click.option("--plot", metavar="FILE", help="Draw energy and spectra into FILE (.png, .svg, .pdf).")
@click.option("--overwrite", is_flag=True, help="Replace the plot's FILE if it exists.")
@json_option
def analyze(
    src: str,
    source_format: str | None,
    base: tuple[str, ...],
    jobs: int,
    plot: str | None,
    *,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Where the energy of SRC is, which axes to transform, and what each quality would cost."""
    from frconvert import analysis, importers  # noqa: PLC0415

    if plot:
        from frconvert.plot import check_plot, save_plot  # noqa: PLC0415

        check_plot(plot, overwrite=overwrite)  # before the work, not after it
    checkpoint = importers.load(src, source_format, base=base)
    with progress_bar(hidden=as_json) as progress:
        found = analysis.analyze_checkpoint(checkpoint, jobs, progress)
    if plot:
        save_plot(checkpoint, plot, src)
    from frconvert import tables  # noqa: PLC0415

    if as_json:
        print_json(tables.analysis_json(checkpoint, found))
    else:
        tables.print_analysis(checkpoint, found)


for _command in (
    cli_compare.compare,
    cli_archive.inspect,
    cli_archive.verify,
    cli_archive.extract,
    cli_distill.distill,
):
    cli.add_command(_command)


def main() -> None:
    """Runs the command line; every failure is one line on stderr and an exit status."""
    _catch_signals()
    status, message = 0, ""
    try:
        status = cli.main(standalone_mode=False) or 0
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        status = 2
        click.echo(error.ctx.get_help(), err=True)
    except click.exceptions.Exit as error:
        status = error.exit_code
    except click.ClickException as error:
        status, message = 2, error.format_message()
    except FrqError as error:
        status, message = error.exit_status, str(error)
    except _Stopped as error:
        status, message = 128 + error.number, "interrupted"
    except BrokenPipeError:
        _forget_stdout()
        status = 1
    except OSError as error:
        _forget_stdout()
        status, message = 3, f"{error.filename or 'output'}: {error.strerror or one_line(error)}"
    except MemoryError:
        status, message = 3, "not enough memory; try --jobs 1"
    except Exception as error:  # the last net: a defect must not show a traceback to a script
        if os.environ.get("FRCONVERT_DEBUG"):
            raise
        status = 3
        message = (
            f"unexpected {type(error).__name__}: {one_line(error)}; this is a defect, "
            "set FRCONVERT_DEBUG=1 for details"
        )
    if message:
        click.echo(f"frconvert: {' '.join(message.split())}", err=True)
    sys.exit(status)


class _Stopped(BaseException):
    """A signal asked us to end; unwinding removes temporary files."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _catch_signals() -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # the last is not on Windows
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _stop)


def _stop(number: int, _: object) -> None:
    raise _Stopped(number)


def _forget_stdout() -> None:
    """What cannot be written is not tried again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
