"""Broken and malicious files: a line of refusal or what is in the file; no code runs, nothing runs out."""

import contextlib
import io
import json
import pickle
import re
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from fuzz import checked_message, run
from mutations import build_seeds, frq_file, frq_parts, mutate
from onnx import TensorProto, helper, numpy_helper

import frconvert
from frconvert.cli import cli
from frconvert.coding import integers, lossless
from frconvert.coding.bits import pack_table, varint
from frconvert.container.deflate import NAMES, deflate
from frconvert.container.salvage import examine
from frconvert.container.sources import PathSource
from frconvert.dtypes import DTYPE_NAMES
from frconvert.errors import FrqError

FLOAT32 = DTYPE_NAMES.index("float32")
EXACT_FLOAT32 = bytes([64 + FLOAT32])  # storage code
CRC32 = b"\1\2\3\4"  # a wrong one
VALUES = np.arange(12, dtype=np.float32)
PAYLOAD = lossless.encode(VALUES, "float32")


def refusal(path: Path, source_format: str | None = None) -> str:
    """The message with which a file is refused, on loading or on reading all of it."""

    def read_all() -> None:
        checkpoint = frconvert.load(path, source_format)
        checkpoint.numpy()
        dict(checkpoint.attachments)

    with pytest.raises(FrqError) as caught:
        read_all()
    return checked_message(str(caught.value))


# Mutants.


def test_mutants_of_every_format_are_refused_in_one_line_or_read_within_bounds():
    defects = [(number, verdict) for number, verdict in run(1, range(540)) if verdict.outcome == "defect"]
    assert not defects, f"repeat with: fuzz.py --seed 1 --first {defects[0][0]} --count 1"


def test_the_same_number_gives_the_same_mutant(tmp_path):
    first, second = build_seeds(tmp_path), build_seeds(tmp_path)
    for number in range(0, 360, 7):
        assert mutate(first, number).files == mutate(second, number).files


# `.frq`: every checksum is right, so the checks of the content are what is tested.


def frq(
    folder: Path, body: bytes = PAYLOAD, *more: bytes, tail: bytes | None = None, **columns: bytes
) -> Path:
    """An archive of two tensors, a and b, of shape [2, 3], with some columns of its head index replaced."""
    head = {
        "features": b"\0",
        "count": varint(2),
        "names": b"a\xffb\xff",
        "ranks": varint(2) * 2,
        "shapes": bytes([2, 2, 3, 3]),  # first axes, then second ones
        "dtypes": bytes([FLOAT32] * 2),
        "ties": varint(0),
        "stored": EXACT_FLOAT32 * 2,
        "axes": varint(0) * 2,
        "keeps": varint(0) * 2,
        "parameters": b"",
        "chunks": chunks((EXACT_FLOAT32, 2)),
        "attachments": varint(0),
        "metadata": varint(0),
    }
    packed = deflate(b"".join((head | columns).values()), NAMES)
    path = folder / "hostile.frq"
    path.write_bytes(frq_file(packed, [body, *more], tail))
    return path


def chunks(*facts: tuple[bytes, int]) -> bytes:
    """The columns of chunks: code of the kind and number of tensors of each."""
    kinds = b"".join(kind for kind, _ in facts)
    return varint(len(facts)) + kinds + b"".join(varint(tensors) for _, tensors in facts)


def attachments(*facts: tuple[bytes, int]) -> bytes:
    """The columns of attachments: name and size of each."""
    names = b"".join(name + b"\xff" for name, _ in facts)
    return varint(len(facts)) + names + b"".join(varint(size) for _, size in facts)


