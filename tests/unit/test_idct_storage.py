"""Words that graphs unpack: every sequence comes back, in few bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from frconvert.idct.coefficients import Coefficients, arranged, restored, weights
from frconvert.idct.storage import FORMS, INTEGER_FORMS, corner_box, pack, unpack
from frconvert.spectral import dct, zigzag


@given(hnp.arrays(np.int32, st.integers(1, 300), elements=st.integers(-(2**31) + 1, 2**31 - 1)))
def test_any_integers_come_back(values):
    assert np.array_equal(unpack(pack(values)), values)


@given(
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.3, 1.0, 4.0, 40.0, 1000.0]),
    st.booleans(),
    st.integers(1, 5000),
)
def test_integers_of_a_decaying_scale_come_back(seed, scale, tail, size):
    rng = np.random.default_rng(seed)
    values = np.rint(rng.laplace(size=size) * scale * np.linspace(2, 0.1, size)).astype(np.int32)
    if tail:
        values[:: size // 3 + 1] = 70_000
    packed = pack(values)
    assert np.array_equal(unpack(packed), values)
    assert sum(run.count for run in packed.runs) == size
    assert sum(run.words.nbytes for run in packed.runs) <= 4 * size


@pytest.mark.parametrize("form", [form for form in INTEGER_FORMS if form.base])
def test_digits_fill_their_word(form):
    most = form.base**form.per_word - 1
    assert most <= np.iinfo(form.word).max
    # One more would not fit: no smaller word and no more digits are possible.
    assert form.base ** (form.per_word + 1) - 1 > np.iinfo(form.word).max


def test_a_few_large_numbers_do_not_make_all_of_them_wide():
    values = np.ones(10_000, np.int32)
    values[5::250] = 30_000
    values[9_999] = -40_000  # in a last word that is not full
    packed = pack(values)
    assert packed.has_replaced
    assert np.array_equal(unpack(packed), values)
    assert packed.size_bytes < 4000


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_are_stored_in_the_narrowest_type_that_holds_them(dtype):
    values = np.array([1.5, -0.0, np.inf, 0.1], np.float64).astype(dtype).astype(np.float64)
    packed = pack(values)
    assert packed.runs[0].form is FORMS[dtype]
    assert unpack(packed).astype(np.float64).tobytes() == values.tobytes()


@st.composite
def coefficients(draw):
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple))
    axes = tuple(axis for axis in range(len(shape)) if draw(st.booleans()))
    size = int(np.prod(shape))
    keep = draw(st.none() | st.integers(1, size))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = np.rint(rng.laplace(size=keep or size) * draw(st.sampled_from([0.2, 3, 300]))).astype(np.int32)
    if draw(st.booleans()):
        return Coefficients(shape, "float32", axes, keep, None, values.astype(np.float32))
    return Coefficients(shape, "float32", axes, keep, 0.25, values)


@given(coefficients())
def test_every_arrangement_restores_the_coefficients(given_):
    found = restored(arranged(given_))
    assert found.values.astype(given_.values.dtype).tobytes() == given_.values.tobytes()
    assert (found.axes, found.keep, found.step, found.shape) == (
        given_.axes, given_.keep, given_.step, given_.shape,
    )  # fmt: skip


def test_weights_are_the_inverse_transform_of_the_kept_coefficients():
    rng = np.random.default_rng(0)
    integers = rng.integers(-9, 9, 20).astype(np.int32)
    found = weights(Coefficients((4, 6), "float32", (0, 1), 20, 0.5, integers))
    dense = np.zeros(24, np.float32)
    dense[zigzag.prefix((4, 6), 20)] = integers * np.float32(0.5)
    assert np.array_equal(found, dct.inverse(dense.reshape(4, 6), (0, 1)))


def test_a_corner_box_bounds_the_prefix_on_transformed_axes_only():
    assert corner_box((10, 10), (0, 1), 3) == (2, 2)
    assert corner_box((10, 10), (0,), 3) == (2, 10)
