"""ONNX graphs as torch modules: names, weights, functions, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import frconvert  # noqa: E402
from frconvert.errors import DamagedError, UnsupportedError, UsageError  # noqa: E402
from frconvert.torch_graph import module_of  # noqa: E402

RNG = np.random.default_rng(0)


def value(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def saved(
    path: Path,
    nodes: list[onnx.NodeProto],
    tensors: dict[str, np.ndarray],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[str],
    functions: tuple[onnx.FunctionProto, ...] = (),
) -> Path:
    """An .onnx of these parts."""
    graph = helper.make_graph(
        nodes, "g", inputs, [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, functions=functions), path)
    return path


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def test_parameters_have_the_checkpoint_s_names_even_where_torch_does_not_allow_them(tmp_path: Path) -> None:
    names = [
        "a",
        "a.b",
        "a..c",
        "values",
        "forward",
        "names",
        "/conv/w",
        "training.x",
        ".",
        "d." * 5000 + "e",
    ]
    tensors = {name: floats(2, 3) for name in names}
    nodes = [helper.make_node("Sum", ["x", *names], ["y"])]
    checkpoint = frconvert.load(saved(tmp_path / "m.onnx", nodes, tensors, [value("x", [2, 3])], ["y"]))
    module = module_of(checkpoint)
    parameters = dict(module.named_parameters())
    assert set(parameters) == set(module.names)
    assert sorted(module.names.values()) == sorted(names)
    assert module.names["a"] == "a"
    assert module.names["/conv/w"] == "/conv/w"
    for path, name in module.names.items():
        assert np.array_equal(parameters[path].detach().numpy(), tensors[name])
    found = module(torch.zeros(2, 3)).detach().numpy()
    np.testing.assert_allclose(found, sum(tensors.values()), rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_same_layers_in_torch(tmp_path: Path) -> None:
    tensors = {"w": floats(4, 3, 3, 3), "b": floats(4), "h": floats(4 * 36, 5), "unused": floats(2, 2)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("MatMul", ["f", "h"], ["y"]),
    ]
    path = saved(tmp_path / "m.onnx", nodes, tensors, [value("x", ["n", 3, 6, 6])], ["y"])
    module = module_of(frconvert.load(path))
    x = torch.from_numpy(floats(2, 3, 6, 6))
    module(x=x).square().sum().backward()
    w, b, h = (torch.from_numpy(tensors[name].copy()).requires_grad_(True) for name in "wbh")
    (torch.conv2d(x, w, b, padding=1).relu().flatten(1) @ h).square().sum().backward()
    parameters = dict(module.named_parameters())
    for name, expected in zip("wbh", (w, b, h), strict=True):
        torch.testing.assert_close(parameters[name].grad, expected.grad, rtol=1e-4, atol=1e-4)
    assert parameters["unused"].grad is None


def test_what_must_be_exact_is_no_weight(tmp_path: Path) -> None:
    mask = np.triu(np.full((6, 6), np.finfo(np.float32).min), 1)
    tensors = {
        "w": floats(1, 1, 3, 3), "mask": mask, "scales": np.array([1, 1, 1.6, 1.6], np.float32),
        "part": np.array([1.6, 1.6], np.float32), "mean": floats(2)[:1].repeat(1), "scale": floats(1),
        "variance": np.ones(1, np.float32), "two": np.array([2, 2], np.float32), "gain": floats(9, 9),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Resize", ["c", "", "scales"], ["r"]),
        helper.make_node("Mul", ["r", "gain"], ["m"]),
        helper.make_node("Pow", ["part", "two"], ["p"]),
        helper.make_node("Greater", ["m", "gain"], ["g"]),
        helper.make_node("Where", ["g", "m", "m"], ["y"]),
        helper.make_node("Add", ["mask", "mask"], ["z"]),
    ]
    path = saved(tmp_path / "m.onnx", nodes, tensors, [value("x", [1, 1, 8, 8])], ["y", "z", "p"])
    assert set(module_of(frconvert.load(path)).names) == {"w", "part"}


def test_statistics_of_batch_normalisations_are_buffers(tmp_path: Path) -> None:
    tensors = {name: np.abs(floats(3)) for name in ("scale", "shift", "mean", "variance")}
    nodes = [helper.make_node("BatchNormalization", ["x", *tensors], ["y"])]
    module = module_of(
        frconvert.load(saved(tmp_path / "m.onnx", nodes, tensors, [value("x", [2, 3, 4])], ["y"]))
    )
    assert dict(module.named_parameters()).keys() == {"scale", "shift"}
    assert set(module.state_dict()) == {"scale", "shift", "mean", "variance"}
    module.train()
    first = module(torch.ones(2, 3, 4))
    assert torch.equal(module(torch.ones(2, 3, 4)), first)


@pytest.mark.parametrize("inside", [False, True])
def test_an_operator_that_is_not_known_is_named(tmp_path: Path, inside: bool) -> None:
    node = helper.make_node("Fancy", ["x"], ["y"], name="the_node", domain="com.example")
    if inside:
        branches = {
            name: helper.make_graph([node], name, [], [helper.make_empty_tensor_value_info("y")])
            for name in ("then_branch", "else_branch")
        }
        node = helper.make_node("If", ["c"], ["y"], **branches)
    inputs = [value("x", [2]), value("c", [], TensorProto.BOOL)]
    checkpoint = frconvert.load(saved(tmp_path / "m.onnx", [node], {"w": floats(2, 2)}, inputs, ["y"]))
    with pytest.raises(UnsupportedError, match=r"'Fancy' of the domain 'com\.example', node 'the_node'"):
        module_of(checkpoint)

    def never(_: int) -> list[object]:
        raise AssertionError("data are asked for")

    with pytest.raises(UnsupportedError, match="Fancy"):
        frconvert.distill(checkpoint, never, tmp_path / "a.frq", rate=1.0)
    assert not (tmp_path / "a.frq").exists()


def call(function: str, source: str, target: str, **attributes: float) -> onnx.NodeProto:
    return helper.make_node(function, [source], [target], domain="own", **attributes)


def function(name: str, nodes: list[onnx.NodeProto], attributes: list[str]) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["i"], ["o"], nodes, imports, attributes)


def test_functions_of_the_model_are_computed_with_the_attributes_of_the_call(tmp_path: Path) -> None:
    leaky = helper.make_node("LeakyRelu", ["i"], ["o"])
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    inner = function("Inner", [leaky], ["slope"])
    outer = function("Outer", [call("Inner", "i", "h", slope=0.5), call("Inner", "h", "o", slope=0.1)], [])
    path = saved(
        tmp_path / "m.onnx", [call("Outer", "x", "y")], {"w": floats(2, 2)}, [value("x", [3])], ["y"],
        (inner, outer),
    )  # fmt: skip
    found = module_of(frconvert.load(path))(torch.tensor([-2.0, 0.0, 3.0]))
    torch.testing.assert_close(found, torch.tensor([-0.1, 0.0, 3.0]))


@pytest.mark.parametrize("kind", ["recursive", "exponential"])
def test_functions_without_end_are_refused(tmp_path: Path, kind: str) -> None:
    if kind == "recursive":
        functions = [function("F0", [call("F0", "i", "o")], [])]
    else:
        functions = [function("F30", [helper.make_node("Relu", ["i"], ["o"])], [])]
        for n in range(30):
            twice = [call(f"F{n + 1}", "i", "h"), call(f"F{n + 1}", "h", "o")]
            functions.append(function(f"F{n}", twice, []))
    path = saved(
        tmp_path / "m.onnx", [call("F0", "x", "y")], {"w": floats(2, 2)}, [value("x", [3])], ["y"],
        tuple(functions),
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match=r"deep|over 1,000,000 nodes"):
        module_of(frconvert.load(path))


def test_graphs_that_break_the_rules_and_inputs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    tensors = {"w": floats(2, 2)}
    nodes = [helper.make_node("MatMul", ["x", "nowhere"], ["y"])]
    path = saved(tmp_path / "m.onnx", nodes, tensors, [value("x", [2, 2])], ["y"])
    with pytest.raises(DamagedError, match="nowhere"):
        module_of(frconvert.load(path))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    module = module_of(frconvert.load(saved(path, nodes, tensors, [value("x", [2, 2])], ["y"])))
    with pytest.raises(UsageError, match="'product' \\(MatMul\\)"):
        module(torch.zeros(2, 3))
    with pytest.raises(UsageError, match="has the inputs 'x'"):
        module()
    with pytest.raises(UsageError, match="has the inputs 'x'"):
        module(torch.zeros(2, 2), other=torch.zeros(1))


def test_a_resize_to_nothing_takes_no_memory(tmp_path: Path) -> None:
    tensors = {"scales": np.array([1, 1, 1e-12, 1], np.float32), "w": floats(2, 2)}
    nodes = [helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear", antialias=1)]
    path = saved(tmp_path / "m.onnx", nodes, tensors, [value("x", [1, 1, 4, 4])], ["y"])
    assert module_of(frconvert.load(path))(torch.zeros(1, 1, 4, 4)).shape == (1, 1, 0, 4)