def test_the_archive_that_the_following_tests_break_is_sound(tmp_path):
    assert examine(PathSource(frq(tmp_path))).is_sound
    values = frconvert.load(frq(tmp_path)).numpy()
    assert np.array_equal(np.concatenate([values["a"], values["b"]]).reshape(-1), VALUES)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"features": b"\2"}, "update frconvert"),
        ({"count": varint(2**62)}, "a count of"),
        ({"count": varint(1)}, "index"),
        ({"names": b"a" * 300}, "without an end"),
        ({"names": b"a\xffa\xff"}, "occurs twice"),
        ({"names": b"a\xff\xc3\xff"}, "not UTF-8"),
        ({"ranks": varint(2**30) * 2}, "axes"),
        ({"shapes": b"".join(map(varint, (2**40, 2, 2**40, 3)))}, "impossible shape"),
        ({"shapes": b"".join(map(varint, (2**20, 2, 2**20, 3)))}, "claim"),
        ({"dtypes": bytes([FLOAT32, 200])}, "dtype code 200 is unknown"),
        ({"ties": b"\1\0\1"}, "tied to a later one"),
        ({"ties": b"\1\1\1"}, "tied to a later one"),
        ({"ties": b"\1\1" + varint(2**62)}, "tied to a later one"),
        ({"ties": b"\1\2\0"}, "not in the order"),
        ({"ties": b"\2\1\0\1\0"}, "not in the order"),
        ({"ties": varint(2**40)}, "a count of"),
        (
            {
                "ties": b"\1\1\0",
                "shapes": bytes([2, 3, 3, 2]),
                "stored": EXACT_FLOAT32,
                "axes": b"\0",
                "keeps": b"\0",
            },
            "differs in shape",
        ),
        ({"stored": EXACT_FLOAT32 + b"\x3f", "parameters": varint(2**40)}, "a count of"),
        ({"stored": EXACT_FLOAT32 + b"\x3f", "parameters": b"\1x"}, "as many tensors"),
        ({"stored": EXACT_FLOAT32 + bytes([64 + DTYPE_NAMES.index("int64")])}, "is stored as int64"),
        ({"axes": varint(1 << 5) + varint(0)}, "do not fit"),
        ({"keeps": varint(8) + varint(0)}, "do not fit"),
        ({"stored": b"\0\0", "parameters": b"\0\0\0\0"}, "step code"),
        ({"chunks": varint(2**40)}, "a count of"),
        ({"chunks": chunks((EXACT_FLOAT32, 1))}, "as many tensors"),
        ({"chunks": chunks((EXACT_FLOAT32, 3))}, "as many tensors"),
        ({"chunks": chunks((EXACT_FLOAT32, 2**62))}, "as many tensors"),
        ({"chunks": chunks((EXACT_FLOAT32, 2), (EXACT_FLOAT32, 0))}, "without tensors"),
        ({"chunks": chunks((EXACT_FLOAT32, 1), (EXACT_FLOAT32, 1))}, "number of frames"),
        ({"chunks": varint(0)}, "as many tensors"),
        ({"attachments": varint(2**40)}, "a count of"),
        ({"attachments": attachments((b"x", 1), (b"x", 1))}, "occurs twice"),
        ({"attachments": attachments((b"x", 1))}, "number of frames"),
        ({"metadata": varint(2) + b"k\xffv\xffk\xffw\xff"}, "occurs twice"),
        ({"metadata": varint(2**62)}, "a count of|without an end"),
    ],
)
def test_a_head_index_that_contradicts_itself_is_refused(tmp_path, columns, message):
    path = frq(tmp_path, **columns)
    assert re.search(message, refusal(path))
    with contextlib.suppress(FrqError):
        for line in examine(PathSource(path)).lines():
            checked_message(line)


@pytest.mark.parametrize(
    ("stored", "parameters"),
    [
        (EXACT_FLOAT32, b""),
        (b"\0", bytes([0, 0, 0x7C, 0x7C])),  # first bytes of two step codes, then their second ones
        (b"\4", bytes([5, 0, 0x7C, 2, 0, 7] * 2)),  # lengths, step codes, views
    ],
)
def test_a_tensor_without_elements_whose_axes_are_too_long_for_numpy_is_refused(tmp_path, stored, parameters):
    columns = {"shapes": varint(0) * 2 + varint(2**62) * 2, "stored": stored * 2, "parameters": parameters}
    path = frq(tmp_path, **columns, chunks=varint(0))
    packed = frq_parts(path.read_bytes())[0]
    path.write_bytes(frq_file(packed, []))
    assert "too long for numpy" in refusal(path)


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (b"", "expected at byte"),
        (varint(2**62), "a count of"),
        (varint(2) + varint(len(PAYLOAD)) * 2 + CRC32 * 2, "number of frames"),
        (varint(1) + varint(2**62) + CRC32, "chunks end at byte"),
        (varint(1) + varint(1) + CRC32, "chunks end at byte"),
        (varint(1) + b"\xff" * 9 + CRC32, "LEB128"),
        (varint(1) + varint(len(PAYLOAD)) + b"\0\0\0\0", "does not match its checksum"),
        (varint(1) + varint(len(PAYLOAD)) + CRC32 + b"\0", "after its end"),
    ],
)
def test_a_tail_index_that_contradicts_the_file_is_refused_and_not_needed_to_salvage(tmp_path, tail, message):
    path = frq(tmp_path, tail=tail)
    assert message in refusal(path)
    found = examine(PathSource(path))
    assert found.damages
    assert not found.lost_tensors


