"""Reading the attachment that `importers/hdf5_skeleton.py` describes.

It may come from a file that somebody altered, so every type, shape and length in it is checked here. What is
returned takes memory in proportion to the attachment.
"""

import json
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from frconvert.checkpoint import HDF5_SKELETON
from frconvert.errors import DamagedError, UnsupportedError, one_line

_TEXT = re.compile(r"(utf-8|ascii)(?::([1-9]\d{0,8}))?")
_NUMBER = re.compile(r"[<>|](?:b1|[iu][1248]|f[248]|c8|c16|V[1-9]\d{0,4})")
_MAX_RANK = 32  # of HDF5
_MAX_PADDING = 256  # a few letters of JSON can ask for a gigabyte of padding


@dataclass(frozen=True, slots=True)
class Value:
    """An attribute or small dataset: `array` is None for a null dataspace."""

    dtype: np.dtype[Any]
    array: NDArray[Any] | None


@dataclass(frozen=True, slots=True)
class Node:
    """One group, dataset or link.

    Attributes:
        kind: "group", "dataset" or "link".
        path: from the root, without leading slash.
        attrs: in file order.
        ordered: creation order is tracked.
        dtype: of a tensor in the file, or None for that of the tensor itself.
        value: of a dataset that is no tensor.
        target: of a link, a path.
    """

    kind: str
    path: str
    attrs: Mapping[str, Value] = field(default_factory=dict)
    ordered: bool = False
    dtype: np.dtype[Any] | None = None
    value: Value | None = None
    target: str = ""


def parse(data: bytes) -> tuple[Node, ...]:
    """The nodes of a skeleton.

    Raises:
        DamagedError: it does not follow its description.
        UnsupportedError: a later version wrote it.
    """
    try:
        skeleton = json.loads(data)
        version = skeleton["version"]
        if version == 1:
            return tuple(_node(item) for item in skeleton["nodes"])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedError(f"attachment {HDF5_SKELETON} is damaged: {one_line(error)}") from error
    raise UnsupportedError(f"attachment {HDF5_SKELETON} has version {version!r}, this frconvert reads 1")


def _node(item: dict[str, Any]) -> Node:
    kinds = [kind for kind in ("group", "dataset", "link") if kind in item]
    if len(kinds) != 1:
        raise ValueError("a node is neither group, dataset nor link")
    kind = kinds[0]
    return Node(
        kind=kind,
        path=_path(item[kind], may_be_root=kind == "group"),
        attrs={_name(name): _value(value) for name, value in item.get("attrs", {}).items()},
        ordered=item.get("ordered") is True,
        dtype=_dtype(item["type"]) if "type" in item else None,
        value=_value(item["value"]) if "value" in item else None,
        target=_path(item["to"], may_be_root=True) if kind == "link" else "",
    )


def _path(text: object, may_be_root: bool) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{text!r:.100} is no path")
    parts = text.split("/") if text or not may_be_root else []
    for part in parts:
        if _name(part) == ".":
            raise ValueError(f"path {text!r} has a part '.'")
    return text


def _name(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError(f"impossible name {text!r}")
    text.encode()  # UnicodeEncodeError is a ValueError
    return text


def _dtype(kind: str | dict[str, Any]) -> np.dtype[Any]:
    dtype: np.dtype[Any]
    if isinstance(kind, str) and (text := _TEXT.fullmatch(kind)):
        dtype = h5py.string_dtype(text[1], int(text[2]) if text[2] else None)
    elif isinstance(kind, str) and _NUMBER.fullmatch(kind):
        dtype = np.dtype(kind)
    elif isinstance(kind, str):
        raise ValueError(f"unknown element type {kind!r:.100}")
    elif "enum" in kind:
        members = {_name(name): int(value) for name, value in kind["members"].items()}
        dtype = h5py.enum_dtype(members, _dtype(kind["enum"]))
    else:
        dtype = _record_dtype(kind)
    return dtype


def _record_dtype(kind: dict[str, Any]) -> np.dtype[Any]:
    fields = [(_name(name), _dtype(inner), int(offset)) for name, inner, offset in kind["fields"]]
    names, formats, offsets = zip(*fields, strict=True)
    dtype: np.dtype[Any] = np.dtype(
        {"names": names, "formats": formats, "offsets": offsets, "itemsize": int(kind["size"])}
    )
    if dtype.hasobject or dtype.itemsize > 1 << 20:
        raise ValueError("a record type with strings of variable length, or too large")
    return dtype


def _value(item: list[Any]) -> Value:
    kind, shape, data = item
    dtype = _dtype(kind)
    if shape is None:
        return Value(dtype, None)
    if len(shape) > _MAX_RANK or not all(type(length) is int and 0 <= length < 1 << 48 for length in shape):
        raise ValueError(f"impossible shape {shape!r:.100}")
    count = prod(shape)
    if h5py.check_string_dtype(dtype) is not None:
        texts = [text.encode("utf-8", "surrogateescape") for text in data]
        if any(len(text) > dtype.itemsize if dtype.kind == "S" else b"\0" in text for text in texts):
            raise ValueError("a string is too long for its type or has a zero byte")
        if dtype.itemsize * count > 4096 + _MAX_PADDING * (count + sum(map(len, texts))):
            raise ValueError(f"strings padded to more than {_MAX_PADDING} times their length")
        flat: NDArray[Any] = np.array(texts, dtype)
    else:
        raw = b64decode(data, validate=True)
        flat = np.frombuffer(raw, dtype) if raw else np.empty(0, dtype)
    if flat.size != count:
        raise ValueError(f"a value of {flat.size} elements has the shape {shape}")
    return Value(dtype, flat.reshape(shape))
