"""Importer of exported programs of torch (`.pt2`): their weights, without torch's own loader.

`torch.export.load` unpickles, evaluates expressions and looks up whatever the program names. Here weights are
read as what they are, raw bytes that a JSON file describes; archives of torch 2.8 and before hold a pickled
state dict, which is read as in `importers/pytorch.py`, running no code. Of the program itself `load` reads
nothing; `frconvert.torch_program` does.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.dtypes import ITEM_BYTES, numpy_dtype
from frconvert.errors import DamagedError, FrqError, UnsupportedError, one_line, quoted

# Numbers of torch's element types in these archives, see torch/_export/serde/schema.py.
DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16", 29: "float8_e4m3fn",
    30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 33: "float8_e8m0fnu", 34: "uint32",
    35: "uint64",
}  # fmt: skip

_MODEL = "models/model.json"
_OLD_MODEL = "serialized_exported_program.json"  # of torch 2.7 and before
_STRIDED = 7
_MAX_AXES = 32
# Axes of stride 0 make a large tensor of few bytes; see `importers/pytorch.py`.
_DENSE_FLOOR = 1 << 30
_DENSE_RATIO = 10_000


def is_program(names: list[str]) -> bool:
    """Whether a zip archive of such members is an exported program."""
    return any(name.endswith(f"/{_MODEL}") for name in names) or _OLD_MODEL in names


def load(path: Path) -> Checkpoint:
    """Opens the weights of an exported program: parameters and persistent buffers, by their names.

    Raises:
        UnsupportedError: weights that only running code can load.
        DamagedError: no sound archive, or one that claims absurd sizes.
    """
    with Archive(path) as archive:
        checkpoint = archive.weights()
        try:
            left = len({entry.name for entry in archive.constants()})
        except FrqError:  # such as objects of classes; no reason to keep the weights back
            left = 1
    notice = "left out the program's constants, which are no weights"
    notices = (*checkpoint.notices, notice) if left else checkpoint.notices
    return replace(checkpoint, format="pt2", notices=notices)


class Archive:
    """An exported program's file.

    Raises:
        UnsupportedError: several programs, or compressed members.
        DamagedError: a broken archive, on opening and by all methods.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise DamagedError(f"{path}: a broken zip archive: {one_line(error)}") from error
        self._bytes = path.stat().st_size
        self._sizes: dict[str, int] = {}
        for member in self._zip.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise UnsupportedError(
                    f"{path}: member {quoted(member.filename)} is compressed, which torch never does"
                )
            self._sizes[member.filename] = member.file_size
        roots = [name.removesuffix(_MODEL) for name in self._sizes if name.endswith(f"/{_MODEL}")]
        if len(roots) > 1:
            raise UnsupportedError(f"{path}: holds {len(roots)} exported programs, not one")
        self._root = roots[0] if roots else None

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def program(self) -> Any:
        """The JSON of the program."""
        return self._json(_OLD_MODEL if self._root is None else f"{self._root}{_MODEL}")

    def weights(self) -> Checkpoint:
        """Parameters and persistent buffers."""
        return self._part("weights", "serialized_state_dict.pt")

    def constants(self) -> Checkpoint:
        """Tensors that are no weights: constants, and buffers that are in no state dict."""
        return self._part("constants", "serialized_constants.pt")

    def _part(self, kind: str, oldest: str) -> Checkpoint:
        old = oldest if self._root is None else f"{self._root}data/{kind}/model.pt"
        if old in self._sizes:
            from frconvert.importers import pytorch  # noqa: PLC0415  (it needs torch)

            return pytorch.load_inner(self.path, old, self._read(old))
        if self._root is None:
            raise DamagedError(f"{self.path}: {old} is missing")
        folder = f"{self._root}data/{kind}/"
        config = self._json(f"{folder}model_{kind}_config.json")
        try:
            return Checkpoint(tuple(self._entries(folder, config["config"])), "pt2")
        except FrqError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedError(f"{self.path}: what it says of its {kind} is incomplete") from error

    def _entries(self, folder: str, config: Mapping[str, Any]) -> Iterator[TensorEntry]:
        first: dict[object, str] = {}
        claimed = 0
        for name, said in config.items():
            place = f"{folder}{said['path_name']}"
            what = f"{self.path}: tensor {quoted(name)}"
            if said["use_pickle"] or "opaque" in said["path_name"] or "custom" in said["path_name"]:
                raise UnsupportedError(f"{what} is pickled, which only running its code can load")
            payload = _payload(what, said["tensor_meta"], place, self._sizes.get(place))
            claimed += prod(payload.shape) * ITEM_BYTES[payload.dtype]
            if claimed > max(_DENSE_FLOOR, _DENSE_RATIO * self._bytes):
                raise DamagedError(
                    f"{what} and those before it claim {claimed:,} bytes in a file of {self._bytes:,}; "
                    "refused as no honest file does so"
                )
            other = first.setdefault(payload, name)
            read = partial(_read, self.path, what, payload)
            tied_to = None if other == name else other
            yield TensorEntry(name, payload.shape, payload.dtype, read, tied_to=tied_to)

    def _json(self, name: str) -> Any:
        try:
            return json.loads(self._read(name))
        except (ValueError, RecursionError) as error:
            raise DamagedError(f"{self.path}: {name} is no JSON") from error

    def _read(self, name: str) -> bytes:
        return _member(self._zip, self.path, name)


