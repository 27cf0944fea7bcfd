"""PyTorch modules as ONNX models, by either of torch's exporters.

The module becomes an ONNX model in a temporary file, which is then the source of a conversion like any other.
Only objects that the caller has made are taken here; `.pt2` files are sources like others, see
`frconvert.torch_program`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from frconvert import importers
from frconvert.api import save
from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.container.sources import Location
from frconvert.errors import UsageError
from frconvert.pipeline import Destination
from frconvert.summary import Summary
from frconvert.torch_export import EXPORTERS, exported

if TYPE_CHECKING:
    import torch

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
    with exported(module, tuple(example_inputs), exporter, export_options or {}) as model:
        checkpoint = model
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
