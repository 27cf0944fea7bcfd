"""Damaged .frq files: what is found, what is repaired, what is lost."""

import io
import random
import zlib

import numpy as np
import pytest

import frconvert
from frconvert import importers
from frconvert.container.find import find_head, find_tail
from frconvert.container.frames import parse_header
from frconvert.container.reader import open_reader
from frconvert.container.repair import flip
from frconvert.container.salvage import examine
from frconvert.container.sources import FileSource
from frconvert.errors import DamagedError, FrqError, UnreadableError, UnsupportedError

RNG = np.random.default_rng(7)
ARRAYS = {
    "conv.weight": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "conv.bias": RNG.standard_normal(4).astype(np.float32),
    "steps": np.array(7, np.int64),
    "half": RNG.standard_normal(9).astype(np.float16),
    "none": np.zeros((0, 3), np.float32),
}
CONFIG = b'{"layers": [1, 2, 3]}'


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A small archive of four chunks and an attachment, as bytes."""
    from conftest import make_checkpoint

    path = tmp_path_factory.mktemp("sound") / "m.frq"
    checkpoint = make_checkpoint(ARRAYS, {"tied": "conv.weight"}, {"config.json": CONFIG}, {"licence": "MIT"})
    frconvert.save(checkpoint, path, lossless=True)  # the quickest to decode: this is done often here
    return path.read_bytes()


@pytest.fixture(scope="module")
def truth(sound):
    reader = open_reader(io.BytesIO(sound))
    return {name: reader.read(name).tobytes() for name in reader.head.names}


@pytest.fixture(scope="module")
def frames(sound):
    return open_reader(io.BytesIO(sound)).contents.frames


def looked_at(data):
    return examine(FileSource(io.BytesIO(data)))


def intact(found, truth):
    """Names of the tensors that are not lost, all of which have the right values."""
    names = [name for name in truth if name not in found.lost_tensors]
    for name in names:
        assert found.reader.read(name).tobytes() == truth[name], name
    if not found.lost_attachments:
        assert found.reader.attachment("config.json") == CONFIG
    return names


def tensors_at(sound, frames, place):
    """Which tensors have their data at a byte."""
    reader = open_reader(io.BytesIO(sound))
    chunks = enumerate(frames[: len(reader.head.groups)])
    return {name for number, f in chunks if f.offset <= place < f.end for name in reader.chunk_names(number)}


def test_a_sound_file_has_no_damage(sound, truth):
    found = looked_at(sound)
    assert found.is_sound
    assert not list(found.lines())
    assert intact(found, truth) == list(truth)


def test_every_single_flipped_bit_is_said_where_it_is_and_nothing_is_lost(sound, truth, frames):
    for bit in range(8 * len(sound)):
        found = looked_at(flip(sound, bit))
        (line,) = found.lines()
        names = tensors_at(sound, frames, bit // 8)
        assert all(repr(name) in line for name in names), (bit, line)
        if names:
            assert not any(repr(name) in line for name in truth.keys() - names), (bit, line)
        assert intact(found, truth) == list(truth), bit


def test_two_flipped_bits_far_apart_are_repaired_too(sound, truth, frames):
    rng = random.Random(1)  # noqa: S311
    for _ in range(60):
        first, second = rng.sample(frames, 2)
        places = [8 * f.offset + rng.randrange(8 * f.length) for f in (first, second) if f.length]
        data = sound
        for place in places:
            data = flip(data, place)
        found = looked_at(data)
        assert len(found.damages) == len(places)
        assert intact(found, truth) == list(truth)


def test_a_burst_in_a_chunk_loses_its_tensors_and_those_tied_to_them_and_no_other(sound, truth, frames):
    reader = open_reader(io.BytesIO(sound))
    for number in range(len(reader.head.groups)):
        frame = frames[number]
        half = frame.length // 2
        data = sound[: frame.offset + half] + bytes(b ^ 0x5A for b in sound[frame.offset + half : frame.end])
        found = looked_at(data + sound[frame.end :])
        names = set(reader.chunk_names(number))
        names |= {alias for alias, name in reader.head.ties.items() if name in names}
        assert set(found.lost_tensors) == names
        assert set(intact(found, truth)) == truth.keys() - names
        assert all("do not match their checksum" in line for line in found.lines())


def test_four_wrong_bytes_in_the_head_index_are_repaired(sound, truth):
    head = find_head(FileSource(io.BytesIO(sound)), None)
    rng = random.Random(2)  # noqa: S311
    for start in range(head.offset, head.end):
        end = min(start + 4, head.end)
        data = sound[:start] + rng.randbytes(end - start) + sound[end:]
        if data == sound:
            continue
        found = looked_at(data)
        assert found.damages
        assert intact(found, truth) == list(truth), start


def test_a_head_index_that_is_gone_is_said_in_one_line(sound):
    head = find_head(FileSource(io.BytesIO(sound)), None)
    data = sound[: head.offset + 8] + bytes(40) + sound[head.offset + 48 :]
    with pytest.raises(DamagedError, match="the head index at byte 4 is lost"):
        looked_at(data)


@pytest.mark.parametrize("ruin", [lambda tail: bytes(len(tail)), lambda tail: b"", lambda tail: tail * 3])
def test_tail_index_and_footer_are_not_needed(sound, truth, frames, ruin):
    end = frames[-1].end
    found = looked_at(sound[:end] + ruin(sound[end:]))
    assert found.damages
    assert intact(found, truth) == list(truth)


def test_every_truncation_keeps_all_chunks_that_are_complete(sound, truth, frames):
    reader = open_reader(io.BytesIO(sound))
    head = find_head(FileSource(io.BytesIO(sound)), None)
    for length in range(len(sound)):
        if length < head.end:
            with pytest.raises(FrqError):
                looked_at(sound[:length])
            continue
        found = looked_at(sound[:length])
        assert list(found.lines())
        complete = {
            name
            for number in range(len(reader.head.groups))
            if frames[number].end <= length
            for name in reader.chunk_names(number)
        } | {"none"}
        assert set(intact(found, truth)) - {"tied"} == complete, length
        assert ("config.json" in found.lost_attachments) == (frames[-1].end > length)


@pytest.mark.parametrize("removed", [0, 1, 3, 20])
@pytest.mark.parametrize("inserted", [b"", b"\0", b"12345", bytes(range(256))])
def test_a_splice_loses_what_it_touches_and_nothing_else(sound, truth, frames, removed, inserted):
    reader = open_reader(io.BytesIO(sound))
    head = find_head(FileSource(io.BytesIO(sound)), None)
    if not removed and not inserted:
        return
    for place in range(head.end, len(sound) - removed + 1):
        data = sound[:place] + inserted + sound[place + removed :]
        found = looked_at(data)
        assert list(found.lines()) or data == sound, place
        untouched = {
            name
            for number in range(len(reader.head.groups))
            if frames[number].end <= place or frames[number].offset >= place + removed
            for name in reader.chunk_names(number)
        }
        assert untouched <= set(intact(found, truth)), place


def test_two_splices_leave_what_lies_between_them(sound, truth, frames):
    cut, again = frames[0].offset + 3, frames[-2].offset + 3
    data = sound[:cut] + b"xx" + sound[cut:again] + sound[again + 2 :]
    reader = open_reader(io.BytesIO(sound))
    numbers = range(1, len(reader.head.groups) - 1)
    between = {name for number in numbers for name in reader.chunk_names(number)}
    found = looked_at(data)
    assert between
    assert between <= set(intact(found, truth))


def test_a_chunk_that_was_cut_out_does_not_shift_the_others(sound, truth, frames):
    for frame in frames[:-1]:
        data = sound[: frame.start] + sound[frame.end :]
        for end in (len(data), len(data) - 60):  # with and without the tail index
            found = looked_at(data[:end])
            assert found.lost_tensors
            intact(found, truth)


def test_bytes_behind_the_end_are_said_and_do_no_harm(sound, truth):
    for more in (b"\0", b"FRQ\1", bytes(500), sound[-48:]):
        found = looked_at(sound + more)
        assert found.damages
        assert intact(found, truth) == list(truth)


def test_random_damage_of_every_kind_gives_no_wrong_value(sound, truth):
    rng = random.Random(3)  # noqa: S311
    for _ in range(800):
        data = bytearray(sound)
        for _ in range(rng.choice((1, 1, 2, 3))):
            place, length = rng.randrange(len(data)), rng.choice((1, 2, 4, 5, 16, 60))
            how = rng.randrange(4)
            if how == 0:
                data[place] ^= 1 << rng.randrange(8)
            elif how == 1:
                data[place : place + length] = rng.randbytes(len(data[place : place + length]))
            elif how == 2:
                del data[place : place + length]
            else:
                data[place:place] = rng.randbytes(length)
        try:
            found = looked_at(bytes(data))
        except FrqError:
            continue
        assert list(found.lines()) or bytes(data) == sound
        intact(found, truth)


def test_a_flipped_bit_in_the_lengths_of_the_footer_hides_nothing(sound):
    tail = find_tail(FileSource(io.BytesIO(sound)))
    for bit in range(96):
        data = flip(sound, 8 * (len(sound) - 48) + bit)
        assert find_tail(FileSource(io.BytesIO(data))) == tail


def test_a_file_without_tensors_is_proven_by_its_sha256(tmp_path, checkpoint_of):
    frconvert.save(checkpoint_of({}, None, None, {"a": "b"}), tmp_path / "e.frq")
    data = (tmp_path / "e.frq").read_bytes()
    for bit in range(8 * len(data)):
        found = looked_at(flip(data, bit))
        assert len(found.damages) == 1, bit
        assert found.reader.head.metadata["a"] == "b"


@pytest.mark.parametrize("data", [b"", b"x", b"PK\3\4" + bytes(100), b"FRQ\2" + bytes(100)])
def test_what_is_no_frq_is_said_to_be_none(data):
    with pytest.raises(UnreadableError, match=r"not a .frq file|version 02 is unknown"):
        looked_at(data)


def test_a_later_version_is_not_taken_for_damage(sound):
    from frconvert.container.deflate import NAMES, deflate, inflate

    head = find_head(FileSource(io.BytesIO(sound)), None)
    packed = deflate(b"\2" + inflate(head.payload, 1 << 20, NAMES)[1:], NAMES)
    header = parse_header(sound[4:], 4)
    assert header.length == len(head.payload)
    data = sound[:4] + bytes([len(packed)]) + zlib.crc32(packed).to_bytes(4, "little") + packed
    with pytest.raises(UnsupportedError, match="update frconvert"):
        looked_at(data + sound[head.end :])


# The command.


@pytest.fixture
def damaged(tmp_path, sound, frames):
    path = tmp_path / "damaged.frq"
    place = frames[0].offset
    path.write_bytes(sound[:place] + b"\xff\x00\xff\x00" + sound[place + 4 :])
    return path


@pytest.mark.parametrize("suffix", [".frq", ".npz", ".safetensors", ".pt"])
def test_salvage_writes_what_is_intact_and_lists_what_is_not(damaged, tmp_path, truth, run, suffix):
    status, out, err = run("convert", "--salvage", damaged, tmp_path / f"out{suffix}")
    assert status == 1
    assert "out" in out
    lines = [line for line in err.splitlines() if "is lost" in line]
    assert [line.split("'")[1] for line in lines] == ["conv.weight", "conv.bias", "tied"]
    values = importers.load(tmp_path / f"out{suffix}").numpy()
    assert set(values) == truth.keys() - {"conv.weight", "conv.bias", "tied"}
    assert all(value.tobytes() == truth[name] for name, value in values.items())


def test_what_is_salvaged_says_so_of_itself_also_when_it_is_copied_or_compressed_again(damaged, tmp_path):
    from frconvert.pipeline import salvage

    salvage(damaged, tmp_path / "a.frq")
    frconvert.convert(tmp_path / "a.frq", tmp_path / "b.frq")
    frconvert.convert(tmp_path / "b.frq", tmp_path / "c.frq", snr=20)
    for name in "abc":
        metadata = open_reader(tmp_path / f"{name}.frq").head.metadata
        assert metadata["frconvert.lost"] == "3 tensors, 0 attachments"
        assert metadata["licence"] == "MIT"


def test_what_can_be_repaired_is_no_loss(sound, tmp_path, truth, run):
    path = tmp_path / "flipped.frq"
    path.write_bytes(flip(sound, 8 * 100))
    status, _, err = run("convert", "--salvage", path, tmp_path / "out.frq")
    assert (status, len(err.splitlines())) == (0, 1)
    assert (tmp_path / "out.frq").read_bytes() == sound


def test_salvage_of_a_sound_file_is_a_copy_without_a_word(sound, tmp_path, run):
    (tmp_path / "m.frq").write_bytes(sound)
    status, _, err = run("convert", "--salvage", tmp_path / "m.frq", tmp_path / "out.frq")
    assert (status, err) == (0, "")
    assert (tmp_path / "out.frq").read_bytes() == sound


def test_salvage_reads_frq_only_and_writes_nothing_where_all_is_lost(tmp_path, npz, sound, fails):
    assert "not a .frq file" in fails(3, "convert", "--salvage", npz, tmp_path / "out.frq")
    fails(2, "convert", "--salvage", "--from", "npz", npz, tmp_path / "out.frq")
    (tmp_path / "m.frq").write_bytes(sound[:30])
    assert "is lost" in fails(3, "convert", "--salvage", tmp_path / "m.frq", tmp_path / "out.frq")
    assert not (tmp_path / "out.frq").exists()
