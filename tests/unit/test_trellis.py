"""Trellis quantisation: paths, optimality, gain, and independence of how lanes are grouped."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frconvert.coding import trellis

STATE_BITS = sorted(trellis.POLYNOMIALS)


def walk(symbols, state_bits):
    """Quantiser bits of one lane of symbols, by `move` alone."""
    state, bits = 0, []
    for symbol in symbols.tolist():
        bits.append(state & 1)
        state = trellis.move(state, symbol & 1, state_bits)
    return bits


def targets_of(steps, lanes, seed=0, scale=5.0):
    return (np.random.default_rng(seed).standard_normal((steps, lanes)) * scale).astype(np.float32)


@pytest.mark.parametrize("state_bits", STATE_BITS)
def test_every_state_has_two_successors_and_two_predecessors(state_bits):
    moves = trellis.moves(state_bits)
    count = 1 << state_bits
    assert moves.shape == (2 * count,)
    assert np.bincount(moves, minlength=count).tolist() == [2] * count
    assert (moves[0::2] != moves[1::2]).all()
    assert moves.tolist() == [trellis.move(n >> 1, n & 1, state_bits) for n in range(2 * count)]


@pytest.mark.parametrize("state_bits", STATE_BITS)
def test_branches_that_leave_or_enter_a_state_carry_cosets_that_are_2_apart(state_bits):
    entering = {}
    for state, parity in product(range(1 << state_bits), (0, 1)):
        entering.setdefault(trellis.move(state, parity, state_bits), []).append((state & 1) + 2 * parity)
    assert {tuple(sorted(cosets)) for cosets in entering.values()} == {(0, 2), (1, 3)}


@settings(max_examples=60, deadline=None)
@given(
    state_bits=st.sampled_from(STATE_BITS),
    steps=st.integers(1, 40),
    lanes=st.integers(1, 9),
    seed=st.integers(0, 99),
    scale=st.sampled_from([0.01, 1.0, 30.0, 1e5]),
)
def test_walking_the_symbols_gives_the_quantiser_bits_of_the_search(state_bits, steps, lanes, seed, scale):
    symbols, quantisers = trellis.search(targets_of(steps, lanes, seed, scale), state_bits)
    assert (symbols.shape, symbols.dtype) == ((steps, lanes), np.int32)
    for lane in range(lanes):
        assert walk(symbols[:, lane], state_bits) == quantisers[:, lane].tolist()


def every_path(target, state_bits):
    """Least sum of squared distances over all paths of one lane."""
    least = np.inf
    for parities in product((0, 1), repeat=target.size):
        state, total = 0, 0.0
        for value, parity in zip(target.tolist(), parities, strict=True):
            coset = (state & 1) + 2 * parity
            total += (value - (coset + 4 * round((value - coset) / 4))) ** 2
            state = trellis.move(state, parity, state_bits)
        least = min(least, total)
    return least


@settings(max_examples=25, deadline=None)
@given(state_bits=st.sampled_from([3, 4]), steps=st.integers(1, 9), seed=st.integers(0, 999))
def test_no_path_is_better_than_that_of_the_search(state_bits, steps, seed):
    targets = targets_of(steps, 3, seed)
    symbols, quantisers = trellis.search(targets, state_bits)
    found = np.square(2 * symbols + quantisers - targets).sum(axis=0)
    for lane in range(3):
        assert found[lane] == pytest.approx(every_path(targets[:, lane], state_bits), rel=1e-4)


def prices_of(shape, seed):
    """Random price lists, three of them, and values that differ from the targets."""
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal(shape) * 3).astype(np.float32)
    entries = (512 * rng.integers(0, 3, shape)).astype(np.int32)
    return trellis.Prices(values, entries, rng.random(3 * 512).astype(np.float32) * 4)


@settings(max_examples=20, deadline=None)
@given(steps=st.integers(1, 8), seed=st.integers(0, 999), scale=st.sampled_from([2.0, 300.0]))
def test_no_path_is_cheaper_where_symbols_have_prices(steps, seed, scale):
    targets = targets_of(steps, 2, seed, scale)
    prices = prices_of(targets.shape, seed)

    def price(step, lane, integer, half_way):
        symbol = min(max((integer - half_way) // 2, -128), 127)
        listed = prices.prices[prices.entries[step, lane] + symbol + 128 + 256 * half_way]
        return (float(prices.values[step, lane]) - integer) ** 2 + float(listed)

    symbols, quantisers = trellis.search(targets, 3, prices)
    for lane in range(2):
        least = np.inf
        for parities in product((0, 1), repeat=steps):
            state, total = 0, 0.0
            for step, parity in enumerate(parities):
                coset = (state & 1) + 2 * parity
                integer = coset + 4 * round((float(targets[step, lane]) - coset) / 4)
                total += price(step, lane, integer, coset & 1)
                state = trellis.move(state, parity, 3)
            least = min(least, total)
        pairs = zip((2 * symbols + quantisers)[:, lane].tolist(), quantisers[:, lane].tolist(), strict=True)
        cost = sum(price(step, lane, *pair) for step, pair in enumerate(pairs))
        assert cost == pytest.approx(least, rel=1e-4)


@pytest.mark.skipif(trellis.native is None, reason="the compiled twin is not installed")
@settings(max_examples=60, deadline=None)
@given(
    state_bits=st.sampled_from(STATE_BITS),
    steps=st.integers(1, 50),
    lanes=st.integers(1, 40),
    seed=st.integers(0, 99),
    scale=st.sampled_from([0.01, 1.0, 30.0, 2.0**19]),
    priced=st.booleans(),
)
def test_the_compiled_twin_finds_the_same_path(state_bits, steps, lanes, seed, scale, priced):
    targets = np.clip(targets_of(steps, lanes, seed, scale), -(2**20), 2**20)
    targets[seed % steps] = np.rint(targets[seed % steps])  # ties
    prices = prices_of(targets.shape, seed) if priced else None
    compiled = trellis.search(targets, state_bits, prices)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trellis, "native", None)
        plain = trellis.search(targets, state_bits, prices)
    assert (compiled[0] == plain[0]).all()
    assert (compiled[1] == plain[1]).all()


@pytest.mark.parametrize("state_bits", [3, 6])
def test_lanes_do_not_know_of_each_other(state_bits, monkeypatch):
    monkeypatch.setattr(trellis, "native", None)
    targets = targets_of(30, 70)
    symbols, quantisers = trellis.search(targets, state_bits)
    for block in (1, 7, 64, 1000):
        monkeypatch.setattr(trellis, "_BLOCK", block)
        again = trellis.search(targets, state_bits)
        assert (again[0] == symbols).all()
        assert (again[1] == quantisers).all()
    alone = trellis.search(targets[:, 41:42].copy(), state_bits)
    assert (alone[0] == symbols[:, 41:42]).all()


@pytest.mark.parametrize("compiled", [False, True])
def test_prices_of_nothing_change_nothing_in_any_lane(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(trellis, "native", None)
    targets = targets_of(5, 1300)
    free = trellis.Prices(targets, np.zeros(targets.shape, np.int32), np.zeros(512, np.float32))
    symbols, quantisers = trellis.search(targets, 4, free)
    again = trellis.search(targets, 4)
    assert (symbols == again[0]).all()
    assert (quantisers == again[1]).all()


def test_one_value_in_one_lane_is_its_nearest_even_integer():
    for value in (-7.9, -0.6, 0.0, 0.9, 1.1, 1e5):
        symbols, quantisers = trellis.search(np.array([[value]], np.float32), 6)
        assert quantisers.tolist() == [[0]]
        assert abs(2 * int(symbols[0, 0]) - value) <= 1


@pytest.mark.parametrize(("lanes", "steps"), [(0, 5), (3, 0), (0, 0)])
def test_nothing_is_quantised_to_nothing(lanes, steps):
    symbols, quantisers = trellis.search(np.empty((steps, lanes), np.float32), 5)
    assert symbols.shape == quantisers.shape == (steps, lanes)


def test_more_states_mean_less_error_and_64_keep_the_granular_gain():
    targets = targets_of(2048, 32, scale=40)
    errors = []
    for state_bits in STATE_BITS:
        symbols, quantisers = trellis.search(targets, state_bits)
        errors.append(float(np.square(2 * symbols + quantisers - targets).mean()))
    assert errors == sorted(errors, reverse=True)
    # Each quantiser has every second integer: a uniform quantiser of as many bits would err by 2^2 / 12. The
    # gain over it is 1.33 dB for 256 states at most; 1.53 dB is the limit.
    gains = dict(zip(STATE_BITS, 10 * np.log10(4 / 12 / np.array(errors)), strict=True))
    assert gains[3] > 0.8
    assert 1.15 < gains[6] < 1.34


def test_targets_up_to_the_limit_keep_their_nearest_integers():
    targets = np.array([[2.0**20 - 0.4], [-(2.0**20) + 0.3], [12345.2]], np.float32)
    symbols, quantisers = trellis.search(targets, 6)
    assert np.abs(2 * symbols + quantisers - targets).max() <= 2