def many_footers() -> bytes:
    """Bytes that end in many places, each with a long tail index."""
    lengths = struct.pack("<II", 100, 3 << 20)
    return b"FRQ\1" + bytes(4 << 20) + (lengths + bytes(36) + b"FRQ\1") * 2000


def long_head() -> bytes:
    """A head index of 8 MB whose checksum is wrong."""
    return b"FRQ\1" + varint(8 << 20) + bytes(4) + bytes(8 << 20) + varint(1 << 20) + bytes((1 << 20) + 100)


def alike_frames(folder: Path) -> bytes:
    """Many chunks, none of which is right, and the header of each of them everywhere."""
    count = 3000
    path = frq(
        folder,
        count=varint(count),
        names=b"".join(b"%d\xff" % number for number in range(count)),
        ranks=b"\1" * count,
        shapes=b"\1" * count,
        dtypes=bytes([FLOAT32]) * count,
        stored=EXACT_FLOAT32 * count,
        axes=b"\0" * count,
        keeps=b"\0" * count,
        chunks=chunks(*[(EXACT_FLOAT32, 1)] * count),
    )
    packed = frq_parts(path.read_bytes())[0]
    header = varint(60_000) + CRC32
    tail = varint(count) + varint(60_000) * count + CRC32 * count
    data = frq_file(packed, [], tail)
    body = data.index(tail)
    return data[:body] + header * 100_000 + data[body:]


@pytest.mark.parametrize("make", [many_footers, long_head, alike_frames])
def test_looking_for_what_is_left_takes_bounded_time(tmp_path, make):
    data = make(tmp_path) if make is alike_frames else make()
    (tmp_path / "m.frq").write_bytes(data)
    began = time.process_time()
    with contextlib.suppress(FrqError):
        lines = examine(PathSource(tmp_path / "m.frq")).lines()
        assert checked_message(next(iter(lines)))
    assert time.process_time() - began < 60


def test_a_chain_of_ties_is_refused(tmp_path):
    three = {
        "count": varint(3), "names": b"a\xffb\xffc\xff", "ranks": varint(2) * 3,
        "shapes": bytes([2] * 3 + [3] * 3), "dtypes": bytes([FLOAT32] * 3), "ties": bytes([2, 1, 0, 2, 1]),
    }  # fmt: skip
    assert "tied to one that is tied itself" in refusal(frq(tmp_path, **three))


def test_chunks_that_overlap_are_refused(tmp_path):
    lengths = varint(len(PAYLOAD)) * 2
    both = chunks((EXACT_FLOAT32, 1), (EXACT_FLOAT32, 1))
    path = frq(tmp_path, tail=varint(2) + lengths + CRC32 * 2, chunks=both)
    assert "chunks end at byte" in refusal(path)


@pytest.mark.parametrize("count", [1, 2])
def test_an_index_of_zeros_that_inflates_without_bound_is_refused(tmp_path, count):
    path = tmp_path / "bomb.frq"
    path.write_bytes(frq_file(deflate(b"\0" + varint(count) + bytes(64 << 20), NAMES), []))
    assert "longer or shorter than it claims" in refusal(path)


@pytest.mark.parametrize(
    ("plain", "size", "message"),
    [
        (b"x", 2**40, "claim"),
        (b"x", 2**20, "claims"),
        (b"x", 2, "instead of 2"),
        (bytes(8 << 20), 100, "longer or shorter"),
    ],
)
def test_an_attachment_of_another_size_than_it_claims_is_refused(tmp_path, plain, size, message):
    path = frq(tmp_path, PAYLOAD, deflate(plain), attachments=attachments((b"x", size)))
    assert message in refusal(path)


