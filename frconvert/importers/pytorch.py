"""PyTorch checkpoints: `torch.save` files of any age, read without running code from them.

`torch.load(weights_only=True)` is the only way in; what it refuses is refused here. Zip files are mapped into
memory, so that a tensor's bytes are touched when it is read.
"""

import io
import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frconvert.checkpoint import PYTORCH_LAYOUT, Checkpoint, TensorEntry
from frconvert.dtypes import ITEM_BYTES, numpy_dtype
from frconvert.errors import DamagedError, FrqError, UnsupportedError, UsageError, one_line, printable, quoted
from frconvert.importers.pytorch_layout import SHOWN, Item, Steps, names_and_layout, shown

try:
    import torch
except ImportError as error:
    raise UsageError("reading PyTorch files needs torch: pip install 'frconvert[torch]'") from error

# Sparse and expanded tensors can claim any shape in a few bytes. The published checkpoint of the method holds
# 3,100 times its size (124 MB in 40 kB), so ten thousand times is still honest; 1 GiB endangers no machine.
_DENSE_FLOOR = 1 << 30
_DENSE_RATIO = 10_000
_OLDEST_SAFE_TORCH = (2, 10)  # weights_only=True has holes before: CVE-2025-32434, CVE-2026-24747
_MAX_DEPTH = 32
_IN_NOTICE = 4  # names
_SPARSE_LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
_TRAINING_STATE = re.compile(
    r"optim|^opt(_|$)|^(lr_)?scheds?$|scheduler|rng|random_state|^callbacks$|^loops$", re.IGNORECASE
)
_RNG_STATE = re.compile(r"rng|random", re.IGNORECASE)
_METRIC = re.compile(r"(^|_)(best|acc|loss|epochs?|steps?|iter|score|prec|top)\d*(_|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A value that is no container, where it lies, and the training state it belongs to, if any."""

    steps: Steps
    value: Any
    training_state: str | None


def load(path: Path) -> Checkpoint:
    """Opens a PyTorch checkpoint; see `frconvert.importers` for the contract.

    Raises:
        UnsupportedError: classes that only code can load, TorchScript, tar files, no weights at all.
        DamagedError: not a sound PyTorch file, or one that claims absurd sizes.
    """
    root = load_object(path)
    try:
        return _checkpoint(path, root)
    except FrqError:
        raise
    except Exception as error:  # a hostile pickle can set attributes that make any method of a tensor fail
        raise DamagedError(f"{path}: not a sound PyTorch file: {one_line(error)}") from error


def load_inner(path: Path, name: str, data: bytes) -> Checkpoint:
    """Opens a PyTorch checkpoint that is a member of an archive.

    Args:
        path: of the archive, for messages and as a measure of what the checkpoint may claim.
        name: of the member.
        data: its bytes.

    Raises:
        FrqError: as `load`.
    """
    _check_version(torch.__version__)
    if data.startswith(b"PK\x03\x04"):
        _check_zip(path, io.BytesIO(data))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            root = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # anything can come out of a hostile pickle
        raise _explained(path, data[:512], error) from error
    try:
        return _checkpoint(path, root)
    except FrqError:
        raise
    except Exception as error:  # as in `load`
        raise DamagedError(f"{path}: {quoted(name)} is not sound: {one_line(error)}") from error


def load_object(path: Path) -> object:
    """What `torch.load` makes of a file when it may run no code, everything on the CPU.

    Raises:
        UsageError: a torch whose `weights_only` is known not to keep that promise.
    """
    _check_version(torch.__version__)
    with path.open("rb") as file:
        head = file.read(512)
    if head[257:262] == b"ustar":
        raise UnsupportedError(
            f"{path}: a tar archive, which torch opens only by running its code; unpack it, or if you trust "
            "it, torch.load it with weights_only=False and torch.save its state dict"
        )
    is_zip = head.startswith(b"PK\x03\x04")
    if is_zip:
        _check_zip(path)
    try:
        # torch.load sends every *path* ending in .safetensors to another reader: it gets the open file then.
        if is_zip and path.suffix != ".safetensors":
            try:
                return _torch_load(path, mmap=True)
            except RuntimeError as error:
                if "mmap" not in str(error):
                    raise
        return _torch_load(path, mmap=False)
    except Exception as error:  # anything can come out of a hostile pickle
        raise _explained(path, head, error) from error


def _check_version(version: str) -> None:
    """Refuses a torch that is too old; a pre-release of the oldest good one may lack the mend as well."""
    found = re.match(r"(\d+)\.(\d+)(?:\.\d+)*(\.?(?:a|b|rc|dev)\d*)?", version)
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    if number < _OLDEST_SAFE_TORCH or (number == _OLDEST_SAFE_TORCH and found and found[3]):
        needed = ".".join(map(str, _OLDEST_SAFE_TORCH))
        raise UsageError(
            f"torch {version} is installed, which hostile files can exploit even when told to run no code; "
            f"reading PyTorch files needs {needed} or later: pip install 'torch>={needed}'"
        )


def _torch_load(path: Path, *, mmap: bool) -> object:
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")
        return torch.load(path if mmap else file, map_location="cpu", weights_only=True, mmap=mmap)


def _check_zip(path: Path, inner: io.BytesIO | None = None) -> None:
    """Refuses what torch would run (TorchScript) or misread (compressed members under mmap)."""
    try:
        with zipfile.ZipFile(inner or path) as archive:
            members = archive.infolist()
    except Exception as error:
        raise DamagedError(f"{path}: a broken zip archive: {one_line(error)}") from error
    for member in members:
        if member.filename.rpartition("/")[2] == "constants.pkl":
            raise UnsupportedError(
                f"{path}: a TorchScript archive, which torch opens only by running its code; if trusted, "
                f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pt')"
            )
        if member.compress_type != zipfile.ZIP_STORED:
            raise UnsupportedError(
                f"{path}: member {quoted(member.filename)} is compressed, which PyTorch never does; "
                "torch.load and torch.save it again"
            )


def _explained(path: Path, head: bytes, error: Exception) -> FrqError:
    """One line for what torch says in ten."""
    text = one_line(error, limit=100_000)
    found = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", text)
    if found:
        return UnsupportedError(
            f"{path}: holds a {found[1][:200]}, which only running its code can load; if you trust the file, "
            "torch.load it with weights_only=False and torch.save the model's state_dict()"
        )
    if "must be imported to load" in text:
        return UnsupportedError(f"{path}: holds nested or distributed tensors; save an ordinary state_dict()")
    if isinstance(error, pickle.UnpicklingError):
        if head[:1] == b"\x80" and head[1:2] in b"\x03\x04\x05":
            return UnsupportedError(
                f"{path}: a Python pickle of protocol {head[1]}, which cannot be read safely; "
                "save the tensors with torch.save"
            )
        text = text.partition("WeightsUnpickler error: ")[2].partition(" Check the documentation")[0] or text
    if isinstance(error, EOFError):
        text = "the file ends too early"
    return DamagedError(
        f"{path}: not a sound PyTorch file: {one_line(Exception(text or type(error).__name__))}"
    )


def _walk(node: Any, steps: Steps = (), training_state: str | None = None) -> Iterator[_Leaf]:
    """All leaves of nested containers; an empty container is a leaf, too, so that every visit counts."""
    if len(steps) > _MAX_DEPTH:
        raise RecursionError(f"containers are nested more than {_MAX_DEPTH} deep")
    if isinstance(node, dict) and node:
        beside_groups = any(isinstance(child, dict) for child in node.values())
        for key, child in node.items():
            state = training_state
            if state is None and _is_training_state(key, child):
                state = shown((*steps, key))
            if beside_groups and _is_metric(key, child):
                yield _Leaf((*steps, key), None, state)
            else:
                yield from _walk(child, (*steps, key), state)
    elif isinstance(node, list | tuple) and node and not isinstance(node, torch.Size):
        kind = "list" if isinstance(node, list) else "tuple"
        for index, child in enumerate(node):
            yield from _walk(child, (*steps, Item(kind, index)), training_state)
    else:
        yield _Leaf(steps, node, training_state)


def _is_training_state(key: object, node: object) -> bool:
    if isinstance(node, dict) and "state" in node and "param_groups" in node:
        return True
    if isinstance(node, torch.Tensor):
        return node.dtype == torch.uint8 and bool(_RNG_STATE.search(_word(key)))
    return isinstance(node, dict | list | tuple) and bool(_TRAINING_STATE.search(_word(key)))


def _is_metric(key: object, node: object) -> bool:
    """True for a number that is kept as a 0-d tensor beside the state dict, e.g. "best_acc1"."""
    return isinstance(node, torch.Tensor) and node.ndim == 0 and bool(_METRIC.search(_word(key)))


def _word(key: object) -> str:
    """The key as far as it may tell what it leads to: patterns would take long on what hostile files have."""
    return key[:SHOWN] if isinstance(key, str) else ""


def _checkpoint(path: Path, root: object) -> Checkpoint:
    file_bytes = path.stat().st_size
    found: list[_Leaf] = []
    values: list[_Leaf] = []
    training: Counter[str] = Counter()
    for count, leaf in enumerate(_walk(root)):
        # Objects that a pickle names again and again can unfold without bound; honest ones take bytes.
        if count > 100_000 + file_bytes:
            raise DamagedError(f"{path}: the pickle unfolds to more objects than the file has bytes")
        if leaf.training_state is not None:
            training[leaf.training_state] += isinstance(leaf.value, torch.Tensor)
        elif isinstance(leaf.value, torch.Tensor):
            found.append(leaf)
        elif not _is_container(leaf.value):
            values.append(leaf)
    notices = [
        f"left out {quoted(key, SHOWN)}: training state, {count} tensors" for key, count in training.items()
    ]
    if values:
        names = [shown(leaf.steps) for leaf in values[:_IN_NOTICE]]
        notices.append(f"left out {len(values)} values that are no tensors: {_some(names, len(values))}")
    if not found and not (_is_container(root) and not root):
        raise UnsupportedError("; ".join([f"{path}: holds no weights", *notices[:_IN_NOTICE]]))
    names, layout = names_and_layout(path, file_bytes, [leaf.steps for leaf in found])
    tensors = dict(zip(names, (leaf.value for leaf in found), strict=True))
    entries = _entries(path, tensors)
    _check_claims(path, file_bytes, entries, tensors)
    return Checkpoint(
        entries,
        "pytorch",
        attachments={PYTORCH_LAYOUT: layout} if layout else {},
        notices=(*notices, *_changes(tensors)),
    )


def _is_container(node: object) -> bool:
    return isinstance(node, dict | list | tuple) and not isinstance(node, torch.Size)


def _some(names: Sequence[str], count: int) -> str:
    """The first of `count` names."""
    shown = [printable(name, SHOWN) for name in names[:_IN_NOTICE]]
    return ", ".join(shown) + (", ..." if count > _IN_NOTICE else "")


def _entries(path: Path, tensors: Mapping[str, Any]) -> tuple[TensorEntry, ...]:
    entries: list[TensorEntry] = []
    first: dict[object, str] = {}
    for name, tensor in tensors.items():
        dtype = _dtype_name(path, name, tensor)
        shape = tuple(int(length) for length in tensor.shape)
        if tensor.layout == torch.strided and not tensor.is_quantized and tensor.numel():
            where = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.stride())
            identity: object = (where, shape, dtype, tensor.is_conj(), tensor.is_neg())
        else:
            identity = id(tensor)
        other = first.setdefault(identity, name)
        read = partial(_read, path, name, tensor, dtype)
        entries.append(TensorEntry(name, shape, dtype, read, tied_to=None if other == name else other))
    return tuple(entries)


