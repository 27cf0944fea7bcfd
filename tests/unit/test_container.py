"""Writer and reader of .frq files."""

import contextlib
import io
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from frconvert import importers
from frconvert.coding.quantize import storable_step
from frconvert.coding.record import Plan, encode_chunk, make_record
from frconvert.container import FOOTER_BYTES, MAGIC, writer
from frconvert.container.limits import expansion_limit
from frconvert.container.reader import Reader, open_reader
from frconvert.container.writer import Writer
from frconvert.errors import DamagedError, FrqError, UnreadableError, UnsupportedError

STEP = storable_step(0.05)
RNG = np.random.default_rng(0)
TENSORS = {
    "w": (RNG.standard_normal((4, 6)).astype(np.float32), Plan((0, 1), None, STEP)),
    "b": (RNG.standard_normal(3).astype(np.float32), Plan()),
    "k": (RNG.standard_normal((3, 3)).astype(np.float32), Plan((0, 1), 4, STEP)),
    "n": (np.array(7, np.int64), Plan()),
    "e": (np.zeros((0, 2), np.float16), Plan()),
}
ATTACHMENTS = {"config.json": b'{"a": 1}' * 9, "empty": b""}
METADATA = {"licence": "Apache-2.0"}


class Pipe(io.RawIOBase):
    """A stream that can be written and nothing else, as a pipe or an upload."""

    def __init__(self):
        self.content = bytearray()

    def writable(self):
        return True

    def write(self, data):
        self.content += data
        return len(data)

    def seek(self, *_):
        raise io.UnsupportedOperation("seek")

    tell = read = truncate = seek


def written(stream, tensors=TENSORS, attachments=ATTACHMENTS, metadata=METADATA):
    """Writes the tensors, `w2` being tied to `w`; chunks by kind."""
    writer = Writer(stream)
    records = {name: make_record(array, array.dtype.name, plan) for name, (array, plan) in tensors.items()}
    for kind in dict.fromkeys(r.layout.stored for r in records.values() if r.values.size):
        members = [r for r in records.values() if r.layout.stored == kind and r.values.size]
        writer.add_chunk(kind, len(members), encode_chunk(members))
    names = [*tensors, "w2"]
    layouts = [records[name].layout for name in tensors] + [records["w"].layout]
    return writer.finish(names, layouts, {"w2": "w"}, attachments, metadata)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "small.frq"
    with path.open("wb") as file:
        written(file)
    return path


def test_tensors_attachments_and_metadata_come_back(path):
    reader = Reader(path)
    assert list(reader.index.names) == [*TENSORS, "w2"]
    for name, (array, plan) in TENSORS.items():
        back = reader.read(name)
        assert (back.shape, back.dtype) == (array.shape, array.dtype)
        if plan.step is None:
            assert back.tobytes() == array.tobytes()
        elif plan.keep is None:
            assert np.linalg.norm(back - array) <= STEP / 2 * np.sqrt(array.size)
    assert {item.name: reader.attachment(item) for item in reader.index.attachments} == ATTACHMENTS
    assert reader.index.metadata == METADATA
    assert list(reader.check()) == []


def test_a_tied_tensor_is_stored_once_and_reads_the_same(path):
    reader = Reader(path)
    assert reader.index.ties == {"w2": "w"}
    assert reader.read("w2").tobytes() == reader.read("w").tobytes()
    assert reader.chunk_of("w2") == reader.chunk_of("w")
    assert sum(chunk.records for chunk in reader.index.chunks) == 4  # w, b, k, n; e has no elements


def test_writing_needs_no_seeking_and_gives_the_same_bytes(path):
    pipe = Pipe()
    assert written(pipe) == len(pipe.content)
    assert bytes(pipe.content) == path.read_bytes()


def test_the_file_is_framed_by_its_magic_and_ends_with_a_footer_of_44_bytes(path):
    content = path.read_bytes()
    assert content.startswith(MAGIC)
    assert content.endswith(MAGIC)
    assert FOOTER_BYTES == 44
    (index_bytes,) = struct.unpack("<I", content[-44:-40])
    last = Reader(path).index.attachments[-1]
    assert last.offset + last.length + index_bytes + 44 == len(content)


def test_every_change_of_a_byte_is_noticed(path):
    content = path.read_bytes()
    original = {name: Reader(path).read(name).tobytes() for name in TENSORS}
    for place in range(len(content)):
        for flip in (0x01, 0xFE):
            altered = bytearray(content)
            altered[place] ^= flip
            path.write_bytes(altered)
            try:
                reader = Reader(path)
            except FrqError:
                continue
            assert list(reader.check()), (place, flip)
            for name, expected in original.items():  # what can still be read is right
                with contextlib.suppress(DamagedError):
                    assert reader.read(name).tobytes() == expected, (place, flip, name)


def test_every_truncation_is_noticed(path):
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises((DamagedError, UnreadableError)):
            Reader(path)


def test_bytes_behind_the_end_are_noticed(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DamagedError, match=r"cut off"):
        Reader(path)
    path.write_bytes(path.read_bytes()[:-1] * 2)
    with pytest.raises(FrqError):
        Reader(path)


