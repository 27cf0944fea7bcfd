"""PyTorch files as `torch.save` writes them (zip form), one tensor in memory at a time.

`torch.save` wants the whole model in memory, so the archive is written here: `data.pkl` with the nested dicts
and a reference to a storage for each tensor, then one member for each storage. The bytes depend on the
content alone. Tied tensors refer to one storage and come back tied from any `torch.load`.
"""

import io
import json
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frconvert.checkpoint import PYTORCH_LAYOUT, Checkpoint
from frconvert.errors import DamagedError, UnsupportedError, UsageError, one_line, quoted
from frconvert.exporters import tell_left_out

try:
    import torch
except ImportError as error:
    raise UsageError("writing PyTorch files needs torch: pip install 'frconvert[torch]'") from error

# Element types with a storage class of their own; younger ones are saved as bytes with the dtype beside them.
_STORAGE_CLASSES = {
    "bool": "BoolStorage", "uint8": "ByteStorage", "int8": "CharStorage", "int16": "ShortStorage",
    "int32": "IntStorage", "int64": "LongStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
    "float32": "FloatStorage", "float64": "DoubleStorage",
    "complex64": "ComplexFloatStorage", "complex128": "ComplexDoubleStorage",
}  # fmt: skip
_ALIGNMENT = 64  # of a storage in the file, so that a mapped one is aligned in memory
_MAX_LENGTH = 1 << 16  # of a list that a layout may ask for
# Items of all lists together that a layout may ask for: so many, and so many more for each tensor.
_MAX_ITEMS = 1000
_MAX_ITEMS_PER_TENSOR = 100
_MAX_DEPTH = 32  # the importer's
_ZIP64_FROM = (1 << 31) - 1  # bytes, where zipfile wants its wider header
_NO_DATE = (1980, 1, 1, 0, 0, 0)


def save(checkpoint: Checkpoint, path: Path, notice: Callable[[str], None]) -> None:
    """Writes all tensors, nested as they were; see `frconvert.exporters` for the contract.

    Raises:
        UnsupportedError: this torch has no such element type.
        DamagedError: the checkpoint's layout attachment does not fit its tensors.
    """
    tell_left_out(checkpoint, "a PyTorch file", notice, PYTORCH_LAYOUT)
    content = io.BytesIO()
    _Pickler(content, protocol=2).dump(_nested(checkpoint))
    with path.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def write(name: str, content: bytes | memoryview) -> None:
            member = zipfile.ZipInfo(f"archive/{name}", _NO_DATE)
            member.create_system = 3  # the same bytes from every platform
            large = len(content) >= _ZIP64_FROM
            padding = -(file.tell() + 30 + len(member.filename) + (20 if large else 0) + 4) % _ALIGNMENT
            member.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding  # as torch.save pads
            with archive.open(member, "w", force_zip64=large) as stream:
                stream.write(content)
            member.extra = b""  # the directory at the end needs no padding

        write("data.pkl", content.getvalue())
        write("byteorder", b"little")
        for position, entry in enumerate(checkpoint.stored):
            write(f"data/{position}", entry.read().reshape(-1).view(np.uint8).data)
        write("version", b"3\n")


