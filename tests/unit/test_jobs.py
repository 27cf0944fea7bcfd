"""Threads change nothing but the time."""

import threading

import numpy as np
import pytest

import frconvert
from frconvert.coding import segments
from frconvert.parallel import begin, ordered_map, shared_map


@pytest.mark.parametrize(
    "target",
    [{}, {"lossless": True}, {"keep": 0.1}, {"ratio": 8.0}, {"snr": 25.0}, {"max_error": 0.01}],
    ids=str,
)
def test_the_bytes_and_the_figures_do_not_depend_on_jobs(tmp_path, checkpoint_of, model, target):
    checkpoint = checkpoint_of(model, {"tied": "layer4.weight"})
    summaries = [frconvert.save(checkpoint, tmp_path / f"{jobs}.frq", jobs=jobs, **target) for jobs in (1, 3)]
    assert (tmp_path / "1.frq").read_bytes() == (tmp_path / "3.frq").read_bytes()
    assert summaries[0].tensors == summaries[1].tensors


def test_one_tensor_of_many_segments_is_the_same_by_any_number_of_jobs(tmp_path, checkpoint_of, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT", 5000)
    weights = np.random.default_rng(0).standard_t(3, (300, 250)).astype(np.float32)
    weights[7, 9] = 1e4  # an escaped symbol
    for jobs in (1, 3):
        frconvert.save(checkpoint_of({"w": weights}), tmp_path / f"{jobs}.frq", jobs=jobs, snr=30)
    assert (tmp_path / "1.frq").read_bytes() == (tmp_path / "3.frq").read_bytes()


def test_the_same_input_gives_the_same_bytes_twice(tmp_path, checkpoint_of, model):
    for name in ("a", "b"):
        frconvert.save(checkpoint_of(model), tmp_path / f"{name}.frq", ratio=9)
    assert (tmp_path / "a.frq").read_bytes() == (tmp_path / "b.frq").read_bytes()


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(jobs):
    release = threading.Event()

    def work(item):
        if item == 0 and jobs > 1:
            release.wait(5)
        elif item == 1:
            release.set()
        return item * item

    assert list(ordered_map(work, range(20), jobs)) == [item * item for item in range(20)]


def test_no_more_than_eight_items_are_taken_for_each_thread():
    taken = []

    def items():
        for item in range(50):
            taken.append(item)
            yield item

    for count, _ in enumerate(ordered_map(lambda item: item, items(), 3), 1):
        assert len(taken) <= count + 8 * 3


def test_the_largest_of_the_first_items_are_begun_first():
    begun = []
    together = threading.Barrier(2)

    def work(item):
        begun.append(item)
        if item in (8, 9):
            together.wait(5)  # neither thread takes a third item before both have one
        return item

    assert list(ordered_map(work, range(10), 2, lambda item: item)) == list(range(10))
    assert set(begun[:2]) == {8, 9}


def test_what_is_begun_gives_its_result_or_raises_its_error():
    def fail():
        raise ValueError("no")

    assert begin(lambda: 5)() == 5
    with pytest.raises(ValueError, match="no"):
        begin(fail)()


@pytest.mark.parametrize("jobs", [1, 3])
def test_an_error_of_one_item_is_raised_and_the_rest_is_dropped(jobs):
    done = []

    def work(item):
        if item == 2:
            raise ValueError("two")
        done.append(item)
        return item

    with pytest.raises(ValueError, match="two"):
        list(ordered_map(work, range(1000), jobs))
    assert len(done) < 20


@pytest.mark.parametrize("jobs", [1, 3])
def test_an_error_while_reading_leaves_nothing_behind(tmp_path, jobs):
    def fail():
        raise frconvert.FrqError("layer7 cannot be read")

    entries = [
        frconvert.TensorEntry(
            f"layer{n}", (4, 4), "float32", fail if n == 7 else lambda: np.ones((4, 4), "f4")
        )
        for n in range(10)
    ]
    with pytest.raises(frconvert.FrqError, match="layer7"):
        frconvert.save(frconvert.Checkpoint(tuple(entries), "test"), tmp_path / "x.frq", jobs=jobs)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told_of_every_stage_and_of_every_attempt_up_to_its_end(tmp_path, checkpoint_of, model):
    calls = []
    frconvert.save(
        checkpoint_of(model), tmp_path / "x.frq", jobs=2, progress=lambda *facts: calls.append(facts)
    )
    total = sum(array.nbytes for array in model.values())
    for stage in ("surveying", "encoding"):
        attempts = [[]]
        for done, whole in [facts[1:] for facts in calls if facts[0] == stage]:
            attempts[-1].append(done)
            if done == whole:
                attempts.append([])
        assert attempts.pop() == []  # the last one has come to its end
        assert len(attempts) == 1 or stage == "encoding"
        for attempt in attempts:
            assert attempt == sorted(set(attempt))
            assert 0 < attempt[-1] <= total


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_parts_of_items_come_in_order_whichever_thread_did_them(jobs):
    def work(item):
        return shared_map(lambda part: (part, item), range(7))

    expected = [[(part, item) for part in range(7)] for item in range(9)]
    assert list(ordered_map(work, range(9), jobs)) == expected


def test_an_idle_thread_takes_parts_of_the_only_item():
    begun = threading.Barrier(2)  # passed only by two threads at once

    def work(_):
        return shared_map(lambda part: begun.wait(10) >= 0, range(2))

    assert list(ordered_map(work, [0], 2)) == [[True, True]]


@pytest.mark.parametrize("jobs", [1, 3])
def test_an_error_of_a_part_is_raised(jobs):
    def part(number):
        if number == 2:
            raise ValueError("this one")
        return number

    with pytest.raises(ValueError, match="this one"):
        list(ordered_map(lambda _: shared_map(part, range(5)), [0], jobs))
