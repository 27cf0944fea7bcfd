"""safetensors files, and the `*.index.json` of models in several files.

The header is parsed here with every rule of the format checked, which is stricter than the library in one
point: a key that occurs twice is refused. Tensors are read by their byte range.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.checkpoint import SAFETENSORS_METADATA, Checkpoint, TensorEntry
from frconvert.dtypes import ITEM_BYTES, SAFETENSORS_CODES, numpy_dtype
from frconvert.errors import DamagedError, UnreadableError, UnsupportedError, one_line, quoted
from frconvert.importers import sniff

_MAX_HEADER_BYTES = 100_000_000  # the library's limit
_MAX_AXES = 32  # what every numpy can hold
_SHOWN = 200  # characters of a list in a message
_DTYPES = {code: name for name, code in SAFETENSORS_CODES.items()}
_PACKED_DTYPES = ("F4", "F6_E2M3", "F6_E3M2")  # several elements share a byte


def load(path: Path) -> Checkpoint:
    """Opens a safetensors file or an index of shards; see `frconvert.importers` for the contract.

    Raises:
        DamagedError: the file breaks a rule of the format; the message names the tensor.
        UnsupportedError: an element type of less than a byte.
        UnreadableError: a shard that the index names is missing.
    """
    if path.name.endswith(".index.json"):
        return _load_shards(path)
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        header_bytes = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or header_bytes > file_bytes - 8:
            raise DamagedError(
                f"{path}: the header would end at {8 + header_bytes}, the file at {file_bytes}"
            )
        if header_bytes > _MAX_HEADER_BYTES:
            raise DamagedError(
                f"{path}: header of {header_bytes} bytes; at most {_MAX_HEADER_BYTES} are allowed"
            )
        header = _parsed(path, "header", file.read(header_bytes))
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise DamagedError(f"{path}: __metadata__ is not an object of strings")
    data_start = 8 + header_bytes
    ranges: list[tuple[int, int, str]] = []
    entries = []
    for name, item in header.items():
        entry, begin, end = _entry(path, name, item, data_start)
        entries.append(entry)
        ranges.append((begin, end, name))
    covered = 0
    for begin, end, name in sorted(ranges):
        if begin != covered:
            fault = "overlaps the tensor before it" if begin < covered else "leaves a hole before it"
            raise DamagedError(
                f"{path}: tensor {quoted(name)} at data offset {begin} {fault} ({covered} expected)"
            )
        covered = end
    if covered != file_bytes - data_start:
        raise DamagedError(f"{path}: tensors end at {data_start + covered}, the file at {file_bytes}")
    return Checkpoint(tuple(entries), "safetensors", attachments=_metadata_attachment(metadata))


def _parsed(path: Path, what: str, text: bytes) -> dict[str, Any]:
    """The JSON object in `text`, duplicate keys refused at every level."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"key {quoted(twice)} occurs twice")
        return result

    try:
        content = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
        if not isinstance(content, dict):
            raise TypeError("not an object")
        if b"\\u" in text:
            json.dumps(
                content, ensure_ascii=False
            ).encode()  # a lone surrogate is valid JSON and no valid text
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise DamagedError(f"{path}: {what} is not sound JSON: {one_line(error)}") from error
    return content


def _entry(path: Path, name: str, item: Any, data_start: int) -> tuple[TensorEntry, int, int]:
    where = f"{path}: tensor {quoted(name)}"
    if not isinstance(item, dict) or not {"dtype", "shape", "data_offsets"} <= item.keys():
        raise DamagedError(f"{where} has no dtype, shape and data_offsets")
    shape, offsets = item["shape"], item["data_offsets"]
    for key, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers):
            raise DamagedError(f"{where}: {key} is not a list of non-negative integers")
    if item["dtype"] in _PACKED_DTYPES:
        raise UnsupportedError(
            f"{where} has elements of less than a byte ({item['dtype']}); widen them first"
        )
    if not isinstance(item["dtype"], str) or item["dtype"] not in _DTYPES:
        raise DamagedError(f"{where} has unknown dtype {str(item['dtype'])[:40]!r}")
    dtype = _DTYPES[item["dtype"]]
    if len(shape) > _MAX_AXES:
        raise UnsupportedError(f"{where} has {len(shape)} axes; at most {_MAX_AXES} can be handled")
    if math.prod(n or 1 for n in shape) * ITEM_BYTES[dtype] >= 1 << 63:
        raise DamagedError(f"{where}: the size of shape {str(shape)[:_SHOWN]} overflows")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * ITEM_BYTES[dtype]:
        raise DamagedError(
            f"{where}: data_offsets {str(offsets)[:_SHOWN]} do not hold {dtype} of shape "
            f"{str(shape)[:_SHOWN]}"
        )
    read = partial(_read, path, name, tuple(shape), dtype, data_start + offsets[0])
    return TensorEntry(name, tuple(shape), dtype, read), offsets[0], offsets[1]