def test_a_damaged_chunk_is_named_with_its_tensors_and_offset_and_the_others_stay_readable(path):
    reader = Reader(path)
    chunk = reader.index.chunks[reader.chunk_of("b")]
    content = bytearray(path.read_bytes())
    content[chunk.offset] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        DamagedError, match=f"chunk at byte {chunk.offset} with 'b' does not match its checksum"
    ):
        Reader(path).read("b")
    assert Reader(path).read("n") == 7
    Reader(path).read("w")
    assert len(list(Reader(path).check())) == 2  # the chunk, and the SHA-256


def test_a_damaged_attachment_is_named(path):
    item = Reader(path).index.attachments[0]
    content = bytearray(path.read_bytes())
    content[item.offset] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=f"attachment 'config.json' at byte {item.offset}"):
        Reader(path).attachment(item)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", UnreadableError, "not a .frq file"),
        (b"PK\3\4" + bytes(60), UnreadableError, "not a .frq file"),
        (b"FRQ\2" + bytes(60), UnreadableError, "version 02 is unknown; update frconvert"),
        (b"FRQ\1", DamagedError, "cut off"),
        (b"FRQ\1" + struct.pack("<II32s", 1 << 31, 0, b"") + b"FRQ\1", DamagedError, "index of 2147483648"),
    ],
)
def test_what_is_no_whole_file_is_refused_in_one_line(tmp_path, content, error, message):
    path = tmp_path / "x.frq"
    path.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        Reader(path)
    assert "\n" not in str(caught.value)


def test_a_file_cut_inside_its_magic_is_not_called_a_later_version(tmp_path):
    path = tmp_path / "x.frq"
    path.write_bytes(b"FRQ")
    with pytest.raises(FrqError) as caught:
        Reader(path)
    assert "update frconvert" not in str(caught.value)


def test_opening_refuses_what_the_system_refuses_in_one_line(tmp_path):
    for name in ("missing.frq", "."):
        with pytest.raises(UnreadableError):
            open_reader(tmp_path / name)


def test_reading_one_tensor_reads_its_chunk_only(path, monkeypatch):
    reader = Reader(path)
    spans = []
    read = Reader._read

    def spy(self, offset, length):
        spans.append((offset, length))
        return read(self, offset, length)

    monkeypatch.setattr(Reader, "_read", spy)
    reader.read("n")
    chunk = reader.index.chunks[reader.chunk_of("n")]
    assert spans == [(chunk.offset, chunk.length)]


def test_a_large_index_is_read_whole(tmp_path):
    names = [f"{number * 7919**3:x}" for number in range(12_000)]
    path = tmp_path / "many.frq"
    with path.open("wb") as file:
        writer = Writer(file)
        records = [make_record(np.array(number, np.int32), "int32", Plan()) for number in range(len(names))]
        writer.add_chunk("int32", len(records), encode_chunk(records))
        writer.finish(names, [record.layout for record in records], {}, {}, {})
    assert path.stat().st_size > 1 << 16
    assert Reader(path).read(names[11_999]) == 11_999


def test_threads_may_share_a_reader(path):
    reader = Reader(path)
    barrier = threading.Barrier(4)
    expected = {name: reader.read(name).tobytes() for name in TENSORS}

    def work(_):
        barrier.wait()
        return all(reader.read(name).tobytes() == expected[name] for _ in range(20) for name in TENSORS)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


@pytest.mark.parametrize("name", ["b", "n"])
def test_what_a_caller_writes_into_a_tensor_does_not_reach_the_next_reader(path, name):
    entry = importers.load(path)[name]
    first = entry.read()
    before = first.copy()
    first[...] = 99
    assert entry.read().tobytes() == before.tobytes()


def test_a_file_that_vanishes_after_opening_is_an_error_of_this_package(path):
    entry = importers.load(path)["b"]
    path.unlink()
    with pytest.raises(FrqError):
        entry.read()


@pytest.fixture
def bomb(tmp_path, monkeypatch):
    """Makes a file of one coefficient that claims to be a tensor of any shape, which the writer would not."""
    path = tmp_path / "bomb.frq"

    def make(shape):
        with monkeypatch.context() as patch:
            patch.setattr(writer, "tensor_excess", lambda *_: None)
            patch.setattr(writer, "total_excess", lambda *_: None)
            return write_claim(path, shape)

    return make


def write_claim(path, shape):
    record = make_record(np.zeros((4, 4), np.float32), "float32", Plan((0, 1), 1, STEP))
    with path.open("wb") as file:
        output = Writer(file)
        output.add_chunk("integers", 1, encode_chunk([record]))
        output.finish(["w"], [replace(record.layout, shape=shape)], {}, {}, {})
    return path


def test_what_the_reader_would_refuse_is_not_written(tmp_path):
    with pytest.raises(UnsupportedError, match="tensor 'w' claims 2147483648 bytes"):
        write_claim(tmp_path / "a.frq", (1 << 16, 1 << 13))


def test_a_tensor_beyond_the_expansion_limit_is_refused_before_it_is_made(bomb):
    reader = Reader(bomb((1 << 16, 1 << 13)))
    with pytest.raises(DamagedError, match="tensor 'w' claims 2147483648 bytes"):
        reader.read("w")
    assert any("claims" in line for line in reader.check())


def test_a_file_far_beyond_the_expansion_limit_is_refused_on_opening(bomb):
    with pytest.raises(DamagedError, match="tensors claim 4398046511104 bytes"):
        Reader(bomb((1 << 20, 1 << 20)))


def test_the_expansion_limit_grows_with_the_file():
    assert expansion_limit(100) == 1 << 30
    assert expansion_limit(1 << 20) == 1 << 32
