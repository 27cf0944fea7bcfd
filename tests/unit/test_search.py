"""Targets: what was asked for holds for what is read back."""

import contextlib
import io
from itertools import product

import ml_dtypes
import numpy as np
import pytest
import torch
from scipy import fft

import frconvert
from frconvert import allocate, encode, search, surveys
from frconvert.allocate import kept_count
from frconvert.coding.quantize import storable_step
from frconvert.errors import TargetError, UsageError
from frconvert.target import Target

TARGETS = [
    {}, {"lossless": True}, {"keep": 0.05}, {"bits": 4.0}, {"ratio": 6.0}, {"size": 3500}, {"snr": 25.0},
    {"max_error": 0.01},
]  # fmt: skip
DTYPES = ["float32", "float64", "float16", "bfloat16"]


def is_weight(array):
    return array.ndim >= 2


def sqnr_db(first, second):
    """Over the float tensors of two or more axes, independently of the package."""
    energy = error = 0.0
    for name, array in first.items():
        if is_weight(array):
            a, b = array.astype(np.float64), second[name].astype(np.float64)
            energy += float((a * a).sum())
            error += float(((a - b) ** 2).sum())
    return 10 * np.log10(energy / error) if error else np.inf


@pytest.fixture
def save(tmp_path, checkpoint_of):
    """Saves arrays with a target; gives the summary and what is read back."""

    def save(arrays, **target):
        path = tmp_path / "out.frq"
        checkpoint = arrays if isinstance(arrays, frconvert.Checkpoint) else checkpoint_of(arrays)
        summary = frconvert.save(checkpoint, path, overwrite=True, **target)
        assert summary.destination_bytes == path.stat().st_size
        assert [item.name for item in path.parent.iterdir()] == ["out.frq"]
        return summary, frconvert.load(path).numpy()

    return save


@pytest.mark.parametrize("importance", ["tensor", "mse"])
@pytest.mark.parametrize("ratio", [4.0, 12.0, 40.0])
def test_a_ratio_is_reached_and_hardly_exceeded(save, model, ratio, importance):
    summary, _ = save(model, ratio=ratio, importance=importance)
    source = sum(array.nbytes for array in model.values())
    assert ratio <= source / summary.destination_bytes <= 1.02 * ratio
    assert summary.ratio == pytest.approx(source / summary.destination_bytes, abs=1e-4)


@pytest.mark.parametrize("size", [15_000, 100_000, 400_000])
def test_a_size_is_never_exceeded_and_nearly_used(save, model, size):
    summary, _ = save(model, size=size)
    assert 0.98 * size <= summary.destination_bytes <= size


@pytest.mark.parametrize("bits", [0.5, 3.0, 8.0])
def test_bits_per_weight_are_never_exceeded_and_nearly_used(save, model, bits):
    summary, _ = save(model, bits=bits)
    parameters = sum(array.size for array in model.values())
    assert 0.98 * bits <= 8 * summary.destination_bytes / parameters <= bits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("snr", [15.0, 33.3, 55.0])
def test_an_snr_holds_for_what_is_read_back(save, model_of, dtype, snr):
    arrays = model_of(dtype)
    summary, back = save(arrays, snr=snr)
    reached = sqnr_db(arrays, back)
    assert reached >= snr
    assert summary.sqnr_db == pytest.approx(reached, abs=1e-6)
    if not (dtype == "bfloat16" and snr > 50):  # where its own rounding is the limit
        assert reached <= snr + 0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("limit", [0.05, 1e-3, 1e-6])
def test_a_maximum_error_holds_for_what_is_read_back(save, model_of, dtype, limit):
    arrays = model_of(dtype)
    _, back = save(arrays, max_error=limit)
    for name, array in arrays.items():
        assert np.abs(array.astype(float) - back[name].astype(float)).max() <= limit
        if not is_weight(array):
            assert back[name].tobytes() == array.tobytes()