def test_attachments_that_together_exhaust_memory_are_refused(tmp_path):
    stored = [deflate(bytes(1 << 20))] * 300
    columns = attachments(*((b"%d" % number, 1 << 20) for number in range(300)))
    assert "attachments claim" in refusal(frq(tmp_path, PAYLOAD, *stored, attachments=columns))


def test_many_names_of_one_large_tensor_are_refused(tmp_path):
    """Formats without ties would write it once for each name."""
    count = 100
    constant = bytes([2, 0, 0, 0])  # integers of no bits above zero
    path = frq(
        tmp_path,
        constant,
        count=varint(count),
        names=b"".join(b"%02d\xff" % number for number in range(count)),
        ranks=varint(1) * count,
        shapes=varint(1 << 28) * count,
        dtypes=bytes([FLOAT32] * count),
        ties=varint(count - 1) + b"".join(varint(number) + b"\0" for number in range(1, count)),
        stored=EXACT_FLOAT32,
        axes=b"\0",
        keeps=b"\0",
        chunks=chunks((EXACT_FLOAT32, 1)),
    )
    assert "its tensors claim" in refusal(path)


def coded(table: bytes, rest: bytes = b"") -> bytes:
    """A piece of floats whose symbols are coded with one table, and whatever follows it."""
    return b"\1\27\0\7\0" + table + rest


def table(*frequencies: int) -> bytes:
    return pack_table(np.array(frequencies + (0,) * (8 - len(frequencies))))


STATE = b"\0\0\0\1"  # of the single lane: 2^16


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (coded(b"\0\0\0"), "does not sum to 4096"),
        (coded(b"\1\0\0"), "names symbols 1 to 0"),
        (coded(b"\0\10\0"), "names symbols 0 to 8 of 8"),
        (coded(table(1, 2, 3), varint(0) + STATE), "does not sum to 4096"),
        (coded(table(4096), varint(0) + STATE), "does not sum to 4096"),
        (coded(table(16384, 1), varint(0) + STATE), "does not sum to 4096"),
        (coded(table(4000, 96)), "expected at byte"),
        (coded(table(4000, 96), varint(0) + b"\0"), "2 bytes expected"),
        (coded(table(4000, 96), varint(2**62) + STATE), "bytes expected"),
        (coded(table(4000, 96), varint(0) + STATE), "coded words"),
        (coded(b"\0\7"), "cut off"),
        (b"\7", "unknown form 7"),
        (b"", "1 bytes expected"),
        (PAYLOAD + b"\0", "after the last piece"),
    ],
)
def test_a_chunk_of_exact_values_that_breaks_the_code_is_refused(tmp_path, payload, message):
    text = refusal(frq(tmp_path, payload))
    assert message in text
    assert "chunk with 'a', 'b' at byte" in text


def test_a_lane_count_that_the_chunk_does_not_hold_is_refused_before_anything_is_allocated(tmp_path):
    shapes = b"".join(map(varint, (1 << 13, 2, 1 << 14, 3)))
    payload = coded(table(4000, 96), varint(0) + STATE)
    assert "expected at byte" in refusal(frq(tmp_path, payload, shapes=shapes))


INTEGERS = {
    "stored": b"\0\0",
    "parameters": b"\200\200" + b"\77\77",
    "axes": varint(3) * 2,
    "chunks": chunks((b"\0", 2)),
}


@pytest.mark.parametrize("position", range(6))
@pytest.mark.parametrize("value", [b"", b"\0", b"\177", b"\377", varint(2**62)])
def test_a_chunk_of_integers_that_breaks_the_code_is_refused_or_decodes_to_its_shape(
    tmp_path, position, value
):
    payload = integers.encode(np.arange(12, dtype=np.int32) * 1000)
    broken = payload[:position] + value + payload[position + 1 :]
    path = frq(tmp_path, broken, **INTEGERS)
    shapes, message = [(2, 3)] * 2, "chunk with 'a', 'b' at byte"
    try:
        shapes = [array.shape for array in frconvert.load(path).numpy().values()]
    except FrqError as error:
        message = checked_message(str(error))
    assert shapes == [(2, 3)] * 2
    assert "chunk with 'a', 'b' at byte" in message


