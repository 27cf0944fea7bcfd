"""Hostile inputs: small sound files of every format, and seeded ways to break them.

`build_seeds` makes the sound files, `mutate` makes one broken file from a number: the same number, the same
bytes. Half of the mutants are edited blindly, byte by byte. The others are edited where it hurts, lengths and
checksums put right again, so that they reach the code behind the first checks.
"""

import hashlib
import io
import itertools
import json
import pickle
import pickletools
import random
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
from safetensors.numpy import save as save_safetensors

from frconvert import api
from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.coding.bits import varint
from frconvert.container import MAGIC
from frconvert.container.deflate import NAMES, deflate, inflate
from frconvert.container.frames import checksum, lay_out, pack_footer, pack_tail, parse_header, seed_of
from frconvert.container.head import pack, unpack
from frconvert.dtypes import DTYPE_NAMES

NUMBERS = (
    0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**16, 2**20, 2**30, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
    2**40, 2**48, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -1, -2,
)  # fmt: skip
_NO_DATE = (1980, 1, 1, 0, 0, 0)
_GLOBALS = (
    "os system", "builtins bytearray", "collections Counter", "_codecs encode", "torch FloatStorage",
    "torch Size", "torch Tensor", "torch device", "torch.storage UntypedStorage",
    "torch._utils _rebuild_parameter", "torch._utils _rebuild_qtensor", "torch._utils _rebuild_sparse_tensor",
    "torch._utils _rebuild_meta_tensor_no_storage", "torch._utils _rebuild_wrapper_subclass",
    "torch._tensor _rebuild_from_type_v2", "torch.serialization _get_layout",
)  # fmt: skip
_WIRE_DEPTH = 12  # protobuf messages are taken apart to this depth

Edit = Callable[[random.Random, bytes, bytes], bytes]  # generator, data, other data to steal from


@dataclass(frozen=True, slots=True)
class Seed:
    """A sound file, or several that belong together.

    Attributes:
        label: its name in tables.
        main: which of the files is opened.
        files: content by file name.
        edits: the edits of its format; those on bytes apply to everything.
        source_format: what `load` must be told, None to let it find out.
    """

    label: str
    main: str
    files: dict[str, bytes]
    edits: tuple[Edit, ...] = ()
    source_format: str | None = None


@dataclass(frozen=True, slots=True)
class Mutant:
    """A broken seed; `is_blind` if its checksums were not put right again."""

    seed: Seed
    files: dict[str, bytes]
    how: str
    is_blind: bool


def mutate(seeds: list[Seed], number: int, series: int = 0) -> Mutant:
    """Mutant `number` of a series: a function of its arguments."""
    rng = random.Random(f"{series}/{number}")  # noqa: S311  (not for secrets)
    seed = seeds[number % len(seeds)]
    donor = rng.choice(seeds)
    stolen = donor.files[donor.main]
    name = seed.main if rng.random() < 0.8 else rng.choice(list(seed.files))
    data = seed.files[name]
    if seed.edits and name == seed.main and rng.random() < 0.5:
        edit = rng.choice(seed.edits)
        return Mutant(seed, seed.files | {name: edit(rng, data, stolen)}, edit.__name__, is_blind=False)
    return Mutant(seed, seed.files | {name: edit_bytes(rng, data, stolen)}, "edit_bytes", is_blind=True)


# Blind edits.