def test_a_maximum_error_is_made_use_of(save, model):
    summary, _ = save(model, max_error=0.05)
    finer, _ = save(model, max_error=0.005)
    assert summary.ratio > 1.5 * finer.ratio > 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_a_target_the_whole_keeps_36_db_and_every_tensor_about_30(save, model_of, dtype):
    arrays = model_of(dtype)
    summary, back = save(arrays)
    assert 36 <= sqnr_db(arrays, back) < 38
    for name in arrays:
        assert sqnr_db({name: arrays[name]}, back) > 29.5
    assert summary.sqnr_db == pytest.approx(sqnr_db(arrays, back), abs=1e-6)
    for name, array in arrays.items():
        if not is_weight(array):
            gap = np.abs(array.astype(float) - back[name].astype(float))
            assert (gap <= np.abs(array.astype(float)) / 256).all()
            assert gap.any() == (dtype in ("float32", "float64"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_lossless_is_every_bit(save, model_of, dtype):
    arrays = model_of(dtype)
    summary, back = save(arrays, lossless=True)
    assert {name: array.tobytes() for name, array in back.items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }
    assert summary.sqnr_db == np.inf
    assert summary.ratio > 1.1


def zigzag_order(shape):
    every = product(*(range(length) for length in shape))
    return [flat for _, flat in sorted((sum(index), flat) for flat, index in enumerate(every))]


def test_keep_keeps_the_first_percent_of_the_zigzag_order_of_a_pytorch_model(tmp_path):
    torch.manual_seed(0)
    state = {
        "conv.weight": torch.randn(16, 8, 3, 3).cumsum(-1),
        "fc.weight": torch.randn(40, 60),
        "conv.bias": torch.randn(16),
    }
    torch.save(state, tmp_path / "model.pt")
    summary = frconvert.convert(tmp_path / "model.pt", tmp_path / "model.frq", keep=0.01)
    frconvert.convert(tmp_path / "model.frq", tmp_path / "again.pt")
    again = torch.load(tmp_path / "again.pt", weights_only=True)
    assert list(again) == list(state)
    for name in ("conv.weight", "fc.weight"):
        (facts,) = [tensor for tensor in summary.tensors if tensor.name == name]
        original = fft.dctn(state[name].double().numpy(), norm="ortho").reshape(-1)
        restored = fft.dctn(again[name].double().numpy(), norm="ortho").reshape(-1)
        kept = zigzag_order(state[name].shape)[: kept_count(0.01, original.size)]
        assert facts.keep == len(kept) == round(original.size / 100)
        assert facts.axes == tuple(range(state[name].ndim))
        assert np.abs(np.delete(restored, kept)).max() < 1e-5
        assert np.abs(restored[kept] - original[kept]).max() <= facts.step / 2 + 1e-5
        assert np.abs(restored[kept]).max() > 0.1


def special_arrays():
    rng = np.random.default_rng(5)
    broken = rng.standard_normal((40, 30)).astype(np.float32)
    broken[1, 2], broken[3, 4], broken[5, 6] = np.nan, np.inf, -np.inf
    payload = np.full((2, 2), 0x7FE12345, np.uint32).view(np.float32)
    return {
        "plain": rng.standard_normal((40, 30)).astype(np.float32),
        "broken": broken,
        "payload": payload,
        "zeros": np.zeros((5, 5), np.float64),
        "scalar": np.array(3.25, np.float32),
        "nan scalar": np.array(np.nan, np.float64),
        "empty": np.zeros((3, 0, 2), np.float32),
        "integers": rng.integers(-(2**62), 2**62, (6, 6)),
        "bytes": rng.integers(0, 256, (7, 3)).astype(np.uint8),
        "mask": rng.random((9, 9)) < 0.5,
        "complex": (rng.standard_normal((4, 4)) + 1j).astype(np.complex64),
        "half": rng.standard_normal((12, 12)).astype(np.float16),
        "fp8": rng.standard_normal((12, 12)).astype(ml_dtypes.float8_e4m3fn),
    }


UNTOUCHED = ["broken", "payload", "zeros", "empty", "integers", "bytes", "mask", "complex"]


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_everything_that_is_no_finite_weight_survives_every_target(save, target):
    arrays = special_arrays()
    if "size" in target or "ratio" in target or "bits" in target:
        target = {"size": 12_000}
    _, back = save(arrays, **target)
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert (back[name].shape, back[name].dtype) == (array.shape, array.dtype), name
        if name in UNTOUCHED:
            assert back[name].tobytes() == array.tobytes(), name
        elif name != "nan scalar":
            assert np.isfinite(back[name].astype(np.float64)).all(), name
    assert np.isnan(back["nan scalar"])
    assert back["scalar"] == 3.25


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_tied_tensors_come_back_tied(save, checkpoint_of, tmp_path, target):
    array = np.random.default_rng(0).standard_normal((60, 50)).astype(np.float32)
    checkpoint = checkpoint_of({"in": array, "b": array[0]}, ties={"out": "in"})
    _, back = save(checkpoint, **target)
    assert back["out"] is back["in"]
    assert frconvert.load(tmp_path / "out.frq")["out"].tied_to == "in"


@pytest.mark.parametrize("target", [{"size": 60}, {"ratio": 1e6}, {"bits": 1e-4}], ids=str)
def test_a_size_that_cannot_be_reached_is_an_error_that_says_what_can(tmp_path, checkpoint_of, model, target):
    with pytest.raises(TargetError, match=r"cannot be made \d+ bytes; the smallest is \d+") as caught:
        frconvert.save(checkpoint_of(model), tmp_path / "out.frq", **target)
    assert caught.value.exit_status == 1
    assert list(tmp_path.iterdir()) == []


def test_a_ratio_below_that_of_lossless_storage_is_met_losslessly(save, model):
    summary, _ = save(model, ratio=0.5)
    assert summary.sqnr_db == np.inf


@pytest.mark.parametrize("snr", [150.0, 300.0])
def test_an_snr_beyond_the_dtype_is_met_by_exact_storage(save, model, snr):
    summary, back = save(model, snr=snr)
    assert summary.sqnr_db >= snr
    assert sqnr_db(model, back) >= snr
    for tensor in summary.tensors:
        assert tensor.method != "trellis"
        assert tensor.sqnr_db > snr - 12


def test_a_tensor_is_not_destroyed_where_another_one_of_more_energy_is_exact(save):
    model = {"loud": np.full((1, 1), 12.57, np.float16), "quiet": np.array([[0.126, -0.132]], np.float16)}
    summary, _ = save(model)
    assert min(tensor.sqnr_db for tensor in summary.tensors) > 36 - 10


def test_included_tensors_only_are_quantised_and_excluded_ones_are_exact(save, model):
    for options in ({"include": ["layer[01].*"]}, {"exclude": ["layer[234].*"]}):
        summary, back = save(model, snr=20, **options)
        for tensor in summary.tensors:
            exact = back[tensor.name].tobytes() == model[tensor.name].tobytes()
            assert exact == (tensor.name[5] in "234")
    _, back = save(model, include=["*.weight"], exclude=["layer0.*"])
    assert [n for n in model if back[n].tobytes() != model[n].tobytes()] == [
        f"layer{n}.weight" for n in (1, 2, 3, 4)
    ]


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_glob_that_matches_nothing_is_an_error(save, model, option):
    with pytest.raises(UsageError, match=r"pattern 'layer9\.\*' matches no tensor of the 10"):
        save(model, **{option: ["*.weight", "layer9.*"]})


def test_importance_decides_who_bears_the_error(save):
    rng = np.random.default_rng(0)
    arrays = {
        "loud": rng.standard_normal((100, 100)).astype(np.float32),
        "quiet": (rng.standard_normal((100, 100)) / 100).astype(np.float32),
    }
    equal, _ = save(arrays, snr=30, importance="tensor")
    assert [t.sqnr_db for t in equal.tensors] == pytest.approx([30, 30], abs=1)
    total, _ = save(arrays, snr=30, importance="mse")
    assert 20 < total.tensors[1].sqnr_db < 29  # quiet ones bear more, and are not destroyed
    assert total.destination_bytes < equal.destination_bytes


def test_a_frq_without_a_target_is_copied_as_it_is_stored(tmp_path, checkpoint_of, model):
    first, second = tmp_path / "a.frq", tmp_path / "b.frq"
    source = checkpoint_of(model, {"tied": "layer3.weight"}, {"a": b"blob"}, {"k": "v"})
    frconvert.save(source, first, bits=3)
    summary = frconvert.convert(first, second)
    assert second.read_bytes() == first.read_bytes()
    assert {tensor.method for tensor in summary.tensors} == {"copied"}


def test_attachments_and_metadata_travel(tmp_path, checkpoint_of, model):
    path = tmp_path / "out.frq"
    frconvert.save(checkpoint_of(model, None, {"a/b": b"\0\1" * 99}, {"k": "é"}), path)
    again = frconvert.load(path)
    assert again.attachments == {"a/b": b"\0\1" * 99}
    assert again.metadata == {"k": "é"}


def test_a_checkpoint_without_tensors_passes(save):
    summary, back = save({})
    assert (back, summary.parameters, summary.ratio) == ({}, 0, 0.0)


def test_what_loses_most_of_its_energy_is_told(save):
    summary, _ = save({"w": np.random.default_rng(0).standard_normal((50, 50)).astype(np.float32)}, keep=0.01)
    assert summary.notices == ("1 tensor keeps less than half of the energy: w",)


@pytest.mark.parametrize("importance", ["mse", "tensor"])
def test_no_tensor_falls_much_more_than_6_db_below_the_total(save, importance):
    rng = np.random.default_rng(0)
    arrays = {f"quiet{n}": rng.standard_normal((60, 60)).astype(np.float32) / 100 for n in range(9)}
    arrays["loud"] = rng.standard_normal((60, 60)).astype(np.float32)
    summary, _ = save(arrays, snr=30, importance=importance)
    assert min(tensor.sqnr_db for tensor in summary.tensors) > summary.sqnr_db - 6.5


def test_a_tensor_may_be_tied_to_one_of_empty_name(save, checkpoint_of):
    array = np.ones((3, 3), np.float32)
    _, back = save(checkpoint_of({"": array}, ties={"tied": ""}), lossless=True)
    assert back["tied"].tobytes() == array.tobytes()


@pytest.mark.parametrize("target", [{"size": 1000}, {"ratio": 2.0}, {"bits": 2.0}], ids=str)
def test_a_checkpoint_without_tensors_has_an_answer_to_a_size(save, target):
    with contextlib.suppress(TargetError):
        save({}, **target)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.full((2, 2), 0x7FA12345, np.uint32).view(np.float32), id="signalling NaN"),
        pytest.param(np.full((2, 2), 1e200), id="squares beyond float64"),
    ],
)
def test_measuring_what_was_lost_makes_no_warning(save, values):
    _, back = save({"w": values}, lossless=True)
    assert back["w"].tobytes() == values.tobytes()


