"""The one way through: open a source, write a destination, say what happened.

Everything the command line and the Python API do goes through `save` or `convert`. Nothing prints here:
progress goes to a callback, notices into the summary.
"""

import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from frconvert import exporters, importers
from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.coding.record import Plan
from frconvert.encode import Options, Outcome, Progress, TensorResult
from frconvert.errors import UsageError, printable
from frconvert.files import check_destination, replacing
from frconvert.search import compress
from frconvert.summary import Summary, summarise
from frconvert.target import Target

_LONGEST_NOTICE = 400  # characters


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    target: Target = Target(),  # noqa: B008  (frozen)
    options: Options = Options(),  # noqa: B008  (frozen)
    source_format: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda *_: None,
) -> Summary:
    """Converts one file into another; the suffix of `destination` says into what.

    Raises:
        FrqError: with a one-line message; `destination` is then as it was before.
    """
    destination = Path(destination)
    exporters.format_of(destination)  # a wrong suffix is said before anything is read
    check_destination(destination, overwrite=overwrite)
    checkpoint = importers.load(source, source_format)
    return save(
        checkpoint,
        destination,
        target=target,
        options=options,
        overwrite=overwrite,
        dry_run=dry_run,
        progress=progress,
    )


def save(
    checkpoint: Checkpoint,
    destination: str | Path,
    *,
    target: Target = Target(),  # noqa: B008  (frozen)
    options: Options = Options(),  # noqa: B008  (frozen)
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda *_: None,
) -> Summary:
    """Writes a checkpoint, see `convert`."""
    began = time.monotonic()
    destination = Path(destination)
    format_name = exporters.format_of(destination)
    lossy_only = target.kind != "default" or options.include or options.exclude
    if format_name != "frq" and lossy_only:
        raise UsageError(f"{destination}: a target needs a .frq destination; {format_name} files are dense")
    check_destination(destination, overwrite=overwrite)
    notices = list(checkpoint.notices)
    with ExitStack() as stack:
        if dry_run and format_name == "frq":
            outcome = compress(checkpoint, _discard, target, options, progress)
        else:
            if dry_run:  # the exporters need a file to write to
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                temporary = Path(folder) / f"dry{destination.suffix}"
            else:
                temporary = stack.enter_context(replacing(destination))
            if format_name == "frq":
                outcome = compress(checkpoint, lambda: temporary.open("wb"), target, options, progress)
            else:
                exporters.save(_watched(checkpoint, progress), temporary, format_name, notices.append)
                outcome = _dense_outcome(checkpoint, temporary.stat().st_size)
    # Names in them come out of files: nothing unprintable may reach a terminal.
    shown = tuple(printable(notice, _LONGEST_NOTICE) for notice in [*notices, *outcome.notices])
    return summarise(checkpoint, outcome, time.monotonic() - began, shown)


def _discard() -> IO[bytes]:
    """A binary stream that keeps nothing, for dry runs."""
    return Path(os.devnull).open("wb")


def _dense_outcome(checkpoint: Checkpoint, size_bytes: int) -> Outcome:
    """Figures of a destination that holds all values as they are."""
    results = tuple(
        TensorResult(entry, Plan(), entry.size_bytes, 0.0, 0.0, 0.0) for entry in checkpoint.stored
    )
    return Outcome(size_bytes, results)


def _watched(checkpoint: Checkpoint, progress: Progress) -> Checkpoint:
    """The same checkpoint, telling `progress` of every tensor that is read."""
    total, done = checkpoint.tensor_bytes, 0

    def read(entry: TensorEntry) -> NDArray[np.generic]:
        nonlocal done
        values = entry.read()
        done += entry.size_bytes
        progress("writing", min(done, total), total)
        return values

    entries = tuple(
        replace(entry, read=partial(read, entry)) if entry.tied_to is None else entry
        for entry in checkpoint.entries
    )
    return replace(checkpoint, entries=entries)
