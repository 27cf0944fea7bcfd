"""Exact storage of elements of any type."""

import contextlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frconvert.coding import lossless
from frconvert.dtypes import DTYPE_NAMES, ITEM_BYTES, numpy_dtype
from frconvert.errors import DamagedError


def round_trip(values, dtype):
    payload = lossless.encode(values, dtype)
    back = lossless.decode(payload, dtype, values.size)
    assert back.dtype == numpy_dtype(dtype)
    assert back.tobytes() == values.tobytes()
    return payload


def elements(dtype, data):
    if dtype == "bool":
        return np.frombuffer(bytes(byte & 1 for byte in data), bool)
    usable = len(data) // ITEM_BYTES[dtype] * ITEM_BYTES[dtype]
    return np.frombuffer(data[:usable], numpy_dtype(dtype))


@settings(max_examples=200, deadline=None)
@given(dtype=st.sampled_from(DTYPE_NAMES), data=st.binary(max_size=400))
def test_any_bytes_of_any_type_come_back(dtype, data):
    round_trip(elements(dtype, data), dtype)


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_many_elements_of_every_type_come_back(dtype):
    data = np.random.default_rng(0).standard_normal(20_000).astype(np.float32).tobytes()
    round_trip(elements(dtype, data), dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_payloads_of_nan_signs_of_zero_and_subnormals_survive(dtype):
    width = ITEM_BYTES[dtype]
    top = [0x7FFF, 0x7FA5, 0xFFC1, 0x8000, 0x0000, 0x0001, 0x7F80, 0xFF80, 0x7C00]
    words = np.array([word << (8 * width - 16) | number for number, word in enumerate(top)], f"<u{width}")
    round_trip(words.view(numpy_dtype(dtype)), dtype)


def test_nothing_is_no_bytes():
    assert lossless.encode(np.empty(0, np.float32), "float32") == b""
    assert lossless.decode(b"", "float32", 0).size == 0
    with pytest.raises(DamagedError, match="after the last piece"):
        lossless.decode(b"\0", "float32", 0)


def gaussian(count, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(count).astype(dtype)


def bits_an_element(values, dtype):
    return len(round_trip(values, dtype)) * 8 / values.size


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, 2.0, np.nan, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_constant_takes_a_dozen_bytes_however_long(value, dtype):
    assert len(round_trip(np.full(10_000, value, dtype), dtype)) <= 12


def test_an_arithmetic_progression_takes_a_dozen_bytes():
    for values in (np.arange(512), np.arange(7, 10**6, 1000), np.arange(100)[::-1] * -3):
        assert len(round_trip(values.astype(np.int64), "int64")) <= 12


@pytest.mark.parametrize("value", [0, 12345, -1, 2**62, -(2**63)])
def test_a_lone_counter_takes_little_more_than_its_digits(value):
    size = len(round_trip(np.array([value], np.int64), "int64"))
    assert size <= (value + (value < 0)).bit_length() // 8 + 5


def test_a_few_dozen_values_are_never_much_larger_than_they_were():
    for count in (1, 2, 5, 30, 60, 200):
        for dtype in ("float32", "float64", "float16"):
            values = gaussian(count, dtype)
            assert len(round_trip(values, dtype)) <= values.nbytes + 1
    assert len(round_trip(gaussian(60), "float32")) < 0.95 * 60 * 4


# Entropy of exponents and two bits of the mantissa is 4.46 bits for a Gaussian; the rest is noise.
@pytest.mark.parametrize(
    ("dtype", "most"), [("float32", 26.6), ("float64", 55.6), ("float16", 13.6), ("bfloat16", 10.6)]
)
def test_gaussian_weights_take_their_entropy(dtype, most):
    assert bits_an_element(gaussian(100_000).astype(numpy_dtype(dtype)), dtype) < most


def test_noise_grows_by_a_byte():
    noise = np.random.default_rng(0).integers(0, 256, 40_000).astype(np.uint8)
    for dtype in ("uint32", "float64", "uint8"):
        assert len(round_trip(noise.view(dtype), dtype)) <= noise.nbytes + 1


def test_values_of_a_narrower_type_cost_what_they_cost_in_it():
    narrow = gaussian(100_000, np.float16)
    assert bits_an_element(narrow.astype(np.float32), "float32") < 13.6
    assert bits_an_element(gaussian(100_000).astype(np.float64), "float64") < 26.6


def test_a_run_of_coarser_values_is_found_in_the_middle():
    values = gaussian(100_000)
    fine = len(round_trip(values, "float32"))
    values[20_000:60_000] = values[20_000:60_000].astype(np.float16)
    assert len(round_trip(values, "float32")) < fine - 40_000 * 13 / 8 + 1000


def test_values_on_a_fixed_grid_cost_less_the_smaller_they_are():
    values = gaussian(200_000)
    on_grid = (np.round(values * 2**25) / 2**25).astype(np.float32)
    # A value below 1/2 has one zero at its end, below 1/4 two, and so on: 0.44 bits in the mean.
    assert bits_an_element(on_grid, "float32") < bits_an_element(values, "float32") - 0.3


def test_neighbours_of_like_size_help():
    steps = np.repeat(2.0 ** np.random.default_rng(0).integers(-8, 8, 2000), 100).astype(np.float32)
    rough = gaussian(200_000)
    shuffled = np.random.default_rng(1).permutation(steps)
    assert bits_an_element(rough * steps, "float32") < bits_an_element(rough * shuffled, "float32") - 1


def test_a_zero_costs_its_place_and_at_most_its_sign():
    values = gaussian(100_000)
    keep = np.random.default_rng(1).random(100_000) < 0.2
    place = 0.73  # entropy of "kept or not"
    assert bits_an_element(np.where(keep, values, np.float32(0)), "float32") < 0.2 * 26.6 + place + 0.1
    assert bits_an_element(values * keep.astype(np.float32), "float32") < 0.2 * 26.6 + place + 0.8 + 0.1


def test_zeros_among_subnormals_need_no_escape():
    words = np.random.default_rng(0).integers(0, 4000, 5000).astype(np.uint16)
    words[::3] = 0
    round_trip(words.view(np.float16), "float16")
    round_trip(words.astype(np.uint32).view(np.float32), "float32")


def test_few_distinct_values_cost_their_indices():
    levels = gaussian(16)
    values = levels[np.random.default_rng(0).integers(0, 16, 50_000)]
    assert bits_an_element(values, "float32") < 4.1
    many = gaussian(1000)[np.random.default_rng(0).integers(0, 1000, 50_000)]
    assert bits_an_element(many, "float32") < 10.9


def test_a_tensor_with_infinities_and_outliers_costs_no_more_for_the_others():
    values = gaussian(100_000)
    plain = len(round_trip(values, "float32"))
    values[::9999] = np.inf
    values[5::9999] = 1e30
    values[6::9999] = 1e-40
    assert len(round_trip(values, "float32")) < plain + 400


def test_small_counters_in_wide_integers_cost_about_their_information():
    counters = np.random.default_rng(0).integers(0, 16, 10_000)
    assert len(round_trip(counters.astype(np.int64), "int64")) < 5200
    counters[::1000] = -(10**15)
    assert len(round_trip(counters.astype(np.int64), "int64")) < 5800
    counters[7::1000] = 10**18
    assert len(round_trip(counters.astype(np.int64), "int64")) < 6000


def test_quantised_weights_cost_their_entropy():
    values = np.round(gaussian(50_000) * 20).clip(-128, 127).astype(np.int8)
    assert bits_an_element(values, "int8") < 6.5
    assert bits_an_element((values.astype(np.int16) + 128).astype(np.uint8), "uint8") < 6.5


def test_quantised_weights_gain_from_neighbours_of_like_size():
    scale = np.repeat(2.0 ** np.random.default_rng(1).uniform(1, 6, 200), 400)
    values = np.round(gaussian(80_000) * scale).clip(-128, 127).astype(np.int8)
    shuffled = np.random.default_rng(2).permutation(values)
    assert bits_an_element(values, "int8") < bits_an_element(shuffled, "int8") - 0.2
    shifted = values.view(np.uint8) + np.uint8(128)
    assert abs(bits_an_element(shifted, "uint8") - bits_an_element(values, "int8")) < 0.05


def test_pieces_follow_one_another(monkeypatch):
    monkeypatch.setattr(lossless, "PIECE_WORDS", 1000)
    for count in (1000, 1001, 3500):
        round_trip(gaussian(count), "float32")
        round_trip(gaussian(count, np.complex64), "complex64")


def test_the_same_values_give_the_same_bytes_wherever_they_lie():
    values = gaussian(60_000)
    assert lossless.encode(np.repeat(values, 2)[::2], "float32") == lossless.encode(values, "float32")


def test_bytes_do_not_depend_on_what_the_processor_can_do(tmp_path):
    script = (
        "import sys, hashlib, numpy as np\n"
        "from frconvert.coding import lossless\n"
        "data = np.load(sys.argv[1])\n"
        "for values in data.values():\n"
        "    print(hashlib.sha256(lossless.encode(values, values.dtype.name)).hexdigest())\n"
    )
    path = tmp_path / "data.npz"
    np.savez(path, *(values for values, _ in varied()), gaussian(300_000))
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    able = " ".join(name for name in __cpu_dispatch__ if __cpu_features__.get(name))
    if not able:
        pytest.skip("numpy has nothing to switch off on this processor")
    printed = [
        subprocess.run(
            [sys.executable, "-c", script, path],
            env=os.environ | extra,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for extra in ({}, {"NPY_DISABLE_CPU_FEATURES": able})
    ]
    assert printed[0] == printed[1]
    assert len(printed[0].split()) == 10


@pytest.mark.parametrize("dtype", ["float32", "int16", "bool", "complex64"])
def test_every_truncation_is_noticed(dtype):
    values = elements(dtype, gaussian(300).tobytes())
    payload = lossless.encode(values, dtype)
    for length in [*range(5), *range(5, len(payload), 29), len(payload) - 1]:
        with pytest.raises(DamagedError):
            lossless.decode(payload[:length], dtype, values.size)
    with pytest.raises(DamagedError):
        lossless.decode(payload + b"\0", dtype, values.size)


def varied():
    """Sequences that together use every form, nested pieces, runs and a coded low byte."""
    grid = (np.round(gaussian(20_000) * 2**24) / 2**24).astype(np.float32)
    sparse = gaussian(3000) * (gaussian(3000, seed=1) > 0)
    runs = gaussian(4000)
    runs[1000:3000] = runs[1000:3000].astype(np.float16)
    outliers = np.random.default_rng(0).integers(0, 16, 3000)
    outliers[::100] = 10**12
    return [
        (gaussian(3000), "float32"),
        (grid, "float32"),
        (sparse.astype(np.float32), "float32"),
        (runs, "float32"),
        (gaussian(16)[np.arange(2000) * 7919 % 16], "float32"),
        (outliers.astype(np.int64), "int64"),
        (np.cumsum(outliers % 7).astype(np.int32), "int32"),
        (np.round(gaussian(5000) * np.repeat([5, 20], 2500)).astype(np.int16), "int16"),
        (gaussian(20), "float32"),
    ]


@pytest.mark.parametrize("number", range(9))
def test_a_changed_byte_gives_other_values_or_a_damage_but_never_another_error(number):
    values, dtype = varied()[number]
    payload = bytearray(round_trip(values, dtype))
    rng = np.random.default_rng(number)
    heads = min(60, len(payload))
    for place in [*range(heads), *rng.integers(0, len(payload), 60)]:
        kept = payload[place]
        payload[place] ^= int(rng.integers(1, 256))
        with contextlib.suppress(DamagedError):
            assert lossless.decode(bytes(payload), dtype, values.size).size == values.size
        payload[place] = kept


@pytest.mark.parametrize(
    ("payload", "dtype", "count", "words"),
    [
        (b"\6", "uint8", 1, "unknown form 6"),
        (b"\1\0\0\0", "uint8", 1, "unknown form 1"),  # floats among integers
        (b"\2\11\0\0", "uint8", 1, "shift of 9"),
        (b"\1\40\0\0", "float32", 1, "shift of 32"),
        (b"\12\0\0\0", "uint8", 1, "alphabet of 1"),
        (b"\2\0\5\0\0\0\0\0\0", "uint32", 1, "a word of 5 bytes"),
        (b"\4\0", "uint8", 4, "dictionary of 0"),
        (b"\4\5", "uint8", 4, "dictionary of 5"),
        (b"\4\1\2\0\0\0\2\0\1\3\0", "uint16", 4, "index past the 1 words"),
        (b"\4\1\4\1\2\0\0\0\2\0\0\0", "uint16", 4, "unknown form 4"),  # a dictionary in a dictionary
        (b"\2\4\0\0\1\3\2", "uint8", 2, "does not fit"),
        (b"\2\4\0\0\0", "uint8", 2, "1 bytes expected"),
        (b"\2\4\0\0\2\0\1\1", "uint8", 2, "a run of 0 words"),
        (b"\2\4\0\0\2\3\1\1", "uint8", 2, "a run of 384 words"),
        (b"\2\4\0\0\1\0\204\0\0", "uint8", 2, "low byte is coded where there is none"),
        (b"\2\4\0\0\1\0\3\0\0\3", "uint8", 2, "after the last piece"),
        (b"\2\4\0\0\1\0\1\4", "uint8", 2, "padded with something else"),
        (b"\2\4\0\0\2\1\0\0", "uint8", 128, "more runs than words"),
    ],
)
def test_what_no_encoder_makes_is_refused(payload, dtype, count, words):
    with pytest.raises(DamagedError, match=words):
        lossless.decode(payload, dtype, count)


def test_a_bool_that_is_neither_true_nor_false_is_refused():
    with pytest.raises(DamagedError, match="neither 0 nor 1"):
        lossless.decode(lossless.encode(np.full(5, 2, np.uint8), "uint8"), "bool", 5)


@settings(max_examples=200, deadline=None)
@given(payload=st.binary(max_size=60), dtype=st.sampled_from(DTYPE_NAMES), count=st.integers(0, 5000))
def test_random_bytes_are_values_or_a_damage_but_never_another_error(payload, dtype, count):
    with contextlib.suppress(DamagedError):
        assert lossless.decode(payload, dtype, count).size == count


@pytest.mark.parametrize(
    ("values", "dtype", "name"),
    [
        ([1, 0.5, -0.0], "float64", "float16"),
        ([1, 1e-7, 65504], "float32", "float32"),
        ([0.1], "float64", "float64"),
        ([np.float32(0.1)], "float64", "float32"),
        ([1e6], "float32", "float32"),
        ([1e300], "float64", "float64"),
        ([np.nan, np.inf], "float32", "float16"),
        ([2], "float16", "float16"),
    ],
)
def test_the_narrowest_type_is_the_one_that_loses_nothing(values, dtype, name):
    assert lossless.narrowest(np.array(values, dtype)) == name


def test_a_payload_of_nan_that_would_be_lost_keeps_the_type():
    values = np.array([0x7FC00001], np.uint32).view(np.float32)
    assert lossless.narrowest(values) == "float32"
