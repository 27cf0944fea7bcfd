"""Two checkpoints side by side."""

import json
import math

import ml_dtypes
import numpy as np
import pytest

from frconvert.compare import compare


@pytest.fixture
def compared(checkpoint_of):
    def compared(first, second):
        result = compare(checkpoint_of(first), checkpoint_of(second))
        json.dumps(result.to_json(), allow_nan=False)
        return result

    return compared


W = np.random.default_rng(0).standard_normal((8, 9)).astype(np.float32)


def test_equal_checkpoints_are_identical(compared):
    arrays = {"w": W, "b": W[0], "n": np.arange(4), "nan": np.full((2, 2), np.nan), "e": np.zeros((0, 3))}
    result = compared(arrays, arrays)
    assert result.matches
    assert result.sqnr_db == math.inf
    assert result.max_error == 0
    assert result.to_json()["identical"] is True
    assert result.to_json()["sqnr_db"] is None


def test_the_figures_are_those_of_their_definition(compared):
    other = W + np.random.default_rng(1).standard_normal(W.shape).astype(np.float32) / 100
    result = compared({"w": W}, {"w": other})
    gap = W.astype(float) - other
    expected = 10 * np.log10(np.square(W.astype(float)).sum() / np.square(gap).sum())
    assert result.sqnr_db == pytest.approx(expected)
    assert result.tensors[0].sqnr_db == pytest.approx(expected)
    assert result.max_error == pytest.approx(np.abs(gap).max())
    assert result.matches


def test_vectors_count_for_the_error_but_not_for_the_total(compared):
    result = compared({"w": W, "b": W[0]}, {"w": W, "b": W[0] + 1})
    assert result.sqnr_db == math.inf
    assert result.max_error == pytest.approx(1)
    assert result.to_json()["identical"] is False


def test_what_only_one_has_or_has_in_another_shape_is_listed(compared):
    result = compared({"w": W, "a": W, "s": W}, {"s": W.T.copy(), "b": W, "w": W})
    assert (result.only_first, result.only_second, result.other_shape) == (("a",), ("b",), ("s",))
    assert not result.matches
    assert [tensor.name for tensor in result.tensors] == ["w"]


@pytest.mark.parametrize(("index", "value"), [((0, 0), np.nan), ((0, 0), np.inf), ((1, 1), -np.inf)])
def test_a_special_value_that_vanished_is_an_infinite_error(compared, index, value):
    broken = W.copy()
    broken[index] = value
    result = compared({"w": broken}, {"w": W})
    assert result.sqnr_db == -math.inf
    assert result.max_error == math.inf
    assert result.to_json()["max_error"] is None


def test_an_infinity_that_appeared_is_an_infinite_error(compared):
    broken = W.copy()
    broken[0, 0] = np.inf
    result = compared({"w": W}, {"w": broken})
    assert (result.sqnr_db, result.max_error) == (-math.inf, math.inf)


def test_a_nan_that_appeared_is_an_infinite_error(compared):
    broken = W.copy()
    broken[0, 0] = np.nan
    result = compared({"w": W}, {"w": broken})
    assert (result.sqnr_db, result.max_error) == (-math.inf, math.inf)


def test_a_wider_float_of_the_same_values_is_no_difference(compared):
    narrow = W.astype(ml_dtypes.bfloat16)
    result = compared({"w": narrow}, {"w": narrow.astype(np.float32)})
    assert result.sqnr_db == math.inf
    assert result.tensors[0].dtypes == ("bfloat16", "float32")


def test_a_changed_integer_or_bool_is_a_difference(compared):
    result = compared(
        {"n": np.arange(4), "m": np.array([True])}, {"n": np.arange(4) + 1, "m": np.array([False])}
    )
    assert [tensor.max_error for tensor in result.tensors] == [math.inf, math.inf]
    assert not any(tensor.to_json()["identical"] for tensor in result.tensors)


def test_a_wider_integer_of_the_same_values_is_no_difference(compared):
    assert compared({"n": np.arange(4)}, {"n": np.arange(4).astype(np.int32)}).max_error == 0


def test_imaginary_parts_are_a_difference(compared):
    result = compared({"w": np.ones((2, 2))}, {"w": np.ones((2, 2)) + 1j})
    assert not result.to_json()["identical"]


def test_only_one_pair_is_read_at_a_time(checkpoint_of):
    alive = []

    class Array(np.ndarray):
        pass

    checkpoints = [checkpoint_of({f"w{n}": np.ones((50, 50)) for n in range(5)}) for _ in range(2)]
    for checkpoint in checkpoints:
        for entry in checkpoint:
            object.__setattr__(entry, "read", lambda name=entry.name: alive.append(name) or np.ones((50, 50)))
    compare(*checkpoints)
    assert alive == [f"w{n}" for n in range(5) for _ in range(2)]


def test_energy_of_large_tensors_is_summed_in_blocks(compared):
    first = np.ones((1500, 1500), np.float16)
    second = first.copy()
    second[-1, -1] = 2
    result = compared({"w": first}, {"w": second})
    assert result.sqnr_db == pytest.approx(10 * np.log10(1500 * 1500))
    assert result.max_error == 1
