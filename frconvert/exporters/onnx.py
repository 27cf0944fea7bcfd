"""Exporter of ONNX models: the tensors of a checkpoint put back into the skeleton they came from.

The skeleton is described in `importers/onnx.py`. It may come out of an untrusted archive, so every mark is
checked against the checkpoint before any data are read. All values are written dense, as raw_data, or into a
file beside the model where it would be too large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frconvert.checkpoint import ONNX_SKELETON, Checkpoint, TensorEntry
from frconvert.errors import DamagedError, UnsupportedError, UsageError, one_line, quoted
from frconvert.exporters import onnx_data

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

MAX_BYTES = 1_900_000_000  # protobuf ends at 2 GiB; the rest is room for the framing of the tensors

_MARKER = "frconvert"  # the external_data location of a tensor whose data the checkpoint has
_SHOWN = 200  # characters of a name in a message: a hostile one may have millions
_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL
_NAMES_IN_NOTICE = 5


def save(
    checkpoint: Checkpoint, path: Path, notice: Callable[[str], None], *, data_name: str | None = None
) -> None:
    """Writes the model whose skeleton the checkpoint carries, with the checkpoint's values.

    Args:
        checkpoint: one that came from an ONNX model, directly or through `.frq`.
        path: the file to write.
        notice: called with a sentence for tensors that have no place in the graph.
        data_name: what the data file of a model of more than `MAX_BYTES` will be called, see
            `exporters.onnx_data`; None if there may be none.

    Raises:
        UsageError: the checkpoint carries no skeleton, or onnx is not installed.
        DamagedError: skeleton and checkpoint contradict each other, or the skeleton points to other files.
        UnsupportedError: the model would be larger than protobuf allows, and there may be no data file.
    """
    model = open_skeleton(checkpoint)
    places = match(model, checkpoint)
    tell_left_out(checkpoint, {entry.name for _, entry in places}, notice)
    fill(model, places, path, data_name, notice)
    path.write_bytes(model.SerializeToString(deterministic=True))


def open_skeleton(checkpoint: Checkpoint) -> ModelProto:
    """The model that a checkpoint carries, its tensors still without data.

    Raises:
        UsageError: it carries none, or onnx is not installed.
        DamagedError: the skeleton is no model.
    """
    if ONNX_SKELETON not in checkpoint.attachments:
        raise UsageError(
            f"an .onnx needs a graph; a source of format {checkpoint.format} carries none; "
            "choose another destination (.safetensors, .pt, .h5, .npz) or start from an .onnx"
        )
    return _parse(checkpoint.attachments[ONNX_SKELETON])


def fill(
    model: ModelProto,
    places: list[tuple[TensorProto, TensorEntry]],
    path: Path,
    data_name: str | None,
    notice: Callable[[str], None],
) -> None:
    """Gives tensors of a model their values: inside it, or in a data file if it would be too large."""
    onnx_data.data_path(path).unlink(missing_ok=True)  # of an earlier attempt
    total_bytes = model.ByteSize() + sum(entry.size_bytes for _, entry in places)
    if total_bytes <= MAX_BYTES:
        onnx_data.fill(places)
        return
    if data_name is None or model.ByteSize() > MAX_BYTES:
        raise UnsupportedError(
            f"the .onnx would take {total_bytes / 1e9:.1f} GB; more than {MAX_BYTES / 1e9:.1f} GB in it "
            "is not supported; choose a coarser target or another format"
        )
    onnx_data.fill_outside(places, path, data_name)
    notice(
        f"tensors are in {quoted(data_name, _SHOWN)}, as the model would take {total_bytes / 1e9:.1f} GB and "
        "may not exceed 2; keep both files together"
    )


def tell_left_out(checkpoint: Checkpoint, placed: set[str], notice: Callable[[str], None]) -> None:
    """Says which tensors of the checkpoint have no place in the graph."""
    left = [entry.name for entry in checkpoint if entry.name not in placed]
    if left:
        names = ", ".join(quoted(name, _SHOWN) for name in left[:_NAMES_IN_NOTICE])
        more = ", ..." if len(left) > _NAMES_IN_NOTICE else ""
        notice(f"left out {len(left)} of {len(checkpoint)} tensors, not in the ONNX graph: {names}{more}")


def mark_of(tensor: TensorProto) -> str | None:
    """The entry's name that a tensor of a skeleton is marked with, None for a tensor with data of its own."""
    if tensor.data_location != _EXTERNAL:
        return None
    keys = {item.key: item.value for item in tensor.external_data}
    name: str = keys.get("tensor", tensor.name)
    return name


def _parse(skeleton: bytes) -> ModelProto:
    try:
        from onnx import ModelProto  # noqa: PLC0415  (an optional dependency)
    except ImportError as error:
        raise UsageError("writing an .onnx needs onnx: pip install 'frconvert[onnx]'") from error
    model = ModelProto()
    try:
        model.ParseFromString(skeleton)
    except Exception as error:  # protobuf's classes differ by its backend; nesting may exhaust the stack
        raise DamagedError(f"{ONNX_SKELETON}: not an ONNX model ({one_line(error, 120)})") from error
    return model


def match(model: ModelProto, checkpoint: Checkpoint) -> list[tuple[TensorProto, TensorEntry]]:
    """The marked tensors of a skeleton with their entries, each entry at most once.

    Raises:
        DamagedError: skeleton and checkpoint contradict each other, or the skeleton points to other files.
    """
    entries = {entry.name: entry for entry in checkpoint}
    seen: set[str] = set()
    places = []
    for tensor in _tensors(model):
        name = mark_of(tensor)
        if name is None:
            continue
        keys = {item.key: item.value for item in tensor.external_data}
        what = f"{ONNX_SKELETON}: tensor {quoted(name, _SHOWN)}"
        if keys.get("location") != _MARKER:
            # Written out, it would make a runtime read whatever file the archive names.
            raise DamagedError(
                f"{what} has its data in another file, {quoted(keys.get('location', ''), _SHOWN)}"
            )
        if name in seen:  # one small tensor must not become a thousand
            raise DamagedError(f"{what} occurs twice")
        seen.add(name)
        entry = entries.get(name)
        if entry is None:
            raise DamagedError(f"{what} is not in the checkpoint")
        if tuple(tensor.dims) != entry.shape or tensor.data_type != _type_code(tensor, entry.dtype):
            raise DamagedError(
                f"{what} is {_type_name(tensor)} {list(tensor.dims[:32])}; "
                f"the checkpoint's is {entry.dtype} {list(entry.shape)}"
            )
        places.append((tensor, entry))
    return places


def _tensors(message: Any) -> Iterator[TensorProto]:
    """Every TensorProto inside a protobuf message, wherever it may be."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for child in (value,) if hasattr(value, "ListFields") else value:
            if field.message_type.name == "TensorProto":
                yield child
            else:
                yield from _tensors(child)


def _type_code(tensor: TensorProto, dtype: str) -> int | None:
    """ONNX's number of an element type; None if the installed onnx does not know it."""
    names = {"float32": "FLOAT", "float64": "DOUBLE", "float8_e8m0fnu": "FLOAT8E8M0"}
    codes: dict[str, int] = dict(type(tensor).DataType.items())
    return codes.get(names.get(dtype) or dtype.upper().replace("_", ""))


def _type_name(tensor: TensorProto) -> str:
    try:
        name: str = type(tensor).DataType.Name(tensor.data_type)
    except ValueError:
        return f"type {tensor.data_type}"
    return name