def clipped_noise(dtype, shape=(64, 64)):
    """Noise scaled so that its loudest values are the largest of the dtype, as float8 weights are."""
    dtype = np.dtype(dtype)
    largest = float(ml_dtypes.finfo(dtype).max)
    values = np.random.default_rng(0).standard_normal(shape)
    return np.clip(values / np.abs(values).max() * largest * 1.3, -largest, largest).astype(dtype)


FLOAT8 = ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("float8_e4m3fn", {"snr": 15}),
        ("float8_e4m3fn", {"bits": 2}),
        ("float8_e4m3fnuz", {"snr": 20}),
        ("float8_e5m2fnuz", {"snr": 15}),
        ("float8_e5m2", {"bits": 2}),
        ("float16", {}),
        ("float16", {"snr": 20}),
        ("float16", {"bits": 3}),
    ],
    ids=str,
)
def test_finite_values_near_the_largest_of_their_dtype_stay_finite(save, name, target):
    weights = clipped_noise(getattr(ml_dtypes, name, name))
    summary, back = save({"w": weights}, **target)
    assert np.isfinite(back["w"].astype(np.float64)).all()
    assert summary.sqnr_db == pytest.approx(sqnr_db({"w": weights}, back), abs=1e-6)


def test_scales_of_float8_e8m0_stay_what_they_are(save):
    scales = (2.0 ** np.random.default_rng(0).integers(-10, 4, (32, 32))).astype(ml_dtypes.float8_e8m0fnu)
    _, back = save({"scales": scales})
    assert np.isfinite(back["scales"].astype(np.float64)).all()


