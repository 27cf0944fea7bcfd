"""The commands that look into `.frq` files: inspect, verify, extract."""

from typing import Any

import click

from frconvert.cli_common import (
    base_option,
    json_option,
    print_json,
    print_notices,
    progress_bar,
    quiet_option,
)
from frconvert.errors import UsageError


@click.command()
@click.argument("file")
@json_option
def inspect(file: str, *, as_json: bool) -> None:
    """Header and tensors of a .frq FILE, without decoding it."""
    from frconvert import tables  # noqa: PLC0415
    from frconvert.container.reader import open_reader  # noqa: PLC0415

    reader = open_reader(file)
    if as_json:
        print_json(tables.inspect_json(reader))
    else:
        tables.print_inspection(reader)


@click.command()
@click.argument("file")
@quiet_option
def verify(file: str, *, quiet: bool) -> None:
    """Check every byte of a .frq FILE and decode all of it; exit 1 on damage.

    Each damaged tensor is named, and whatever else is not as it was written. What `convert --salvage` can
    restore is not called lost.
    """
    from frconvert.container.salvage import examine  # noqa: PLC0415
    from frconvert.container.sources import open_source  # noqa: PLC0415
    from frconvert.errors import DamagedError  # noqa: PLC0415

    try:
        found = examine(open_source(file))
    except DamagedError as error:
        click.echo(f"frconvert: {error}", err=True)
        raise SystemExit(1) from None
    for line in found.lines():
        click.echo(f"frconvert: {file}: {line}", err=True)
    if not found.is_sound:
        if not found.lost_tensors and not found.lost_attachments:
            click.echo(
                f"frconvert: {file}: nothing is lost; `frconvert convert --salvage` restores it", err=True
            )
        raise SystemExit(1)
    if not quiet:
        reader = found.reader
        click.echo(f"{file}: {len(reader.head.names)} tensors, all intact, SHA-256 {reader.sha256.hex()}")


@click.command()
@click.argument("file")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "-o", "--output", metavar="DST", help="Where the tensors go; FILE's name with .npz if not given."
)
@click.option("--attachments", metavar="FOLDER", help="Restore the attached files into FOLDER.")
@base_option
@json_option
@quiet_option
@click.option("--overwrite", is_flag=True, help="Replace what exists.")
def extract(
    file: str,
    names: tuple[str, ...],
    output: str | None,
    attachments: str | None,
    base: tuple[str, ...],
    *,
    as_json: bool,
    quiet: bool,
    overwrite: bool,
) -> None:
    """Some tensors of a .frq FILE, a path or a URL, reading no more of it than they need.

    NAME is a tensor or a glob such as 'encoder.*' (in quotes, so that the shell leaves it alone). The suffix
    of DST says in what format they are written: any that `convert` writes.
    """
    from pathlib import Path, PurePosixPath  # noqa: PLC0415

    from frconvert import importers, pipeline  # noqa: PLC0415
    from frconvert.attach import restore_files  # noqa: PLC0415

    if not names and attachments is None:
        raise UsageError("extract: give names of tensors, or --attachments FOLDER")
    if output is not None and not names:
        raise UsageError("extract: -o needs names of tensors; '*' is all of them")
    facts: dict[str, Any] = {}
    if names:
        destination = output or f"{PurePosixPath(Path(file).name).stem}.npz"
        with progress_bar(hidden=quiet or as_json) as progress:
            summary, read_bytes = pipeline.extract(
                file,
                names,
                destination,
                bases=importers.load_bases(base),
                overwrite=overwrite,
                progress=progress,
            )
        facts = summary.to_json() | {"destination": destination, "read_bytes": read_bytes}
        if not quiet and not as_json:
            count = f"{len(summary.tensors)} tensor{'s' * (len(summary.tensors) != 1)}"
            size = f"{summary.destination_bytes:,} bytes"
            click.echo(f"{destination} is {size}, {count}; {read_bytes:,} bytes read of {file}")
        print_notices(summary.notices, quiet=quiet)
    if attachments is not None:
        from frconvert.importers.frq import load  # noqa: PLC0415

        paths = restore_files(load(file).attachments, Path(attachments), overwrite=overwrite)
        facts["attachments"] = [str(path) for path in paths]
        if not quiet and not as_json:
            for path in paths:
                click.echo(f"{path} is {path.stat().st_size:,} bytes")
    if as_json:
        print_json(facts)
