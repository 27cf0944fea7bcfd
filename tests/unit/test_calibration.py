"""Calibration data: files, images, functions and random inputs become batches by input name."""

import numpy as np
import pytest

from frconvert.calibration import InputSpec, random_batches, read
from frconvert.errors import DamagedError, UnreadableError, UnsupportedError, UsageError

X = InputSpec("x", (None, 3, 4), "float32")
IDS = InputSpec("ids", ("batch", "length"), "int64", below=100)
RNG = np.random.default_rng(0)


def save(path, **arrays):
    np.savez_compressed(path, **arrays)
    return str(path)


def lengths(batches, name="x"):
    return [len(batch[name]) for batch in batches]


def test_an_archive_is_cut_into_batches_that_together_are_its_arrays_on_every_pass(tmp_path):
    x, ids = RNG.standard_normal((19, 3, 4)), RNG.integers(0, 100, (19, 7))
    batches = read(save(tmp_path / "a.npz", x=x, labels=np.arange(5), ids=ids), [X, IDS])
    for _ in range(2):
        found = list(batches)
        assert [list(batch) for batch in found] == [["x", "ids"]] * 3
        assert lengths(found) == [8, 8, 3]
        assert np.array_equal(np.concatenate([batch["x"] for batch in found]), x.astype(np.float32))
        assert np.array_equal(np.concatenate([batch["ids"] for batch in found]), ids)
        assert {batch["x"].dtype for batch in found} == {np.dtype("float32")}


def test_a_fixed_first_axis_is_the_number_of_samples_in_a_batch_and_what_is_left_over_is_not_used(tmp_path):
    path = save(tmp_path / "a.npz", x=np.zeros((11, 3, 4)))
    assert lengths(read(path, [InputSpec("x", (4, 3, 4), "float32")])) == [4, 4]
    assert lengths(read(path, [X], batch=5)) == [5, 5, 1]
    with pytest.raises(UnreadableError, match="no complete batch"):
        list(read(path, [InputSpec("x", (12, 3, 4), "float32")]))


def test_whole_inputs_single_samples_and_constants_are_told_by_their_axes(tmp_path):
    state, rate = InputSpec("state", (2, 1, 5), "float32"), InputSpec("rate", (), "int64")
    states = RNG.standard_normal((6, 2, 1, 5)).astype(np.float32)
    path = save(tmp_path / "a.npz", x=np.zeros((6, 3, 4)), state=states, rate=np.array(16000))
    found = list(read(path, [X, state, rate]))
    assert lengths(found) == [1] * 6
    assert np.array_equal(np.stack([batch["state"] for batch in found]), states)
    assert [batch["rate"] for batch in found] == [16000] * 6
    assert lengths(read(save(tmp_path / "b.npz", x=np.zeros((3, 4))), [X])) == [1]


def test_arrays_are_found_by_name_by_position_or_because_there_is_but_one(tmp_path):
    np.savez(tmp_path / "position.npz", np.zeros((2, 3, 4)), np.ones((2, 5), int))
    assert [list(batch) for batch in read(str(tmp_path / "position.npz"), [X, IDS])] == [["x", "ids"]]
    assert lengths(read(save(tmp_path / "other.npz", y=np.zeros((2, 3, 4))), [X])) == [2]
    np.save(tmp_path / "single.npy", np.zeros((2, 3, 4)))
    assert lengths(read(str(tmp_path / "single.npy"), [X])) == [2]


def test_without_a_model_arrays_keep_their_names_or_are_numbered(tmp_path):
    np.save(tmp_path / "single.npy", np.zeros((9, 2), np.float64))
    found = list(read(str(tmp_path / "single.npy")))
    assert lengths(found, "0") == [8, 1]
    assert found[0]["0"].dtype == np.float64
    assert [list(batch) for batch in read(save(tmp_path / "a.npz", a=np.zeros(3), b=np.zeros(3)))] == [
        ["a", "b"]
    ]


def test_a_folder_of_arrays_is_one_file_after_the_other(tmp_path):
    for number, count in ((2, 9), (1, 3)):
        np.save(tmp_path / f"{number}.npy", np.full((count, 3, 4), number))
    found = list(read(str(tmp_path), [X]))
    assert lengths(found) == [3, 8, 1]
    assert [batch["x"].flat[0] for batch in found] == [1, 2, 2]


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((None, 3, 8, 6), "float32", (2, 3, 8, 6)),
        ((None, 8, 6, 3), "float32", (2, 8, 6, 3)),
        ((1, 1, 8, 6), "float32", (1, 1, 8, 6)),
        ((None, "c", "h", "w"), "float32", (1, 3, 20, 30)),
        ((8, 6, 3), "uint8", (8, 6, 3)),
    ],
)
def test_images_take_the_shape_and_the_range_that_the_input_asks_for(tmp_path, shape, dtype, expected):
    image = pytest.importorskip("PIL.Image")
    for name, colour in (("a.png", (255, 0, 51)), ("b.jpg", (0, 0, 0))):
        image.new("RGB", (30, 20), colour).save(tmp_path / name)
    batches = list(read(str(tmp_path), [InputSpec("image", shape, dtype)]))
    first = batches[0]["image"]
    assert first.shape == expected
    assert first.dtype == dtype
    assert sum(1 if len(shape) == 3 else len(batch["image"]) for batch in batches) == 2
    top = 255 if dtype == "uint8" else 1
    if 3 in expected:
        colours = first[0] if len(expected) == 4 else first
        colours = colours if colours.shape[-1] == 3 else colours.transpose(1, 2, 0)
        assert colours[2, 2].tolist() == pytest.approx([top, 0, top / 5])