@pytest.mark.parametrize(
    ("dtype", "scale"), [("float64", 1e-50), ("float64", 1e60), ("float32", 1e-38), ("float64", 1e-39)]
)
def test_the_default_quality_holds_at_extreme_scales(save, dtype, scale):
    weights = (np.random.default_rng(0).standard_normal((32, 32)) * scale).astype(dtype)
    _, back = save({"w": weights})
    assert sqnr_db({"w": weights}, back) > 35


def test_a_tiny_maximum_error_is_met(save):
    weights = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    _, back = save({"w": weights}, max_error=1e-39)
    assert back["w"].tobytes() == weights.tobytes()


@pytest.mark.parametrize(("side", "seed", "snr"), [(12, 0, 40), (12, 5, 30), (16, 4, 40)])
def test_an_snr_between_two_steps_takes_the_finer_step(save, side, seed, snr):
    weights = np.random.default_rng(seed).standard_normal((side, side)).astype(np.float32)
    summary, _ = save({"w": weights}, snr=snr)
    assert snr <= summary.sqnr_db < snr + 2


def test_vectors_are_as_good_as_the_snr_where_nothing_else_is_to_be_measured(save):
    bias = np.random.default_rng(0).standard_normal(500).astype(np.float32)
    _, back = save({"bias": bias}, snr=100)
    assert np.abs(back["bias"] - bias).max() < 1e-4


