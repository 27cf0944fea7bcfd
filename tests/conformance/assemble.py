"""Files made of parts that need not fit together, all checksums right: what vectors are built from."""

import hashlib
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from frconvert.coding.bits import varint
from frconvert.coding.difference import DIFFERENCE, EQUAL
from frconvert.coding.fit import Fit, fit
from frconvert.coding.quantize import storable_step
from frconvert.coding.record import STATE_BITS, Layout, Plan, Record, encode_chunk, group, make_record
from frconvert.container import MAGIC
from frconvert.container.deflate import NAMES, deflate
from frconvert.container.frames import checksum, lay_out, pack_footer, pack_tail, seed_of
from frconvert.container.head import Group, Head
from frconvert.container.writer import Writer
from frconvert.dtypes import DTYPE_NAMES, numpy_dtype
from frconvert.spectral import dct

Vector = tuple[str, bytes, str, str]  # of one that breaks a rule: name, content, error, what is wrong
RAW = b"\0" + np.arange(12, dtype=np.float32).tobytes()  # a chunk of both tensors of `columns`


def exact_code(dtype: str) -> bytes:
    """Code of the kind that stores exact values of a dtype."""
    return bytes([64 + DTYPE_NAMES.index(dtype)])


def chunks(*facts: tuple[bytes, int]) -> bytes:
    """The columns of chunks: code of the kind and number of tensors of each."""
    kinds = b"".join(kind for kind, _ in facts)
    return varint(len(facts)) + kinds + b"".join(varint(tensors) for _, tensors in facts)


def attached(*facts: tuple[bytes, int]) -> bytes:
    """The columns of attachments: name and size of each."""
    names = b"".join(name + b"\xff" for name, _ in facts)
    return varint(len(facts)) + names + b"".join(varint(size) for _, size in facts)


def columns(tensors: int = 2, dtype: str = "float32", **changed: bytes) -> bytes:
    """Content of a head index of tensors "a", "b", ... of shape [2, 3], with some columns replaced."""
    code, kind = bytes([DTYPE_NAMES.index(dtype)]), exact_code(dtype)
    parts = {
        "features": varint(0),
        "count": varint(tensors),
        "names": b"".join(bytes([97 + number, 255]) for number in range(tensors)),
        "ranks": varint(2) * tensors,
        "shapes": varint(2) * tensors + varint(3) * tensors,  # first axes, then second ones
        "dtypes": code * tensors,
        "ties": varint(0),
        "base": b"",  # and relations
        "kinds": kind * tensors,
        "axes": varint(0) * tensors,
        "keeps": varint(0) * tensors,
        "parameters": b"",
        "chunks": chunks((kind, tensors)),
        "attachments": varint(0),
        "metadata": varint(0),
        "extensions": b"",
    }
    if not changed.keys() <= parts.keys():
        raise KeyError(f"no columns {changed.keys() - parts.keys()}")
    return b"".join((parts | changed).values())


@dataclass(frozen=True)
class Damage:
    """What of a file is to be other than it should be; None: nothing."""

    head: bytes | None = None  # the payload of the head index
    head_crc: int | None = None
    tail: bytes | None = None
    footer: bytes | None = None  # its first 12 bytes
    sha256: bytes | None = None
    headers: Mapping[int, bytes] = field(default_factory=dict)  # of frames, from 0 on


def join(content: bytes, payloads: Sequence[bytes], damage: Damage = Damage()) -> bytes:
    """A file of this content of the head index and these payloads."""
    head = deflate(content, NAMES) if damage.head is None else damage.head
    crc = zlib.crc32(head) if damage.head_crc is None else damage.head_crc
    data = MAGIC + lay_out(len(MAGIC), [(len(head), crc)])[0].header + head
    pieces = [(len(p), checksum(seed_of(head), number, p)) for number, p in enumerate(payloads, 1)]
    frames = lay_out(len(data), pieces)
    for number, (frame, payload) in enumerate(zip(frames, payloads, strict=True)):
        data += damage.headers.get(number, frame.header) + payload
    tail = pack_tail(frames) if damage.tail is None else damage.tail
    data += tail + (damage.footer or pack_footer(len(head), tail))
    return data + (damage.sha256 or hashlib.sha256(data).digest()) + MAGIC


