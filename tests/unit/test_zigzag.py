"""Zigzag order against a sort of all positions."""

from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frconvert.spectral import zigzag

shapes = st.lists(st.integers(1, 5), max_size=5).map(tuple)


def sorted_positions(shape):
    """Flat indices sorted by (sum of indices, C-order flat index)."""
    every = list(product(*(range(length) for length in shape)))
    return [flat for _, flat in sorted((sum(index), flat) for flat, index in enumerate(every))]


@settings(max_examples=80, deadline=None)
@given(shape=shapes, data=st.data())
def test_a_prefix_is_the_beginning_of_the_sorted_positions(shape, data):
    keep = data.draw(st.integers(0, prod(shape)))
    chosen = zigzag.prefix(shape, keep)
    assert chosen.dtype == np.int64
    assert chosen.tolist() == sorted_positions(shape)[:keep]


@settings(max_examples=40, deadline=None)
@given(shape=shapes)
def test_rank_is_the_place_in_the_sorted_positions(shape):
    for place, flat in enumerate(sorted_positions(shape)):
        assert zigzag.rank(shape, flat) == place


@settings(max_examples=60, deadline=None)
@given(shape=shapes)
def test_positions_per_sum_counts_the_positions(shape):
    sums = [sum(index) for index in product(*(range(length) for length in shape))]
    assert zigzag.positions_per_sum(shape).tolist() == np.bincount(sums).tolist()


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_a_single_position_is_the_first(shape):
    assert zigzag.prefix(shape, 1).tolist() == [0]
    assert zigzag.prefix(shape, 0).tolist() == []
    assert zigzag.rank(shape, 0) == 0


def test_a_plane_is_walked_along_its_antidiagonals():
    assert zigzag.prefix((3, 3), 9).tolist() == [0, 1, 3, 2, 4, 6, 5, 7, 8]


def test_a_short_prefix_of_a_huge_tensor_costs_only_its_corner():
    shape = (1 << 20, 1 << 20, 1 << 10)  # 2^50 positions: nothing of that size can be made
    chosen = zigzag.prefix(shape, 33)
    coordinates = np.array(np.unravel_index(chosen, shape)).T
    corner = sorted(
        (sum(index), index) for index in product(range(8), repeat=3)
    )  # C order of the corner is that of the whole
    assert [tuple(row) for row in coordinates.tolist()] == [index for _, index in corner[:33]]
    assert zigzag.rank(shape, int(chosen[-1])) == 32


def test_an_axis_shorter_than_the_corner_is_used_up():
    shape = (2, 1000)
    assert zigzag.prefix(shape, 6).tolist() == [0, 1, 1000, 2, 1001, 3]
    assert zigzag.rank(shape, 1001) == 4