def test_images_are_cut_from_the_middle_and_normalised_if_asked(tmp_path):
    image = pytest.importorskip("PIL.Image")
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 255
    image.fromarray(wide).save(tmp_path / "a.png")
    spec = InputSpec("image", (None, 3, 10, 10), "float32")
    [batch] = read(f"{tmp_path}?mean=0.5&std=0.5,0.25,1", [spec])
    assert [batch["image"][0, channel].mean() for channel in range(3)] == pytest.approx([1, 2, 0.5])
    for options in ("mean=1,2", "std=0", "size=3", "mean=x"):
        with pytest.raises(UsageError, match="images take mean"):
            read(f"{tmp_path}?{options}", [spec])


FUNCTION = """
import numpy as np
def dicts():
    for n in (1, 2):
        yield {"ids": np.ones((n, 5), int), "x": np.zeros((n, 3, 4))}
def tuples():
    return [(np.zeros((1, 3, 4)), np.ones((1, 5), int))]
def single():
    yield np.zeros((2, 3, 4))
def fails():
    yield {"x": np.zeros((2, 3, 4))}
    raise ValueError("no more\\nfiles")
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "calibrating_here.py").write_text(FUNCTION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere"])
    return "calibrating_here"


def test_a_function_yields_dicts_tuples_or_arrays_anew_on_every_pass(user_module):
    batches = read(f"{user_module}:dicts", [X, IDS])
    assert [lengths(batches), lengths(batches)] == [[1, 2]] * 2
    assert [list(batch) for batch in read(f"{user_module}:tuples", [X, IDS])] == [["x", "ids"]]
    assert [list(batch) for batch in read(f"{user_module}:tuples")] == [["0", "1"]]
    assert lengths(read(f"{user_module}:single", [X])) == [2]


def test_what_is_wrong_is_said_in_one_line(tmp_path, user_module):
    np.save(tmp_path / "objects.npy", np.array([{}, 1], object), allow_pickle=True)
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty").mkdir()
    whole = save(tmp_path / "whole.npz", x=RNG.standard_normal((99, 3, 4)))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:500])
    np.save(tmp_path / "fortran.npy", np.asfortranarray(np.zeros((2, 3, 4))))
    cases = [
        ("nothing", UnreadableError, "no such file"),
        ("no.such:function", UsageError, "import failed"),
        (f"{user_module}:nothing", UsageError, "has no nothing"),
        (f"{user_module}:fails", UsageError, "ValueError: no more files"),
        (str(tmp_path / "objects.npy"), UnsupportedError, "Python objects"),
        (str(tmp_path / "text.npz"), UnreadableError, "no NumPy file"),
        (str(tmp_path / "cut.npz"), DamagedError, "broken"),
        (str(tmp_path / "fortran.npy"), UnsupportedError, "Fortran"),
        (str(tmp_path / "empty"), UnreadableError, "no image and no"),
        (save(tmp_path / "a.npz", x=np.zeros((2, 4, 4))), UsageError, r"input is 'x', float32 \[\?, 3, 4\]"),
        (
            save(tmp_path / "b.npz", y=[1.0], z=[1.0]),
            UsageError,
            "no array for the input 'x'; it has 'y'",
        ),
        (save(tmp_path / "c.npz", x=np.zeros((2, 3, 4), complex)), UnsupportedError, "complex"),
    ]
    for source, kind, words in cases:
        with pytest.raises(kind, match=words) as caught:
            list(read(source, [X]))
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="'ids' makes 1 batches, 'x' makes 13"):
        list(read(save(tmp_path / "d.npz", x=np.zeros((99, 3, 4)), ids=np.ones((3, 3), int)), [X, IDS]))
    for ids, words in (([[100]], "up to 99"), ([[0.5]], "this array is float64")):
        with pytest.raises(UsageError, match=words):
            list(read(save(tmp_path / "e.npz", ids=np.array(ids)), [IDS]))
    batches = read(whole, [X])
    assert lengths(batches) == [8] * 12 + [3]
    hurt = bytearray((tmp_path / "whole.npz").read_bytes())
    hurt[len(hurt) // 2] ^= 255
    (tmp_path / "whole.npz").write_bytes(hurt)
    with pytest.raises(DamagedError, match="cannot be read"):
        list(batches)


def test_random_inputs_are_the_same_for_the_same_seed_and_fit_the_model():
    inputs = [
        InputSpec("image", ("batch", 3, None, "w"), "float32"),
        InputSpec("ids", ("batch", "n"), "int64", below=7),
        InputSpec("mask", ("batch", "n"), "int64"),
        InputSpec("flag", (), "bool"),
        InputSpec("bytes", (5000,), "uint8"),
        InputSpec("half", (2, 3), "float16"),
    ]
    first, second = (list(random_batches(inputs, 2, seed=3)) for _ in range(2))
    for one, two in zip(first, second, strict=True):
        assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(first[0]["image"], first[1]["image"])
    batch = first[0]
    assert batch["image"].shape == (1, 3, 64, 64)
    assert batch["ids"].shape == batch["mask"].shape == (1, 16)
    assert all(batch[spec.name].dtype == spec.dtype for spec in inputs)
    assert set(batch["mask"].ravel()) == {1}
    assert batch["ids"].max() < 7
    assert batch["ids"].max() > 1
    assert batch["bytes"].max() > 250
