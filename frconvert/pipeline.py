"""The one way through: open a source, write a destination, say what happened.

Everything the command line and the Python API do goes through `save` or `convert`. Nothing prints here:
progress goes to a callback, notices into the summary.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from frconvert import exporters, importers
from frconvert.checkpoint import (
    HDF5_SKELETON,
    KERAS_FILES,
    ONNX_SKELETON,
    PYTORCH_LAYOUT,
    Checkpoint,
    TensorEntry,
    select,
)
from frconvert.coding.record import Plan
from frconvert.container.reader import Reader, read_contents
from frconvert.container.salvage import Examination
from frconvert.container.sources import Location, Metered, open_source
from frconvert.embed import embed
from frconvert.encode import Options, Outcome, Progress, TensorResult
from frconvert.errors import UsageError, printable, quoted
from frconvert.exporters.onnx_data import SUFFIX as DATA_SUFFIX
from frconvert.exporters.onnx_data import size_bytes
from frconvert.exporters.onnx_names import MODES as NAMES
from frconvert.exporters.onnx_names import shortened
from frconvert.files import check_destination, delivering, is_stream, replacing
from frconvert.importers import Base
from frconvert.importers.frq import checkpoint_of
from frconvert.importers.frq import salvage as salvage_frq
from frconvert.parallel import begin
from frconvert.planfile import write_plan
from frconvert.provenance import check_metadata, describe, reserved
from frconvert.search import Refinement, compress
from frconvert.summary import Summary, summarise
from frconvert.target import Target

_LONGEST_NOTICE = 400  # characters
_STRUCTURE = (ONNX_SKELETON, HDF5_SKELETON, KERAS_FILES, PYTORCH_LAYOUT)  # attachments that need all tensors

Destination = str | Path | IO[bytes]


@dataclass(frozen=True, slots=True)
class Extras:
    """What goes into a `.frq` beside the tensors.

    Attributes:
        metadata: key -> value; overrules the source's.
        attachments: name -> content.
        with_provenance: whether the file says what it was made of and how, see `frconvert.provenance`.
        plan_file: where to write what was decided for each tensor.
    """

    metadata: Mapping[str, str] = field(default_factory=dict)
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    with_provenance: bool = True
    plan_file: Path | None = None


def convert(  # noqa: PLR0913  (one argument for each thing a user may say)
    source: Location,
    destination: Destination,
    *,
    target: Target = Target(),  # noqa: B008  (frozen)
    options: Options = Options(),  # noqa: B008  (frozen)
    extras: Extras = Extras(),
    source_format: str | None = None,
    bases: Sequence[Checkpoint] = (),
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda *_: None,
) -> Summary:
    """Converts one file into another; the suffix of `destination` says into what.

    Of the bases one may be that of the source; the first is that of a `.frq` that is written.

    Raises:
        FrqError: with a one-line message; `destination` is then as it was before.
    """
    _check(destination, overwrite=overwrite)  # a wrong suffix is said before anything is read
    with opened(source, destination, source_format, bases) as checkpoint:
        return save(
            checkpoint, destination, target=target,
            options=replace(options, base=bases[0] if bases else None), extras=extras,
            overwrite=overwrite, dry_run=dry_run, progress=progress,
        )  # fmt: skip


@contextmanager
def opened(
    source: Location,
    destination: Destination,
    source_format: str | None = None,
    bases: Base | Sequence[Base] | None = None,
) -> Iterator[Checkpoint]:
    """Gives the checkpoint that a destination is made of, to be used while the block lasts.

    For an ONNX model, an exported program of torch becomes one first.
    """
    checkpoint = importers.load(source, source_format, base=bases)
    if checkpoint.format != "pt2" or not str(destination).lower().endswith(".onnx"):
        yield checkpoint
        return
    from frconvert.torch_program import as_onnx  # noqa: PLC0415

    with as_onnx(Path(str(source))) as graph:
        yield replace(graph, origin=checkpoint.origin)


def save(
    checkpoint: Checkpoint,
    destination: Destination,
    *,
    target: Target = Target(),  # noqa: B008  (frozen)
    options: Options = Options(),  # noqa: B008  (frozen)
    extras: Extras = Extras(),
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda *_: None,
) -> Summary:
    """Writes a checkpoint, see `convert`."""
    began = time.monotonic()
    format_name = _check(destination, overwrite=overwrite)
    lossy_only = (
        target.kind != "default" or options.include or options.exclude or options.rules or options.calib
    )
    mode = _onnx_mode(destination, format_name, options)
    if mode == "dense" and format_name != "frq":
        _check_dense(checkpoint, destination, lossy=bool(lossy_only), options=options, extras=extras)
    elif format_name != "frq" and (extras.plan_file or extras.attachments):
        raise UsageError(f"{destination}: plan files and attached files need a .frq destination")
    _check_plan_file(extras.plan_file, checkpoint, target, overwrite=overwrite)
    notices = list(checkpoint.notices)
    check_metadata(extras.metadata)
    with ExitStack() as stack:
        if format_name == "frq":
            if dry_run:
                open_stream = _discard
            elif isinstance(destination, str | Path) and not is_stream(Path(destination)):
                open_stream = partial(_empty, stack.enter_context(replacing(Path(destination))))
            else:
                open_stream = stack.enter_context(delivering(destination))
            whole = _with_extras(checkpoint, extras)
            provenance = _provenance(checkpoint, target, options, extras)
            refinement = _refinement(whole, options)
            outcome = compress(whole, open_stream, target, options, progress, refinement, provenance)
            if extras.plan_file:
                write_plan(extras.plan_file, outcome)
        else:
            path = Path(str(destination))
            data_name = path.name + DATA_SUFFIX
            if dry_run:  # the exporters need a file to write to
                temporary = Path(stack.enter_context(tempfile.TemporaryDirectory())) / f"dry{path.suffix}"
            else:
                temporary = stack.enter_context(replacing(path, data=DATA_SUFFIX, overwrite=overwrite))
            whole = replace(checkpoint, metadata={**checkpoint.metadata, **extras.metadata})
            whole = shortened(whole) if options.onnx_names == "short" else whole
            if mode == "dense":
                exporters.save(_watched(whole, progress), temporary, format_name, notices.append, data_name)
                outcome = _dense_outcome(checkpoint, size_bytes(temporary))
            else:
                outcome = embed(whole, temporary, replace(options, onnx=mode), target, progress, data_name)
    return _summary(checkpoint, outcome, began, notices)


def _summary(checkpoint: Checkpoint, outcome: Outcome, began: float, notices: Sequence[str]) -> Summary:
    # Names in them come out of files: nothing unprintable may reach a terminal.
    shown = tuple(printable(notice, _LONGEST_NOTICE) for notice in [*notices, *outcome.notices])
    return summarise(checkpoint, outcome, time.monotonic() - began, shown)


def _check_dense(
    checkpoint: Checkpoint, destination: Destination, *, lossy: bool, options: Options, extras: Extras
) -> None:
    """Refuses what a destination that holds all values has no use for."""
    if lossy or extras.plan_file:
        what = "a target" if lossy else "a plan file"
        name = str(destination)
        also = " or --onnx idct" if lossy and name.lower().endswith(".onnx") else ""
        raise UsageError(f"{name}: {what} needs a .frq destination{also}; this one is dense")
    if options.base is not None and checkpoint.base is None:
        raise UsageError(f"{destination}: neither is this a .frq nor does the source need a base")
    if extras.attachments:
        raise UsageError(f"{destination}: attached files need a .frq destination")


def _onnx_mode(destination: Destination, format_name: str, options: Options) -> str:
    """How an ONNX destination holds its weights: as the option says, else by its name."""
    if options.onnx_names not in NAMES:
        raise UsageError(f"onnx_names {options.onnx_names!r} is unknown; known: {', '.join(NAMES)}")
    if format_name != "onnx":
        if options.onnx is not None or options.onnx_names != "keep":
            option = "--onnx" if options.onnx is not None else "--onnx-names"
            raise UsageError(f"{destination}: {option} needs an .onnx destination")
        return "dense"
    return options.onnx or ("idct" if str(destination).lower().endswith(".idct.onnx") else "dense")


def extract(
    source: Location,
    names: Sequence[str],
    destination: Destination,
    *,
    bases: Sequence[Checkpoint] = (),
    overwrite: bool = False,
    progress: Progress = lambda *_: None,
) -> tuple[Summary, int]:
    """Some tensors of a `.frq` into another file; also returns how many bytes of the source were read."""
    _check(destination, overwrite=overwrite)
    metered = Metered(open_source(source))
    whole = checkpoint_of(Reader(metered, read_contents(metered)), bases)
    summary = save(select(whole, names), destination, overwrite=overwrite, progress=progress)
    return summary, metered.read_bytes


def salvage(  # noqa: PLR0913  (as above)
    source: Location,
    destination: Destination,
    *,
    target: Target = Target(),  # noqa: B008  (frozen)
    options: Options = Options(),  # noqa: B008  (frozen)
    extras: Extras = Extras(),
    bases: Sequence[Checkpoint] = (),
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda *_: None,
) -> tuple[Summary, Examination]:
    """Converts what is left of a damaged `.frq`; also returns what is to be said of it.

    Where tensors are lost, a dense destination has no structure of the original, which needs all of them.
    """
    format_name = _check(destination, overwrite=overwrite)
    checkpoint, found = salvage_frq(source, bases)
    if found.lost_tensors and format_name != "frq":
        kept = {
            name: checkpoint.attachments[name]
            for name in checkpoint.attachments
            if not name.startswith(_STRUCTURE)
        }
        checkpoint = replace(checkpoint, attachments=kept)
    if found.lost_tensors or found.lost_attachments:
        lost = f"{len(found.lost_tensors)} tensors, {len(found.lost_attachments)} attachments"
        checkpoint = replace(checkpoint, provenance={**checkpoint.provenance, "lost": lost})
    options = replace(options, base=bases[0] if bases else None)
    summary = save(
        checkpoint, destination, target=target, options=options, extras=extras,
        overwrite=overwrite, dry_run=dry_run, progress=progress,
    )  # fmt: skip
    return summary, found


def _check(destination: Destination, *, overwrite: bool) -> str:
    """The format of a destination, after refusing early what could only fail after the work is done."""
    if not isinstance(destination, str | Path):
        return "frq"
    path = Path(destination)
    format_name = exporters.format_of(path)
    if not is_stream(path):
        check_destination(path, overwrite=overwrite)
    elif format_name != "frq":
        raise UsageError(f"{path}: only .frq can be written into a pipe")
    return format_name


def _check_plan_file(path: Path | None, checkpoint: Checkpoint, target: Target, *, overwrite: bool) -> None:
    if path is None:
        return
    if target.kind == "default" and checkpoint.is_encoded:
        raise UsageError(f"{path}: a .frq is copied as it is; a plan file needs a target")
    check_destination(path, overwrite=overwrite)


def _with_extras(checkpoint: Checkpoint, extras: Extras) -> Checkpoint:
    """The checkpoint with all attachments and, but for its provenance, all metadata of its `.frq`."""
    twice = set(checkpoint.attachments) & set(extras.attachments)
    if twice:
        raise UsageError(f"the source already has an attachment {quoted(min(twice))}; rename the file")
    return replace(
        checkpoint,
        attachments={**checkpoint.attachments, **extras.attachments},
        metadata={**checkpoint.metadata, **extras.metadata},
    )


def _provenance(
    checkpoint: Checkpoint, target: Target, options: Options, extras: Extras
) -> Callable[[], Mapping[str, str]]:
    """What gives the metadata of where the file comes from; the source is hashed beside other work."""
    provenance = checkpoint.provenance
    if not extras.with_provenance:
        return dict
    if target.kind == "default" and checkpoint.format == "frq":  # a copy
        return partial(reserved, provenance)
    lost = {key: value for key, value in provenance.items() if key == "lost"}

    def made() -> Mapping[str, str]:
        return reserved(describe(checkpoint.origin, target, options) | lost)

    return begin(made) if options.jobs > 1 else made


def _refinement(checkpoint: Checkpoint, options: Options) -> Refinement | None:
    if options.calib is None:
        if options.model is not None:
            raise UsageError("--model serves --calib only")
        return None
    from frconvert.distill.calibrated import refinement  # noqa: PLC0415

    return refinement(checkpoint, options.calib, options.model)


def _empty(path: Path) -> IO[bytes]:
    """A new file in the place of whatever is there."""
    return path.open("wb")


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
