"""Writer and reader of .frq files."""

import contextlib
import io
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import frconvert
from frconvert import importers
from frconvert.coding.quantize import storable_step
from frconvert.coding.record import Plan, encode_chunk, make_record
from frconvert.container import MAGIC, writer
from frconvert.container.frames import FOOTER_BYTES, parse_header
from frconvert.container.head import Group, Head
from frconvert.container.limits import expansion_limit
from frconvert.container.reader import Reader, open_reader, read_contents
from frconvert.container.salvage import examine
from frconvert.container.sources import FileSource, PathSource
from frconvert.container.writer import Writer
from frconvert.errors import DamagedError, FrqError, UnreadableError, UnsupportedError, UsageError

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
    records = {  # encoding uses the values up
        name: make_record(array.copy(), array.dtype.name, plan) for name, (array, plan) in tensors.items()
    }
    chunks: dict[str, list] = {}
    for record in records.values():
        if record.values.size:
            chunks.setdefault(record.layout.stored, []).append(record)
    layouts = [records[name].layout for name in tensors] + [records["w"].layout]
    groups = [Group(kind, len(members)) for kind, members in chunks.items()]
    return write(stream, [*tensors, "w2"], layouts, groups, map(encode_chunk, chunks.values()),
                 {"w2": "w"}, attachments, metadata)  # fmt: skip


def write(stream, names, layouts, groups, payloads, ties=(), attachments=(), metadata=()):
    """A file of chunks that are already coded."""
    attachments = dict(attachments)
    sizes = {name: len(data) for name, data in attachments.items()}
    head = Head(tuple(names), tuple(layouts), dict(ties), tuple(groups), sizes, dict(metadata))
    writer = Writer(stream, head, attachments)
    for payload in payloads:
        writer.add_chunk(payload)
    return writer.finish()


def faults(path):
    """Everything that is wrong with a file."""
    return list(examine(PathSource(path)).lines())


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "small.frq"
    with path.open("wb") as file:
        written(file)
    return path


def test_tensors_attachments_and_metadata_come_back(path):
    reader = open_reader(path)
    assert list(reader.head.names) == [*TENSORS, "w2"]
    for name, (array, plan) in TENSORS.items():
        back = reader.read(name)
        assert (back.shape, back.dtype) == (array.shape, array.dtype)
        if plan.step is None:
            assert back.tobytes() == array.tobytes()
        elif plan.keep is None:
            assert np.linalg.norm(back - array) <= STEP / 2 * np.sqrt(array.size)
    assert {name: reader.attachment(name) for name in reader.head.attachments} == ATTACHMENTS
    assert reader.head.metadata == METADATA
    assert faults(path) == []


def test_a_tied_tensor_is_stored_once_and_reads_the_same(path):
    reader = open_reader(path)
    assert reader.head.ties == {"w2": "w"}
    assert reader.read("w2").tobytes() == reader.read("w").tobytes()
    assert reader.chunk_of("w2") == reader.chunk_of("w")
    assert sum(group.tensors for group in reader.head.groups) == 4  # w, b, k, n; e has no elements


def test_writing_needs_no_seeking_and_gives_the_same_bytes(path):
    pipe = Pipe()
    assert written(pipe) == len(pipe.content)
    assert bytes(pipe.content) == path.read_bytes()


def test_a_file_is_frames_between_its_magic_and_a_tail_of_which_the_last_48_bytes_are_the_footer(path):
    content = path.read_bytes()
    assert content.startswith(MAGIC)
    assert content.endswith(MAGIC)
    assert FOOTER_BYTES == 48
    head_length, tail_length = struct.unpack("<II", content[-48:-40])
    head = parse_header(content[4:], 4)
    assert head.length == head_length
    frames = open_reader(path).contents.frames
    assert frames[0].start == head.end
    assert [frame.start for frame in frames[1:]] == [frame.end for frame in frames[:-1]]
    assert frames[-1].end + tail_length + 48 == len(content)
    for frame in frames:
        assert parse_header(content[frame.start :], frame.start) == frame