def test_empty_tensors_of_types_unknown_to_numpy_are_read(tmp_path):
    bfloat16 = DTYPE_NAMES.index("bfloat16")
    columns = {
        "shapes": bytes([0, 0, 3, 3]),
        "dtypes": bytes([bfloat16] * 2),
        "stored": bytes([bfloat16 + 64] * 2),
        "chunks": varint(0),
    }
    path = frq(tmp_path, **columns)
    path.write_bytes(frq_file(frq_parts(path.read_bytes())[0], []))
    values = frconvert.load(path).numpy()
    assert values["a"].dtype.name == "bfloat16"


# Files that try to run code. `Bomb` writes a file when it is unpickled.


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.marker, "executed"))


def pickled_zip(bomb: Bomb) -> bytes:
    import torch

    out = io.BytesIO()
    torch.save({"state_dict": {"w": torch.zeros(2)}, "bomb": bomb}, out)
    return out.getvalue()


def pickled_legacy(bomb: Bomb) -> bytes:
    import torch

    out = io.BytesIO()
    torch.save({"bomb": bomb}, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


def pickled_tar(bomb: Bomb) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in (("storages", 0), ("tensors", 0), ("pickle", bomb)):
            data = pickle.dumps(content)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def pickled_old_tar(bomb: Bomb) -> bytes:
    """The same without the magic words in its headers, as tar wrote before 1988."""
    data = bytearray(pickled_tar(bomb))
    for begin in range(0, len(data), 512):
        if data[begin + 257 : begin + 262] == b"ustar":
            data[begin + 257 : begin + 265] = bytes(8)
            data[begin + 148 : begin + 156] = b" " * 8
            data[begin + 148 : begin + 156] = b"%06o\0 " % sum(data[begin : begin + 512])
    return bytes(data)


def pickled_script(bomb: Bomb) -> bytes:
    return zip_of({"m/data.pkl": pickle.dumps(bomb, 2), "m/constants.pkl": b"\x80\x02)."})


def pickled_array(bomb: Bomb) -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([bomb], dtype=object), allow_pickle=True)
    return out.getvalue()


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("zip.pt", pickled_zip),
        ("legacy.pt", pickled_legacy),
        ("tar.pt", pickled_tar),
        ("old_tar.pt", pickled_old_tar),
        ("script.pt", pickled_script),
        ("plain.pt", lambda bomb: pickle.dumps(bomb, 2)),
        ("protocol_4.pkl", lambda bomb: pickle.dumps(bomb, 4)),
        ("zip.safetensors", pickled_zip),
        ("array.npy", pickled_array),
        ("array.npz", lambda bomb: zip_of({"a.npy": pickled_array(bomb)})),
    ],
)
def test_code_in_a_file_is_refused_and_never_run(tmp_path, name, content):
    marker = tmp_path / "marker"
    bomb = Bomb(marker)
    pickle.loads(pickle.dumps(bomb))  # noqa: S301  (our own)
    assert marker.read_text() == "executed", "this bomb is a dud"
    marker.unlink()
    path = tmp_path / name
    path.write_bytes(content(bomb))
    refusal(path)
    for format_name in ("pytorch", "frereg", "npz"):
        with contextlib.suppress(FrqError):
            frconvert.load(path, format_name).numpy()
    assert not marker.exists()


def test_the_command_line_says_so_in_one_line_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "code.pt"
    path.write_bytes(pickled_zip(Bomb(tmp_path / "marker")))
    result = CliRunner().invoke(cli, ["convert", str(path), str(tmp_path / "out.frq")])
    assert isinstance(result.exception, FrqError)
    assert result.exception.exit_status == 3
    assert [item.name for item in tmp_path.iterdir()] == ["code.pt"]


# Bombs and lies of the other formats.


def test_zip_members_that_claim_more_than_the_archive_holds_are_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 33,)}
    )
    sound = zip_of({"a.npy": header.getvalue() + bytes(1 << 20)}, zipfile.ZIP_DEFLATED)
    size = (len(header.getvalue()) + (1 << 20)).to_bytes(4, "little")
    for name, content in {
        "claims.npz": sound.replace(size, b"\xfe\xff\xff\xff"),
        "shape.npz": sound,
    }.items():
        (tmp_path / name).write_bytes(content)
        refusal(tmp_path / name)


