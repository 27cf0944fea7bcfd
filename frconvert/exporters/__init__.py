"""Choice of the exporter by the destination's suffix.

Every exporter is a module with `save(checkpoint, path, notice) -> None` (see `Save`). It writes all tensors
with their names, shapes, dtypes and ties as far as the format can hold them, reads them one at a time, and
calls `notice` with a sentence for everything the format cannot keep (values are kept exactly; a dtype may
have to widen). `path` is a temporary file: the caller renames it when all is well. `.frq` is written by the
pipeline.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from frconvert.checkpoint import (
    HDF5_SKELETON,
    KERAS_FILES,
    ONNX_SKELETON,
    PYTORCH_LAYOUT,
    SAFETENSORS_METADATA,
    Checkpoint,
)
from frconvert.errors import UsageError

Save = Callable[[Checkpoint, Path, Callable[[str], None]], None]

_IN_WORDS = {
    ONNX_SKELETON: "the ONNX graph",
    HDF5_SKELETON: "HDF5 groups and attributes",
    KERAS_FILES: "the Keras configuration",
    PYTORCH_LAYOUT: "the nesting of the PyTorch checkpoint",
    SAFETENSORS_METADATA: "safetensors metadata",
}

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


def save(
    checkpoint: Checkpoint,
    path: Path,
    format: str,  # noqa: A002
    notice: Callable[[str], None],
    data_name: str | None = None,
) -> None:
    """Writes `checkpoint` to `path` in one of the dense formats (not "frq").

    `data_name` is for ONNX only, see `exporters.onnx.save`.
    """
    if format == "onnx":
        from frconvert.exporters import onnx  # noqa: PLC0415

        onnx.save(checkpoint, path, notice, data_name=data_name)
        return
    exporter: Save = import_module(f"frconvert.exporters.{format}").save
    exporter(checkpoint, path, notice)


def tell_left_out(
    checkpoint: Checkpoint,
    what: str,
    notice: Callable[[str], None],
    *carried: str,
    metadata: bool = False,
) -> None:
    """Says which attachments and metadata a destination has no place for.

    Args:
        checkpoint: the source.
        what: the destination in words, such as "a .npz file".
        notice: called once, or not at all.
        carried: attachments, or prefixes of them, that the destination does hold.
        metadata: whether it holds the metadata.
    """
    lost = [] if metadata else [f"metadata {key!r}" for key in checkpoint.metadata]
    for name in checkpoint.attachments:
        if not name.startswith(carried):
            words = next((words for start, words in _IN_WORDS.items() if name.startswith(start)), repr(name))
            lost += [words] if words not in lost else []
    if lost:
        notice(f"left out, as {what} has no place for it: {', '.join(lost)}")