@dataclass(frozen=True, slots=True)
class _Payload:
    """A tensor in a member of the archive; strides and offset count elements."""

    member: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


def _payload(what: str, meta: Mapping[str, Any], member: str, size_bytes: int | None) -> _Payload:
    dtype = DTYPES.get(meta["dtype"])
    if dtype is None or meta["layout"] != _STRIDED:
        raise UnsupportedError(f"{what} has an element type or layout that frconvert does not know")
    shape, strides = (tuple(count(item) for item in meta[key]) for key in ("sizes", "strides"))
    offset = count(meta["storage_offset"])
    if len(shape) != len(strides) or len(shape) > _MAX_AXES:
        raise DamagedError(f"{what} has {len(shape)} axes and {len(strides)} strides")
    if size_bytes is None:
        raise DamagedError(f"{what}: {member} is missing")
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if prod(shape) and (last + 1) * ITEM_BYTES[dtype] > size_bytes:
        raise DamagedError(f"{what} ends at element {last}, beyond the {size_bytes} bytes of {member}")
    return _Payload(member, dtype, shape, strides, offset)


def count(item: Any) -> int:
    """A whole number of the program's JSON that is known: {"as_int": 3}.

    Raises:
        ValueError: it is none.
    """
    value = item["as_int"] if isinstance(item, dict) and list(item) == ["as_int"] else item
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{value!r} is no count")
    return value


def _read(path: Path, what: str, payload: _Payload) -> NDArray[np.generic]:
    dtype = numpy_dtype(payload.dtype)
    if not prod(payload.shape):
        return np.zeros(payload.shape, dtype)
    with zipfile.ZipFile(path) as archive:
        data = np.frombuffer(_member(archive, path, payload.member), np.uint8)
    needed = payload.offset + 1
    needed += sum((n - 1) * stride for n, stride in zip(payload.shape, payload.strides, strict=True))
    if needed * dtype.itemsize > data.size:
        raise DamagedError(f"{what}: {path} has changed since it was opened")
    flat = data[: data.size // dtype.itemsize * dtype.itemsize].view(dtype)[payload.offset :]
    strides = [stride * dtype.itemsize for stride in payload.strides]
    view = np.lib.stride_tricks.as_strided(flat, payload.shape, strides, writeable=False)
    if payload.dtype == "bool":  # a byte other than 0 and 1 is True to torch, too
        return np.array(view.view(np.uint8) != 0, order="C")
    return np.array(view, order="C")


def _member(archive: zipfile.ZipFile, path: Path, name: str) -> bytes:
    try:
        return archive.read(name)
    except KeyError:
        raise DamagedError(f"{path}: {name} is missing") from None
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise DamagedError(f"{path}: {quoted(name)} cannot be read: {one_line(error)}") from error