def test_an_archive_whose_members_share_their_bytes_is_refused(tmp_path):
    array = io.BytesIO()
    np.save(array, np.zeros(100_000))
    with zipfile.ZipFile(tmp_path / "overlap.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", array.getvalue())
        for number in range(50):
            member = zipfile.ZipInfo("a.npy")
            for slot in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
                setattr(member, slot, getattr(archive.filelist[0], slot))
            member.filename = f"{number}.npy"
            archive.filelist.append(member)
    refusal(tmp_path / "overlap.npz")


def test_a_keras_archive_that_unpacks_without_bound_is_refused(tmp_path):
    bomb = {"config.json": b"{}", "model.weights.h5": b"", "assets/zeros": bytes(300 << 20)}
    (tmp_path / "bomb.keras").write_bytes(zip_of(bomb, zipfile.ZIP_DEFLATED))
    assert "refused as a bomb" in refusal(tmp_path / "bomb.keras")


def test_a_compressed_pytorch_archive_is_refused(tmp_path):
    members = {"m/data.pkl": b"\x80\x02}.", "m/data/0": bytes(1 << 20)}
    (tmp_path / "bomb.pt").write_bytes(zip_of(members, zipfile.ZIP_DEFLATED))
    assert "compressed" in refusal(tmp_path / "bomb.pt")


def tensor(begin: int, end: int, **facts: Any) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]} | facts


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": tensor(0, 6), "b": tensor(4, 8)}, "overlaps"),
        ({"a": tensor(0, 8), "b": tensor(0, 8)}, "overlaps"),
        ({"a": tensor(0, 3), "b": tensor(4, 8)}, "leaves a hole"),
        ({"a": tensor(0, 4)}, "tensors end at"),
        ({"a": tensor(0, 2**40)}, "tensors end at"),
        ({"a": tensor(0, 8, shape=[2**62, 2**62])}, "overflows"),
        ({"a": tensor(0, 8, shape=[-1, -8])}, "non-negative"),
        ({"a": tensor(0, 8, shape=[1] * 1000 + [8])}, "axes"),
        ({"a": tensor(0, 8, shape=[True])}, "non-negative"),
        ({"a": tensor(0, 8, dtype="F99")}, "unknown dtype"),
        ({"a": tensor(0, 8, dtype=["U8"])}, "unknown dtype"),
        ({"a": None}, "has no dtype"),
        ({"__metadata__": {"a": 1}}, "not an object of strings"),
        ([], "not an object"),
    ],
)
def test_a_safetensors_header_that_breaks_a_rule_is_refused(tmp_path, header, message):
    text = json.dumps(header).encode()
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    assert message in refusal(path, "safetensors")