@dataclass(frozen=True, slots=True)
class _Storage:
    """Bytes of the archive in the eyes of `torch.load`."""

    key: str
    kind: Any
    length: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor to be pickled by reference to its storage."""

    shape: tuple[int, ...]
    dtype: str
    position: int


class _Pickler(pickle.Pickler):
    """Pickles `_Tensor` the way torch does."""

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, _Storage):
            return ("storage", obj.kind, obj.key, "cpu", obj.length)
        return None

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, _Tensor):
            return NotImplemented
        strides = []
        size = 1
        for length in reversed(obj.shape):
            strides.append(size)
            size *= max(length, 1)
        size = 0 if 0 in obj.shape else size
        view: tuple[Any, ...] = (0, obj.shape, tuple(reversed(strides)), False, OrderedDict())
        if obj.dtype in _STORAGE_CLASSES:
            storage = _Storage(str(obj.position), getattr(torch, _STORAGE_CLASSES[obj.dtype]), size)
            return torch._utils._rebuild_tensor_v2, (storage, *view)
        dtype = getattr(torch, obj.dtype)
        storage = _Storage(str(obj.position), torch.storage.UntypedStorage, size * dtype.itemsize)
        return torch._utils._rebuild_tensor_v3, (storage, *view, dtype)


def _nested(checkpoint: Checkpoint) -> Any:
    """The object to pickle: dicts, lists and tuples of `_Tensor`."""
    groups = _layout(checkpoint.attachments.get(PYTORCH_LAYOUT, b'[["",[]]]'))
    positions = {entry.name: position for position, entry in enumerate(checkpoint.stored)}
    tree: dict[Any, Any] = {}
    for entry in checkpoint.entries:
        if not hasattr(torch, entry.dtype):
            raise UnsupportedError(
                f"torch {torch.__version__} has no {entry.dtype}, the type of {quoted(entry.name)}"
            )
        tensor = _Tensor(entry.shape, entry.dtype, positions[entry.tied_to or entry.name])
        prefix = max((prefix for prefix in groups if entry.name.startswith(prefix)), key=len, default=None)
        if prefix is None:
            raise DamagedError(f"{PYTORCH_LAYOUT}: no place for tensor {quoted(entry.name)}")
        steps, kind = groups[prefix]
        if kind == "tensor":
            if len(checkpoint) != 1:
                raise DamagedError(f"{PYTORCH_LAYOUT}: a place for one tensor, not for {len(checkpoint)}")
            return tensor
        _put(tree, (*steps, _last_step(kind, entry.name.removeprefix(prefix))), tensor)
    items = _items(tree)
    if items > _MAX_ITEMS + _MAX_ITEMS_PER_TENSOR * len(checkpoint):
        raise DamagedError(
            f"{PYTORCH_LAYOUT}: its lists have {items:,} items for {len(checkpoint):,} tensors; "
            "refused as no honest file has so many"
        )
    return _built(tree)


def _layout(attachment: bytes) -> dict[str, tuple[tuple[Any, ...], str]]:
    """Prefix of the names -> steps to the container, and its kind; see `importers.pytorch_layout`."""
    groups = {}
    try:
        for prefix, steps, *rest in json.loads(attachment):
            kind = rest[0] if rest else "dict"
            if not isinstance(prefix, str) or kind not in ("dict", "ints", "list", "tuple", "tensor"):
                raise ValueError(f"group {prefix!r} of kind {kind!r}")
            if len(steps) > _MAX_DEPTH:
                raise ValueError(f"group {prefix!r} is {len(steps)} deep")
            groups[prefix] = (tuple(_checked_step(step) for step in steps), kind)
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedError(f"{PYTORCH_LAYOUT}: not a layout: {one_line(error)}") from error
    return groups


def _checked_step(step: Any) -> Any:
    if type(step) is str:
        return sys.intern(
            step
        )  # pickle tells equal strings apart by identity: the bytes must not depend on it
    if type(step) is int:
        return step
    kind, position = step
    if kind not in ("list", "tuple") or type(position) is not int or not 0 <= position < _MAX_LENGTH:
        raise ValueError(f"step {step!r}")
    return kind, position


def _last_step(kind: str, key: str) -> Any:
    if kind == "dict":
        return sys.intern(key)
    try:
        return int(key) if kind == "ints" else _checked_step((kind, int(key)))
    except ValueError:
        raise DamagedError(f"{PYTORCH_LAYOUT}: {quoted(key)} is no key of {kind}") from None


def _put(tree: dict[Any, Any], steps: tuple[Any, ...], tensor: _Tensor) -> None:
    for step in steps[:-1]:
        tree = tree.setdefault(step, {})
        if not isinstance(tree, dict):
            raise DamagedError(f"{PYTORCH_LAYOUT}: {quoted(str(step))} is a tensor and a container")
    if steps[-1] in tree:
        raise DamagedError(f"{PYTORCH_LAYOUT}: two things at {quoted(str(steps[-1]))}")
    tree[steps[-1]] = tensor


def _items(node: Any) -> int:
    """How many items the lists and tuples of the tree will have, all together."""
    if not isinstance(node, dict):
        return 0
    length = 1 + max((step[1] for step in node if isinstance(step, tuple)), default=-1)
    return length + sum(map(_items, node.values()))


def _built(node: Any) -> Any:
    """The tree with its lists and tuples; what was left out of them is None, so that positions hold."""
    if not isinstance(node, dict):
        return node
    kinds = {step[0] if isinstance(step, tuple) else "dict" for step in node}
    if len(kinds) > 1:
        raise DamagedError(f"{PYTORCH_LAYOUT}: one container is {' and '.join(sorted(kinds))}")
    if kinds <= {"dict"}:
        return {step: _built(child) for step, child in node.items()}
    items: list[Any] = [None] * (1 + max(position for _, position in node))
    for (_, position), child in node.items():
        items[position] = _built(child)
    return items if kinds == {"list"} else tuple(items)
