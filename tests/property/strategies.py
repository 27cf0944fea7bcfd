"""Checkpoints of any kind: every element type, rank 0 to 6, empty axes, special values, odd names, ties."""

from math import prod

import numpy as np
from hypothesis import strategies as st

from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.dtypes import DTYPE_NAMES, is_float, numpy_dtype

names = st.one_of(
    st.sampled_from(["layer.weight", "a/b/c", "", " ", "é", "空間", "🙂.bias", "a\nb", "..", "x" * 300]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
shapes = st.lists(st.integers(0, 5), max_size=6).map(tuple)
non_empty_shapes = st.lists(st.integers(1, 5), max_size=6).map(tuple)
float_dtypes = st.sampled_from(
    [name for name in DTYPE_NAMES if is_float(name) and not name.startswith("float8")]
)


@st.composite
def bit_patterns(draw, dtypes=st.sampled_from(DTYPE_NAMES), shapes=shapes):  # noqa: B008
    """An array of any bits that its type allows: NaN payloads, infinities, subnormals."""
    dtype, shape = numpy_dtype(draw(dtypes)), draw(shapes)
    size = prod(shape) * dtype.itemsize
    seed = draw(st.binary(min_size=1, max_size=40))
    content = np.resize(np.frombuffer(seed, np.uint8), size)
    if draw(st.booleans()):  # not periodic
        content = np.random.default_rng(list(seed)).integers(0, 256, size).astype(np.uint8)
    if dtype.name == "bool":
        content &= 1
    return content.view(dtype).reshape(shape)


@st.composite
def finite_floats(draw, dtypes=float_dtypes, shapes=non_empty_shapes):
    """An array of finite values around one magnitude, smooth or rough, with outliers or without."""
    dtype, shape = numpy_dtype(draw(dtypes)), draw(shapes)
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    values = rng.standard_normal(shape)
    if shape and draw(st.booleans()):
        values = np.cumsum(values, axis=draw(st.integers(0, len(shape) - 1)))
    if draw(st.booleans()):
        values = values**3
    return np.asarray(values * 10.0 ** draw(st.integers(-3, 2)), dtype)


@st.composite
def checkpoints(draw, arrays=bit_patterns()):  # noqa: B008
    """Up to five named arrays, some of them tied, with an attachment and metadata at times."""
    chosen = draw(st.dictionaries(names, arrays, max_size=5))
    entries = [TensorEntry(name, array.shape, array.dtype.name, array.copy) for name, array in chosen.items()]
    named = [entry for entry in entries if entry.name]  # ties to "": see test_search.py
    if named and draw(st.booleans()):
        alias = draw(names.filter(lambda name: name not in chosen))
        first = draw(st.sampled_from(named))
        entries.append(TensorEntry(alias, first.shape, first.dtype, first.read, tied_to=first.name))
    attachments = draw(st.dictionaries(names, st.binary(max_size=100), max_size=2))
    metadata = draw(st.dictionaries(names, names, max_size=2))
    return Checkpoint(tuple(entries), "test", attachments, metadata)
