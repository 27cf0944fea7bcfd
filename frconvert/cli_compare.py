"""The command that holds two files against each other: compare."""

from math import inf

import click

from frconvert.cli_common import base_option, json_option, print_json
from frconvert.errors import TargetError


@click.command()
@click.argument("first")
@click.argument("second")
@click.option(
    "--calib",
    metavar="DATA",
    help="Compare the outputs for these inputs: a .npz or .npy, a folder of such files or of images, or "
    'module:function that yields batches; "random" for random ones.',
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    metavar="T",
    help="Exit 1 if the error of an output relative to it, |b - a| / |a|, is larger. Random inputs without "
    "--calib.",
)
@base_option
@json_option
def compare(
    first: str,
    second: str,
    calib: str | None,
    tolerance: float | None,
    base: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """How the tensors of SECOND differ from those of FIRST; exit 1 if names or shapes do not match.

    With --calib or --tolerance both are run in onnxruntime, and it is their outputs that must match. Told are
    the error of each output, the ratios of latency, time to create a session and memory, and whether both
    graphs have as many nodes once optimised. Both must be .onnx files, or .frq files made from such.
    """
    from frconvert import importers, tables  # noqa: PLC0415
    from frconvert.compare import compare as compare_checkpoints  # noqa: PLC0415
    from frconvert.container.sources import open_source  # noqa: PLC0415

    bases = importers.load_bases(base)
    result = compare_checkpoints(importers.load(first, base=bases), importers.load(second, base=bases))
    sizes = {
        "first_bytes": open_source(first).size_bytes,
        "second_bytes": open_source(second).size_bytes,
    }
    run = None
    if calib is not None or tolerance is not None:
        from frconvert.compare_outputs import as_onnx, compare_outputs  # noqa: PLC0415

        with as_onnx(first, bases) as one, as_onnx(second, bases) as other:
            run = compare_outputs(one, other, None if calib == "random" else calib)
    if as_json:
        print_json(sizes | result.to_json() | ({"run": run.to_json()} if run else {}))
    else:
        tables.print_comparison(result, first, second)
        click.echo(f"{first}: {sizes['first_bytes']:,} bytes; {second}: {sizes['second_bytes']:,} bytes")
        if run:
            tables.print_run_comparison(run)
    if run is None and not result.matches:
        raise SystemExit(1)
    if run is not None and not run.worst <= (inf if tolerance is None else tolerance):
        raise TargetError(
            f"{second}: outputs are off by {run.worst:.3g}, more than the tolerance {tolerance:g}"
        )
