"""The index of a .frq file."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frconvert.coding.quantize import storable_step
from frconvert.coding.record import INTEGERS, Layout
from frconvert.container.index import Chunk, Index, StoredAttachment, deflate, inflate, pack, unpack
from frconvert.errors import DamagedError, FrqError, UnsupportedError

STEP = storable_step(0.1)


def example():
    quantised = Layout((4, 3), "float32", (0, 1), 5, STEP, INTEGERS)
    layouts = (
        quantised,
        Layout((), "int64", stored="int64"),
        quantised,
        Layout((0, 7), "bfloat16", stored="bfloat16"),
        Layout((2, 2), "float64", (0,), None, STEP, INTEGERS),
        Layout((5, 5), "float32", (0, 1), 2, None, "float16"),
    )
    chunks = (
        Chunk(INTEGERS, 1, 4, 10, 1),
        Chunk("int64", 1, 14, 3, 2),
        Chunk(INTEGERS, 1, 17, 8, 0xFFFFFFFF),
        Chunk("float16", 1, 25, 4, 7),
    )
    attachments = (StoredAttachment("a/b.json", 100, 29, 20, 9),)
    names = ("encoder.weight", "steps", "decoder.weight", "é/空", "", "c")
    return Index(
        names, layouts, {"decoder.weight": "encoder.weight"}, chunks, attachments, {"k": "v", "": ""}
    )


END = 49
EMPTY = Index((), (), {}, (), (), {})


def test_an_index_comes_back():
    assert unpack(pack(example()), END) == example()


def test_an_empty_index_comes_back():
    assert unpack(pack(EMPTY), 4) == EMPTY


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), unique=True, max_size=8))
def test_any_names_come_back(names):
    layouts = tuple(Layout((0,), "int8", stored="int8") for _ in names)
    index = Index(tuple(names), layouts, {}, (), (), {name: name for name in names})
    assert unpack(pack(index), 4) == index


def test_alike_tensors_cost_few_bytes():
    names = tuple(f"block{n}.conv.weight" for n in range(100))
    layout = Layout((64, 64, 3, 3), "float32", (2, 3), None, STEP, INTEGERS)
    index = Index(names, (layout,) * 100, {}, (Chunk(INTEGERS, 100, 4, 5000, 1),), (), {})
    assert len(pack(index)) < 450


def test_chunks_must_end_where_the_index_begins():
    with pytest.raises(DamagedError, match="chunks end at byte 49, but the index begins at byte 50"):
        unpack(pack(example()), END + 1)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"names": ("a",) * 6, "ties": {}}, "occurs twice"),
        ({"chunks": example().chunks[:2]}, "do not hold as many"),
        ({"chunks": (*example().chunks[:3], Chunk("float16", 2, 25, 4, 7))}, "do not hold as many"),
        ({"chunks": (*example().chunks, Chunk("int64", 0, 29, 0, 0))}, "without tensors"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(change, fault):
    fields = {name: getattr(example(), name) for name in Index.__slots__}
    index = Index(**(fields | change))
    if "ties" in change:  # every tensor is stored then: its chunks are a matter of another test
        index = Index(("a", "a"), example().layouts[:2], {}, example().chunks[:2], (), {})
    with pytest.raises(DamagedError, match=fault):
        unpack(pack(index), END)


@pytest.mark.parametrize(
    "layout",
    [
        Layout((2, 2), "float32", (2,), None, STEP, INTEGERS),
        Layout((2, 2), "float32", (0, 1), 5, STEP, INTEGERS),
        Layout((2, 2), "int32", (), None, STEP, INTEGERS),
        Layout((2, 2), "complex64", (0,), None, None, "complex64"),
        Layout((2, 2), "int32", stored="int16"),
        Layout((2, 2), "float32", stored="int32"),
        Layout((2, 2), "int32", stored="float32"),
    ],
    ids=str,
)
def test_a_layout_that_does_not_fit_its_tensor_is_refused(layout):
    index = Index(("w",), (layout,), {}, (Chunk(layout.stored, 1, 4, 10, 1),), (), {})
    with pytest.raises(DamagedError, match="tensor 'w'"):
        unpack(pack(index), 14)


@pytest.mark.parametrize("shape", [(1 << 62, 2), (1 << 31, 1 << 32), (1,) * 65])
def test_an_impossible_shape_is_refused(shape):
    index = Index(("w",), (Layout(shape, "int8", stored="int8"),), {}, (Chunk("int8", 1, 4, 9, 1),), (), {})
    with pytest.raises(DamagedError, match=r"impossible shape|more than 64 axes"):
        unpack(pack(index), 13)


@pytest.mark.parametrize("columns", ["02016161", "ff7f", "01ff", "0101ff0000", "010161ff"])
def test_columns_that_claim_more_than_there_is_are_refused(columns):
    with pytest.raises(DamagedError):
        unpack(deflate(bytes.fromhex(columns)), 4)


def test_a_code_of_a_later_version_is_unsupported_not_damaged():
    plain = bytearray(
        zlib.decompress(pack(Index(("w",), (Layout((0,), "int8", stored="int8"),), {}, (), (), {})), -15)
    )
    place = plain.index(b"w") + 3  # name, number of axes, length of the axis, dtype code
    plain[place] = 200
    with pytest.raises(UnsupportedError, match="dtype code 200 is unknown; the file may need a newer"):
        unpack(deflate(bytes(plain)), 4)


def test_text_that_is_not_utf8_is_refused():
    plain = zlib.decompress(pack(EMPTY), -15)
    assert plain[-1] == 0
    with pytest.raises(DamagedError, match="not UTF-8"):
        unpack(deflate(plain[:-1] + b"\1\1\xff\0"), 4)


def test_a_metadata_key_that_occurs_twice_is_refused():
    plain = zlib.decompress(pack(EMPTY), -15)
    with pytest.raises(DamagedError, match="twice"):
        unpack(deflate(plain[:-1] + b"\2" + b"\1k\1v" * 2), 4)


def test_an_attachment_name_that_occurs_twice_is_refused():
    item = StoredAttachment("a", 0, 4, 0, 0)
    with pytest.raises(DamagedError, match="twice"):
        unpack(pack(Index((), (), {}, (), (item, item), {})), 4)


def test_every_truncation_of_the_columns_is_refused():
    plain = zlib.decompress(pack(example()), -15)
    for length in range(len(plain)):
        with pytest.raises(DamagedError):
            unpack(deflate(plain[:length]), END)
    with pytest.raises(DamagedError, match="after its end"):
        unpack(deflate(plain + b"\0"), END)


def test_an_altered_index_is_another_index_or_refused_but_never_another_error():
    plain = zlib.decompress(pack(example()), -15)
    rng = np.random.default_rng(0)
    accepted = 0
    for _ in range(4000):
        altered = bytearray(plain)
        for _ in range(rng.choice([1, 1, 2, 4])):
            altered[rng.integers(len(altered))] = rng.choice([0, 1, 2, 127, 128, 255, rng.integers(256)])
        try:
            unpack(deflate(bytes(altered)), END)
            accepted += 1
        except FrqError:
            pass
    assert accepted < 3000


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_deflated_bytes_come_back_and_a_limit_holds(data):
    assert inflate(deflate(data), len(data)) == data
    if data:
        with pytest.raises(DamagedError, match="longer or shorter"):
            inflate(deflate(data), len(data) - 1)


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff", deflate(b"abc")[:-1], deflate(b"abc") + b"x"])
def test_what_is_not_one_deflate_stream_is_refused(data):
    with pytest.raises(DamagedError, match="compressed text"):
        inflate(data, 1000)
