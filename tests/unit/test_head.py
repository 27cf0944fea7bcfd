"""The head index of a .frq file."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frconvert.coding.quantize import storable_step
from frconvert.coding.record import INTEGERS, Layout
from frconvert.container.deflate import NAMES, deflate, inflate
from frconvert.container.head import Group, Head, members, pack, unpack
from frconvert.container.kinds import EXACT_CODES, KINDS, code_of, is_known, kind_of
from frconvert.dtypes import DTYPE_NAMES
from frconvert.errors import DamagedError, FrqError, UnsupportedError

STEP = storable_step(0.1)


def example():
    quantised = Layout((4, 3), "float32", (0, 1), 5, STEP, INTEGERS)
    layouts = (
        quantised,
        Layout((), "int64", stored="int64"),
        quantised,
        Layout((0, 7), "bfloat16", stored="bfloat16"),
        Layout((2, 2, 3), "float64", (0,), None, STEP, INTEGERS),
        Layout((5, 5), "float32", (0, 1), 2, None, "float16"),
    )
    groups = (Group(INTEGERS, 1), Group("int64", 1), Group(INTEGERS, 1), Group("float16", 1))
    names = ("encoder.weight", "steps", "decoder.weight", "é/空", "", "c")
    ties = {"decoder.weight": "encoder.weight"}
    return Head(names, layouts, ties, groups, {"a/b.json": 100}, {"k": "v", "": ""})


EMPTY = Head((), (), {}, (), {}, {})


def plain_of(head):
    return inflate(pack(head), 1 << 20, NAMES)


def packed(plain):
    return deflate(plain, NAMES)


def test_a_head_index_comes_back():
    assert unpack(pack(example())) == example()


def test_an_empty_head_index_comes_back():
    assert unpack(pack(EMPTY)) == EMPTY


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), unique=True, max_size=8))
def test_any_names_come_back(names):
    layouts = tuple(Layout((0,), "int8", stored="int8") for _ in names)
    sizes = {name: number for number, name in enumerate(names)}
    head = Head(tuple(names), layouts, {}, (), sizes, {name: name for name in names})
    assert unpack(pack(head)) == head


def test_a_chunk_holds_the_next_tensors_of_its_kind_that_have_elements_of_their_own():
    assert members(example()) == [[0], [1], [4], [5]]


def test_alike_tensors_cost_few_bytes():
    names = tuple(f"block{n}.conv.weight" for n in range(100))
    layout = Layout((64, 64, 3, 3), "float32", (2, 3), None, STEP, INTEGERS)
    assert len(pack(Head(names, (layout,) * 100, {}, (Group(INTEGERS, 100),), {}, {}))) < 400


def test_the_names_of_a_common_small_model_take_less_than_two_bytes_each():
    names = [f"layer{a}.{b}.{c}" for a in (1, 2) for b in (0, 1) for c in ("conv1.weight", "bn1.bias")]
    layout = Layout((0,), "float32", stored="float32")
    head = Head(tuple(names), (layout,) * len(names), {}, (), {}, {})
    nameless = Head(tuple("abcdefgh"), (layout,) * len(names), {}, (), {}, {})
    assert len(pack(head)) - len(pack(nameless)) < 2 * len(names)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"names": ("a", *example().names[1:4], "a", "c"), "ties": {}}, "occurs twice"),
        ({"groups": example().groups[:2]}, "do not hold as many"),
        ({"groups": (*example().groups[:3], Group("float16", 2))}, "do not hold as many"),
        ({"groups": (*example().groups, Group("int64", 0))}, "without tensors"),
        ({"ties": {"steps": "encoder.weight"}}, "do not hold as many|differs in shape"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(change, fault):
    fields = {name: getattr(example(), name) for name in Head.__slots__}
    with pytest.raises(DamagedError, match=fault):
        unpack(pack(Head(**(fields | change))))


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
        Layout((2, 2), "float32", (2,), None, None, "code 63"),
        Layout((2, 2), "float32", (), 5, None, "code 63"),
    ],
    ids=str,
)
def test_a_layout_that_does_not_fit_its_tensor_is_refused(layout):
    with pytest.raises(DamagedError, match="tensor 'w'"):
        unpack(pack(Head(("w",), (layout,), {}, (Group(layout.stored, 1),), {}, {})))


@pytest.mark.parametrize("shape", [(1 << 62, 2), (1 << 31, 1 << 32), (1,) * 65])
def test_an_impossible_shape_is_refused(shape):
    head = Head(("w",), (Layout(shape, "int8", stored="int8"),), {}, (Group("int8", 1),), {}, {})
    with pytest.raises(DamagedError, match=r"impossible shape|more than 64 axes"):
        unpack(pack(head))


@pytest.mark.parametrize("columns", ["", "0002616161", "00ff7f", "0001ff", "000161ff", "000161ff01ff"])
def test_columns_that_claim_more_than_there_is_are_refused(columns):
    with pytest.raises(DamagedError):
        unpack(packed(bytes.fromhex(columns)))


def test_a_dtype_of_a_later_version_is_unsupported_not_damaged():
    plain = bytearray(plain_of(Head(("w",), (Layout((0,), "int8", stored="int8"),), {}, (), {}, {})))
    plain[plain.index(b"w\xff") + 4] = 200  # name and its end, number of axes, length of the axis
    with pytest.raises(UnsupportedError, match="dtype code 200 is unknown; update frconvert"):
        unpack(packed(bytes(plain)))


def test_a_required_feature_of_a_later_version_refuses_the_file():
    plain = plain_of(example())
    with pytest.raises(UnsupportedError, match="update frconvert"):
        unpack(packed(b"\2" + plain[1:]))


def test_the_parameters_of_an_unknown_kind_of_storage_are_read_past():
    layouts = (
        Layout((2, 2), "float32", (0,), 3, None, "code 63"),
        Layout((2,), "float32", stored="float32"),
        Layout((3,), "int8", stored="code 9"),
    )
    groups = (Group("code 63", 1), Group("float32", 1), Group("code 9", 1))
    head = Head(("new", "old", "newer"), layouts, {}, groups, {"a": 1}, {"k": "v"})
    assert unpack(pack(head)) == head
    plain = plain_of(head)
    at = plain.rindex(b"\0\0\3\x3f")  # no parameters twice; then the number of chunks
    longer = plain[:at] + b"\5hello\2hi" + plain[at + 2 :]
    assert unpack(packed(longer)) == head
    with pytest.raises(FrqError):
        unpack(packed(plain[:at] + b"\377\1hello\2hi" + plain[at + 2 :]))


def test_what_follows_the_columns_is_left_to_later_versions():
    assert unpack(packed(plain_of(example()) + b"\1more")) == example()


def test_every_kind_has_one_code_and_exact_values_that_of_their_dtype():
    assert len({kind.name for kind in KINDS.values()}) == len(KINDS)
    assert all(kind_of(code_of(kind.name)) is kind for kind in KINDS.values())
    assert [KINDS[EXACT_CODES + code].name for code in range(len(DTYPE_NAMES))] == list(DTYPE_NAMES)
    assert not is_known(kind_of(63).name)
    assert code_of(kind_of(63).name) == 63


def test_text_that_is_not_utf8_is_refused():
    plain = plain_of(EMPTY)
    assert plain[-1] == 0
    with pytest.raises(DamagedError, match="not UTF-8"):
        unpack(packed(plain[:-1] + b"\1\xc3\xff\xff"))


def test_a_metadata_key_that_occurs_twice_is_refused():
    plain = plain_of(EMPTY)
    with pytest.raises(DamagedError, match="key occurs twice"):
        unpack(packed(plain[:-1] + b"\2" + b"k\xffv\xff" * 2))


def test_an_attachment_name_that_occurs_twice_is_refused():
    plain = plain_of(EMPTY)
    with pytest.raises(DamagedError, match="attachment name occurs twice"):
        unpack(packed(plain[:-2] + b"\2" + b"a\xff" * 2 + b"\0\0" + b"\0"))


def test_every_truncation_of_the_columns_is_refused():
    plain = plain_of(example())
    for length in range(len(plain)):
        with pytest.raises(DamagedError):
            unpack(packed(plain[:length]))


def test_an_altered_index_is_another_index_or_refused_but_never_another_error():
    plain = plain_of(example())
    rng = np.random.default_rng(0)
    accepted = 0
    for _ in range(4000):
        altered = bytearray(plain)
        for _ in range(rng.choice([1, 1, 2, 4])):
            altered[rng.integers(len(altered))] = rng.choice([0, 1, 2, 127, 128, 255, rng.integers(256)])
        try:
            unpack(packed(bytes(altered)))
            accepted += 1
        except FrqError:
            pass
    assert 0 < accepted < 3000


@settings(deadline=None)
@given(st.binary(max_size=2000), st.sampled_from([b"", NAMES]))
def test_deflated_bytes_come_back_and_a_limit_holds(data, dictionary):
    assert inflate(deflate(data, dictionary), len(data), dictionary) == data
    if data:
        with pytest.raises(DamagedError, match="longer or shorter"):
            inflate(deflate(data, dictionary), len(data) - 1, dictionary)


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff", deflate(b"abc")[:-1], deflate(b"abc") + b"x"])
def test_what_is_not_one_deflate_stream_is_refused(data):
    with pytest.raises(DamagedError, match="compressed text"):
        inflate(data, 1000)
