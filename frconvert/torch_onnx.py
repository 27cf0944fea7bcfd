"""PyTorch modules as ONNX models, by either of torch's exporters.

The module becomes an ONNX model in a temporary file, which is then the source of a conversion like any other.
Only objects that the caller has made are taken: a `.pt2` file is not opened here, because loading one runs
what it contains (pickles, and expressions that are evaluated).
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from frconvert import importers
from frconvert.api import save
from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.container.sources import Location
from frconvert.errors import UnsupportedError, UsageError, one_line
from frconvert.pipeline import Destination
from frconvert.summary import Summary

if TYPE_CHECKING:
    import torch

EXPORTERS = ("dynamo", "legacy")

_SAME = 1e-5  # of a tensor's largest value: the exporter's copy of a weight and ours


def export_onnx(
    module: torch.nn.Module | torch.export.ExportedProgram,
    example_inputs: Sequence[Any],
    destination: Destination,
    *,
    onnx: str = "idct",
    onnx_names: str = "short",
    exporter: str = "dynamo",
    weights: Location | Checkpoint | None = None,
    export_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Summary:
    """Exports a PyTorch module as an ONNX model that holds coefficients.

    Args:
        module: in evaluation mode; or an exported program.
        example_inputs: positional arguments of the module; () for an exported program.
        destination: ends in .onnx, or in .frq.
        onnx: "idct", "functions" or "dense", see `save`.
        onnx_names: "short" or "keep", see `save`: names of exporters may be most of a small file.
        exporter: "dynamo", torch's present one, or "legacy", the one by TorchScript.
        weights: a `.frq`, by path or loaded, that has the coefficients of the module's parameters by the same
            names; those of them that the module really has are taken over as they are.
        export_options: further keyword arguments of `torch.onnx.export`, such as `dynamic_shapes`.
        options: those of `save`: targets and others.

    Raises:
        UsageError: torch, onnx or onnxscript are not installed, or the options contradict each other.
        UnsupportedError: torch cannot export the module.
        FrqError: as `save`.
    """
    if exporter not in EXPORTERS:
        raise UsageError(f"exporter {exporter!r} is unknown; known: {', '.join(EXPORTERS)}")
    is_onnx = str(destination).lower().endswith(".onnx")
    with TemporaryDirectory(prefix="frconvert-") as folder:
        path = Path(folder) / "model.onnx"
        _export(module, tuple(example_inputs), path, exporter, dict(export_options or {}))
        checkpoint = replace(importers.load(path), origin=None)
        if weights is not None:
            given = weights if isinstance(weights, Checkpoint) else importers.load(weights)
            checkpoint = grafted(checkpoint, given)
        if is_onnx:
            options |= {"onnx": onnx, "onnx_names": onnx_names}
        return save(checkpoint, destination, **options)


def grafted(checkpoint: Checkpoint, coefficients: Checkpoint) -> Checkpoint:
    """The checkpoint with the stored form of those tensors that another one has by the same name and value.

    Values may differ by rounding: both are the same coefficients, transformed at two times.
    """
    others = {entry.name: entry for entry in coefficients}
    entries = []
    for entry in checkpoint:
        other = others.get(entry.name)
        if other is not None and other.tied_to is not None:
            other = others[other.tied_to]
        if other is None or not _is_same(entry, other):
            entries.append(entry)
            continue
        entries.append(
            replace(
                entry,
                read=other.read,
                read_coefficients=other.read_coefficients,
                read_encoded=other.read_encoded,
                encoded_layout=other.encoded_layout,
            )
        )
    return replace(checkpoint, entries=tuple(entries))


def _is_same(entry: TensorEntry, other: TensorEntry) -> bool:
    if (entry.shape, entry.dtype) != (other.shape, other.dtype):
        return False
    if other.encoded_layout is None and other.read_coefficients is None:
        return False
    mine, theirs = entry.read().astype(np.float64), other.read().astype(np.float64)
    return bool(np.abs(mine - theirs).max(initial=0) <= _SAME * np.abs(theirs).max(initial=0))


def _export(module: Any, inputs: tuple[Any, ...], path: Path, exporter: str, options: dict[str, Any]) -> None:
    try:
        import onnx  # noqa: F401, PLC0415
        import torch  # noqa: PLC0415

        if exporter == "dynamo":
            import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise UsageError(
            f"exporting from torch needs {error.name}: pip install 'frconvert[torch,export]'"
        ) from error
    # Its own default is one file beside another above some size; ours is one file wherever that can be.
    size = sum(p.numel() * p.element_size() for p in _parameters(module))
    options.setdefault("external_data", size > 1 << 30)
    with _quiet():
        try:
            torch.onnx.export(module, inputs, str(path), dynamo=exporter == "dynamo", **options)
        except Exception as error:
            raise UnsupportedError(
                f"torch cannot export this module ({type(error).__name__}: {one_line(error)}); "
                f"try exporter={'legacy' if exporter == 'dynamo' else 'dynamo'!r}"
            ) from error


def _parameters(module: Any) -> Iterator[Any]:
    found = module.parameters
    yield from found() if callable(found) else found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch's reports of its progress off standard output, and its warnings to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