def test_keep_holds_for_a_source_of_coefficients(tmp_path):
    coefficients = torch.zeros(20, 20)
    coefficients[:8, :8] = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)) + 3
    torch.save({"w": coefficients}, tmp_path / "c.pt")
    source = tmp_path / "c.pt"
    summary = frconvert.convert(source, tmp_path / "c.frq", format="frereg", keep=0.01)
    assert summary.tensors[0].keep == 4


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_small_half_precision_coefficients_keep_the_default_quality(tmp_path):
    coefficients = torch.zeros(40, 50)
    coefficients[:6, :6] = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)) * 1e-6
    torch.save({"w": coefficients.half()}, tmp_path / "c.pt")
    summary = frconvert.convert(tmp_path / "c.pt", tmp_path / "c.frq", format="frereg")
    assert summary.sqnr_db > 35


def test_half_precision_coefficients_make_no_warning(tmp_path):
    coefficients = torch.zeros(40, 50)
    coefficients[:6, :6] = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    torch.save({"w": coefficients.half()}, tmp_path / "c.pt")
    frconvert.convert(tmp_path / "c.pt", tmp_path / "c.frq", format="frereg")


def test_coefficients_of_a_source_come_back_as_weights(tmp_path):
    coefficients = torch.zeros(40, 50)
    coefficients[:6, :6] = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    torch.save({"w": coefficients, "b": torch.ones(3)}, tmp_path / "c.pt")
    summary = frconvert.convert(tmp_path / "c.pt", tmp_path / "c.frq", format="frereg", lossless=True)
    back = frconvert.load(tmp_path / "c.frq").numpy()
    np.testing.assert_allclose(fft.dctn(back["w"], norm="ortho"), coefficients, atol=1e-6)
    assert summary.tensors[0].keep == 61  # up to the last one that is not zero
    assert summary.sqnr_db == np.inf


