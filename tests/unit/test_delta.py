"""Archives of differences to a base."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import frconvert
from frconvert.coding.difference import add_words, decode, encode, has_words, subtract_words
from frconvert.coding.quantize import storable_step
from frconvert.coding.record import INTEGERS, WORDS, Layout
from frconvert.container.head import Group, Head, pack, unpack
from frconvert.dtypes import DTYPE_NAMES, numpy_dtype
from frconvert.errors import DamagedError, FrqError, UnreadableError, UsageError

FORMATS = Path(__file__).resolve().parents[2] / "formats"
SHA = bytes(range(32))


def tuned(arrays, amount=0.02, seed=5):
    """The arrays, each moved by noise of that part of its own deviation."""
    rng = np.random.default_rng(seed)
    return {
        name: (
            a.astype(np.float64) + rng.standard_normal(a.shape) * amount * float(a.astype(float).std())
        ).astype(a.dtype)
        for name, a in arrays.items()
    }


@pytest.fixture
def files(tmp_path, checkpoint_of, model):
    """Writes a base and a delta to it, with the independent archive beside it: sizes and the delta's path."""

    def make(base_options, options, before=model, after=None, ties=None):
        after = tuned(before) if after is None else after
        base, delta, alone = (tmp_path / f"{name}.frq" for name in ("base", "delta", "alone"))
        frconvert.save(checkpoint_of(before), base, overwrite=True, **base_options)
        source = checkpoint_of(after, ties)
        summary = frconvert.save(source, delta, base=base, overwrite=True, **options)
        frconvert.save(source, alone, overwrite=True, **options)
        return base, delta, alone, summary, source

    return make


def same_bits(first, second):
    return {n: (a.shape, a.dtype, a.tobytes()) for n, a in first.items()} == {
        n: (a.shape, a.dtype, a.tobytes()) for n, a in second.items()
    }


def relations(path):
    return {entry.name: entry.encoded_layout.relation for entry in frconvert.load(path).stored}


@pytest.mark.parametrize("dtype", [name for name in DTYPE_NAMES if has_words(name)])
def test_differences_of_words_are_undone_for_every_bit_pattern(dtype):
    kind = numpy_dtype(dtype)
    rng = np.random.default_rng(3)
    first, second = (rng.integers(0, 256, 4096 * kind.itemsize).astype(np.uint8).view(kind) for _ in range(2))
    back = add_words(subtract_words(first, second), second)
    assert back.dtype == kind
    assert back.tobytes() == first.tobytes()


def test_a_small_change_of_a_float_is_a_small_number_whatever_its_sign():
    base = np.array([1.5, -1.5, 1e-3, -1e-3], np.float32)
    moved = np.nextafter(base, np.float32(9))
    assert set(subtract_words(moved, base).tolist()) == {1, -1}


def test_differences_of_any_size_survive_coding():
    rng = np.random.default_rng(2)
    values = (rng.standard_normal(5000) * 2.0 ** rng.uniform(0, 59, 5000)).astype(np.int64)
    values[:6] = [2**24 - 1, 1 - 2**24, 2**24 - 2, -(2**63), 2**63 - 1, 0]
    assert np.array_equal(decode(encode(values), values.size), values)
    for payload in (encode(values)[:-1], encode(values) + b"\0", b"\xff" * 9, b""):
        with pytest.raises(DamagedError):
            decode(payload, values.size)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_a_lossless_delta_comes_back_bit_by_bit_and_is_smaller(files, model_of, dtype):
    before = model_of(dtype)
    after = tuned(before, 0.001)
    after["layer0.weight"][0, 0, 0, :3] = np.array([np.nan, np.inf, -0.0]).astype(numpy_dtype(dtype))
    base, delta, alone, _, source = files({"lossless": True}, {"lossless": True}, before, after)
    assert same_bits(frconvert.load(delta, base=base).numpy(), source.numpy())
    if dtype != "float64":  # whose last bits are noise
        assert delta.stat().st_size < 0.65 * alone.stat().st_size
        assert relations(delta)["layer3.weight"] == "difference"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("lossy_base", [False, True])
