"""The kinds of storage: their codes in the file, and what the head index says of a tensor of each.

This is the one place that a new kind is entered. A kind may have a fixed number of parameter bytes a tensor
only if version 1 has it from the start: a reader takes the parameters of a code that it does not know for
length-prefixed, and so reads past them to the tensors that it does know.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from frconvert.coding.bits import ByteReader, varint
from frconvert.coding.quantize import step_code, step_of_code
from frconvert.coding.record import INTEGERS, SPARSE, TRELLIS, UNIFORM, WORDS, Layout
from frconvert.dtypes import DTYPE_NAMES
from frconvert.errors import DamagedError

MAXIMUM_AXES = 64  # of a tensor, and of a view of it
EXACT_CODES = 64  # exact values of a dtype have this plus the dtype's code; codecs come below


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of storage.

    Attributes:
        name: what `Layout.stored` says.
        parameter_bytes: of each tensor, in the head index; None: length-prefixed.
        pack: a layout's parameters.
        unpack: the fields of a layout that parameters stand for; raises DamagedError.
    """

    name: str
    parameter_bytes: int | None = 0
    pack: Callable[[Layout], bytes] = lambda _: b""
    unpack: Callable[[bytes], dict[str, Any]] = lambda _: {}


def _pack_step(layout: Layout) -> bytes:
    if layout.step is None:
        raise ValueError("quantised integers without a step")
    return step_code(layout.step).to_bytes(2, "little")


def _unpack_step(parameters: bytes) -> dict[str, Any]:
    return {"step": step_of_code(int.from_bytes(parameters, "little"))}


def _pack_sparse(layout: Layout) -> bytes:
    view = layout.view or ()
    return _pack_step(layout) + varint(len(view)) + b"".join(map(varint, view))


def _unpack_sparse(parameters: bytes) -> dict[str, Any]:
    reader = ByteReader(parameters)
    fields = _unpack_step(bytes(reader.take(2)))
    rank = reader.varint()
    if rank > MAXIMUM_AXES:
        raise DamagedError(f"head index: a view of {rank} axes")
    view = tuple(reader.varint() for _ in range(rank))
    if reader.rest():
        raise DamagedError("head index: bytes after the parameters of a kind")
    return fields | {"view": view or None}


KINDS: dict[int, Kind] = {
    **{
        code: Kind(name, 2, _pack_step, _unpack_step)
        for code, name in enumerate((INTEGERS, TRELLIS, UNIFORM))
    },
    3: Kind(WORDS),
    4: Kind(SPARSE, None, _pack_sparse, _unpack_sparse),
    **{EXACT_CODES + code: Kind(name) for code, name in enumerate(DTYPE_NAMES)},
}
_CODES = {kind.name: code for code, kind in KINDS.items()}
_UNKNOWN = "code "


def code_of(name: str) -> int:
    """The code of a kind's name, also of an unknown one's."""
    return _CODES[name] if name in _CODES else int(name.removeprefix(_UNKNOWN))


def kind_of(code: int) -> Kind:
    """The kind of a code; an unknown one has a name for messages and length-prefixed parameters."""
    return KINDS.get(code) or Kind(f"{_UNKNOWN}{code}", None)


def is_known(name: str) -> bool:
    """Whether this version can decode that kind."""
    return name in _CODES
