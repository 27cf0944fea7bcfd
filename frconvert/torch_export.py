"""PyTorch modules as checkpoints with an ONNX graph, by either of torch's exporters."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from frconvert import importers
from frconvert.checkpoint import Checkpoint
from frconvert.errors import UnsupportedError, UsageError, one_line

EXPORTERS = ("dynamo", "legacy")


@contextlib.contextmanager
def exported(
    module: Any, inputs: tuple[Any, ...], exporter: str, options: Mapping[str, Any]
) -> Iterator[Checkpoint]:
    """Gives a checkpoint that is read from a temporary file as long as the block lasts.

    Args:
        module: a torch.nn.Module or torch.export.ExportedProgram.
        inputs: positional arguments of the module.
        exporter: one of `EXPORTERS`.
        options: further keyword arguments of `torch.onnx.export`.

    Raises:
        UsageError: torch, onnx or onnxscript are not installed.
        UnsupportedError: torch cannot export the module.
    """
    with TemporaryDirectory(prefix="frconvert-") as folder:
        path = Path(folder) / "model.onnx"
        _export(module, inputs, path, exporter, dict(options))
        yield replace(importers.load(path), origin=None)


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
