"""Short names inside ONNX graphs."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import frconvert  # noqa: E402
from frconvert.errors import UsageError  # noqa: E402

FLOAT = TensorProto.FLOAT
WEIGHT = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)


def branch(name, scale):
    """A subgraph that reads a value of the graph around it and has a value of the other branch's name."""
    output = helper.make_tensor_value_info(f"branch/{name}/result", FLOAT, ["batch", 40])
    nodes = [
        helper.make_node("Mul", ["a/long/path/hidden", "branch/factor"], ["branch/between"], f"{name}/Mul"),
        helper.make_node("Relu", ["branch/between"], [output.name], f"{name}/Relu"),
    ]
    factor = numpy_helper.from_array(np.array(scale, np.float32), "branch/factor")
    return helper.make_graph(nodes, f"{name}_branch", [], [output], [factor])


def model(tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["a/long/path/weight"], "a/long/path/Constant",
                         value=numpy_helper.from_array(WEIGHT)),
        helper.make_node("Constant", [], ["a/long/path/shift"], "a/long/path/Constant_1",
                         value=numpy_helper.from_array(np.arange(40, dtype=np.float32))),
        helper.make_node("MatMul", ["v0", "a/long/path/weight"], ["a/long/path/product"],
                         "a/long/path/MatMul"),
        helper.make_node("Add", ["a/long/path/product", "a/long/path/shift"], ["a/long/path/hidden"], "Add"),
        helper.make_node("Clip", ["a/long/path/hidden", "", "v1"], ["a/long/path/clipped"],
                         "a/long/path/Clip"),
        helper.make_node("Greater", ["flag", "v1"], ["a/long/path/condition"], "a/long/path/Greater"),
        helper.make_node("If", ["a/long/path/condition"], ["a/long/path/chosen"], "a/long/path/If",
                         then_branch=branch("yes", 2.0), else_branch=branch("no", -3.0)),
        helper.make_node("Add", ["a/long/path/chosen", "a/long/path/clipped"], ["result"], "a/long/path/Add"),
    ]  # fmt: skip
    inputs = [
        helper.make_tensor_value_info("v0", FLOAT, ["batch", 40]),
        helper.make_tensor_value_info("flag", FLOAT, []),
    ]
    outputs = [helper.make_tensor_value_info("result", FLOAT, ["batch", 40])]
    initializers = [numpy_helper.from_array(np.array(0.5, np.float32), "v1")]
    graph = helper.make_graph(nodes, "main", inputs, outputs, initializers)
    graph.value_info.append(helper.make_tensor_value_info("a/long/path/hidden", FLOAT, ["batch", 40]))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "m.onnx"
    onnx.save(made, path)
    return path


def run(path, flag):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    pixels = np.linspace(-1, 1, 80, dtype=np.float32).reshape(2, 40)
    return session.run(["result"], {"v0": pixels, "flag": np.array(flag, np.float32)})[0]


@pytest.mark.parametrize("onnx_mode", ["dense", "idct", "functions"])
def test_a_graph_of_short_names_computes_the_same(onnx_mode, tmp_path):
    path = model(tmp_path)
    frconvert.convert(path, tmp_path / "long.onnx", onnx=onnx_mode)
    frconvert.convert(path, tmp_path / "short.onnx", onnx=onnx_mode, onnx_names="short")
    for flag in (0.0, 1.0):
        assert np.array_equal(run(tmp_path / "long.onnx", flag), run(tmp_path / "short.onnx", flag))
    text = (tmp_path / "short.onnx").read_bytes()
    assert b"a/long/path/product" not in text
    assert b"branch/between" not in text
    assert b"a/long/path/MatMul" not in text
    onnx.checker.check_model(tmp_path / "short.onnx", full_check=True)


def test_inputs_outputs_initializers_and_weights_keep_their_names(tmp_path):
    frconvert.convert(model(tmp_path), tmp_path / "short.onnx", onnx="dense", onnx_names="short")
    graph = onnx.load(tmp_path / "short.onnx").graph
    assert [value.name for value in graph.input] == ["v0", "flag"]
    assert [value.name for value in graph.output] == ["result"]
    assert [tensor.name for tensor in graph.initializer] == ["v1"]
    before, after = frconvert.load(tmp_path / "m.onnx"), frconvert.load(tmp_path / "short.onnx")
    assert np.array_equal(after["a/long/path/weight"].read(), before["a/long/path/weight"].read())
    made = [name for node in graph.node for name in node.output]
    assert len(set(made)) == len(made)
    assert not {"v0", "v1"} & set(made)  # taken already
    assert [node.name for node in graph.node if node.op_type == "If"] == ["a/long/path/If"]


def test_names_stay_without_the_option(tmp_path):
    path = model(tmp_path)
    frconvert.convert(path, tmp_path / "m.frq", lossless=True)
    frconvert.convert(tmp_path / "m.frq", tmp_path / "again.onnx")
    found, expected = onnx.load(tmp_path / "again.onnx").graph, onnx.load(path).graph
    assert [node.name for node in found.node] == [node.name for node in expected.node]
    assert [node.output for node in found.node] == [node.output for node in expected.node]


def test_coefficients_in_a_graph_of_short_names_are_read_back(tmp_path):
    frconvert.convert(model(tmp_path), tmp_path / "short.idct.onnx", onnx_names="short", snr=30)
    frconvert.convert(tmp_path / "short.idct.onnx", tmp_path / "m.frq")
    frconvert.convert(tmp_path / "m.frq", tmp_path / "again.idct.onnx")
    assert (tmp_path / "again.idct.onnx").read_bytes() == (tmp_path / "short.idct.onnx").read_bytes()


def test_notes_of_quantisation_keep_the_names_that_they_speak_of(tmp_path):
    path = model(tmp_path)
    made = onnx.load(path)
    made.graph.quantization_annotation.add(tensor_name="a/long/path/product")
    onnx.save(made, path)
    frconvert.convert(path, tmp_path / "short.onnx", onnx_names="short")
    assert b"a/long/path/product" in (tmp_path / "short.onnx").read_bytes()


@pytest.mark.parametrize("wish", [{"onnx_names": "short"}, {"onnx_names": "other"}])
def test_a_wish_that_cannot_be_met_is_refused(wish, tmp_path):
    with pytest.raises(UsageError, match=r"onnx.names"):
        frconvert.convert(model(tmp_path), tmp_path / "m.frq", **wish)
