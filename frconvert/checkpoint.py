"""A checkpoint: named tensors, known by shape and dtype, read one at a time.

Importers make a `Checkpoint`, everything else consumes it. Nothing here reads data by itself:
`TensorEntry.read` is called when a stage needs the values, may be called more than once, from any thread, and
returns a fresh C-contiguous array each time, so that at most the tensors being worked on are in memory.

Laws: names are unique and in source order; an alias (`tied_to`) names an earlier entry that is itself no
alias, with the same shape and dtype; `entry.read().shape == entry.shape` and likewise for the dtype.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import prod

import numpy as np
from numpy.typing import NDArray

from frconvert.dtypes import ITEM_BYTES, is_float
from frconvert.errors import DamagedError, UsageError, quoted

# Attachments by which an importer hands an exporter of the same format what is no tensor.
ONNX_SKELETON = "onnx/skeleton.onnx"  # ModelProto whose tensor data are left out, see importers/onnx.py
HDF5_SKELETON = "hdf5/skeleton.json"  # groups and attributes, see importers/hdf5.py
KERAS_FILES = "keras/"  # prefix: the other members of a .keras archive, byte for byte
PYTORCH_LAYOUT = "pytorch/layout.json"  # nesting of the tensors, see importers/pytorch_layout.py
SAFETENSORS_METADATA = "safetensors/metadata.json"  # the __metadata__ object, string to string


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk of a `.frq` file: what it holds, and its bytes.

    Attributes:
        kind: how it is coded.
        names: of all its tensors, in order.
        read: returns its payload; raises FrqError.
    """

    kind: str
    names: tuple[str, ...]
    read: Callable[[], bytes] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One named tensor, its data not yet read.

    Attributes:
        name: unique in the checkpoint, as the source spells it.
        shape: lengths of the axes; () for a 0-d tensor.
        dtype: a name of `frconvert.dtypes.DTYPE_NAMES`.
        read: returns the dense values, C-contiguous, of exactly this shape and dtype; raises FrqError. The
            array is its caller's to overwrite, so it is a new one each time, or read-only.
        tied_to: name of the earlier entry whose data this one shares, or None.
        read_coefficients: for sources that hold DCT coefficients (over all axes) instead of weights: returns
            the first `keep` of them in zigzag order, 1-D floats. `read` gives the dense weights all the same.
        read_encoded: for `.frq` sources: the tensor as the container stores it, for copying without loss.
        encoded_layout: for `.frq` sources: how the container stores it, known without reading.
        chunk: for `.frq` sources: the chunk that holds it, None without elements.
        base: the tensor of another `.frq` that this one is, or may be, stored as the difference to.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], NDArray[np.generic]] = field(repr=False, compare=False)
    tied_to: str | None = None
    read_coefficients: Callable[[], NDArray[np.generic]] | None = field(
        default=None, repr=False, compare=False
    )
    read_encoded: Callable[[], object] | None = field(default=None, repr=False, compare=False)
    encoded_layout: object | None = field(default=None, repr=False, compare=False)
    chunk: StoredChunk | None = field(default=None, repr=False, compare=False)
    base: "TensorEntry | None" = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of the dense tensor at its own dtype."""
        return self.size * ITEM_BYTES[self.dtype]

    @property
    def is_weight(self) -> bool:
        """True for what lossy coding may quantise: real floats with two or more axes and any elements."""
        return is_float(self.dtype) and len(self.shape) >= 2 and self.size > 0


@dataclass(frozen=True, slots=True)
class Origin:
    """The path or URL of a file, and the format that the user said it has, if he did."""

    location: str
    format: str | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors in source order, what is carried along, and what the importer had to leave out.

    Attributes:
        entries: all tensors, aliases of tied ones included.
        format: the importer's name, e.g. "pytorch".
        attachments: name -> bytes, carried losslessly (ONNX skeleton, layout of a nested checkpoint, ...).
        metadata: short key -> value strings that travel with the file.
        notices: sentences for the user about what was left out or changed on import.
        provenance: what a `.frq` says of how it was made, see `frconvert.provenance`.
        origin: the file that it was opened from, None if it was made in memory.
        sha256: of a `.frq`, as its footer has it.
        base: the SHA-256 of the `.frq` that tensors are, or may be, stored as differences to.
    """

    entries: tuple[TensorEntry, ...]
    format: str
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    origin: Origin | None = None
    sha256: bytes | None = None
    base: bytes | None = None

    def __post_init__(self) -> None:
        seen: dict[str, TensorEntry] = {}
        for entry in self.entries:
            if entry.name in seen:
                raise DamagedError(f"tensor name {entry.name!r} occurs twice")
            if entry.tied_to is not None:
                other = seen.get(entry.tied_to)
                if other is None or other.tied_to is not None:
                    raise DamagedError(
                        f"tensor {entry.name!r} is tied to {entry.tied_to!r}, which is no earlier tensor"
                    )
                if (other.shape, other.dtype) != (entry.shape, entry.dtype):
                    raise DamagedError(
                        f"tensors {entry.name!r} and {entry.tied_to!r} are tied but differ in shape or dtype"
                    )
            seen[entry.name] = entry

    def __iter__(self) -> Iterator[TensorEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> TensorEntry:
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise UsageError(f"no tensor {name!r} in this checkpoint; it has {len(self.entries)}")

    @property
    def stored(self) -> tuple[TensorEntry, ...]:
        """The tensors that have data of their own (aliases left out)."""
        return tuple(entry for entry in self.entries if entry.tied_to is None)

    @property
    def is_encoded(self) -> bool:
        """Whether tensors come as a `.frq` stores them, so that copying loses nothing."""
        return self.format == "frq" or any(entry.encoded_layout is not None for entry in self.entries)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors at their own dtypes, a tied one counted once."""
        return sum(entry.size_bytes for entry in self.stored)

    def numpy(self) -> dict[str, NDArray[np.generic]]:
        """All tensors as arrays by name; tied names share one array."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for entry in self.entries:
            arrays[entry.name] = entry.read() if entry.tied_to is None else arrays[entry.tied_to]
        return arrays


def select(checkpoint: Checkpoint, patterns: Sequence[str]) -> Checkpoint:
    """The tensors whose names are given or match a glob, in their order, without the attachments.

    Of tensors that are tied the first selected one has the data. Attachments describe the whole, so they do
    not go with a part.

    Raises:
        UsageError: a pattern matches nothing.
    """
    known = {entry.name for entry in checkpoint}
    chosen: set[str] = set()
    for pattern in patterns:
        found = {pattern} & known or {name for name in known if fnmatchcase(name, pattern)}
        if not found:
            some = ", ".join(quoted(entry.name, 40) for entry in checkpoint.entries[:3])
            raise UsageError(
                f"no tensor is named or matches {quoted(pattern)}; there are {len(known)}: {some} ..."
            )
        chosen |= found
    owners: dict[str, str] = {}  # name with the data in the whole -> name with the data in the part
    entries = []
    for entry in checkpoint:
        if entry.name in chosen:
            owner = owners.setdefault(entry.name if entry.tied_to is None else entry.tied_to, entry.name)
            entries.append(replace(entry, tied_to=None if owner == entry.name else owner))
    return replace(checkpoint, entries=tuple(entries), attachments={})