def head(**changed: bytes) -> bytes:
    """A file whose head index has other columns."""
    return join(columns(**changed), [RAW])


@dataclass(frozen=True)
class Source:
    """A tensor of a vector and how it is stored."""

    array: Any
    plan: Plan = field(default_factory=Plan)

    @property
    def dtype(self) -> str:
        """Name of the dtype."""
        return self.array.dtype.name


def quantised(array: np.ndarray, kind: str, step: float, axes: tuple[int, ...] = ()) -> Source:
    """Coefficients of kind trellis, uniform, integers or sparse."""
    step = storable_step(step)
    coefficients = dct.forward(array, axes)
    found = None
    if kind in STATE_BITS:
        found = (
            fit(coefficients)
            if array.ndim > 1
            else Fit(0, float(np.abs(coefficients).mean()), (None,) * array.ndim)
        )
    return Source(array, Plan(axes, None, step, kind, found))


def file_of(
    tensors: Mapping[str, Source],
    ties: Mapping[str, str] | None = None,
    attachments: Mapping[str, bytes] | None = None,
    metadata: Mapping[str, str] | None = None,
    members: Sequence[Sequence[str]] | None = None,
    base: tuple[bytes, Mapping[str, np.ndarray]] | None = None,
) -> bytes:
    """A sound file.

    Args:
        tensors: by name.
        ties, attachments, metadata: by name.
        members: names of the tensors in each chunk; without them a chunk has all of a kind.
        base: SHA-256 and tensors of the file to which some are differences.
    """
    sha256, others = base or (None, {})
    records = {}
    for name, item in tensors.items():
        other = others[name] if item.plan.relation == DIFFERENCE else None
        records[name] = make_record(item.array.copy(), item.dtype, item.plan, other)
        if item.plan.relation == EQUAL:
            layout = replace(records[name].layout, relation=EQUAL)
            records[name] = Record(layout, item.array.reshape(-1)[:0])
    layouts = {name: record.layout for name, record in records.items()}
    if members is None:
        names = list(records)
        members = [
            [names[i] for i in chunk] for chunk in group([(x.stored, x.count) for x in layouts.values()])
        ]
    grouped = [[records[name] for name in chunk] for chunk in members]
    return write(layouts, grouped, ties, attachments, metadata, base=sha256)


def write(
    layouts: Mapping[str, Layout],
    grouped: Sequence[Sequence[Record]],
    ties: Mapping[str, str] | None = None,
    attachments: Mapping[str, bytes] | None = None,
    metadata: Mapping[str, str] | None = None,
    payloads: Sequence[bytes] | None = None,
    base: bytes | None = None,
) -> bytes:
    """A sound file of records, or of payloads that are already coded."""
    attachments, ties = attachments or {}, ties or {}
    head = Head(
        (*layouts, *ties),
        (*layouts.values(), *(layouts[name] for name in ties.values())),
        dict(ties),
        tuple(Group(chunk[0].layout.stored, len(chunk)) for chunk in grouped),
        {name: len(data) for name, data in attachments.items()},
        dict(metadata or {}),
        base,
    )
    stream = io.BytesIO()
    writer = Writer(stream, head, attachments)
    for payload in payloads or map(encode_chunk, grouped):
        writer.add_chunk(payload)
    writer.finish()
    return stream.getvalue()


def bits_of(dtype: str, count: int, seed: int = 0) -> np.ndarray:
    """Elements of any bits that a dtype allows."""
    kind = numpy_dtype(dtype)
    data = np.random.default_rng(seed).integers(0, 256, count * kind.itemsize).astype(np.uint8)
    return (data & 1 if dtype == "bool" else data).view(kind)