def test_a_lossy_delta_holds_its_target_and_is_far_smaller(files, model_of, dtype, lossy_base):
    options = {"snr": 40} if lossy_base else {"lossless": True}
    base, delta, alone, summary, source = files(options, {"snr": 36}, model_of(dtype))
    restored = frconvert.load(delta, base=base)
    from frconvert.compare import compare

    found = compare(source, restored)
    assert found.sqnr_db == pytest.approx(summary.sqnr_db, abs=1e-6)
    assert found.sqnr_db >= 36
    assert delta.stat().st_size < 0.5 * alone.stat().st_size


@pytest.mark.parametrize(
    "target", [{"snr": 30}, {"size": 40_000}, {"bits": 1.5}, {"max_error": 1e-3}, {"keep": 0.3}]
)
def test_targets_are_those_of_the_restored_tensors_and_the_file(files, target):
    base, delta, _, summary, source = files({"lossless": True}, target)
    restored = frconvert.load(delta, base=base).numpy()
    if "snr" in target:
        assert summary.sqnr_db >= 30
    if "size" in target:
        assert delta.stat().st_size <= 40_000
    if "bits" in target:
        assert 8 * delta.stat().st_size <= 1.5 * sum(array.size for array in restored.values())
    if "max_error" in target:
        for name, array in source.numpy().items():
            assert np.abs(array.astype(float) - restored[name]).max() <= 1e-3
    assert "difference" in relations(delta).values()


def test_no_tensor_falls_far_below_the_wanted_quality_because_others_are_frozen(files, model):
    after = dict(model)
    after["layer4.weight"] = tuned(model, 0.5)["layer4.weight"]
    _, _, _, summary, _ = files({"lossless": True}, {"snr": 30}, model, after)
    (changed,) = (tensor for tensor in summary.tensors if tensor.name == "layer4.weight")
    assert 23.5 < changed.sqnr_db < 40
    assert summary.sqnr_db > 30


@pytest.mark.parametrize("options", [{"lossless": True}, {"snr": 30}])
def test_equal_tensors_cost_nothing_but_their_name(files, model, options):
    arrays = model | {
        "steps": np.array(7),
        "mask": np.ones((3, 4), bool),
        "z": np.zeros((2, 2), np.complex64),
    }
    base, delta, _, summary, source = files({"lossless": True}, options, arrays, dict(arrays))
    assert set(relations(delta).values()) == {"equal"}
    assert delta.stat().st_size < 600
    assert summary.sqnr_db == np.inf
    assert same_bits(frconvert.load(delta, base=base).numpy(), source.numpy())


def test_what_was_made_of_a_lossy_base_is_equal_to_it_but_not_exactly(files, model):
    base, *_ = files({"snr": 30}, {"snr": 30})
    restored = frconvert.load(base).numpy()
    _, delta, _, _, _ = files({"snr": 30}, {"snr": 30}, model, restored)
    assert set(relations(delta).values()) == {"equal"}
    _, delta, _, summary, source = files({"snr": 30}, {"lossless": True}, model, restored)
    found = relations(delta)
    assert found["layer1.weight"] == "own"  # the base's may differ in the last bit on another machine
    assert found["layer1.bias"] == "equal"
    assert any("stand alone" in notice for notice in summary.notices)
    assert same_bits(frconvert.load(delta, base=base).numpy(), source.numpy())


def test_new_removed_and_reshaped_tensors_and_other_dtypes_stand_by_themselves(files, model):
    before = {
        "a": model["layer3.weight"],
        "b": model["layer3.weight"],
        "gone": model["layer0.bias"],
        "d": model["layer3.weight"],
    }
    after = tuned(before) | {"new": model["layer4.weight"]}
    after["b"] = after["b"].reshape(200, 800)
    after["d"] = after["d"].astype(np.float64)
    del after["gone"]
    base, delta, *_ = files({"lossless": True}, {"snr": 30}, before, after)
    assert relations(delta) == {"a": "difference", "b": "own", "d": "own", "new": "own"}
    assert {n: a.shape for n, a in frconvert.load(delta, base=base).numpy().items()} == {
        n: a.shape for n, a in after.items()
    }


