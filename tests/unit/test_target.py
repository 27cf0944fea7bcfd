"""What the user wants."""

import pytest

from frconvert.errors import UsageError
from frconvert.target import DEFAULT_SNR_DB, Target, coarseness_of, make_target, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("1000", 1000), ("4.5kB", 4500), ("4.5KB", 4500), ("2MiB", 2 << 20), ("1GB", 10**9), ("1 GiB", 1 << 30),
     (" 7 B ", 7), (".5kb", 500), ("3.kB", 3000), ("1kib", 1024)],
)  # fmt: skip
def test_sizes_are_read_with_their_units(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "kB", "1.2.3", "-5", "5 m", "1e3", "4,5kB", "5TB", "nan", "1k"])
def test_sizes_that_are_none_are_refused(text):
    with pytest.raises(UsageError, match=r"is not understood; write it like 4\.5kB"):
        parse_size(text)


def test_a_size_beyond_all_numbers_is_refused():
    with pytest.raises(UsageError):
        parse_size("9" * 400)


@pytest.mark.parametrize("kind", ["keep", "bits", "ratio", "size", "snr", "max_error"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), -float("inf")])
def test_a_target_that_is_no_positive_number_is_refused_by_its_option(kind, value):
    with pytest.raises(UsageError, match=f"--{kind.replace('_', '-')} .* out of range; it must be above 0"):
        Target(kind, value)


@pytest.mark.parametrize(("kind", "value"), [("keep", 1.01), ("bits", 65), ("snr", 301)])
def test_a_target_above_what_exists_is_refused(kind, value):
    with pytest.raises(UsageError, match="at most"):
        Target(kind, value)


@pytest.mark.parametrize(("kind", "value"), [("keep", 1.0), ("bits", 64.0), ("snr", 300.0), ("ratio", 1e9)])
def test_the_limits_themselves_are_allowed(kind, value):
    assert Target(kind, value).value == value


def test_one_wish_is_a_target_and_none_is_the_default():
    assert make_target() == Target("default", 0.0)
    assert make_target(lossless=False, snr=None) == Target()
    assert make_target(lossless=True) == Target("lossless")
    assert make_target(snr=30, keep=None) == Target("snr", 30.0)
    assert make_target(size="4.5kB") == make_target(size=4500) == Target("size", 4500.0)


def test_two_wishes_contradict_each_other():
    with pytest.raises(UsageError, match="--max-error and --snr contradict each other; give one target"):
        make_target(max_error=1, snr=30)
    with pytest.raises(UsageError, match="contradict"):
        make_target(lossless=True, keep=0.5)


def test_an_unknown_wish_is_refused():
    with pytest.raises(UsageError, match="unknown target 'quality'"):
        make_target(quality=3)


def test_a_coarseness_makes_the_noise_it_is_named_after():
    assert pytest.approx(10 ** (-DEFAULT_SNR_DB / 10)) == coarseness_of(DEFAULT_SNR_DB) ** 2 / 12


@pytest.mark.parametrize("wish", [{"snr": "abc"}, {"snr": True}, {"size": "many"}])
def test_what_is_no_number_is_refused(wish):
    with pytest.raises(UsageError, match=r"no number|not understood"):
        make_target(**wish)
