"""What several commands share: options, output, progress."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from frconvert.errors import UsageError

_FORMATS = ("frq", "pytorch", "safetensors", "onnx", "hdf5", "keras", "npz", "pt2", "frereg")
from_option = click.option(
    "--from", "source_format", type=click.Choice(_FORMATS), metavar="FORMAT",
    help=f"Read SRC as this format instead of going by its content: {', '.join(_FORMATS)}.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but errors.")
jobs_option = click.option(
    "--jobs", type=click.IntRange(1), default=lambda: os.cpu_count() or 1, show_default="all cores",
    help="Threads. The result does not depend on it.",
)  # fmt: skip
base_option = click.option(
    "--base", multiple=True, metavar="FILE",
    help="The .frq to which tensors of another are differences; repeatable, as it may have a base too.",
)  # fmt: skip


def standard_output(*, as_json: bool) -> IO[bytes]:
    """Standard output for a file."""
    if as_json:
        raise UsageError("--json and the destination - both want standard output")
    if sys.stdout.isatty():
        raise UsageError("a .frq is no text for a terminal; redirect standard output, or name a file")
    return sys.stdout.buffer


def print_notices(notices: tuple[str, ...], *, quiet: bool) -> None:
    """Sentences about what was left out or changed."""
    for notice in () if quiet else notices:
        click.echo(f"frconvert: note: {notice}", err=True)


def print_json(value: dict[str, Any]) -> None:
    """One object on one line."""
    click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


@contextmanager
def progress_bar(*, hidden: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr, only on a terminal."""
    if hidden or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich import progress  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    columns = (
        progress.TextColumn("{task.description:10}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda stage, done, total: bar.update(task, description=stage, completed=done, total=total)