def _dtype_name(path: Path, name: str, tensor: Any) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DamagedError(f"{path}: tensor name {name!r} is no valid text") from None
    if (
        tensor.is_nested
        or tensor.device.type != "cpu"
        or tensor.layout not in (torch.strided, *_SPARSE_LAYOUTS)
    ):
        kind = "nested" if tensor.is_nested else f"{tensor.layout} on device {tensor.device}"
        raise UnsupportedError(
            f"{path}: tensor {quoted(name)} has no plain data ({kind}); save a dense CPU tensor"
        )
    if tensor.is_quantized:
        return "float32"
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype == "complex32":
        return "complex64"
    if dtype not in ITEM_BYTES:
        raise UnsupportedError(
            f"{path}: tensor {quoted(name)} has element type {dtype}, which frconvert does not know"
        )
    return dtype


def _check_claims(
    path: Path, file_bytes: int, entries: Sequence[TensorEntry], tensors: Mapping[str, Any]
) -> None:
    # Ties count as well: most formats hold a tensor as often as it has names.
    claimed = sum(entry.size_bytes for entry in entries)
    for tensor in tensors.values():
        claimed += sum(part.numel() * part.element_size() for part in _sparse_parts(tensor))
    if claimed > max(_DENSE_FLOOR, _DENSE_RATIO * file_bytes):
        largest = max(entries, key=lambda entry: entry.size_bytes)
        raise DamagedError(
            f"{path}: its tensors claim {claimed:,} bytes in a file of {file_bytes:,} (first of all "
            f"{quoted(largest.name)}, {largest.size_bytes:,}); refused as no honest file does so"
        )