def test_a_chunk_of_another_file_does_not_pass_for_one_of_this(tmp_path, path):
    other = tmp_path / "other.frq"
    with other.open("wb") as file:
        written(file, TENSORS | {"n": (np.array(8, np.int64), Plan())})
    same = open_reader(path).contents.frames[2]
    assert open_reader(other).contents.frames[2].start == same.start
    content = bytearray(path.read_bytes())
    content[same.start : same.end] = other.read_bytes()[same.start : same.end]
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="checksum"):
        open_reader(path).read("n")  # the head indices are alike, the checksums in the tail are not
    with tmp_path.joinpath("renamed.frq").open("wb") as file:
        written(file, metadata={"licence": "MIT"})
    renamed = open_reader(tmp_path / "renamed.frq").contents.frames
    assert [f.length for f in renamed] == [f.length for f in open_reader(other).contents.frames]
    assert not {f.crc32 for f in renamed} & {f.crc32 for f in open_reader(other).contents.frames}


def test_every_change_of_a_byte_is_noticed(path):
    content = path.read_bytes()
    original = {name: open_reader(path).read(name).tobytes() for name in TENSORS}
    for place in range(len(content)):
        for change in (0x01, 0xFE):
            altered = bytearray(content)
            altered[place] ^= change
            try:
                reader = open_reader(io.BytesIO(altered))
            except FrqError:
                continue
            found = examine(FileSource(io.BytesIO(altered)))
            assert list(found.lines()), (place, change)
            for name, expected in original.items():  # what can still be read is right
                with contextlib.suppress(DamagedError):
                    assert reader.read(name).tobytes() == expected, (place, change, name)


def test_every_truncation_is_noticed(path):
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises((DamagedError, UnreadableError)):
            open_reader(path)


def test_bytes_behind_the_end_are_noticed(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DamagedError, match=r"cut off"):
        open_reader(path)
    path.write_bytes(path.read_bytes()[:-1] * 2)
    with pytest.raises(FrqError):
        open_reader(path)


def test_a_damaged_chunk_is_named_with_its_tensors_and_offset_and_the_others_stay_readable(path):
    reader = open_reader(path)
    frame = reader.contents.frames[reader.chunk_of("b")]
    content = bytearray(path.read_bytes())
    content[frame.offset] ^= 3
    content[frame.offset + 1] ^= 3
    path.write_bytes(content)
    with pytest.raises(
        DamagedError, match=f"chunk with 'b' at byte {frame.offset} does not match its checksum"
    ):
        open_reader(path).read("b")
    assert open_reader(path).read("n") == 7
    open_reader(path).read("w")
    assert faults(path) == [
        f"tensor 'b' is lost: its data at byte {frame.offset} do not match their checksum"
    ]


def test_a_damaged_attachment_is_named(path):
    frame = open_reader(path).contents.frames[-2]
    content = bytearray(path.read_bytes())
    content[frame.offset] ^= 7
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=f"attachment 'config.json' at byte {frame.offset}"):
        open_reader(path).attachment("config.json")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", UnreadableError, "not a .frq file"),
        (b"PK\3\4" + bytes(60), UnreadableError, "not a .frq file"),
        (b"FRQ\2" + bytes(60), UnreadableError, "version 02 is unknown; update frconvert"),
        (b"FRQ\1", DamagedError, "cut off"),
        (b"FRQ\1" + bytes(9) + b"FRQ\1", DamagedError, "cut off"),
        (b"FRQ\1\0" + struct.pack("<III32s", 1 << 31, 0, 0, b"") + b"FRQ\1", DamagedError, "of 2147483648"),
        (b"FRQ\1\0" + struct.pack("<III32s", 0, 1 << 31, 0, b"") + b"FRQ\1", DamagedError, "2147483648 b"),
    ],
)
def test_what_is_no_whole_file_is_refused_in_one_line(tmp_path, content, error, message):
    path = tmp_path / "x.frq"
    path.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        open_reader(path)
    assert "\n" not in str(caught.value)


def test_a_file_cut_inside_its_magic_is_not_called_a_later_version(tmp_path):
    path = tmp_path / "x.frq"
    path.write_bytes(b"FRQ")
    with pytest.raises(FrqError) as caught:
        open_reader(path)
    assert "update frconvert" not in str(caught.value)


def test_opening_refuses_what_the_system_refuses_in_one_line(tmp_path):
    for name in ("missing.frq", "."):
        with pytest.raises(UnreadableError):
            open_reader(tmp_path / name)


