"""The entropy model. What is frozen here is part of the format: a change breaks every file ever written."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frconvert.coding import models
from frconvert.coding.lanes import TOTAL
from frconvert.coding.models import CLASSES, MAXIMUM_MAGNITUDE, TOKEN_EXTRA_BITS, TOKEN_LOW, TOKENS


def digest(*arrays):
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(np.ascontiguousarray(array).astype("<i8").tobytes())
    return whole.hexdigest()[:32]


FROZEN = {
    "token_low": "d202c6bf25eadb6b3cc429f0b67d660e",
    "token_extra_bits": "86b16ad49a9212cc9199566d902eb63d",
    "pull": "cd858daa3a59d7ce4f1ebf87f85c8a9e",
    "class_of": "57856ceac9112c8502135897f378cbd3",
    "tables_of_96": "e7bfa7c18108b3821172d00f8b1f052c",
    "tables_of_17": "52a4db13ad1c4823f01f13e0ced86a5a",
    "tables_of_2": "e70cfe9a59e05207741c7c89734a3b52",
}


def computed():
    rule = models.adaptation(0)
    return {
        "token_low": digest(TOKEN_LOW),
        "token_extra_bits": digest(TOKEN_EXTRA_BITS),
        "pull": digest(rule.pull),
        "class_of": digest(rule.class_of),
        "tables_of_96": digest(*(models.built_in_table(context, 96) for context in range(CLASSES))),
        "tables_of_17": digest(*(models.built_in_table(context, 17) for context in range(CLASSES))),
        "tables_of_2": digest(*(models.built_in_table(context, 2) for context in range(CLASSES))),
    }


@pytest.mark.parametrize("name", FROZEN)
def test_what_decoders_derive_is_frozen(name):
    assert computed()[name] == FROZEN[name]


def test_the_sizes_of_the_model_are_frozen():
    assert (TOKENS, CLASSES, MAXIMUM_MAGNITUDE, models.DIRECT, TOTAL) == (96, 49, 16_777_215, 16, 4096)


@given(st.lists(st.integers(0, MAXIMUM_MAGNITUDE), min_size=1, max_size=50))
def test_a_token_and_its_extra_bits_hold_the_magnitude(values):
    magnitudes = np.array(values, np.int64)
    tokens = models.tokens_of(magnitudes)
    rest = magnitudes - TOKEN_LOW[tokens]
    assert (rest >= 0).all()
    assert (rest < 1 << TOKEN_EXTRA_BITS[tokens]).all()


def test_tokens_cover_the_magnitudes_without_gap_or_overlap():
    ends = TOKEN_LOW + (1 << TOKEN_EXTRA_BITS)
    np.testing.assert_array_equal(ends[:-1], TOKEN_LOW[1:])
    assert TOKEN_LOW[0] == 0
    assert ends[-1] == MAXIMUM_MAGNITUDE + 1
    assert models.tokens_of(np.array([0, 15, 16, MAXIMUM_MAGNITUDE])).tolist() == [0, 15, 16, 95]


def test_small_magnitudes_are_their_own_token():
    assert models.tokens_of(np.arange(16)).tolist() == list(range(16))


@given(
    st.lists(st.integers(0, 2**32), min_size=2, max_size=256)
    | st.lists(st.sampled_from([0, 1, 2, 10**9]), min_size=2, max_size=256)
)
def test_frequencies_sum_to_4096_and_leave_out_nothing_that_occurs(counts):
    frequencies = models.normalise(np.array(counts))
    assert frequencies.sum() == TOTAL
    assert (frequencies[np.array(counts) > 0] > 0).all()
    assert np.count_nonzero(frequencies) >= 2
    assert frequencies.max() < TOTAL
    assert frequencies.min() >= 0


def test_frequencies_are_near_proportional():
    counts = np.array([1000, 3000, 0, 500, 4500])
    assert models.normalise(counts).tolist() == pytest.approx((counts * TOTAL / 9000).tolist(), abs=3)


@pytest.mark.parametrize("alphabet", [2, 3, 16, 17, 40, 96])
def test_built_in_tables_can_code_every_token_in_every_class(alphabet):
    for context in range(CLASSES):
        table = models.built_in_table(context, alphabet)
        assert table.shape == (alphabet,)
        assert table.sum() == TOTAL
        assert table.min() >= 1


def test_louder_classes_expect_larger_magnitudes():
    means = [(models.built_in_table(context, 96) * TOKEN_LOW).sum() for context in range(CLASSES)]
    assert (np.diff(means[:40]) > 0).all()


def test_classes_rise_with_the_running_mean_by_one_at_a_time():
    class_of = models.adaptation(0).class_of
    assert class_of.shape == (65536,)
    assert set(np.diff(class_of.astype(int))) == {0, 1}
    assert (class_of[0], class_of[-1]) == (0, CLASSES - 1)


def test_pulls_rise_with_the_token_and_stay_16_bits():
    pull = models.adaptation(0).pull
    assert pull.shape == (TOKENS,)
    assert (np.diff(pull) >= 0).all()
    assert pull.min() >= 0
    assert pull.max() <= 65535
