"""Choice of the exporter by the destination's suffix.

Every exporter is a module with `save(checkpoint, path, notice) -> None` (see `Save`). It writes all tensors with
their names, shapes, dtypes and ties as far as the format can hold them, reads them one at a time, and calls
`notice` with a sentence for everything the format cannot keep (values are kept exactly; a dtype may have to
widen). `path` is a temporary file: the caller renames it when all is well. `.frq` is written by the pipeline.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from frconvert.checkpoint import Checkpoint
from frconvert.errors import UsageError

Save = Callable[[Checkpoint, Path, Callable[[str], None]], None]

_BY_SUFFIX = {
    ".frq": "frq",
    ".safetensors": "safetensors",
    ".pt": "pytorch", ".pth": "pytorch", ".bin": "pytorch",
    ".ckpt": "pytorch", ".th": "pytorch", ".tar": "pytorch",
    ".h5": "hdf5", ".hdf5": "hdf5", ".keras": "keras",
    ".npz": "npz",
    ".onnx": "onnx",
}  # fmt: skip


def format_of(path: Path) -> str:
    """Name of the format that the suffix of a destination asks for."""
    try:
        return _BY_SUFFIX[path.suffix.lower()]
    except KeyError:
        known = " ".join(_BY_SUFFIX)
        raise UsageError(f"{path}: unknown suffix {path.suffix!r}; a destination ends in {known}") from None


def save(checkpoint: Checkpoint, path: Path, format: str, notice: Callable[[str], None]) -> None:  # noqa: A002
    """Writes `checkpoint` to `path` in one of the dense formats (not "frq")."""
    exporter: Save = import_module(f"frconvert.exporters.{format}").save
    exporter(checkpoint, path, notice)