class Spy(FileSource):
    """Remembers what is read."""

    def __init__(self, content):
        super().__init__(io.BytesIO(content))
        self.spans = []

    def read(self, offset, length):
        self.spans.append((offset, length))
        return super().read(offset, length)


def test_a_tensor_takes_one_read_after_one_of_the_tail_and_one_of_the_head(path):
    spy = Spy(path.read_bytes())
    reader = Reader(spy, read_contents(spy))
    assert len(spy.spans) == 2
    frame = reader.contents.frames[reader.chunk_of("n")]
    reader.read("n")
    assert spy.spans[2:] == [(frame.offset, frame.length)]


def test_large_indices_are_read_whole(tmp_path):
    names = [f"{number * 7919**3:x}" for number in range(12_000)]
    path = tmp_path / "many.frq"
    records = [make_record(np.array(number, np.int32), "int32", Plan()) for number in range(len(names))]
    with path.open("wb") as file:
        layouts = [record.layout for record in records]
        write(
            file, names, layouts, [Group("int32", 1)] * 12_000, (encode_chunk([record]) for record in records)
        )
    spy = Spy(path.read_bytes())
    reader = Reader(spy, read_contents(spy))
    assert len(spy.spans) == 3  # the tail index is larger than what is read at once
    assert reader.read(names[11_999]) == 11_999


def test_a_kind_of_storage_of_a_later_version_is_refused_by_name_and_the_others_load(tmp_path):
    record = make_record(np.array([1.5, 2.5], np.float32), "float32", Plan())
    layouts = [
        replace(record.layout, stored="code 63"),
        record.layout,
        replace(record.layout, stored="code 63"),
    ]
    groups = [Group("code 63", 2), Group("float32", 1)]
    path = tmp_path / "later.frq"
    with path.open("wb") as file:
        write(file, ["new", "old", "new too"], layouts, groups, [b"???", encode_chunk([record])])
    checkpoint = importers.load(path)
    assert checkpoint["old"].read().tolist() == [1.5, 2.5]
    with pytest.raises(UnsupportedError, match="tensor 'new too' is stored as code 63, which"):
        checkpoint["new too"].read()
    with pytest.raises(UnsupportedError, match="update frconvert"):  # not copied without its parameters
        frconvert.save(checkpoint, tmp_path / "copy.frq")
    found = examine(PathSource(path))
    assert found.is_sound
    starts = ["tensor 'new' cannot be read: ", "tensor 'new too' cannot be read: "]
    assert all(line.startswith(start) for line, start in zip(found.lines(), starts, strict=True))


def test_open_files_are_read_from_their_first_byte_and_text_is_refused(path):
    with path.open("rb") as file:
        file.seek(17)
        assert open_reader(file).read("n") == 7
    with path.open("r", encoding="latin-1") as file, pytest.raises(UsageError, match="open it with 'rb'"):
        open_reader(file)
    with pytest.raises(UsageError, match="seekable"):
        open_reader(Pipe())


def test_a_file_that_is_closed_too_early_is_an_error_of_this_package(path):
    with path.open("rb") as file:
        reader = open_reader(file)
    with pytest.raises(UnreadableError, match="closed"):
        reader.read("n")


def test_threads_may_share_a_reader(path):
    reader = open_reader(path)
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
        layouts = [replace(record.layout, shape=shape)]
        write(file, ["w"], layouts, [Group("integers", 1)], [encode_chunk([record])])
    return path


def test_what_the_reader_would_refuse_is_not_written(tmp_path):
    with pytest.raises(UnsupportedError, match="tensor 'w' claims 2147483648 bytes"):
        write_claim(tmp_path / "a.frq", (1 << 16, 1 << 13))


def test_a_tensor_beyond_the_expansion_limit_is_refused_before_it_is_made(bomb):
    path = bomb((1 << 16, 1 << 13))
    with pytest.raises(DamagedError, match="tensor 'w' claims 2147483648 bytes"):
        open_reader(path).read("w")
    assert any("claims" in line for line in faults(path))


def test_a_file_far_beyond_the_expansion_limit_is_refused_on_opening(bomb):
    with pytest.raises(DamagedError, match="tensors claim 4398046511104 bytes"):
        open_reader(bomb((1 << 20, 1 << 20)))


def test_the_expansion_limit_grows_with_the_file():
    assert expansion_limit(100) == 1 << 30
    assert expansion_limit(1 << 20) == 1 << 32