def edit_bytes(rng: random.Random, data: bytes, stolen: bytes) -> bytes:
    """One to three edits at random places, as often as not near the beginning or the end."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(_BLIND)(rng, data, stolen)
    return data


def _span(rng: random.Random, data: bytes, longest: int = 64) -> tuple[int, int]:
    """A place in `data` and the end of a piece that begins there."""
    size = len(data)
    begin = rng.randrange(size + 1)
    if rng.random() < 0.5:
        begin = min(rng.randrange(128), size) if rng.random() < 0.5 else max(0, size - 1 - rng.randrange(128))
    length = rng.randint(1, longest) if rng.random() < 0.8 else rng.randint(1, max(1, size))
    return begin, min(size, begin + length)


def _flip_bits(rng: random.Random, data: bytes, _: bytes) -> bytes:
    out = bytearray(data or b"\0")
    for _count in range(rng.choice((1, 1, 2, 8))):
        begin, _end = _span(rng, data)
        out[min(begin, len(out) - 1)] ^= 1 << rng.randrange(8)
    return bytes(out)


def _set_bytes(rng: random.Random, data: bytes, _: bytes) -> bytes:
    begin, end = _span(rng, data, 8)
    value = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return data[:begin] + bytes([value]) * (end - begin) + data[end:]


def _truncate(rng: random.Random, data: bytes, _: bytes) -> bytes:
    return data[: _span(rng, data)[0]]


def _delete(rng: random.Random, data: bytes, _: bytes) -> bytes:
    begin, end = _span(rng, data)
    return data[:begin] + data[end:]


def _insert(rng: random.Random, data: bytes, _: bytes) -> bytes:
    begin, _end = _span(rng, data)
    return data[:begin] + rng.randbytes(rng.choice((1, 2, 4, 8, 64, 4096))) + data[begin:]


def _repeat(rng: random.Random, data: bytes, _: bytes) -> bytes:
    begin, end = _span(rng, data)
    return data[:end] + data[begin:end] * rng.choice((1, 1, 2, 100)) + data[end:]


def _swap(rng: random.Random, data: bytes, _: bytes) -> bytes:
    (a, b), (c, d) = sorted((_span(rng, data), _span(rng, data)))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:] if b <= c else data


def _splice(rng: random.Random, data: bytes, stolen: bytes) -> bytes:
    begin, end = _span(rng, data)
    first, last = _span(rng, stolen)
    return data[:begin] + stolen[first:last] + data[rng.choice((begin, end)) :]


def _set_number(rng: random.Random, data: bytes, _: bytes) -> bytes:
    begin, _end = _span(rng, data)
    value = rng.choice(NUMBERS) % 2**64
    if rng.random() < 0.3:
        return data[:begin] + varint(value) + data[begin + 1 :]
    width = rng.choice((1, 2, 4, 8))
    piece = (value % 2 ** (8 * width)).to_bytes(width, rng.choice(("little", "little", "big")))
    return data[:begin] + piece + data[begin + width :]


_BLIND: tuple[Edit, ...] = (
    _flip_bits, _flip_bits, _set_bytes, _truncate, _delete, _insert, _repeat, _swap, _splice, _set_number,
    _set_number,
)  # fmt: skip


# Edits of `.frq` files.


def frq_file(head: bytes, payloads: Sequence[bytes], tail: bytes | None = None) -> bytes:
    """A `.frq` of this packed head index, chunks and attachments, all checksums right; or of another tail."""
    header = lay_out(len(MAGIC), [(len(head), zlib.crc32(head))])[0].header
    data = MAGIC + header + head
    seed = seed_of(head)
    pieces = [(len(p), checksum(seed, number, p)) for number, p in enumerate(payloads, 1)]
    frames = lay_out(len(data), pieces)
    data += b"".join(frame.header + payload for frame, payload in zip(frames, payloads, strict=True))
    tail = pack_tail(frames) if tail is None else tail
    data += tail + pack_footer(len(head), tail)
    return data + hashlib.sha256(data).digest() + MAGIC


def frq_parts(data: bytes) -> tuple[bytes, list[bytes]]:
    """Inverse of `frq_file`."""
    payloads = []
    frame = parse_header(data[len(MAGIC) :], len(MAGIC))
    end = len(data) - 48 - int.from_bytes(data[-44:-40], "little")
    while frame:
        payloads.append(data[frame.offset : frame.end])
        frame = parse_header(data[frame.end :], frame.end) if frame.end < end else None
    return payloads[0], payloads[1:]


def frq_index_text(rng: random.Random, data: bytes, stolen: bytes) -> bytes:
    """Edits the head index beneath its compression."""
    head, payloads = frq_parts(data)
    return frq_file(deflate(edit_bytes(rng, inflate(head, 1 << 28, NAMES), stolen), NAMES), payloads)


def frq_tail(rng: random.Random, data: bytes, stolen: bytes) -> bytes:
    """Edits the tail index; the footer's checksum of it is right."""
    head, payloads = frq_parts(data)
    length = int.from_bytes(data[-44:-40], "little")
    return frq_file(head, payloads, edit_bytes(rng, data[-48 - length : -48], stolen))


