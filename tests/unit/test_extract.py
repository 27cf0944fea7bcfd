"""Some tensors of an archive: `frconvert extract` and `load(names=...)`."""

import json

import numpy as np
import pytest

import frconvert
from frconvert.errors import UsageError

RNG = np.random.default_rng(3)
ARRAYS = {
    "encoder.0.weight": RNG.standard_normal((30, 40)).astype(np.float32),
    "encoder.0.bias": RNG.standard_normal(30).astype(np.float16),
    "head[0].weight": RNG.standard_normal((5, 30)),
    "head0.weight": RNG.standard_normal((5, 3)),
    "steps": np.array(9, np.int64),
}
TIES = {"decoder.0.weight": "encoder.0.weight", "again": "encoder.0.weight"}


@pytest.fixture
def frq(tmp_path, checkpoint_of, monkeypatch):
    path = tmp_path / "model.frq"
    attachments = {"config.json": b"{}", "vocab/words.txt": b"a b", "onnx/skeleton.onnx": b"graph"}
    frconvert.save(checkpoint_of(ARRAYS, TIES, attachments, {"a": "b"}), path, lossless=True)
    monkeypatch.chdir(tmp_path)
    return path


def test_names_and_globs_choose_tensors_in_file_order(frq):
    names = ["steps", "encoder.*"]
    part = frconvert.load(frq, names=names)
    assert [entry.name for entry in part] == ["encoder.0.weight", "encoder.0.bias", "steps"]
    assert not part.attachments
    assert all(np.array_equal(value, ARRAYS[name]) for name, value in part.numpy().items())


def test_a_name_that_looks_like_a_glob_is_a_name_first(frq):
    assert [entry.name for entry in frconvert.load(frq, names=["head[0].weight"])] == ["head[0].weight"]


def test_of_tied_tensors_the_first_chosen_has_the_data(frq, tmp_path):
    part = frconvert.load(frq, names=["again", "decoder.*"])
    assert [(entry.name, entry.tied_to) for entry in part] == [
        ("decoder.0.weight", None),
        ("again", "decoder.0.weight"),
    ]
    frconvert.save(part, tmp_path / "part.frq")
    values = frconvert.load(tmp_path / "part.frq").numpy()
    assert all(np.array_equal(value, ARRAYS["encoder.0.weight"]) for value in values.values())


def test_names_choose_from_every_format(frq, tmp_path):
    frconvert.convert(frq, tmp_path / "m.safetensors")
    assert list(frconvert.load(tmp_path / "m.safetensors", names=["st*"]).numpy()) == ["steps"]


def test_a_name_that_is_not_there_is_refused_and_some_that_are_there_are_told(frq, fails):
    with pytest.raises(UsageError, match=r"matches 'nothing'; there are 7: 'encoder\.0\.weight'"):
        frconvert.load(frq, names=["steps", "nothing"])
    assert "'nothing'" in fails(2, "extract", frq, "nothing")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".frq", ".h5", ".pt"])
def test_extract_writes_any_format(frq, run, tmp_path, suffix):
    target = tmp_path / f"part{suffix}"
    status, out, _ = run("extract", frq, "encoder.*", "steps", "-o", target)
    assert status == 0
    assert "3 tensors" in out
    values = frconvert.load(target).numpy()
    assert set(values) == {"encoder.0.weight", "encoder.0.bias", "steps"}
    assert all(np.array_equal(value, ARRAYS[name]) for name, value in values.items())


def test_without_a_destination_tensors_go_into_an_npz_of_the_same_name_here(frq, run, fails, tmp_path):
    status, out, _ = run("extract", frq, "steps")
    assert status == 0
    assert out.startswith("model.npz is ")
    assert np.load(tmp_path / "model.npz")["steps"] == 9
    assert "exists; use --overwrite" in fails(2, "extract", frq, "steps")
    assert run("extract", frq, "steps", "--overwrite", "--quiet")[:2] == (0, "")


def test_extract_tells_in_json_what_it_read(frq, run):
    _, out, _ = run("extract", frq, "steps", "--json")
    facts = json.loads(out)
    assert facts["destination"] == "model.npz"
    assert 0 < facts["read_bytes"] < 2 * frq.stat().st_size
    assert [tensor["name"] for tensor in facts["tensors"]] == ["steps"]


def test_attachments_are_restored_into_a_folder(frq, run, tmp_path, fails):
    status, out, _ = run("extract", frq, "--attachments", tmp_path / "files")
    assert status == 0
    assert len(out.splitlines()) == 3
    assert (tmp_path / "files" / "vocab" / "words.txt").read_bytes() == b"a b"
    assert (tmp_path / "files" / "config.json").read_bytes() == b"{}"
    assert not (tmp_path / "model.npz").exists()
    assert "exists" in fails(2, "extract", frq, "--attachments", tmp_path / "files")


def test_extract_needs_to_be_told_what(frq, fails):
    assert "give names" in fails(2, "extract", frq)
    assert "-o needs names" in fails(2, "extract", frq, "-o", "x.npz", "--attachments", "f")
    assert "not a .frq" in fails(3, "extract", __file__, "x")
