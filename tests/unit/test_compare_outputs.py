"""Two ONNX models side by side: outputs on the same inputs, and what running them costs."""

import json

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto as T  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402

from frconvert import compare_outputs as module  # noqa: E402
from frconvert.calibration import InputSpec  # noqa: E402
from frconvert.compare_outputs import compare_outputs  # noqa: E402
from frconvert.errors import UnreadableError, UnsupportedError, UsageError  # noqa: E402
from frconvert.runtime.graph_inputs import read_inputs  # noqa: E402
from frconvert.runtime.sessions import Session, optimized_operators  # noqa: E402

RNG = np.random.default_rng(0)
TABLE = RNG.standard_normal((10, 32)).astype(np.float32)
WEIGHT = RNG.standard_normal((32, 16)).astype(np.float32)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "_LATENCY_SECONDS", 0.0)


def save(path, nodes, inputs, outputs, **initializers):
    values = [
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in row]
        for row in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in initializers.items()]
    graph = helper.make_graph([helper.make_node(*node) for node in nodes], "graph", *values, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def embedding(path, weight=WEIGHT, more=()):
    """Looks up ids in a table of ten, behind a Cast and an Unsqueeze, and multiplies."""
    nodes = [
        ("Cast", ["ids"], ["wide"]),
        ("Unsqueeze", ["wide", "axes"], ["column"]),
        ("Gather", ["E", "column"], ["e"]),
        ("MatMul", ["e", "W"], ["y"]),
        *more,
    ]
    ids, y = ("ids", T.INT32, ["batch", "n"]), ("y", T.FLOAT, None)
    path = save(path, nodes, [ids], [y], E=TABLE, W=weight, axes=np.array([2]))
    model = onnx.load(path)
    model.graph.node[0].attribute.append(helper.make_attribute("to", T.INT64))
    onnx.save(model, path)
    return path


def test_the_figures_are_those_of_their_definition(tmp_path):
    first, second = embedding(tmp_path / "a.onnx"), embedding(tmp_path / "b.onnx", WEIGHT * np.float32(1.125))
    found = compare_outputs(first, second)
    [output] = found.outputs
    assert output.name == "y"
    assert output.relative_error == found.worst == pytest.approx(0.125, rel=1e-6)
    assert output.max_error == pytest.approx(output.max_value / 8, rel=1e-5)
    assert not output.identical
    assert found.random
    assert found.batches == module.RANDOM_BATCHES
    assert found.costs[0].nodes == found.costs[1].nodes == 4
    assert found.more_operators == {}
    assert 0.1 < found.latency_ratio < 10
    assert found.costs[0].session_seconds > 0
    assert found.costs[0].memory_bytes > 1e5
    json.dumps(found.to_json(), allow_nan=False)


def test_equal_models_are_identical_and_given_data_are_used(tmp_path):
    path = embedding(tmp_path / "a.onnx")
    np.save(tmp_path / "ids.npy", np.arange(10).reshape(10, 1) % 10)
    found = compare_outputs(path, path, str(tmp_path / "ids.npy"))
    assert found.outputs[0].identical
    assert (found.worst, found.batches, found.random) == (0, 2, False)
    assert found.outputs[0].max_value == pytest.approx(np.abs(TABLE @ WEIGHT).max(), rel=1e-5)


def test_nodes_that_did_not_fold_are_named(tmp_path):
    plain = save(
        tmp_path / "a.onnx", [("Add", ["x", "c"], ["y"])], [("x", T.FLOAT, [3])], [("y", T.FLOAT, [3])],
        c=np.ones(3, np.float32),
    )  # fmt: skip
    longer = save(
        tmp_path / "b.onnx", [("Sin", ["x"], ["s"]), ("Sub", ["x", "s"], ["d"]), ("Add", ["d", "c"], ["y"])],
        [("x", T.FLOAT, [3])], [("y", T.FLOAT, [3])], c=np.ones(3, np.float32),
    )  # fmt: skip
    found = compare_outputs(plain, longer)
    assert found.more_operators == {"Sin": 1, "Sub": 1}
    assert [cost.nodes for cost in found.costs] == [1, 3]


def test_a_change_of_shape_or_of_a_nan_is_an_infinite_error(tmp_path):
    x, y = [("x", T.FLOAT, [4])], [("y", T.FLOAT, None)]
    plain = save(tmp_path / "a.onnx", [("Identity", ["x"], ["y"])], x, y)
    root = save(tmp_path / "b.onnx", [("Sqrt", ["x"], ["y"])], x, y)
    longer = save(tmp_path / "c.onnx", [("Concat", ["x", "x"], ["y"])], x, y)
    model = onnx.load(longer)
    model.graph.node[0].attribute.append(helper.make_attribute("axis", 0))
    onnx.save(model, longer)
    np.save(tmp_path / "x.npy", np.array([[1, 0, -1, np.inf]]))
    data = str(tmp_path / "x.npy")
    assert compare_outputs(plain, plain, data).worst == 0
    assert compare_outputs(root, root, data).worst == 0
    for second in (root, longer):
        found = compare_outputs(plain, second, data)
        assert found.worst == float("inf")
        assert found.to_json()["outputs"][0]["relative_error"] is None


def test_models_with_other_inputs_or_outputs_are_refused(tmp_path):
    first = embedding(tmp_path / "a.onnx")
    x, y = [("x", T.FLOAT, [4])], [("y", T.FLOAT, None)]
    other = save(tmp_path / "b.onnx", [("Identity", ["x"], ["y"])], x, y)
    two = save(
        tmp_path / "c.onnx",
        [("Identity", ["x"], ["y"]), ("Sin", ["x"], ["z"])],
        x,
        [*y, ("z", T.FLOAT, None)],
    )
    with pytest.raises(UsageError, match="does not take the first model's input 'ids', int32"):
        compare_outputs(first, other)
    with pytest.raises(UsageError, match=r"1 outputs, .* has 2"):
        compare_outputs(other, two)
    broken = save(tmp_path / "d.onnx", [("NoSuchOperator", ["x"], ["y"])], x, y)
    with pytest.raises(UnsupportedError, match="onnxruntime cannot load it"):
        compare_outputs(other, broken)


def test_inputs_know_the_size_of_the_table_that_they_index(tmp_path):
    path = embedding(tmp_path / "a.onnx")
    assert read_inputs(path) == (InputSpec("ids", ("batch", "n"), "int32", 10),)
    hot = save(
        tmp_path / "b.onnx",
        [("OneHot", ["i", "depth", "values"], ["y"])],
        [("i", T.INT64, [None, 3]), ("depth", T.INT64, [])],
        [("y", T.FLOAT, None)],
        depth=np.array(7),
        values=np.array([0, 1], np.float32),
    )
    assert read_inputs(hot) == (InputSpec("i", (None, 3), "int64", 7),)
    (tmp_path / "c.onnx").write_bytes(b"\x08no model")
    with pytest.raises(UnreadableError, match="not an ONNX model"):
        read_inputs(tmp_path / "c.onnx")


def test_a_session_can_give_values_inside_the_graph(tmp_path):
    path = embedding(tmp_path / "a.onnx")
    session = Session(path, outputs=["e", "y"])
    assert session.output_names == ("y", "e")
    y, e = session.run({"ids": np.array([[3, 4]], np.int32)})
    assert np.array_equal(e, TABLE[[3, 4]][None, :, None])
    assert y == pytest.approx(e @ WEIGHT, rel=1e-4)
    with pytest.raises(UsageError, match="no value 'f'"):
        Session(path, outputs=["f"])
    with pytest.raises(UsageError, match="does not run"):
        session.run({"ids": np.array([[30]], np.int32)})


def test_a_session_of_a_model_with_external_data_can_give_inner_values_too(tmp_path):
    path = embedding(tmp_path / "a.onnx")
    model = onnx.load(path)
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / "b.onnx"
    onnx.save(model, moved, save_as_external_data=True, location="data.bin", size_threshold=64)
    [e] = Session(moved, outputs=["e"]).run({"ids": np.array([[3, 4]], np.int32)}, ["e"])
    assert np.array_equal(e, TABLE[[3, 4]][None, :, None])
    assert optimized_operators(moved) == optimized_operators(path)


def test_the_command_compares_outputs_and_checks_the_tolerance(tmp_path, run, fails):
    first, second = embedding(tmp_path / "a.onnx"), embedding(tmp_path / "b.onnx", WEIGHT * np.float32(1.01))
    status, out, _ = run("compare", first, second, "--tolerance", "0.011", "--json")
    assert status == 0
    facts = json.loads(out)["run"]
    assert facts["outputs"][0]["relative_error"] == pytest.approx(0.01, rel=1e-4)
    status, out, err = run("compare", first, second, "--tolerance", "0.009")
    assert status == 1
    assert "4 random batches" in out
    assert err.endswith("outputs are off by 0.01, more than the tolerance 0.009\n")
    fails(2, "compare", first, second, "--calib", "no_such_module:function")


def test_an_archive_with_a_graph_is_compared_by_what_it_computes(tmp_path, run, fails, npz):
    first, packed = embedding(tmp_path / "a.onnx"), tmp_path / "a.frq"
    assert run("convert", first, packed, "--lossless")[0] == 0
    status, out, _ = run("compare", first, packed, "--calib", "random", "--json")
    assert status == 0
    assert json.loads(out)["run"]["outputs"][0]["identical"]
    assert "without a graph" in fails(2, "compare", npz, npz, "--tolerance", "1")