def frq_payload(rng: random.Random, data: bytes, stolen: bytes) -> bytes:
    """Edits the bytes of one chunk."""
    head, payloads = frq_parts(data)
    number = rng.randrange(len(unpack(head).groups))
    payloads[number] = edit_bytes(rng, payloads[number], stolen)
    return frq_file(head, payloads)


def frq_attachment(rng: random.Random, data: bytes, stolen: bytes) -> bytes:
    """Edits what an attachment restores to, or how large it says it is."""
    packed, payloads = frq_parts(data)
    head = unpack(packed)
    if not head.attachments:
        return frq_index_text(rng, data, stolen)
    name = rng.choice(list(head.attachments))
    number = len(head.groups) + list(head.attachments).index(name)
    plain = inflate(payloads[number], head.attachments[name])
    edit = edit_json if plain.startswith((b"{", b"[")) and rng.random() < 0.7 else edit_bytes
    if name.endswith(".onnx") and rng.random() < 0.7:
        edit = edit_protobuf
    plain = edit(rng, plain, stolen)
    size = len(plain) if rng.random() < 0.8 else rng.choice(NUMBERS) % 2**63
    payloads[number] = deflate(plain)
    return frq_file(pack(replace(head, attachments=head.attachments | {name: size})), payloads)


def frq_fields(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Changes one fact of the head index, the others staying consistent."""
    packed, payloads = frq_parts(data)
    head = unpack(packed)
    number = rng.randrange(len(head.names))
    layouts, layout = list(head.layouts), head.layouts[number]
    large = rng.choice(NUMBERS) % 2**63
    shape = list(layout.shape or (1,))
    shape[rng.randrange(len(shape))] = rng.choice((large, rng.randrange(1, 70_000)))
    layouts[number] = rng.choice(
        (
            replace(layout, shape=tuple(shape)),
            replace(layout, shape=(*layout.shape, rng.choice((0, 1, 2, 3)))),
            replace(layout, shape=tuple(reversed(layout.shape))),
            replace(layout, dtype=rng.choice(DTYPE_NAMES)),
            replace(layout, axes=tuple(axis for axis in range(8) if rng.random() < 0.4)),
            replace(layout, keep=rng.choice((None, 0, 1, large))),
            replace(layout, stored=rng.choice((*DTYPE_NAMES, "code 63"))),
            replace(layout, step=rng.choice((2.0**-126, 3e38))),
        )
    )
    ties = dict(head.ties)
    if rng.random() < 0.2:
        ties[rng.choice(head.names)] = rng.choice(head.names)
    groups = list(head.groups)
    if rng.random() < 0.2:
        victim = rng.randrange(len(groups))
        groups[victim] = replace(groups[victim], tensors=large)
    return frq_file(pack(replace(head, layouts=tuple(layouts), ties=ties, groups=tuple(groups))), payloads)


# Edits of the other formats.


def edit_zip(rng: random.Random, data: bytes, stolen: bytes) -> bytes:
    """Changes a member of an archive, or which there are; the archive itself is sound."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info), info.compress_type) for info in archive.infolist()]
    number = rng.randrange(len(members))
    name, content, method = members[number]
    choice = rng.random()
    if choice < 0.75:
        editors = {".npy": edit_npy, ".pkl": edit_pickle, "json": edit_json}
        edit = editors.get(name[-4:], edit_bytes) if rng.random() < 0.7 else edit_bytes
        members[number] = (name, edit(rng, content, stolen), method)
    elif choice < 0.85:
        names = (name + "/", "../" + name, "/" + name, name.upper(), "", "a" * 70_000, name[:-1], "\u202e")
        members[number] = (rng.choice(names)[:65_000], content, method)
    elif choice < 0.9:
        members.append(rng.choice(members))
    elif choice < 0.95:
        del members[number]
    else:
        members[number] = (name, content, rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content, method in members:
            info = zipfile.ZipInfo(name, _NO_DATE)
            info.filename = name
            if name in archive.NameToInfo:  # a second member of a name is what is wanted: without the warning
                del archive.NameToInfo[name]
            archive.writestr(info, content, method)
    return out.getvalue()


def edit_safetensors(rng: random.Random, data: bytes, stolen: bytes) -> bytes:
    """Edits the header, its length put right."""
    length = int.from_bytes(data[:8], "little")
    edit = edit_json if rng.random() < 0.8 else edit_bytes
    header = edit(rng, data[8 : 8 + length], stolen)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def edit_values(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Puts extreme numbers into a tensor of a safetensors file; the file stays sound."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = rng.choice([name for name in header if name != "__metadata__"])
    begin, end = header[name]["data_offsets"]
    width, extremes = {
        "F16": (2, (0x7BFF, 0x7C00, 0x7C01, 0xFE00, 1)),
        "F32": (4, (0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0x7F800001, 0xFFC00000, 1, 0x00800000, 0x60000000)),
        "F64": (8, (0x7FEFFFFFFFFFFFFF, 0xFFF0000000000000, 0x7FF0000000000001, 1, 0x47F0000000000000)),
    }.get(header[name]["dtype"], (1, (0, 1, 2, 127, 128, 255)))
    values = bytearray(data[8 + length + begin : 8 + length + end])
    extreme = rng.choice(extremes).to_bytes(width, "little")
    chosen = rng.choice((1, 2, len(values) // width))
    for position in rng.sample(range(0, len(values), width), min(chosen, len(values) // width)):
        values[position : position + width] = extreme
    return data[: 8 + length + begin] + bytes(values) + data[8 + length + end :]


def edit_json(rng: random.Random, data: bytes, stolen: bytes) -> bytes:
    """Replaces, removes or doubles something in a JSON text."""
    try:
        root = json.loads(data)
    except ValueError:
        return edit_bytes(rng, data, stolen)
    places: list[tuple[Any, Any]] = []
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict | list):
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            places += [(node, key) for key in keys]
            waiting += [node[key] for key in keys]
    if not places:
        return edit_bytes(rng, data, stolen)
    node, key = rng.choice(places)
    other, other_key = rng.choice(places)
    if rng.random() < 0.15:
        del node[key]
    elif rng.random() < 0.2:
        node[key] = json.loads(json.dumps(other[other_key]))
    elif rng.random() < 0.1 and isinstance(node, dict):
        node[rng.choice(("", "\ud800", "../../x", "a\0b", "\x1b[2J"))] = node.pop(key)
    else:
        values = (
            *NUMBERS,
            10**30,
            0.5,
            float("nan"),
            "",
            "x",
            "\ud800",
            None,
            True,
            [],
            {},
            [[]],
            [0, 2**62],
        )
        node[key] = rng.choice(values)
    text = json.dumps(root)
    if rng.random() < 0.05:
        text = text[:-1] + ',"x":' + "[" * 100_000
    return text.encode()


def edit_npy(rng: random.Random, data: bytes, stolen: bytes) -> bytes:
    """Edits the header of an array, its length put right."""
    length = int.from_bytes(data[8:10], "little")
    header = data[10 : 10 + length].decode("latin-1")
    if rng.random() < 0.7:
        number = rng.choice(NUMBERS)
        types = (
            "|O",
            "<f8",
            ">i4",
            "<U3",
            "|V2",
            "|V7",
            "<M8[ns]",
            "<f16",
            "|S0",
            "|V0",
            "(2,)<f4",
            "<c8",
            "",
        )
        shapes = f"({number},)", f"({number}, {number})", "()", "(0,)", f"({'1, ' * 70})", "(True,)", "(1.5,)"
        field, text = rng.choice((("descr", f"'{rng.choice(types)}'"), ("shape", rng.choice(shapes))))
        begin = header.find(f"'{field}': ") + len(field) + 4
        end = header.find("), }" if field == "shape" else ", 'fortran", begin) + (field == "shape")
        header = header[:begin] + text + header[end:]
    else:
        header = edit_bytes(rng, header.encode("latin-1"), stolen).decode("latin-1")
    encoded = header.encode("latin-1")[:65_535]
    return data[:8] + len(encoded).to_bytes(2, "little") + encoded + data[10 + length :]


def edit_pickle(rng: random.Random, data: bytes, stolen: bytes) -> bytes:
    """Replaces a number, a text or an instruction of a pickle."""
    places = []
    try:
        found = [(op, argument, position) for op, argument, position in pickletools.genops(data)]
    except ValueError:
        return edit_bytes(rng, data, stolen)
    for (op, argument, begin), (_, _, end) in itertools.pairwise(found):
        if isinstance(argument, int) and "INT" in op.name:
            value = rng.choice(NUMBERS)
            encoded = pickle.encode_long(value)
            places.append((begin, end, pickle.LONG1 + bytes([len(encoded)]) + encoded))
        elif op.name == "BINUNICODE":
            text = rng.choice((b"", b"x", b"cuda:0", b"meta", b"\xed\xa0\x80", b"0", b"a" * 1000))
            places.append((begin, end, pickle.BINUNICODE + struct.pack("<I", len(text)) + text))
        elif op.name == "GLOBAL":
            places.append((begin, end, b"c" + rng.choice(_GLOBALS).replace(" ", "\n").encode() + b"\n"))
        elif len(op.name) < 12:
            instructions = (
                b"0",
                b"2",
                b"N",
                b"\x88",
                b"}",
                b"]",
                b")",
                b"(",
                b"t",
                b"R",
                b"b",
                b"s",
                b"u",
                b"e",
                b"\x81",
            )
            places.append((begin, rng.choice((begin, end)), rng.choice(instructions)))
    if not places:
        return edit_bytes(rng, data, stolen)
    begin, end, piece = rng.choice(places)
    return data[:begin] + piece + data[end:]


def edit_protobuf(rng: random.Random, data: bytes, stolen: bytes) -> bytes:
    """Changes a field of a protobuf message, at any depth, all lengths put right."""
    root = _wire(data, 0)
    if not root:
        return edit_bytes(rng, data, stolen)
    places = []
    waiting = [root]
    while waiting:
        fields = waiting.pop()
        places += [(fields, position) for position in range(len(fields))]
        waiting += [value for _, _, value in fields if isinstance(value, list)]
    fields, position = rng.choice(places)
    number, kind, value = fields[position]
    choice = rng.random()
    if choice < 0.1:
        del fields[position]
    elif choice < 0.2:
        fields[position:position] = [fields[position]] * rng.choice((1, 2, 300))
    elif choice < 0.3:
        others, other = rng.choice(places)
        alone = _unwire([others[other]])
        fields[position] = _wire(alone, 0)[0]  # a copy, because a message cannot hold itself
    elif choice < 0.4:
        fields[position] = (rng.choice((1, 2, 5, 8, 9, 13, 14, number + 1)), kind, value)
    elif kind == 0:
        fields[position] = (number, kind, rng.choice((*NUMBERS, *range(28))) % 2**64)
    elif choice < 0.45:
        for _ in range(rng.choice((3, 150))):
            value = [(rng.choice((6, 7, number)), 2, value)]
        fields[position] = (number, 2, value)
    else:
        fields[position] = (number, kind, edit_bytes(rng, _unwire([(0, 9, value)]), stolen))
    return _unwire(root)


def _wire(data: bytes, depth: int) -> list[Any] | None:
    """A message as a list of (field number, wire type, value), or None if it is none."""
    fields = []
    position = 0
    try:
        while position < len(data):
            key, position = _read_varint(data, position)
            number, kind = key >> 3, key & 7
            if not number or kind not in (0, 1, 2, 5):
                return None
            value: Any
            if kind == 0:
                value, position = _read_varint(data, position)
            else:
                length = {1: 8, 5: 4}.get(kind)
                if length is None:
                    length, position = _read_varint(data, position)
                value, position = data[position : position + length], position + length
                if len(value) != length:
                    return None
                if kind == 2 and depth < _WIRE_DEPTH and length > 1:
                    value = _wire(value, depth + 1) or value
            fields.append((number, kind, value))
    except IndexError:
        return None
    return fields


def _unwire(fields: list[Any]) -> bytes:
    """Inverse of `_wire`; of the wire type 9 the value alone."""
    out = b""
    for number, kind, value in fields:
        content = _unwire(value) if isinstance(value, list) else value
        key = b"" if kind == 9 else varint(number << 3 | kind)
        out += key + (varint(content) if kind == 0 else varint(len(content)) * (kind == 2) + content)
    return out


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[position] & 127) << shift
        shift += 7
        position += 1
        if data[position - 1] < 128:
            return value, position


# The sound files.


def build_seeds(folder: Path) -> list[Seed]:
    """One small file of every format and every kind of content; `folder` is for scratch files."""
    arrays = _arrays()
    shards = _sharded(arrays)
    onnx_inside, onnx_outside = _onnx_model(outside=False), _onnx_model(outside=True)
    frq = (frq_index_text, frq_tail, frq_payload, frq_payload, frq_attachment, frq_fields)
    hdf5 = _hdf5(folder)
    keras = _keras(hdf5)
    torch_zip = _torch_zip(_torch_content())
    sources = [
        Seed("pt zip", "m.pt", {"m.pt": torch_zip}, (edit_zip,)),
        Seed("pt legacy", "m.pt", {"m.pt": _torch_legacy(_torch_content())}, (edit_pickle,)),
        Seed("pt odd", "m.pt", {"m.pt": _torch_odd()}, (edit_zip,)),
        Seed("frereg", "m.pt", {"m.pt": torch_zip}, (edit_zip,), "frereg"),
        Seed(
            "safetensors",
            "m.safetensors",
            {"m.safetensors": _safetensors(arrays)},
            (edit_safetensors, edit_values),
        ),
        Seed("shards", "m.safetensors.index.json", shards, (edit_json,)),
        Seed("npz", "m.npz", {"m.npz": _npz(arrays)}, (edit_zip,)),
        Seed("npy", "m.npy", {"m.npy": _npy(arrays["conv.weight"])}, (edit_npy,)),
        Seed("onnx", "m.onnx", onnx_inside, (edit_protobuf,)),
        Seed("onnx external", "m.onnx", onnx_outside, (edit_protobuf,)),
        Seed("h5", "m.h5", {"m.h5": hdf5}),
        Seed("keras", "m.keras", {"m.keras": keras}, (edit_zip,)),
    ]
    return [
        Seed("frq lossy", "m.frq", {"m.frq": _frq(folder, _checkpoint(arrays))}, frq),
        Seed("frq lossless", "m.frq", {"m.frq": _frq(folder, _checkpoint(arrays), lossless=True)}, frq),
        Seed("frq prefix", "m.frq", {"m.frq": _frq(folder, _checkpoint(arrays), keep=0.1)}, frq),
        *(
            Seed(f"frq of {name}", "m.frq", {"m.frq": _frq_of(folder, source)}, frq)
            for name, source in zip(
                ("pt", "onnx", "keras"), (sources[0], sources[8], sources[11]), strict=True
            )
        ),
        *sources,
    ]


def _arrays() -> dict[str, np.ndarray]:
    """Every element type; names that a message or a table could stumble over."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(8, 4, 3, 3)).cumsum(axis=2)
    return {
        "conv.weight": kernel.astype(np.float32),
        "conv.bias": rng.normal(size=8).astype(np.float32),
        "large": rng.laplace(size=(64, 80)).astype(np.float32),
        "[/b] half": rng.normal(size=(6, 10)).astype(np.float16),
        "double\nline": rng.normal(size=(3, 5)),
        "bf16": rng.normal(size=(4, 4)).astype(ml_dtypes.bfloat16),
        "fp8": rng.normal(size=(4, 4)).astype(ml_dtypes.float8_e4m3fn),
        "complex": rng.normal(size=4).astype(np.complex64),
        "ids": rng.integers(-9, 9, 5),
        "bytes": rng.integers(0, 9, 6000).astype(np.uint8),
        "mask": rng.integers(0, 2, 7).astype(np.bool_),
        "zeros": np.zeros(40, np.float32),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), ml_dtypes.bfloat16),
        "odd": np.array([[np.nan, np.inf], [-np.inf, 1e-40]], np.float32),
    }


def _checkpoint(arrays: dict[str, np.ndarray]) -> Checkpoint:
    entries = [TensorEntry(name, a.shape, a.dtype.name, a.copy) for name, a in arrays.items()]
    large = arrays["large"]
    entries.append(TensorEntry("tied", large.shape, "float32", large.copy, tied_to="large"))
    return Checkpoint(tuple(entries), "test", {"notes.txt": b"note " * 50}, {"author": "nobody"})


def _frq(folder: Path, checkpoint: Checkpoint, **target: Any) -> bytes:
    path = folder / "seed.frq"
    api.save(checkpoint, path, overwrite=True, **target)
    return path.read_bytes()


def _frq_of(folder: Path, seed: Seed) -> bytes:
    (folder / seed.main).write_bytes(seed.files[seed.main])
    return _frq(folder, api.load(folder / seed.main))


def _safetensors(arrays: dict[str, np.ndarray]) -> bytes:
    plain = {name: a for name, a in arrays.items() if a.dtype.isbuiltin == 1}
    return save_safetensors(plain, {"author": "nobody"})


def _sharded(arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    parts = {
        f"m-{number}.safetensors": {name: arrays[name] for name in names}
        for number, names in enumerate((("conv.weight", "ids"), ("large", "zeros", "scalar")))
    }
    index = {"metadata": {"total_size": 1}, "weight_map": {n: file for file, p in parts.items() for n in p}}
    files = {"m.safetensors.index.json": json.dumps(index).encode()}
    return files | {file: save_safetensors(part) for file, part in parts.items()}


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number, (name, array) in enumerate(arrays.items()):
            if array.dtype.name != "float8_e4m3fn":
                method = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", _NO_DATE), _npy(array), method)
    return out.getvalue()


def _torch_content() -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(12, 10, generator=generator)
    state = OrderedDict(
        {
            "conv.weight": torch.randn(8, 4, 3, 3, generator=generator),
            "conv.bias": torch.randn(8, generator=generator),
            "embedding": shared,
            "head": shared,
            "view": shared[2:5, ::2],
            "half": torch.randn(4, 6, generator=generator).to(torch.bfloat16),
            "steps": torch.tensor(7),
        }
    )
    return {"state_dict": state, "more": [state["view"].clone()], "epoch": 3, "best_acc": 0.5}


def _torch_zip(content: dict[Any, Any]) -> bytes:
    import torch

    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def _torch_legacy(content: dict[str, Any]) -> bytes:
    """As `torch.save` wrote before 1.6, but for its storage keys, which are addresses in memory."""
    import torch

    storages: dict[int, Any] = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            if not isinstance(obj, torch.storage.TypedStorage):
                return None
            storages.setdefault(obj._data_ptr(), obj)
            key = str(list(storages).index(obj._data_ptr()))
            return ("storage", getattr(torch, obj._pickle_storage_type()), key, "cpu", obj._size(), None)

    out = io.BytesIO()
    for head in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}):
        pickle.dump(head, out, protocol=2)
    Pickler(out, protocol=2).dump(content)
    pickle.dump([str(number) for number in range(len(storages))], out, protocol=2)
    for storage in storages.values():
        out.write(struct.pack("<q", storage._size()) + bytes(storage._untyped_storage))
    return out.getvalue()


def _torch_odd() -> bytes:
    import torch

    dense = torch.arange(24.0).reshape(4, 6) % 5
    return _torch_zip(
        {
            "coo": dense.to_sparse(),
            "expanded": torch.ones(1, 1).expand(5, 7),
            "parameter": torch.nn.Parameter(dense.clone()),
            "conj": torch.randn(3, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)).conj(),
            3: torch.tensor([True, False]),
        }
    )


def _onnx_model(*, outside: bool) -> dict[str, bytes]:
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(1)
    weight = rng.normal(size=(10, 10)).astype(np.float32)
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(weight, "inner"))],
        "branch",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [10, 10])],
    )
    nodes = [
        helper.make_node("If", ["flag"], ["y"], name="choice", then_branch=branch, else_branch=branch),
        helper.make_node("MatMul", ["y", "w"], ["z"]),
    ]
    ids = helper.make_tensor("ids", TensorProto.INT64, [20], list(range(20)))
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("values", TensorProto.FLOAT, [2], [1.0, 2.0]),
        helper.make_tensor("indices", TensorProto.INT64, [2], [1, 3]),
        [5],
    )
    tensor = numpy_helper.from_array(weight, "w")
    if outside:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "m.data"), ("offset", "8"), ("length", "400")):
            tensor.external_data.add(key=key, value=value)
    flag = numpy_helper.from_array(np.array(True), "flag")
    graph = helper.make_graph(
        nodes, "g", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, [10, 10])], [flag, tensor, ids]
    )
    graph.sparse_initializer.append(sparse)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    files = {"m.onnx": model.SerializeToString()}
    return files | ({"m.data": b"\0" * 8 + weight.tobytes()} if outside else {})


def _hdf5(folder: Path) -> bytes:
    path = folder / "seed.h5"
    rng = np.random.default_rng(2)
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"conv", b"dense"]
        group.attrs["backend"] = "tensorflow"
        file.attrs["model_config"] = '{"class_name": "Sequential", "config": []}'
        for layer, shape in (("conv", (3, 3, 2, 4)), ("dense", (30, 10))):
            inner = group.create_group(f"{layer}/{layer}")
            kernel = rng.normal(size=shape).astype(np.float32)
            chunks = (
                {"chunks": (10, 10), "compression": "gzip", "fletcher32": True} if layer == "dense" else {}
            )
            inner.create_dataset("kernel:0", data=kernel, **chunks)
            inner["bias:0"] = np.zeros(shape[-1], np.float32)
            group[layer].attrs["weight_names"] = [f"{layer}/kernel:0".encode()]
        group["again"] = group["conv/conv/kernel:0"]
        group["soft"] = h5py.SoftLink("/model_weights/dense")
        file["vocabulary"] = np.array([b"one", b"two"])
        file["words"] = ["drei", "vier"]
    return path.read_bytes()


def _keras(weights: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in (
            ("metadata.json", b'{"keras_version": "3.5.0"}'),
            ("config.json", b'{"class_name": "Sequential", "config": {"layers": []}}'),
            ("model.weights.h5", weights),
            ("assets/vocabulary.txt", b"one\ntwo\n"),
        ):
            archive.writestr(zipfile.ZipInfo(name, _NO_DATE), content)
    return out.getvalue()
