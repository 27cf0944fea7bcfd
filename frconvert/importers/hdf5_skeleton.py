"""What an HDF5 file holds beside tensors, as compact JSON: the attachment `HDF5_SKELETON`.

    {"version": 1, "nodes": [NODE, ...]}        in file order, a group before its members
    NODE   {"group": PATH, ...} | {"dataset": PATH, ...} | {"link": PATH, "to": PATH}
           "attrs": {NAME: VALUE, ...}          attributes in file order
           "ordered": true                      creation order is tracked
           "type": TYPE                         of a tensor, unless it is the plain one of its element type
           "value": VALUE                       of a dataset that is no tensor
    VALUE  [TYPE, SHAPE, DATA]                  SHAPE null (and DATA null) for a null dataspace (h5py.Empty)
    TYPE   "<f4" "|b1" "|V2" ...                as numpy writes it; DATA is base64 of the elements in C order
           "utf-8" "ascii"                      strings of variable length; DATA is a list of them in C order
           "utf-8:12" "ascii:12"                strings of 12 bytes, likewise
           {"enum": TYPE, "members": {NAME: INTEGER}}
           {"fields": [[NAME, TYPE, OFFSET], ...], "size": BYTES}

A PATH is that of a tensor, without leading slash; "" is the root. In texts, bytes that are not UTF-8 are lone
surrogates (Python's `surrogateescape`). Nodes that the paths of tensors imply are left out; without any left
there is no skeleton. A "link" is a hard link; further names of a tensor are entries of the checkpoint.
"""

import json
from base64 import b64encode
from collections.abc import Callable
from math import prod
from typing import Any

import h5py
import numpy as np

Node = dict[str, Any]
Type = str | dict[str, Any]

_NUMBER_BYTES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}


def describe(dtype: np.dtype[Any]) -> Type | None:
    """The TYPE of an h5py dtype, or None for references, arrays and texts in a record, long doubles."""
    text = h5py.check_string_dtype(dtype)
    if text is not None:
        return text.encoding if text.length is None else f"{text.encoding}:{text.length}"
    if dtype.hasobject or dtype.subdtype is not None:
        return None
    members = h5py.check_enum_dtype(dtype)
    if members is not None and all(isinstance(name, str) for name in members):  # bytes if not UTF-8
        return {"enum": dtype.str, "members": {name: int(value) for name, value in members.items()}}
    if dtype.fields is not None:
        fields = [[name, describe(field[0]), field[1]] for name, field in dtype.fields.items()]
        complete = all(field[1] is not None for field in fields)
        return {"fields": fields, "size": dtype.itemsize} if complete else None
    if dtype.kind == "V" or dtype.itemsize in _NUMBER_BYTES.get(dtype.kind, ()):
        return dtype.str
    return None


def encode_value(kind: Type, shape: tuple[int, ...] | None, values: object) -> list[Any]:
    """A VALUE from its type, its shape (None for a null dataspace) and what h5py read."""
    if shape is None:
        return [kind, None, None]
    array = np.asarray(values)
    if isinstance(kind, str) and kind.startswith(("utf-8", "ascii")):
        return [kind, list(shape), [_text(item) for item in array.ravel().tolist()]]
    return [kind, list(shape), b64encode(array.tobytes()).decode()]


def _text(item: str | bytes) -> str:
    return item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else item


def attributes(item: h5py.HLObject, spend: Callable[[int], None]) -> tuple[dict[str, Any], list[str]]:
    """The attributes of a group or dataset.

    Args:
        item: the group or dataset.
        spend: told of the bytes of each attribute before it is read; raises if they are too many.

    Returns:
        name -> VALUE, and the names of the attributes that a VALUE cannot express.
    """
    encoded: dict[str, Any] = {}
    left_out = []
    for name in item.attrs:
        attribute = item.attrs.get_id(name)
        try:
            kind = describe(attribute.dtype) if isinstance(name, str) else None  # bytes if not UTF-8
        except (TypeError, ValueError):  # numpy has nothing for this type
            kind = None
        if kind is None:
            left_out.append(str(name))
        elif attribute.get_space().get_simple_extent_type() == h5py.h5s.NULL:
            encoded[name] = encode_value(kind, None, None)
        else:
            spend(attribute.dtype.itemsize * prod(attribute.shape))
            encoded[name] = encode_value(kind, attribute.shape, item.attrs[name])
            spend(sum(map(len, encoded[name][2])))
    return encoded, left_out


def skeleton_json(nodes: list[Node], tensors: list[str]) -> bytes | None:
    """The skeleton of a file of these nodes (in file order) and tensors; None if the tensors say it all."""
    if not any("ordered" in node for node in nodes):  # otherwise every node says when to create its link
        nodes = _without_implied(nodes, tensors)
    if not nodes:
        return None
    text = json.dumps({"version": 1, "nodes": nodes}, ensure_ascii=True, separators=(",", ":"))
    return text.encode("ascii")


def _without_implied(nodes: list[Node], tensors: list[str]) -> list[Node]:
    implied = {""}
    kept = []

    def imply(path: str) -> None:
        while (path := path.rpartition("/")[0]) not in implied:
            implied.add(path)

    for path in tensors:
        imply(path)
    for node in nodes:
        if len(node) > 1:
            imply(node.get("group") or node.get("dataset") or node.get("link") or "")
    for node in reversed(nodes):  # members first: an empty group implies those above it
        if len(node) == 1 and ("dataset" in node or node["group"] in implied):
            continue
        if "group" in node:
            imply(node["group"])
        kept.append(node)
    return kept[::-1]