@pytest.mark.parametrize(
    "shard", ["../secret.safetensors", "/etc/passwd", "..", "a\\b", "x.index.json", "\ud800"]
)
def test_shards_outside_of_the_folder_are_refused(tmp_path, shard):
    path = tmp_path / "model" / "x.index.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"weight_map": {"a": shard}}))
    text = b"{}"
    (tmp_path / "secret.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    refusal(path)


def external_link(file: h5py.File, secret: Path) -> None:
    file["w"] = h5py.ExternalLink(str(secret), "/w")


def external_storage(file: h5py.File, secret: Path) -> None:
    file.create_dataset("w", (4,), "u1", external=[(str(secret), 0, 4)])


def virtual_dataset(file: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource(str(secret), "w", (4,))
    file.create_virtual_dataset("w", layout)


def huge_fill(file: h5py.File, _: Path) -> None:
    file.create_dataset("w", (1 << 40,), "f4", chunks=(1 << 10,))


def huge_chunk(file: h5py.File, _: Path) -> None:
    file.create_dataset("w", (1,), "f4", maxshape=(None,), chunks=(1 << 29,))


@pytest.mark.parametrize("make", [external_link, external_storage, virtual_dataset, huge_fill, huge_chunk])
def test_hdf5_data_from_elsewhere_or_from_nothing_are_refused(
    tmp_path, make: Callable[[h5py.File, Path], None]
):
    secret = tmp_path / "secret"
    with h5py.File(secret, "w") as file:
        file["w"] = np.zeros(4, np.uint8)
    with h5py.File(tmp_path / "hostile.h5", "w") as file:
        make(file, secret)
    refusal(tmp_path / "hostile.h5")


def test_hdf5_groups_that_contain_themselves_end(tmp_path):
    with h5py.File(tmp_path / "ring.h5", "w") as file:
        group = file.create_group("a/b")
        group["ring"] = file["a"]
        group["soft"] = h5py.SoftLink("/a/b/soft")
        group["w"] = np.arange(3.0)
    assert list(frconvert.load(tmp_path / "ring.h5").numpy()) == ["a/b/w"]


@pytest.mark.parametrize(
    "place",
    [
        {"location": "../secret"},
        {"location": "/etc/passwd"},
        {"location": "sub/../../secret"},
        {"location": "C:\\secret"},
        {"location": "..\\secret"},
        {"location": "link"},
        {"location": "."},
        {"location": ""},
        {"location": "a\0b"},
        {"location": "absent"},
        {"location": "data", "offset": "-1"},
        {"location": "data", "offset": str(2**64)},
        {"location": "data", "offset": "9" * 5000},
        {"location": "data", "offset": "4"},
        {"location": "data", "length": str(2**62)},
    ],
)
def test_onnx_data_outside_of_folder_or_file_are_refused(tmp_path, place):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(400))
    (folder / "data").write_bytes(bytes(400))
    (folder / "link").symlink_to(tmp_path / "secret")
    weight = numpy_helper.from_array(np.zeros((10, 10), np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in place.items():
        weight.external_data.add(key=key, value=value)
    graph = helper.make_graph([], "g", [], [], [weight])
    onnx.save_model(helper.make_model(graph), folder / "m.onnx")
    refusal(folder / "m.onnx")


@pytest.mark.parametrize("dims", [[2**62, 2**62], [-1], [2**40], [1] * 100])
def test_onnx_tensors_of_impossible_shapes_are_refused(tmp_path, dims):
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(4))
    (tmp_path / "m.onnx").write_bytes(
        helper.make_model(helper.make_graph([], "g", [], [], [weight])).SerializeToString()
    )
    refusal(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "bits", [0x7F7FFFFF, 0x7F800001, 0xFFC00000, 0x00000001, 0x7EFFFFFFFFFFFFFF, 0x7FF0000000000001]
)
def test_extreme_values_are_converted_without_a_warning(tmp_path, bits):
    kind, dtype = (np.uint32, np.float32) if bits < 2**32 else (np.uint64, np.float64)
    array = np.full((4, 4), bits, kind).view(dtype)
    np.savez(tmp_path / "m.npz", w=array)
    frconvert.convert(tmp_path / "m.npz", tmp_path / "m.frq")
    assert frconvert.load(tmp_path / "m.frq").numpy()["w"].tobytes() == array.tobytes()


@pytest.mark.parametrize(("name", "needed"), [("m.npz", "a.npy"), ("m.keras", "model.weights.h5")])
def test_a_zip_member_without_a_name_is_refused_or_left_out(tmp_path, name, needed):
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    content = zip_of({needed: array.getvalue(), "x": b""})
    at = content.rindex(b"xPK\5\6")  # the name in the directory at the end; zipfile cuts names at zeros
    (tmp_path / name).write_bytes(content[:at] + b"\0" + content[at + 1 :])
    assert "member without a name" in refusal(tmp_path / name)


def test_a_steps_overflow_is_no_warning(tmp_path):
    payload = integers.encode(np.full(12, 1_000_000, np.int32))
    path = frq(tmp_path, payload, **INTEGERS | {"parameters": b"\0\0" + b"\177\177"})
    assert frconvert.load(path).numpy()["a"].shape == (2, 3)


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path):
    data = b"\x80\x02cos\x1b[2J\nsystem\n."
    (tmp_path / "m.pt").write_bytes(data)
    refusal(tmp_path / "m.pt")


def test_onnx_names_take_memory_in_proportion_to_the_file(tmp_path):
    weights = [numpy_helper.from_array(np.zeros(1, np.float32), "a") for _ in range(200)]
    branch = helper.make_graph([], "b", [], [], weights)
    node = helper.make_node("If", ["f"], ["y"], name="N" * 50_000, then_branch=branch)
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([node], "g", [], [])).SerializeToString())
    try:
        names = [entry.name for entry in frconvert.load(path)]
    except FrqError:
        names = []
    assert sum(map(len, names)) < 10 * path.stat().st_size