def test_unlike_tensors_stand_by_themselves_and_that_is_said(files, model):
    after = {
        name: np.random.default_rng(9).standard_normal(a.shape).astype(a.dtype) for name, a in model.items()
    }
    _, delta, alone, summary, _ = files({"lossless": True}, {"snr": 30}, model, after)
    assert set(relations(delta).values()) == {"own"}
    assert any("too little in common" in notice for notice in summary.notices)
    assert abs(delta.stat().st_size - alone.stat().st_size) < 100
    frconvert.load(delta).numpy()  # so it needs no base


def test_ties_come_back_tied(files, model):
    base, delta, _, _, source = files({"lossless": True}, {"lossless": True}, ties={"tied": "layer3.weight"})
    restored = frconvert.load(delta, base=base)
    assert restored["tied"].tied_to == "layer3.weight"
    arrays = restored.numpy()
    assert arrays["tied"] is arrays["layer3.weight"]
    assert same_bits(arrays, source.numpy())
    assert restored["tied"].read().tobytes() == arrays["tied"].tobytes()


def test_an_alias_that_is_taken_out_alone_takes_the_values_along(files, tmp_path):
    base, delta, _, _, source = files({"lossless": True}, {"lossless": True}, ties={"tied": "layer3.weight"})
    frconvert.save(frconvert.load(delta, names=["tied"], base=base), tmp_path / "part.frq")
    assert same_bits(frconvert.load(tmp_path / "part.frq").numpy(), {"tied": source["tied"].read()})
    with pytest.raises(UnreadableError, match="give that file"):
        frconvert.save(frconvert.load(delta, names=["tied"]), tmp_path / "none.frq")
    assert not (tmp_path / "none.frq").exists()


def test_a_tensor_that_the_base_ties_is_a_difference_all_the_same(tmp_path, checkpoint_of, model):
    weights = model["layer3.weight"]
    frconvert.save(checkpoint_of({"a": weights}, {"b": "a"}), tmp_path / "base.frq", lossless=True)
    after = tuned({"a": weights, "b": weights}, 0.001)
    frconvert.save(checkpoint_of(after), tmp_path / "d.frq", base=tmp_path / "base.frq", lossless=True)
    assert relations(tmp_path / "d.frq") == {"a": "difference", "b": "difference"}
    assert same_bits(frconvert.load(tmp_path / "d.frq", base=tmp_path / "base.frq").numpy(), after)


def test_a_missing_base_is_named_and_what_stands_by_itself_is_read_without_it(files, model):
    after = tuned(model) | {"new": np.arange(5)}
    base, delta, *_ = files({"lossless": True}, {"snr": 30}, model, after)
    whole = frconvert.load(delta)
    assert whole["new"].read().tolist() == [0, 1, 2, 3, 4]
    sha256 = frconvert.load(base).sha256.hex()
    with pytest.raises(
        UnreadableError, match=rf"layer0.weight.*base\.frq with SHA-256 {sha256}; give that file"
    ):
        whole["layer0.weight"].read()


def test_a_wrong_base_is_refused(files, tmp_path, checkpoint_of, model):
    _, delta, *_ = files({"lossless": True}, {"snr": 30})
    frconvert.save(checkpoint_of(model), tmp_path / "other.frq", lossless=True, metadata={"k": "v"})
    with pytest.raises(UnreadableError, match="which is none of the given files"):
        frconvert.load(delta, base=tmp_path / "other.frq")


def test_a_base_is_a_frq_file(npz, tmp_path):
    with pytest.raises(UsageError, match=r"a base is a \.frq file"):
        frconvert.convert(npz, tmp_path / "m.frq", base=npz)