def test_the_default_is_never_below_36_db(save):
    reached = []
    for seed in range(12):
        weights = np.random.default_rng(seed).standard_normal((40, 40)).astype(np.float32)
        reached.append(save({"w": weights})[0].sqnr_db)
    assert min(reached) >= 36


def test_the_step_of_a_maximum_error_is_just_below_twice_the_limit(save, model):
    summary, _ = save(model, max_error=0.01)
    steps = {tensor.step for tensor in summary.tensors if tensor.method == "uniform"}
    assert steps == {storable_step(0.02 * (1 - 2**-10))}


def test_bits_refer_to_floats_only(save, checkpoint_of):
    checkpoint = checkpoint_of({"w": np.ones((3, 3), np.float16), "i": np.ones(100, np.int8)}, {"v": "w"})
    assert search.float_parameters(checkpoint) == 9


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("smooth", [False, True])
def test_read_only_arrays_of_a_source_stay_as_they_are(tmp_path, target, smooth):
    weights = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    weights = np.cumsum(weights, axis=1) if smooth else weights
    before = weights.copy()
    weights.flags.writeable = False
    entry = frconvert.TensorEntry("w", weights.shape, "float32", lambda: weights)
    path = tmp_path / "x.frq"
    summary = frconvert.save(frconvert.Checkpoint((entry,), "test"), path, **target)
    assert weights.tobytes() == before.tobytes()
    assert summary.sqnr_db == pytest.approx(sqnr_db({"w": before}, frconvert.load(path).numpy()), abs=1e-6)


def attempts_of(monkeypatch, convert):
    made = []

    def attempt(task, plans):
        assert all(survey is None or survey.part is None for survey in task.surveys.values())
        made.append(plans)
        return encode.attempt(task, plans)

    monkeypatch.setattr(search, "attempt", attempt)
    convert()
    return len(made)


def test_estimates_near_the_step_save_attempts(save, monkeypatch):
    generator = np.random.default_rng(5)
    arrays = {
        "wide": generator.laplace(size=(512, 600)) * generator.lognormal(size=(512, 1)),
        "smooth": np.cumsum(generator.standard_normal((64, 64, 27)), axis=2),
        "heavy": generator.standard_t(4, size=(800, 200)),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}

    def convert():
        for target in ({"snr": 12.0}, {"snr": 18.0}, {"snr": 35.0}, {"bits": 2.0}, {"bits": 5.0}):
            save(arrays, importance="mse", **target)

    corrected = attempts_of(monkeypatch, convert)
    monkeypatch.setattr(search, "recalibrate", lambda task, _: drop_parts(task))
    assert corrected < attempts_of(monkeypatch, convert)


def drop_parts(task):
    for name, survey in task.surveys.items():
        task.surveys[name] = allocate.recalibrated(survey, None)


def test_only_the_largest_tensors_keep_a_part_until_the_search(checkpoint_of, monkeypatch):
    monkeypatch.setattr(surveys, "_PARTS", 20_000)
    generator = np.random.default_rng(6)
    shapes = {"a": (200, 100), "b": (300, 200), "c": (10, 10), "d": (200, 110)}
    arrays = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    task = encode.Task(checkpoint_of(arrays), io.BytesIO, encode.Options(), lambda *_: None, {})
    surveys.survey_all(task, Target("snr", 20.0))
    assert {name for name, survey in task.surveys.items() if survey.part} == {"b", "d"}
