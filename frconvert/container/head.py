"""The head index of a `.frq` file: what is in it, in columns so that DEFLATE finds what is alike.

Columns, each for all tensors in order, numbers as varints unless said otherwise:
  required features (a number: 0, or 1 where there is a base; another one is refused);
  number of tensors; their names (UTF-8, each followed by 0xFF); numbers of axes; lengths of all first axes,
  of all second axes, and so on; dtype codes (bytes); number of ties, and of each the position of the tensor
  and that of the earlier one whose data it shares.
With a base only: SHA-256 of its file; for each tensor with data of its own a byte: 0 stored by itself, 1 the
  difference to the base's tensor of that name, 2 equal to it, with nothing stored (`coding.difference`).
Then for each tensor with data of its own: codes of their kinds of storage (bytes, `kinds`); transformed axes
  as a bit mask; 0 or 1 + keep; then for each kind with parameters of fixed length, by code: first bytes of
  all parameters, second bytes, and so on; then in order all parameters of the other kinds, each preceded by
  its length.
Then: number of chunks; codes of their kinds (bytes); numbers of tensors in them.
Then: number of attachments; their names (each followed by 0xFF); sizes when restored.
Then: number of metadata pairs; keys and values in turn (each followed by 0xFF).
What follows is for later versions, and ignored.

A chunk holds the next tensors, in order, of its kind that have elements. The index is raw DEFLATE with the
dictionary `deflate.NAMES`. Every number is checked here before anything is allocated for it.

Law: `unpack(pack(head)) == head`; `unpack` of anything else raises an FrqError.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from frconvert.coding.bits import ByteReader, varint
from frconvert.coding.difference import DIFFERENCE, EQUAL, OWN, RELATIONS, has_words
from frconvert.coding.record import SPARSE, STATE_BITS, WORDS, Layout
from frconvert.container.deflate import NAMES, deflate, inflate
from frconvert.container.kinds import MAXIMUM_AXES, Kind, code_of, is_known, kind_of
from frconvert.dtypes import DTYPE_NAMES, is_float
from frconvert.errors import DamagedError, UnsupportedError

MAXIMUM_HEAD_BYTES = 1 << 28
# Deeply nested models with regular names reach 50; DEFLATE itself ends at 1032.
_EXPANSION, _FLOOR_BYTES = 128, 1 << 22
MAXIMUM_ELEMENTS = 1 << 62  # product of the lengths that are not 0
_BASE = 1  # the required feature
_END = b"\xff"  # of a text; no UTF-8 has this byte


@dataclass(frozen=True, slots=True)
class Group:
    """What a chunk holds: the next `tensors` tensors of one kind."""

    kind: str
    tensors: int


@dataclass(frozen=True, slots=True)
class Head:
    """All that is known of a file without decoding a tensor, but for where it is.

    Attributes:
        names: of all tensors.
        layouts: of all tensors; of a tied one, that of the tensor it is tied to.
        ties: name -> name of the earlier tensor whose data it shares.
        groups: of all chunks, in file order.
        attachments: name -> size when restored, in bytes, in file order.
        metadata: key -> value.
        base: SHA-256 of the file to which tensors are differences, None without any.
    """

    names: tuple[str, ...]
    layouts: tuple[Layout, ...]
    ties: dict[str, str]
    groups: tuple[Group, ...]
    attachments: dict[str, int]
    metadata: dict[str, str]
    base: bytes | None = None


def pack(head: Head) -> bytes:
    """The head index as it stands in the file, compressed."""
    position = {name: number for number, name in enumerate(head.names)}
    own = [layout for name, layout in zip(head.names, head.layouts, strict=True) if name not in head.ties]
    ties = sorted((position[alias], position[name]) for alias, name in head.ties.items())
    longest = max((len(layout.shape) for layout in head.layouts), default=0)
    columns = [
        varint(0 if head.base is None else _BASE),
        varint(len(head.names)),
        *map(_text, head.names),
        *(varint(len(layout.shape)) for layout in head.layouts),
        *(varint(x.shape[axis]) for axis in range(longest) for x in head.layouts if axis < len(x.shape)),
        bytes(DTYPE_NAMES.index(layout.dtype) for layout in head.layouts),
        varint(len(ties)),
        *(varint(number) for tie in ties for number in tie),
        *([] if head.base is None else [head.base, bytes(RELATIONS.index(item.relation) for item in own)]),
        bytes(code_of(layout.stored) for layout in own),
        *(varint(sum(1 << axis for axis in layout.axes)) for layout in own),
        *(varint(0 if layout.keep is None else layout.keep + 1) for layout in own),
        *_pack_parameters(own),
        varint(len(head.groups)),
        bytes(code_of(group.kind) for group in head.groups),
        *(varint(group.tensors) for group in head.groups),
        varint(len(head.attachments)),
        *map(_text, head.attachments),
        *map(varint, head.attachments.values()),
        varint(len(head.metadata)),
        *(_text(key) + _text(value) for key, value in head.metadata.items()),
    ]
    return deflate(b"".join(columns), NAMES)


def unpack(packed: bytes) -> Head:
    """Parses a head index.

    Raises:
        DamagedError: any number or text that the format does not allow.
        UnsupportedError: what a later version of the format has brought, but for kinds of storage.
    """
    limit = min(MAXIMUM_HEAD_BYTES, max(_FLOOR_BYTES, _EXPANSION * len(packed)))
    reader = ByteReader(inflate(packed, limit, NAMES))
    features = reader.varint()
    if features not in (0, _BASE):
        raise UnsupportedError(f"it needs features ({features:#x}) of a later version; update frconvert")
    count = _count(reader)
    names = _texts(reader, count)
    if len(set(names)) != count:
        raise DamagedError("head index: a tensor name occurs twice")
    shapes = _shapes(reader, names)
    dtypes = [_dtype(code) for code in reader.take(count)]
    ties = _ties(reader, count)
    own = [number for number in range(count) if number not in ties]
    base = bytes(reader.take(32)) if features else None
    codes = reader.take(len(own)) if features else bytes(len(own))
    tensors = [
        (names[number], shapes[number], dtypes[number], _relation(code))
        for number, code in zip(own, codes, strict=True)
    ]
    stored = _layouts(reader, tensors)
    by_position = dict(zip(own, stored, strict=True))
    layouts = [by_position[ties.get(number, number)] for number in range(count)]
    for name, layout, shape, dtype in zip(names, layouts, shapes, dtypes, strict=True):
        if (layout.shape, layout.dtype) != (shape, dtype):
            raise DamagedError(f"head index: tensor {name!r} differs in shape or dtype from the tied one")
    groups = _groups(reader, stored)
    attachments = _texts(reader, _count(reader))
    sizes = [reader.varint() for _ in attachments]
    if len(set(attachments)) != len(attachments):
        raise DamagedError("head index: an attachment name occurs twice")
    pairs = _texts(reader, 2 * _count(reader))
    if len(set(pairs[::2])) != len(pairs[::2]):
        raise DamagedError("head index: a metadata key occurs twice")
    return Head(
        tuple(names),
        tuple(layouts),
        {names[alias]: names[number] for alias, number in ties.items()},
        tuple(groups),
        dict(zip(attachments, sizes, strict=True)),
        dict(zip(pairs[::2], pairs[1::2], strict=True)),
        base,
    )


def members(head: Head) -> list[list[int]]:
    """Positions of the tensors in each chunk: the next ones of its kind that have elements of their own."""
    waiting: dict[str, list[int]] = {}
    for number, (name, layout) in enumerate(zip(head.names, head.layouts, strict=True)):
        if name not in head.ties and layout.count:
            waiting.setdefault(layout.stored, []).append(number)
    taken = dict.fromkeys(waiting, 0)
    chunks = []
    for group in head.groups:
        first = taken[group.kind]
        taken[group.kind] += group.tensors
        chunks.append(waiting[group.kind][first : taken[group.kind]])
    return chunks


def _pack_parameters(own: Sequence[Layout]) -> Iterable[bytes]:
    by_code: dict[int, list[bytes]] = {}
    prefixed = []
    for layout in own:
        code = code_of(layout.stored)
        kind = kind_of(code)
        parameters = kind.pack(layout)
        if kind.parameter_bytes is None:
            prefixed.append(varint(len(parameters)) + parameters)
        else:
            by_code.setdefault(code, []).append(parameters)
    for code in sorted(by_code):
        rows = by_code[code]
        yield bytes(row[column] for column in range(kind_of(code).parameter_bytes or 0) for row in rows)
    yield from prefixed


def _unpack_parameters(reader: ByteReader, codes: Sequence[int]) -> list[bytes]:
    parameters = [b""] * len(codes)
    for code in sorted(set(codes)):
        width = kind_of(code).parameter_bytes
        rows = [number for number, other in enumerate(codes) if other == code]
        if width:
            columns = [reader.take(len(rows)) for _ in range(width)]
            for row, values in zip(rows, zip(*columns, strict=True), strict=True):
                parameters[row] = bytes(values)
    for number, code in enumerate(codes):
        if kind_of(code).parameter_bytes is None:
            parameters[number] = bytes(reader.take(_count(reader)))
    return parameters


def _shapes(reader: ByteReader, names: Sequence[str]) -> list[tuple[int, ...]]:
    ranks = [reader.varint() for _ in names]
    if any(rank > MAXIMUM_AXES for rank in ranks):
        raise DamagedError(f"head index: a tensor has more than {MAXIMUM_AXES} axes")
    lengths: list[list[int]] = [[] for _ in names]
    for axis in range(max(ranks, default=0)):
        for shape, rank in zip(lengths, ranks, strict=True):
            if axis < rank:
                shape.append(reader.varint())
    for name, shape in zip(names, lengths, strict=True):
        if prod(length for length in shape if length) > MAXIMUM_ELEMENTS:
            raise DamagedError(f"head index: tensor {name!r} claims the impossible shape {shape}")
    return [tuple(shape) for shape in lengths]


def _ties(reader: ByteReader, count: int) -> dict[int, int]:
    ties: dict[int, int] = {}
    latest = -1
    for _ in range(_count(reader)):
        alias, target = reader.varint(), reader.varint()
        if not latest < alias < count:
            raise DamagedError("head index: ties are not in the order of the tensors")
        if target >= alias:
            raise DamagedError("head index: a tensor is tied to a later one")
        if target in ties:
            raise DamagedError("head index: a tensor is tied to one that is tied itself")
        ties[alias] = target
        latest = alias
    return ties


def _layouts(reader: ByteReader, tensors: list[tuple[str, tuple[int, ...], str, str]]) -> list[Layout]:
    codes = list(reader.take(len(tensors)))
    masks = [reader.varint() for _ in tensors]
    keeps = [reader.varint() for _ in tensors]
    parameters = _unpack_parameters(reader, codes)
    layouts = []
    for (name, shape, dtype, relation), code, mask, keep, bits in zip(
        tensors, codes, masks, keeps, parameters, strict=True
    ):
        kind = kind_of(code)
        _check_relation(name, dtype, kind, relation, is_plain=not mask | keep)
        fields = kind.unpack(bits)
        view = fields.get("view") or shape
        if prod(view) != prod(shape):
            raise DamagedError(f"head index: tensor {name!r} has a view of another size")
        _check_fit(name, view, dtype, kind, mask, keep)
        axes = tuple(axis for axis in range(len(view)) if mask >> axis & 1)
        keep_count = keep - 1 if keep else None
        layouts.append(Layout(shape, dtype, axes, keep_count, stored=kind.name, relation=relation, **fields))
    return layouts


def _check_relation(name: str, dtype: str, kind: Kind, relation: str, *, is_plain: bool) -> None:
    if kind.name == WORDS:
        sound = relation == DIFFERENCE and is_plain and has_words(dtype)
    elif relation == EQUAL:
        sound = is_plain and kind.name == dtype
    else:
        sound = relation == OWN or not (is_plain and kind.name in DTYPE_NAMES)
    if not sound:
        raise DamagedError(
            f"head index: tensor {name!r} is stored as {kind.name}, but its relation is {relation}"
        )


def _relation(code: int) -> str:
    if code >= len(RELATIONS):
        raise DamagedError(f"head index: a tensor relates to the base in the unknown way {code}")
    return RELATIONS[code]


def _check_fit(name: str, shape: tuple[int, ...], dtype: str, kind: Kind, mask: int, keep: int) -> None:
    spectral = mask or keep or (is_known(kind.name) and kind.name not in (*DTYPE_NAMES, WORDS))
    if (
        mask >> len(shape)
        or keep > prod(shape) + 1
        or (is_known(kind.name) and spectral and not is_float(dtype))
    ):
        raise DamagedError(f"head index: tensor {name!r} has axes or coefficients that do not fit it")
    if keep and kind.name in (*STATE_BITS, SPARSE):
        raise DamagedError(f"head index: tensor {name!r} is stored as {kind.name}, but not whole")
    if kind.name in DTYPE_NAMES and kind.name != dtype and not (is_float(kind.name) and is_float(dtype)):
        raise DamagedError(f"head index: tensor {name!r} of dtype {dtype} is stored as {kind.name}")


def _groups(reader: ByteReader, stored: list[Layout]) -> list[Group]:
    kinds = [kind_of(code).name for code in reader.take(_count(reader))]
    groups = [Group(kind, reader.varint()) for kind in kinds]
    expected: dict[str, int] = {}
    for layout in stored:
        if layout.count:
            expected[layout.stored] = expected.get(layout.stored, 0) + 1
    found: dict[str, int] = {}
    for group in groups:
        if not group.tensors:
            raise DamagedError("head index: a chunk without tensors")
        found[group.kind] = found.get(group.kind, 0) + group.tensors
    if found != expected:
        raise DamagedError("head index: the chunks do not hold as many tensors as there are")
    return groups


def _count(reader: ByteReader) -> int:
    """A number of things of which each takes at least a byte, so it cannot exceed the bytes that are left."""
    value = reader.varint()
    if value > len(reader.data) - reader.position:
        raise DamagedError(f"head index: a count of {value} in {len(reader.data)} bytes")
    return value


def _dtype(code: int) -> str:
    if code >= len(DTYPE_NAMES):
        raise UnsupportedError(f"head index: dtype code {code} is unknown; update frconvert")
    return DTYPE_NAMES[code]


def _text(text: str) -> bytes:
    try:
        return text.encode() + _END
    except UnicodeEncodeError:
        raise UnsupportedError(f"{text!r} is no valid Unicode, and so no name in a .frq") from None


def _texts(reader: ByteReader, count: int) -> list[str]:
    if not count:
        return []
    pieces = bytes(reader.data[reader.position :]).split(_END, count)
    if len(pieces) <= count:
        raise DamagedError("head index: a text without an end")
    reader.take(sum(map(len, pieces[:count])) + count)
    try:
        return [str(piece, "utf-8") for piece in pieces[:count]]
    except UnicodeDecodeError:
        raise DamagedError("head index: a text is not UTF-8") from None