def test_pytorch_names_take_memory_in_proportion_to_the_file(tmp_path):
    import torch

    node: dict[str, Any] = {str(number): torch.zeros(1) for number in range(20)}
    key = "K" * 10_000
    for _ in range(20):
        node = {key: node}
    path = tmp_path / "m.pt"
    torch.save({"a": node, "b": node}, path)
    try:
        names = [entry.name for entry in frconvert.load(path)]
    except FrqError:
        names = []
    assert sum(map(len, names)) < 10 * path.stat().st_size


def test_a_layout_of_long_lists_makes_no_large_file(tmp_path):
    layout = json.dumps([["", [["list", 65535]] * 30]]).encode()
    columns = attachments((b"pytorch/layout.json", len(layout)))
    path = frq(tmp_path, PAYLOAD, deflate(layout), attachments=columns)
    with contextlib.suppress(FrqError):
        frconvert.convert(path, tmp_path / "m.pt")
        assert (tmp_path / "m.pt").stat().st_size < 100_000


# Bombs that need no single large tensor: sums and times are what is bounded.


@pytest.mark.parametrize("count", [4, 40])
def test_onnx_tensors_share_external_data_a_few_times_only(tmp_path, count):
    (tmp_path / "data").write_bytes(bytes(1 << 20))
    weights = []
    for number in range(count):
        weight = TensorProto(name=f"w{number}", data_type=TensorProto.UINT8, dims=[1 << 20])
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="data")
        weights.append(weight)
    path = tmp_path / "m.onnx"
    onnx.save_model(helper.make_model(helper.make_graph([], "g", [], [], weights)), path)
    if count == 4:
        assert len(frconvert.load(path)) == 4
    else:
        assert "4 times the bytes" in refusal(path)


def test_pytorch_names_of_one_expanded_tensor_all_count(tmp_path):
    import torch

    expanded = torch.zeros(1).expand(1 << 27)  # half of what is allowed
    torch.save({"a": expanded}, tmp_path / "one.pt")
    assert len(frconvert.load(tmp_path / "one.pt")) == 1
    torch.save({"a": expanded, "b": expanded, "c": expanded}, tmp_path / "three.pt")
    assert "claim" in refusal(tmp_path / "three.pt")


def test_a_pytorch_key_that_is_a_long_integer_is_refused(tmp_path):
    import torch

    torch.save({10**400: torch.zeros(1)}, tmp_path / "m.pt")
    assert "bits" in refusal(tmp_path / "m.pt")


def test_messages_about_long_pytorch_keys_are_short(tmp_path):
    import torch

    key = "\x1b[2J" * 100_000
    content = {"w": torch.zeros(1), key: 1, "optim" + key: {"state": torch.zeros(1)}}
    torch.save({key: content}, tmp_path / "m.pt")
    notices = frconvert.load(tmp_path / "m.pt").notices
    assert len(notices) == 2
    assert all(len(checked_message(notice, "notice")) < 200 for notice in notices)


def test_a_key_that_occurs_twice_is_found_in_linear_time(tmp_path):
    text = ("{" + ",".join(f'"{number}":0' for number in range(300_000)) + ',"7":0}').encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    began = time.process_time()
    assert "key '7' occurs twice" in refusal(path)
    assert time.process_time() - began < 10


def test_many_names_for_one_hdf5_path_are_numbered_in_linear_time(tmp_path):
    names = ["/" * number + "a" for number in range(1500)]
    checkpoint = {name: np.zeros(1, np.uint8) for name in names}
    header = {name: tensor(at, at + 1) for at, name in enumerate(checkpoint)}
    text = json.dumps(header).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(len(names)))
    frconvert.convert(path, tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5") as file:
        assert set(file) == {"a", *(f"a_{number}" for number in range(1, 1500))}


def test_members_of_long_names_make_one_short_notice(tmp_path):
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    members = {"a.npy": array.getvalue()} | {f"{number}\x1b" + "n" * 60_000: b"" for number in range(20)}
    (tmp_path / "m.npz").write_bytes(zip_of(members))
    (notice,) = frconvert.load(tmp_path / "m.npz").notices
    assert len(checked_message(notice, "notice")) < 200


def test_a_name_of_very_many_parts_makes_no_deep_groups(tmp_path):
    name = "a/" * 30_000
    text = json.dumps({name: tensor(0, 1)}).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\1")
    frconvert.convert(path, tmp_path / "m.h5")
    (entry,) = frconvert.load(tmp_path / "m.h5")
    assert entry.name.count("/") == 100