def test_a_base_may_have_a_base_itself(tmp_path, checkpoint_of, model):
    paths = [tmp_path / f"{number}.frq" for number in range(3)]
    arrays = model
    for number, path in enumerate(paths):
        arrays = tuned(arrays, 0.001, seed=number)
        frconvert.save(checkpoint_of(arrays), path, lossless=True, base=paths[:number][::-1])
    for bases in (paths[:2], paths[1::-1], frconvert.load(paths[1], base=paths[0])):
        assert same_bits(frconvert.load(paths[2], base=bases).numpy(), arrays)
    with pytest.raises(UnreadableError, match=r"1\.frq: tensor .* difference to 0\.frq"):
        frconvert.load(paths[2], base=paths[1]).numpy()


def test_files_that_claim_to_be_each_others_base_end_in_an_error(tmp_path, checkpoint_of, model):
    first, second = tmp_path / "a.frq", tmp_path / "b.frq"
    frconvert.save(checkpoint_of(model), first, lossless=True)
    frconvert.save(checkpoint_of(tuned(model)), second, snr=30, base=first)
    whole = frconvert.load(second)
    assert whole.base == frconvert.load(first).sha256
    # A file that names itself: its footer is forged to be what its head index asks for.
    data = second.read_bytes()
    second.write_bytes(data[:-36] + whole.base + data[-4:])
    with pytest.raises(FrqError, match="difference to"):
        frconvert.load(second, base=[second, second]).numpy()


def test_copies_of_a_delta_are_deltas_and_need_no_base(files, tmp_path):
    base, delta, _, _, _ = files({"lossless": True}, {"snr": 30})
    frconvert.convert(delta, tmp_path / "copy.frq")
    assert relations(tmp_path / "copy.frq") == relations(delta)
    expected = frconvert.load(delta, base=base).numpy()
    assert same_bits(frconvert.load(tmp_path / "copy.frq", base=base).numpy(), expected)
    some = frconvert.load(delta, names=["layer2.*", "layer4.weight"])
    frconvert.save(some, tmp_path / "some.frq")
    part = frconvert.load(tmp_path / "some.frq", base=base).numpy()
    assert same_bits(part, {name: expected[name] for name in part})
    assert len(part) == 3


def test_a_delta_saved_again_with_a_target_stands_by_itself_unless_a_base_is_given(files, tmp_path):
    base, delta, _, _, _ = files({"lossless": True}, {"snr": 40})
    whole = frconvert.load(delta, base=base)
    frconvert.save(whole, tmp_path / "flat.frq", lossless=True)
    assert set(relations(tmp_path / "flat.frq").values()) == {"own"}
    assert same_bits(frconvert.load(tmp_path / "flat.frq").numpy(), whole.numpy())
    frconvert.convert(delta, tmp_path / "again.frq", snr=30, base=base)
    assert "difference" in relations(tmp_path / "again.frq").values()


def test_the_bytes_depend_neither_on_jobs_nor_on_the_run(tmp_path, checkpoint_of, model):
    frconvert.save(checkpoint_of(model), tmp_path / "base.frq", snr=36)
    found = set()
    for jobs in (1, 3, 3):
        path = tmp_path / "d.frq"
        frconvert.save(
            checkpoint_of(tuned(model)), path, snr=33, base=tmp_path / "base.frq", jobs=jobs, overwrite=True
        )
        found.add(path.read_bytes())
    assert len(found) == 1


# The command line.


@pytest.fixture
def pair(npz, tmp_path, run):
    """A fine-tuned source file, the base of its original, and its delta."""
    with np.load(npz) as source:
        arrays = dict(source)
    arrays["weight"] = arrays["weight"] + np.float32(0.01) * np.random.default_rng(4).standard_normal(
        (48, 64)
    )
    arrays = {
        name: array.astype(np.float32) if array.dtype == np.float64 else array
        for name, array in arrays.items()
    }
    np.savez(tmp_path / "tuned.npz", **arrays)
    assert run("convert", npz, tmp_path / "base.frq", "--lossless")[0] == 0
    status, _, err = run(
        "convert", tmp_path / "tuned.npz", tmp_path / "d.frq", "--base", tmp_path / "base.frq", "--lossless"
    )
    assert (status, err) == (0, "")
    return tmp_path / "tuned.npz", tmp_path / "base.frq", tmp_path / "d.frq"


