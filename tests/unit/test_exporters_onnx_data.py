"""ONNX models too large for one file: a data file beside them."""

from itertools import pairwise

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import frconvert  # noqa: E402
from frconvert import files  # noqa: E402
from frconvert.errors import DamagedError, UnsupportedError, UsageError, WriteError  # noqa: E402
from frconvert.exporters import onnx as exporter  # noqa: E402

LIMIT = 100_000
RNG = np.random.default_rng(0)
WEIGHTS = {
    "a": RNG.normal(size=(100, 128)).astype(np.float32),
    "b": RNG.normal(size=(128, 400)).astype(np.float32),
    "c": RNG.normal(size=(400, 30)).astype(np.float16).astype(np.float32),
}


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "MAX_BYTES", LIMIT)
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Reshape", ["h", "shape"], ["g"]),
        helper.make_node("MatMul", ["g", "b"], ["i"]),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(WEIGHTS["c"])),
        helper.make_node("MatMul", ["i", "c"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(WEIGHTS[name], name) for name in ("a", "b")]
    tensors.append(numpy_helper.from_array(np.array([-1, 128], np.int64), "shape"))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 100])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 30])], tensors,
    )  # fmt: skip
    path = tmp_path / "source" / "m.onnx"
    path.parent.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def run(path):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.linspace(-1, 1, 200, dtype=np.float32).reshape(2, 100)})[0]


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_a_large_model_has_its_tensors_in_a_second_file(model, tmp_path):
    summary = frconvert.convert(model, tmp_path / "m.onnx")
    assert names(tmp_path) == ["m.onnx", "m.onnx.data"]
    assert (tmp_path / "m.onnx").stat().st_size < 2000
    sizes = [(tmp_path / name).stat().st_size for name in names(tmp_path)]
    assert summary.destination_bytes == sum(sizes)
    assert any("keep both files together" in notice for notice in summary.notices)
    assert np.array_equal(run(tmp_path / "m.onnx"), run(model))
    onnx.checker.check_model(tmp_path / "m.onnx")
    read = {**frconvert.load(tmp_path / "m.onnx").numpy()}
    assert all(np.array_equal(read[name], values) for name, values in WEIGHTS.items())
    spans = []
    whole = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    for tensor in (*whole.graph.initializer, whole.graph.node[3].attribute[0].t):
        keys = {item.key: item.value for item in tensor.external_data}
        assert bool(keys) == (tensor.name != "shape")  # runtimes want shapes inside
        if keys:
            assert (keys["location"], int(keys["offset"]) % 4096) == ("m.onnx.data", 0)
            spans.append((int(keys["offset"]), int(keys["length"])))
    spans.sort()
    assert all(start + length <= after for (start, length), (after, _) in pairwise(spans))


def test_the_second_file_is_the_same_on_every_run_and_goes_through_a_frq(model, tmp_path):
    frconvert.convert(model, tmp_path / "m.onnx")
    frconvert.convert(tmp_path / "m.onnx", tmp_path / "m.frq", lossless=True)
    first = [(tmp_path / name).read_bytes() for name in ("m.onnx", "m.onnx.data")]
    frconvert.convert(tmp_path / "m.frq", tmp_path / "m.onnx", overwrite=True)
    assert [(tmp_path / name).read_bytes() for name in ("m.onnx", "m.onnx.data")] == first


def test_only_what_stays_dense_goes_into_the_second_file(model, tmp_path):
    summary = frconvert.convert(model, tmp_path / "m.idct.onnx", snr=30, exclude=["b"])
    assert names(tmp_path) == ["m.idct.onnx", "m.idct.onnx.data"]
    assert (tmp_path / "m.idct.onnx.data").stat().st_size == WEIGHTS["b"].nbytes
    assert summary.destination_bytes == sum((tmp_path / name).stat().st_size for name in names(tmp_path))
    assert np.abs(run(tmp_path / "m.idct.onnx") - run(model)).max() < 0.1 * np.abs(run(model)).max()
    frconvert.convert(tmp_path / "m.idct.onnx", tmp_path / "m.frq")
    frconvert.convert(tmp_path / "m.frq", tmp_path / "again.idct.onnx")
    assert (tmp_path / "again.idct.onnx.data").read_bytes() == (tmp_path / "m.idct.onnx.data").read_bytes()


def test_attempts_at_a_size_leave_no_second_file_that_the_last_one_does_not_need(model, tmp_path):
    frconvert.convert(model, tmp_path / "m.onnx", onnx="idct", size=90_000)
    assert names(tmp_path) == ["m.onnx"]
    assert (tmp_path / "m.onnx").stat().st_size <= 90_000


def test_a_model_within_the_limit_stays_one_file(model, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "MAX_BYTES", 10 * LIMIT)
    frconvert.convert(model, tmp_path / "m.onnx")
    assert names(tmp_path) == ["m.onnx"]


def test_a_second_file_that_is_there_is_not_replaced_unasked(model, tmp_path):
    (tmp_path / "m.onnx.data").write_bytes(b"of another model")
    with pytest.raises(UsageError, match=r"m.onnx.data: exists"):
        frconvert.convert(model, tmp_path / "m.onnx")
    assert names(tmp_path) == ["m.onnx.data"]
    assert (tmp_path / "m.onnx.data").read_bytes() == b"of another model"
    frconvert.convert(model, tmp_path / "m.onnx", overwrite=True)
    assert np.array_equal(run(tmp_path / "m.onnx"), run(model))


@pytest.mark.parametrize("failing", ["m.onnx.data", "m.onnx"])
def test_a_failure_between_the_two_files_leaves_no_model_with_data_of_another(
    failing, model, tmp_path, monkeypatch
):
    frconvert.convert(model, tmp_path / "m.onnx")
    data = (tmp_path / "m.onnx.data").read_bytes()
    replace = files.Path.replace

    def fails(self, target):
        if target.name == failing:
            raise OSError(5, "Input/output error", str(self))
        return replace(self, target)

    monkeypatch.setattr(files.Path, "replace", fails)
    other = onnx.load(model)
    other.graph.initializer[0].raw_data = bytes(WEIGHTS["a"].nbytes)
    onnx.save(other, model)
    with pytest.raises(WriteError):
        frconvert.convert(model, tmp_path / "m.onnx", overwrite=True)
    assert names(tmp_path) == ["m.onnx.data"]
    assert ((tmp_path / "m.onnx.data").read_bytes() == data) == (failing == "m.onnx.data")


def test_a_dry_run_writes_neither_file(model, tmp_path):
    summary = frconvert.convert(model, tmp_path / "m.onnx", dry_run=True)
    assert names(tmp_path) == []
    assert summary.destination_bytes > sum(values.nbytes for values in WEIGHTS.values())


def test_a_graph_that_is_too_large_by_itself_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "MAX_BYTES", 100)
    with pytest.raises(UnsupportedError, match="is not supported"):
        frconvert.convert(model, tmp_path / "m.onnx")
    assert names(tmp_path) == []


def test_a_cut_off_second_file_is_noticed(model, tmp_path):
    frconvert.convert(model, tmp_path / "m.onnx")
    with (tmp_path / "m.onnx.data").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(DamagedError, match="external data"):
        frconvert.load(tmp_path / "m.onnx")
