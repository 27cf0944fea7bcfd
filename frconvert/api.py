"""The Python API: `load`, `save` and `convert` with keyword targets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frconvert import importers, pipeline
from frconvert.checkpoint import Checkpoint
from frconvert.container.sources import Location
from frconvert.encode import Options, Progress
from frconvert.importers import Base
from frconvert.pipeline import Destination, Extras
from frconvert.rules import read_plan
from frconvert.summary import Summary
from frconvert.target import make_target

load = importers.load


def save(  # noqa: PLR0913  (one argument for each option of the command line)
    checkpoint: Checkpoint,
    destination: Destination,
    *,
    lossless: bool = False,
    keep: float | None = None,
    bits: float | None = None,
    ratio: float | None = None,
    size: float | str | None = None,
    snr: float | None = None,
    max_error: float | None = None,
    importance: str = "tensor",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    calib: str | None = None,
    model: str | None = None,
    config: str | Path | None = None,
    plan: str | Path | None = None,
    base: Base | Sequence[Base] | None = None,
    onnx: str | None = None,
    onnx_factored: str = "auto",
    onnx_names: str = "keep",
    jobs: int = 1,
    metadata: Mapping[str, str] | None = None,
    attachments: Mapping[str, bytes] | None = None,
    provenance: bool = True,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda *_: None,
) -> Summary:
    """Writes a checkpoint; the suffix of `destination` says in which format.

    Args:
        checkpoint: from `load`.
        destination: ends in .frq, .safetensors, .pt, .h5, .keras, .npz or .onnx; or a binary file that is
            open for writing, which gets a .frq.
        lossless: every bit of every tensor. This and the six that follow are targets of a `.frq`, at most
            one.
        keep: fraction of each tensor's DCT coefficients, in zigzag order.
        bits: per float parameter, of the whole file.
        ratio: bytes of the source's tensors / bytes of the file.
        size: bytes of the file at most, or a text such as "4.5kB".
        snr: dB of `Summary.sqnr_db` at least.
        max_error: largest absolute error of any weight.
        importance: "tensor" or "mse", see `frconvert convert --help`.
        include: globs on names; only tensors that match one lose anything.
        exclude: globs on names; tensors that match one lose nothing.
        calib: calibration data, see `frconvert.calibration`: refines the weights against what the model
            computes for them.
        model: with `calib`, a function module:factory that returns the torch module; not for ONNX sources.
        config: a plan file to go by, see `frconvert.rules`.
        plan: a plan file to write.
        base: a `.frq`, or a checkpoint that was loaded from one, to store the differences to; see `load` for
            more than one. The result needs it for reading.
        onnx: how an .onnx holds its weights: "dense", or as coefficients that a runtime turns into weights
            when it loads the model, "idct" or "functions"; None is "idct" for a name that ends in .idct.onnx,
            else "dense". With coefficients, targets hold for an .onnx too.
        onnx_factored: "auto" or "never", see `frconvert convert --help`.
        onnx_names: "keep" or "short", see `frconvert convert --help`.
        jobs: threads; the bytes do not depend on it.
        metadata: key -> value, added to the checkpoint's own.
        attachments: name -> content of files that travel in a `.frq`, added to the checkpoint's own.
        provenance: whether a `.frq` says how it was made, see `frconvert.provenance`.
        overwrite: replace an existing destination.
        dry_run: do everything but write.
        progress: called with (stage, bytes done, bytes in total).

    Raises:
        FrqError: one line that says what, where and what to do; nothing was written then.
    """
    return pipeline.save(
        checkpoint,
        destination,
        target=make_target(
            lossless=lossless, keep=keep, bits=bits, ratio=ratio, size=size, snr=snr, max_error=max_error
        ),
        options=Options(
            importance,
            tuple(include),
            tuple(exclude),
            read_plan(config) if config else (),
            jobs,
            next(iter(importers.load_bases(base)), None),
            onnx,
            onnx_factored,
            onnx_names,
            calib,
            model,
        ),
        extras=Extras(metadata or {}, attachments or {}, provenance, Path(plan) if plan else None),
        overwrite=overwrite,
        dry_run=dry_run,
        progress=progress,
    )


def convert(
    source: Location,
    destination: Destination,
    *,
    format: str | None = None,  # noqa: A002  (as in `load`)
    base: Base | Sequence[Base] | None = None,
    **options: Any,
) -> Summary:
    """Loads `source` and saves it to `destination`; `options` are those of `save`.

    Of the bases one may be that of the source; the first is that of a `.frq` that is written.
    """
    with pipeline.opened(source, destination, format, base) as checkpoint:
        return save(checkpoint, destination, base=base, **options)
