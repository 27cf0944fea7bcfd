"""Sequences of signed integers as bytes."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frconvert.coding import integers
from frconvert.coding.models import MAXIMUM_MAGNITUDE
from frconvert.errors import DamagedError


def round_trip(values):
    values = np.asarray(values, np.int32)
    back = integers.decode(integers.encode(values), values.size)
    assert back.dtype == np.int32
    assert back.tolist() == values.tolist()


@settings(deadline=None)
@given(
    st.lists(
        st.integers(-MAXIMUM_MAGNITUDE, MAXIMUM_MAGNITUDE) | st.integers(-40, 40) | st.just(0), max_size=300
    )
)
def test_any_integers_come_back(values):
    round_trip(values)


@settings(max_examples=15, deadline=None)
@given(
    size=st.sampled_from([1, 2, 100, 2048, 4097, 30000]),
    scale=st.floats(0.01, 1e6),
    drift=st.booleans(),
    seed=st.integers(0, 9),
)
def test_quantised_noise_comes_back_whatever_its_scale(size, scale, drift, seed):
    rng = np.random.default_rng(seed)
    values = rng.laplace(scale=scale, size=size)
    if drift:
        values *= np.geomspace(1, 1e-3, size)
    round_trip(np.clip(values.round(), -MAXIMUM_MAGNITUDE, MAXIMUM_MAGNITUDE))


@pytest.mark.parametrize("value", [0, 1, -1, 15, 16, -16, MAXIMUM_MAGNITUDE, -MAXIMUM_MAGNITUDE])
@pytest.mark.parametrize("count", [1, 2, 5000])
def test_a_constant_sequence_comes_back(value, count):
    round_trip(np.full(count, value))


def test_nothing_is_no_bytes():
    assert integers.encode(np.empty(0, np.int32)) == b""
    assert integers.decode(b"", 0).size == 0
    with pytest.raises(DamagedError, match="bytes where no values are"):
        integers.decode(b"\0", 0)


def test_a_thousand_zeros_take_few_bytes():
    assert len(integers.encode(np.zeros(1000, np.int32))) < 20


def test_the_length_is_close_to_the_entropy():
    values = np.random.default_rng(0).laplace(scale=4, size=60_000).round().astype(np.int32)
    _, counts = np.unique(values, return_counts=True)
    entropy_bytes = -(counts * np.log2(counts / values.size)).sum() / 8
    assert len(integers.encode(values)) < 1.02 * entropy_bytes


def test_a_drifting_scale_costs_less_than_the_entropy_of_its_mixture():
    rng = np.random.default_rng(0)
    values = (rng.laplace(size=60_000) * np.geomspace(100, 0.1, 60_000)).round().astype(np.int32)
    _, counts = np.unique(values, return_counts=True)
    entropy_bytes = -(counts * np.log2(counts / values.size)).sum() / 8
    assert len(integers.encode(values)) < 0.9 * entropy_bytes


def test_every_truncation_is_noticed():
    values = np.random.default_rng(0).laplace(scale=30, size=400).round().astype(np.int32)
    payload = integers.encode(values)
    for length in [*range(12), *range(12, len(payload), 9), len(payload) - 1]:
        with pytest.raises(DamagedError):
            integers.decode(payload[:length], values.size)
    with pytest.raises(DamagedError):
        integers.decode(payload + b"\0", values.size)


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_an_altered_byte_gives_other_values_or_a_damage_but_never_another_error(place, flip):
    values = np.random.default_rng(0).laplace(scale=30, size=400).round().astype(np.int32)
    payload = bytearray(integers.encode(values))
    payload[place % len(payload)] ^= flip
    try:
        back = integers.decode(bytes(payload), values.size)
    except DamagedError:
        return
    assert back.size == values.size


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 5000))
def test_random_bytes_are_values_or_a_damage_but_never_another_error(payload, count):
    with contextlib.suppress(DamagedError):
        assert integers.decode(payload, count).size == count