def _changes(tensors: Mapping[str, Any]) -> Iterator[str]:
    changes: tuple[tuple[str, Callable[[Any], bool]], ...] = (
        ("sparse tensors are read as dense ones", lambda tensor: tensor.layout in _SPARSE_LAYOUTS),
        (
            "quantised tensors are read as the float32 values they stand for",
            lambda tensor: tensor.is_quantized,
        ),
        ("complex32 tensors are read as complex64", lambda tensor: tensor.dtype == torch.complex32),
    )
    for change, applies in changes:
        names = [name for name, tensor in tensors.items() if applies(tensor)]
        if names:
            yield f"{len(names)} {change}: {_some(names, len(names))}"


def _read(path: Path, name: str, tensor: Any, dtype: str) -> NDArray[np.generic]:
    try:
        return _numpy(tensor.detach(), dtype)
    except Exception as error:  # out of memory, sparse indices out of range, ...
        raise DamagedError(f"{path}: tensor {quoted(name)} cannot be read: {one_line(error)}") from error


def _numpy(tensor: Any, dtype: str) -> NDArray[np.generic]:
    shares_memory = tensor.layout == torch.strided and not tensor.is_quantized
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    elif tensor.layout in _SPARSE_LAYOUTS:
        tensor = _validated(tensor).to_dense()
    if tensor.dtype == torch.complex32:
        tensor = tensor.to(torch.complex64)
    tensor = tensor.resolve_conj().resolve_neg()
    array: NDArray[np.generic]
    if dtype == "bool":  # a byte other than 0 and 1 is True to torch, too
        array = tensor.view(torch.uint8).numpy() != 0
    elif dtype == "bfloat16" or dtype.startswith("float8"):
        bits = torch.int16 if dtype == "bfloat16" else torch.uint8
        array = tensor.view(bits).numpy().view(numpy_dtype(dtype))
    else:
        array = tensor.numpy()
    if shares_memory:
        return np.array(array, order="C")
    return np.asarray(array, order="C")


def _sparse_parts(tensor: Any) -> tuple[Any, ...]:
    """The strided tensors that a sparse one consists of; nothing for a strided tensor."""
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return ()


def _validated(tensor: Any) -> Any:
    """The sparse tensor made anew with its indices checked: `to_dense` itself would write out of bounds."""
    parts = _sparse_parts(tensor)
    if tensor.layout == torch.sparse_coo:
        return torch.sparse_coo_tensor(*parts, tensor.shape, check_invariants=True)
    return torch.sparse_compressed_tensor(*parts, tensor.shape, layout=tensor.layout, check_invariants=True)