def _read(path: Path, name: str, shape: tuple[int, ...], dtype: str, offset: int) -> NDArray[np.generic]:
    try:
        array = np.empty(shape, numpy_dtype(dtype))
        content = array.reshape(-1).view(np.uint8).data
        with path.open("rb") as file:
            file.seek(offset)
            count = file.readinto(content)
    except (OSError, MemoryError) as error:
        raise UnreadableError(f"{path}: tensor {quoted(name)} cannot be read: {one_line(error)}") from error
    if count != len(content):
        raise DamagedError(
            f"{path}: tensor {quoted(name)} ends after {count} of {len(content)} bytes: has it changed?"
        )
    return array.view(np.uint8) != 0 if dtype == "bool" else array


def _load_shards(path: Path) -> Checkpoint:
    """Joins the shards in the order in which the index first names them, each in its own order."""
    if path.stat().st_size > _MAX_HEADER_BYTES:
        raise DamagedError(f"{path}: an index of more than {_MAX_HEADER_BYTES} bytes")
    weight_map = _parsed(path, "the index", path.read_bytes()).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise DamagedError(f"{path}: no weight_map from tensor names to file names")
    wanted: dict[str, set[str]] = {}
    for name, shard_name in weight_map.items():
        wanted.setdefault(shard_name, set()).add(name)
    entries: list[TensorEntry] = []
    notices: list[str] = []
    metadata: dict[str, str] = {}
    format_name = "safetensors"
    for shard_name, names in wanted.items():
        shard = _shard(path, shard_name)
        missing = sorted(names - {entry.name for entry in shard})
        if missing:
            raise DamagedError(
                f"{path}: tensor {quoted(missing[0])} is not in its shard {quoted(shard_name)}"
            )
        if len(shard) > len(names):
            extra = len(shard) - len(names)
            notices.append(f"left out {extra} tensors of {quoted(shard_name)} that the index does not name")
        kept = (entry for entry in shard if entry.name in names)
        entries += (entry if entry.tied_to in names else replace(entry, tied_to=None) for entry in kept)
        notices += shard.notices
        metadata |= json.loads(shard.attachments.get(SAFETENSORS_METADATA, b"{}"))
        format_name = shard.format
    return Checkpoint(
        tuple(entries), format_name, attachments=_metadata_attachment(metadata), notices=tuple(notices)
    )


def _shard(index: Path, name: str) -> Checkpoint:
    if name in ("", ".", "..") or any(character in name for character in "/\\:\0"):
        raise DamagedError(f"{index}: shard {quoted(name)} is not a plain file name")
    path = index.parent / name
    try:
        found = sniff(path)
        if found not in ("safetensors", "pytorch") or name.endswith(".index.json"):
            raise DamagedError(f"{index}: shard {quoted(name)} is neither a safetensors nor a PyTorch file")
        loader: Callable[[Path], Checkpoint] = import_module(f"frconvert.importers.{found}").load
        return loader(path)
    except OSError as error:
        raise UnreadableError(
            f"{index}: shard {quoted(name)}: {error.strerror or one_line(error)}"
        ) from error


def _metadata_attachment(metadata: Mapping[str, str]) -> dict[str, bytes]:
    """The attachment for a `__metadata__` object, unless it says no more than the exporter writes anyway."""
    if metadata in ({}, {"format": "pt"}):
        return {}
    text = json.dumps(metadata, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return {SAFETENSORS_METADATA: text.encode()}