def test_convert_extract_and_compare_take_the_base(pair, run, fails, tmp_path):
    source, base, delta = pair
    assert "give that file with --base" in fails(3, "convert", delta, tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()
    assert run("convert", delta, tmp_path / "x.npz", "--base", base)[0] == 0
    assert same_bits(frconvert.load(tmp_path / "x.npz").numpy(), frconvert.load(source).numpy())
    assert "give that file with --base" in fails(3, "extract", delta, "weight")
    assert run("extract", delta, "weight", "-o", tmp_path / "w.npz", "--base", base)[0] == 0
    assert json.loads(run("compare", source, delta, "--base", base, "--json")[1])["identical"]
    assert run("verify", delta)[0] == 0
    assert "none of the given files" in fails(3, "convert", delta, tmp_path / "y.npz", "--base", delta)


def test_inspect_shows_the_base_and_what_is_a_difference(pair, run):
    _, base, delta = pair
    facts = json.loads(run("inspect", delta, "--json")[1])
    assert facts["base"] == {"sha256": frconvert.load(base).sha256.hex(), "name": "base.frq"}
    assert [tensor["relation"] for tensor in facts["tensors"]] == ["difference", "equal", "equal"]
    shown = run("inspect", delta)[1]
    assert f"base base.frq, SHA-256 {facts['base']['sha256']}" in shown
    assert "difference, words" in shown
    assert "equal to the base's" in shown
    assert json.loads(run("inspect", base, "--json")[1])["base"] is None


def test_a_base_that_nothing_needs_is_refused(pair, fails, tmp_path):
    source, base, _ = pair
    assert "neither is this a .frq" in fails(2, "convert", source, tmp_path / "x.npz", "--base", base)
    assert "--base needs a target" in fails(2, "convert", base, tmp_path / "x.frq", "--base", base)
    assert (
        "no such file" in fails(3, "convert", source, tmp_path / "x.frq", "--base", tmp_path / "no").lower()
    )


def test_a_damaged_delta_is_salvaged_without_its_base(pair, run, tmp_path):
    _, base, delta = pair
    data = bytearray(delta.read_bytes())
    data[-3] ^= 1
    delta.write_bytes(data)
    assert run("verify", delta)[0] == 1
    assert run("convert", delta, tmp_path / "saved.frq", "--salvage")[0] == 0
    assert run("convert", tmp_path / "saved.frq", tmp_path / "x.npz", "--base", base)[0] == 0


# The head index.


def delta_head(layout, relation="difference"):
    layout = replace(layout, relation=relation)
    groups = (Group(layout.stored, 1),) if layout.count else ()
    return Head(("w",), (layout,), {}, groups, {}, {}, SHA)


@pytest.mark.parametrize(
    ("layout", "relation"),
    [
        (Layout((2, 2), "float32", stored=WORDS), "difference"),
        (Layout((2, 2), "int8", stored=WORDS), "difference"),
        (Layout((2, 2), "bfloat16", (0,), None, storable_step(0.1), INTEGERS), "difference"),
        (Layout((2, 2), "float64", (0, 1), 3, stored="float32"), "difference"),
        (Layout((2, 2), "complex64", stored="complex64"), "equal"),
        (Layout((2, 2), "float32", stored="float32"), "own"),
    ],
)
def test_relations_survive_the_head_index(layout, relation):
    head = delta_head(layout, relation)
    assert unpack(pack(head)) == head


def test_a_file_without_base_has_no_bytes_for_it():
    layout = Layout((2, 2), "float32", stored="float32")
    head = Head(("w",), (layout,), {}, (Group("float32", 1),), {}, {})
    with_base = replace(head, base=SHA)
    assert len(pack(with_base)) - len(pack(head)) > 30
    assert unpack(pack(head)).base is None


@pytest.mark.parametrize(
    ("layout", "relation"),
    [
        (Layout((2, 2), "float32", stored="float32"), "difference"),
        (Layout((2, 2), "float32", stored="uint32"), "difference"),
        (Layout((2, 2), "float32", (0,), stored=WORDS), "difference"),
        (Layout((2, 2), "float32", (), 3, stored=WORDS), "difference"),
        (Layout((2, 2), "complex64", stored=WORDS), "difference"),
        (Layout((2, 2), "bool", stored=WORDS), "difference"),
        (Layout((2, 2), "float32", stored=WORDS), "own"),
        (Layout((2, 2), "int32", (0,), None, storable_step(0.1), INTEGERS), "difference"),
        (Layout((2, 2), "float32", stored="uint32"), "equal"),
        (Layout((2, 2), "float32", stored=WORDS), "equal"),
        (Layout((2, 2), "float32", (0,), stored="float32"), "equal"),
        (Layout((2, 2), "float32", (0, 1), None, storable_step(0.1), INTEGERS), "equal"),
    ],
)
def test_a_relation_that_does_not_fit_the_tensor_is_damage(layout, relation):
    with pytest.raises(DamagedError, match="'w'"):
        unpack(pack(delta_head(layout, relation)))


def test_unknown_relations_and_cut_off_bases_are_damage():
    from frconvert.container.deflate import NAMES, deflate, inflate

    plain = inflate(pack(delta_head(Layout((2, 2), "float32", stored=WORDS))), 1 << 20, NAMES)
    at = plain.index(SHA)
    with pytest.raises(DamagedError, match="unknown way 3"):
        unpack(deflate(plain[: at + 32] + b"\3" + plain[at + 33 :], NAMES))
    for end in range(at, len(plain)):
        with pytest.raises(DamagedError):
            unpack(deflate(plain[:end], NAMES))


def test_tensors_that_equal_the_bases_do_not_count_against_the_limits(tmp_path, checkpoint_of):
    from frconvert.container.limits import tensor_excess, total_excess

    huge = Layout((1 << 40,), "float32", stored="float32", relation="equal")
    assert tensor_excess("w", huge, 100) is None
    assert total_excess([huge], 0, 100) is None
    assert tensor_excess("w", replace(huge, relation="own"), 100)


# The reference decoder.


@pytest.mark.parametrize("options", [{"lossless": True}, {"snr": 30}, {"keep": 0.2}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_reference_decoder_restores_the_same(tmp_path, checkpoint_of, dtype, options):
    spec = importlib.util.spec_from_file_location("reference_decoder", FORMATS / "reference_decoder.py")
    decoder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(decoder)
    rng = np.random.default_rng(8)
    before = {
        "a": rng.standard_normal((20, 30)),
        "b": np.cumsum(rng.standard_normal((9, 8, 3)), 2),
        "v": np.ones(9),
    }
    before = {name: array.astype(numpy_dtype(dtype)) for name, array in before.items()}
    before["steps"] = np.arange(6)
    after = tuned(before, 0.01) | {"v": before["v"], "new": np.arange(3)}
    base, path = tmp_path / "base.frq", tmp_path / "d.frq"
    frconvert.save(checkpoint_of(before), base, lossless=True)
    frconvert.save(checkpoint_of(after, {"tied": "a"}), path, base=base, **options)
    assert {"difference", "equal"} <= set(relations(path).values())
    tensors, _, metadata = decoder.decode(path.read_bytes(), [base.read_bytes()])
    assert metadata["frconvert.base"] == "base.frq"
    expected = frconvert.load(path, base=base).numpy()
    assert [tensor.name for tensor in tensors] == list(expected)
    for tensor in tensors:
        assert tensor.error is None
        found, wanted = decoder.values(tensor), expected[tensor.name]
        if "lossless" in options:
            assert tensor.words.tobytes() == wanted.tobytes()
        ulp = 2.0**-7 if dtype == "bfloat16" else 2.0**-19
        np.testing.assert_allclose(found, wanted.astype(found.dtype), atol=ulp * 4)
    refused = {
        tensor.name: str(tensor.error) for tensor in decoder.decode(path.read_bytes())[0] if tensor.error
    }
    assert set(refused.values()) == {"base"}
    assert "new" not in refused
    with pytest.raises(decoder.FormatError, match="base"):
        decoder.decode(path.read_bytes(), [path.read_bytes()])
