"""Scale classes of a tensor: tables of offsets per axis, and their bytes."""

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frconvert.coding import scales, tables
from frconvert.coding.bits import ByteReader, varint
from frconvert.coding.scales import Scales
from frconvert.errors import DamagedError


@st.composite
def scales_and_shapes(draw, most_axes=5):
    shape = tuple(draw(st.lists(st.integers(1, 8), max_size=most_axes)))
    offsets = []
    for length in shape:
        kind = draw(st.sampled_from(["none", "any", "smooth", "zero"]))
        if kind == "none":
            offsets.append(None)
        elif kind == "any":
            values = draw(st.lists(st.integers(-127, 127), min_size=length, max_size=length))
            offsets.append(np.array(values, np.int16))
        elif kind == "smooth":
            start = draw(st.integers(-100, 100))
            offsets.append(np.arange(start, start + length, dtype=np.int16))
        else:
            offsets.append(np.zeros(length, np.int16))
    return Scales(draw(st.integers(0, 7)), draw(st.integers(-1024, 1024)), tuple(offsets)), shape


def same(first, second):
    tables_of_both = zip(first.offsets, second.offsets, strict=True)
    return (first.shape, first.base) == (second.shape, second.base) and all(
        (a is None and b is None) or (a is not None and b is not None and a.tolist() == b.tolist())
        for a, b in tables_of_both
    )


@settings(max_examples=200, deadline=None)
@given(scales_and_shapes())
def test_scales_come_back_from_their_bytes(case):
    found, shape = case
    head, values = scales.pack(found)
    reader = ByteReader(head + b"behind")
    tail, base, modes = scales.read_head(reader, shape)
    assert bytes(reader.rest()) == b"behind"
    assert [value.size for value in values] == [n for n, mode in zip(shape, modes, strict=True) if mode]
    assert same(scales.from_values(tail, base, modes, values), found)


def test_smooth_tables_are_stored_as_differences_and_rough_ones_as_they_are():
    smooth, rough = np.arange(60, 100, dtype=np.int16), np.array([5, -5] * 20, np.int16)
    (plain,) = scales.pack(Scales(0, 0, (rough,)))[1]
    (differences,) = scales.pack(Scales(0, 0, (smooth,)))[1]
    assert plain.tolist() == rough.tolist()
    assert differences.tolist() == [60] + [1] * 39


@settings(max_examples=200, deadline=None)
@given(scales_and_shapes(4))
def test_a_class_is_the_base_and_the_offsets_of_its_indices_clipped(case):
    found, shape = case
    classes = scales.classes(found, shape)
    assert (classes.shape, classes.dtype) == (shape, np.uint8)
    for index in np.ndindex(*shape):
        offsets = [0 if t is None else int(t[i]) for t, i in zip(found.offsets, index, strict=True)]
        assert classes[index] == min(max(found.base + sum(offsets), 0), tables.CLASSES - 1)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_classes_of_a_range_are_that_range_of_all_classes(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    offsets = tuple(
        np.array(data.draw(st.lists(st.integers(-9, 9), min_size=length, max_size=length)), np.int16)
        if data.draw(st.booleans())
        else None
        for length in shape
    )
    found = Scales(0, 50, offsets)
    start = data.draw(st.integers(0, prod(shape) - 1))
    end = data.draw(st.integers(start + 1, prod(shape)))
    every = scales.classes(found, shape).reshape(-1)
    part = scales.classes_of_range(found, shape, start, end)
    assert part.tolist() == every[start:end].tolist()


def test_the_extremes_of_many_axes_do_not_wrap_around():
    shape = (2,) * 31
    table = np.array([127, -127], np.int16)
    high = scales.classes(Scales(0, 1024, (table,) * 10 + (None,) * 21), (2,) * 10 + (1,) * 21)
    assert high.reshape(-1)[[0, -1]].tolist() == [tables.CLASSES - 1, 0]
    head, values = scales.pack(Scales(7, -1024, (table,) * 31))
    tail, base, modes = scales.read_head(ByteReader(head), shape)
    assert (tail, base, len(values)) == (7, -1024, 31)
    assert set(modes) == {1}


@pytest.mark.parametrize("empty", [(0, 3), (2, 0, 5)])
def test_empty_tensors_have_no_classes(empty):
    offsets = tuple(np.zeros(length, np.int16) for length in empty)
    assert scales.classes(Scales(0, 16, offsets), empty).shape == empty


@pytest.mark.parametrize(
    ("head", "message"),
    [
        pytest.param(bytes([8]) + varint(0) + varint(0), "out of range", id="tail"),
        pytest.param(bytes([255]) + varint(0) + varint(0), "out of range", id="tail 255"),
        pytest.param(bytes([0]) + varint(2050) + varint(0), "out of range", id="base"),
        pytest.param(bytes([0]) + varint(2051) + varint(0), "out of range", id="negative base"),
        pytest.param(bytes([0]) + varint((1 << 63) - 1) + varint(0), "out of range", id="huge base"),
        pytest.param(bytes([0]) + varint(0) + varint(1 << 4), "out of range", id="mode of a third axis"),
        pytest.param(bytes([0]) + varint(0) + varint(1 << 62), "out of range", id="huge modes"),
        pytest.param(bytes([0]) + varint(0) + varint(3), "unknown mode", id="mode 3"),
        pytest.param(bytes([0]) + varint(0) + varint(12), "unknown mode", id="mode 3 of the second axis"),
        pytest.param(bytes([0]) + varint(0), "bytes expected", id="cut off"),
        pytest.param(b"", "bytes expected", id="nothing"),
    ],
)
def test_a_head_that_says_what_cannot_be_is_refused(head, message):
    with pytest.raises(DamagedError, match=message):
        scales.read_head(ByteReader(head), (4, 5))


@pytest.mark.parametrize("mode", [1, 2])
@pytest.mark.parametrize("values", [[128, 0], [-128, 0], [0, 1 << 23], [-(1 << 24) + 1, 0]])
def test_offsets_out_of_range_are_refused(mode, values):
    with pytest.raises(DamagedError, match="out of range"):
        scales.from_values(0, 0, [mode], [np.array(values, np.int32)])


def test_sums_of_differences_are_checked_not_wrapped():
    # In 32 bits these would wrap around to a small sum.
    values = np.full(1 << 9, 1 << 23, np.int32)
    with pytest.raises(DamagedError, match="out of range"):
        scales.from_values(0, 0, [2], [values])
