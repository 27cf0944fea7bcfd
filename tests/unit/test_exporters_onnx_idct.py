"""Graphs with coefficients: right outputs, all folded, and read back bit for bit."""

import json
from functools import partial

import ml_dtypes
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import frconvert  # noqa: E402
from frconvert.checkpoint import ONNX_SKELETON  # noqa: E402
from frconvert.coding.record import Plan  # noqa: E402
from frconvert.embed import existing, planned  # noqa: E402
from frconvert.exporters import onnx as dense_exporter  # noqa: E402
from frconvert.exporters import onnx_idct as exporter  # noqa: E402
from frconvert.idct.coefficients import weights  # noqa: E402
from frconvert.idct.storage import FORMS  # noqa: E402
from frconvert.idct.types import KEY  # noqa: E402
from frconvert.importers import load  # noqa: E402

node = helper.make_node
TOLERANCE = 1e-5


def smooth(*shape, seed=0, dtype=np.float32):
    """Weights with energy at low frequencies, so that every form of storage occurs."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    for axis in range(len(shape)):
        values = np.cumsum(values, axis) / np.sqrt(shape[axis])
    return values.astype(dtype)


def info(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def write(tmp_path, nodes, inits, inputs, outputs, *, opset=17, ir=8, functions=()):
    tensors = [value if isinstance(value, TensorProto) else numpy_helper.from_array(value, name)
               for name, value in inits.items()]  # fmt: skip
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir, functions=list(functions)
    )
    inferred = onnx.shape_inference.infer_shapes(model)  # the checker wants shapes of outputs
    for given, found in zip(model.graph.output, inferred.graph.output, strict=True):
        if not given.type.tensor_type.HasField("shape"):
            given.CopyFrom(found)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def run(path, feeds, optimised=None):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if optimised:
        options.optimized_model_filepath = str(optimised)
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def node_count(graph):
    return sum(
        1 + sum(node_count(attribute.g) for attribute in item.attribute if attribute.HasField("g"))
        for item in graph.node
    )


def coded(path, target, plans, mode="idct", factors=False):
    """Writes `target` with the planned tensors of the model at `path`; returns notices."""
    checkpoint = load(path)
    makers = {
        name: partial(lambda entry, plan: planned(entry.read(), entry.dtype, plan), checkpoint[name], plan)
        for name, plan in plans.items()
    }
    notices = []
    exporter.save(checkpoint, makers, target, mode, notices.append, factors=factors)
    return notices


def check(tmp_path, path, plans, feeds, mode="idct", factors=False, folds=True, taken=None):
    """The law of the exporter, for one model."""
    target, decoded = tmp_path / "coded.onnx", tmp_path / "decoded.onnx"
    coded(path, target, plans, mode, factors)
    onnx.checker.check_model(str(target), full_check=True)
    original, back = load(path), load(target)
    assert back.attachments[ONNX_SKELETON] == original.attachments[ONNX_SKELETON]
    assert [entry.name for entry in back] == [entry.name for entry in original]
    for name in taken if taken is not None else plans:
        expected = planned(original[name].read(), original[name].dtype, plans[name])
        found = existing(back[name])
        assert found.values.tobytes() == expected.values.tobytes()
        assert (found.axes, found.keep, found.step) == (expected.axes, expected.keep, expected.step)
        assert back[name].read().tobytes() == weights(expected).tobytes()
    dense_exporter.save(back, decoded, pytest.fail)
    first = run(decoded, feeds, tmp_path / "decoded.opt.onnx")
    second = run(target, feeds, tmp_path / "coded.opt.onnx")
    for a, b in zip(first, second, strict=True):
        if a.dtype.kind == "f":
            limit = TOLERANCE if a.dtype != np.float16 else 2e-3
            assert np.abs(a.astype(float) - b).max() <= limit * np.abs(a).max()
            assert np.abs(a).max() > 0
        else:
            assert np.array_equal(a, b)
    if folds:
        counts = [
            node_count(onnx.load(tmp_path / name).graph) for name in ("decoded.opt.onnx", "coded.opt.onnx")
        ]
        assert counts[1] <= counts[0]
    return onnx.load(target)


PLANS = {
    "spatial": Plan(step=2**-6),
    "fine": Plan(step=2**-14),
    "coarse": Plan(step=2**-3),
    "kernel": Plan((2, 3), None, 2**-7),
    "channels": Plan((0, 1), None, 2**-7),
    "all": Plan((0, 1, 2, 3), None, 2**-9),
    "prefix": Plan((0, 1, 2, 3), 300, 2**-9),
    "few": Plan((0, 1, 2, 3), 5, 2**-5),
    "prefix of some": Plan((0, 1), 3000, 2**-9),
}


def conv_model(tmp_path, opset=17, ir=8):
    nodes = [node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
    inits = {"w": smooth(48, 40, 3, 3)}
    return write(tmp_path, nodes, inits, [info("x", [1, 40, 6, 6])], [info("y", None)], opset=opset, ir=ir)


@pytest.mark.parametrize("mode", ["idct", "functions"])
@pytest.mark.parametrize("plan", PLANS)
def test_a_convolution_is_restored_by_nodes_that_fold(tmp_path, plan, mode):
    feeds = {"x": smooth(1, 40, 6, 6, seed=1)}
    model = check(tmp_path, conv_model(tmp_path), {"w": PLANS[plan]}, feeds, mode)
    domains = {item.domain for item in model.graph.node}
    assert domains == ({"", "ai.frconvert"} if mode == "functions" and plan != "coarse" else domains - {"x"})
    assert model.functions if mode == "functions" else not model.functions


@pytest.mark.parametrize("plan", ["spatial", "kernel", "all", "prefix"])
@pytest.mark.parametrize("opset", [11, 12, 13, 21])
def test_old_and_new_operator_sets_do(tmp_path, plan, opset):
    path = conv_model(tmp_path, opset, 6 if opset < 20 else 10)
    check(tmp_path, path, {"w": PLANS[plan]}, {"x": smooth(1, 40, 6, 6, seed=1)})


@pytest.mark.parametrize("plan", ["spatial", "fine", "coarse", "kernel", "few"])
@pytest.mark.parametrize("opset", [7, 9, 10])
def test_very_old_operator_sets_do_with_plain_numbers_and_stored_bases(tmp_path, plan, opset):
    path = conv_model(tmp_path, opset, 4)
    model = check(tmp_path, path, {"w": PLANS[plan]}, {"x": smooth(1, 40, 6, 6, seed=1)})
    assert {item.op_type for item in model.graph.node} <= {
        "Cast", "Mul", "Concat", "Reshape", "Transpose", "MatMul", "Conv",
    }  # fmt: skip


@pytest.mark.parametrize(("opset", "plan", "words"), [(6, "spatial", "is older than"), (9, "all", "bases")])
def test_what_an_operator_set_cannot_do_stays_dense_and_is_said(tmp_path, opset, plan, words):
    path = conv_model(tmp_path, opset, 4)
    target = tmp_path / "coded.onnx"
    (notice,) = coded(path, target, {"w": PLANS[plan]})
    assert f"operator set {opset}" in notice
    assert words in notice
    assert not onnx.load(target).metadata_props


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("plan", ["spatial", "all", "prefix"])
def test_other_float_types_come_out_as_such(tmp_path, dtype, plan):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [node("Cast", ["w"], ["f"], to=1), node("Conv", ["x", "f"], ["y"])]
    w = numpy_helper.from_array(smooth(48, 40, 3, 3).astype(dtype), "w")
    assert w.data_type == kind
    path = write(tmp_path, nodes, {"w": w}, [info("x", [1, 40, 6, 6])], [info("y", None)])
    check(tmp_path, path, {"w": PLANS[plan]}, {"x": smooth(1, 40, 6, 6, seed=1)})


def test_float16_at_the_end_of_its_range_stays_dense(tmp_path):
    w = np.full((16, 16), 65504, np.float16)
    w[0] = 1
    path = write(tmp_path, [node("MatMul", ["x", "w"], ["y"])], {"w": w}, [info("x", [1, 16], 10)],
                 [info("y", None, 10)])  # fmt: skip
    (notice,) = coded(path, tmp_path / "coded.onnx", {"w": Plan((0, 1), None, 64.0)})
    assert "reach the end of their type" in notice


@pytest.mark.parametrize("mode", ["idct", "functions"])
@pytest.mark.parametrize("columns", [360, 359])  # full words, and a last one with digits to spare
@pytest.mark.parametrize("form", ["d3", "d5", "d9", "d15", "d39", "int8", "int16", "int32"])
def test_every_form_of_storage_is_unpacked_exactly(tmp_path, form, columns, mode):
    limit = min(FORMS[form].limit, 200_000)
    rng = np.random.default_rng(0)
    integers = rng.integers(-limit, limit + 1, (300, columns)).astype(np.int32)
    path = write(tmp_path, [node("Mul", ["w", "x"], ["y"])], {"w": integers.astype(np.float32) / 4},
                 [info("x", [1])], [info("y", None)])  # fmt: skip
    target = tmp_path / "coded.onnx"
    coded(path, target, {"w": Plan(step=0.25)}, mode)
    (item,) = json.loads(next(prop.value for prop in onnx.load(target).metadata_props).strip())["tensors"]
    assert [run[0] for run in item["runs"]] == [form]
    # A table of bytes, times a step, is an OpenVINO pattern of quantisation.
    tables = [
        tensor for tensor in onnx.load(target).graph.initializer if tensor.data_type == TensorProto.INT8
    ]
    assert len(tables) == (form == "int8")
    (found,) = run(target, {"x": np.ones(1, np.float32)})
    assert np.array_equal(found * 4, integers)


def test_weights_in_constant_nodes(tmp_path):
    inside = numpy_helper.from_array(smooth(40, 40), "its.own.name")
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("Constant", [], ["w"], name="the constant", value=inside),
        node("MatMul", ["r", "w"], ["y"]),
    ]
    path = write(tmp_path, nodes, {}, [info("x", [2, 40])], [info("y", None)])
    check(tmp_path, path, {"w": Plan((0, 1), None, 2**-9)}, {"x": smooth(2, 40, seed=1)})


def test_weights_in_the_branches_of_an_if_and_in_the_main_graph(tmp_path):
    def branch(seed, name):
        init = [numpy_helper.from_array(smooth(40, 40, seed=seed), "w")]
        constant = node("Constant", [], [f"k{seed}"], value=numpy_helper.from_array(smooth(40, 40, seed=9)))
        nodes = [constant, node("MatMul", ["r", "w"], [f"m{seed}"]),
                 node("MatMul", [f"m{seed}", f"k{seed}"], [name])]  # fmt: skip
        return helper.make_graph(nodes, name, [], [info(name, [2, 40])], init)

    nodes = [
        node("MatMul", ["x", "v"], ["r"]),
        node("If", ["c"], ["y"], then_branch=branch(1, "t"), else_branch=branch(2, "e")),
    ]
    inputs = [info("x", [2, 40]), info("c", [], TensorProto.BOOL)]
    path = write(tmp_path, nodes, {"v": smooth(40, 40, seed=3)}, inputs, [info("y", None)])
    plan = Plan((0, 1), None, 2**-9)
    names = [entry.name for entry in load(path)]
    assert len(names) == 5
    for chosen in (True, False):
        feeds = {"x": smooth(2, 40, seed=4), "c": np.array(chosen)}
        check(tmp_path, path, dict.fromkeys(names, plan), feeds)


def test_weights_in_the_body_of_a_loop(tmp_path):
    body = helper.make_graph(
        [node("MatMul", ["h", "w"], ["m"]), node("Tanh", ["m"], ["o"]), node("Identity", ["c"], ["d"])],
        "body", [info("i", [], 7), info("c", [], 9), info("h", [2, 40])],
        [info("d", [], 9), info("o", [2, 40])], [numpy_helper.from_array(smooth(40, 40), "w")],
    )  # fmt: skip
    nodes = [node("Loop", ["n", "", "x"], ["y"], body=body)]
    path = write(tmp_path, nodes, {"n": np.array(3)}, [info("x", [2, 40])], [info("y", [2, 40])])
    check(tmp_path, path, {"w": Plan((0, 1), 700, 2**-9)}, {"x": smooth(2, 40, seed=1)})


def test_an_lstm_behind_slices_and_concatenations(tmp_path):
    nodes = [
        node("Slice", ["w", "a", "b", "zero"], ["w1"]), node("Slice", ["w", "b", "c", "zero"], ["w2"]),
        node("Concat", ["w2", "w1"], ["w3"], axis=0), node("Unsqueeze", ["w3", "zero"], ["w4"]),
        node("Unsqueeze", ["r", "zero"], ["r4"]),
        node("LSTM", ["x", "w4", "r4"], ["y"], hidden_size=16),
    ]  # fmt: skip
    ints = {name: np.array([value]) for name, value in (("a", 0), ("b", 32), ("c", 64), ("zero", 0))}
    inits = {"w": smooth(64, 24), "r": smooth(64, 16, seed=1)} | ints
    path = write(tmp_path, nodes, inits, [info("x", [5, 1, 24])], [info("y", None)])
    plans = {"w": Plan((0, 1), None, 2**-9), "r": Plan((1,), None, 2**-9)}
    check(tmp_path, path, plans, {"x": smooth(5, 1, 24, seed=2)})


def test_grouped_depthwise_and_transposed_convolutions(tmp_path):
    nodes = [
        node("Conv", ["x", "g"], ["a"], group=4), node("Conv", ["a", "d"], ["b"], group=32),
        node("ConvTranspose", ["b", "t"], ["y"], strides=[2, 2]),
    ]  # fmt: skip
    inits = {"g": smooth(32, 4, 3, 3), "d": smooth(32, 1, 3, 3, seed=1), "t": smooth(32, 8, 2, 2, seed=2)}
    path = write(tmp_path, nodes, inits, [info("x", [1, 16, 9, 9])], [info("y", None)])
    plan = Plan((2, 3), None, 2**-8)
    check(tmp_path, path, dict.fromkeys(inits, plan), {"x": smooth(1, 16, 9, 9, seed=3)})


def test_a_tied_table_of_gather_and_matmul_and_an_einsum(tmp_path):
    nodes = [
        node("Gather", ["table", "i"], ["e"]), node("Einsum", ["e", "q"], ["f"], equation="bd,de->be"),
        node("Transpose", ["table"], ["back"], perm=[1, 0]), node("MatMul", ["f", "back"], ["y"]),
    ]  # fmt: skip
    inits = {"table": smooth(50, 32), "q": smooth(32, 32, seed=1)}
    path = write(tmp_path, nodes, inits, [info("i", [3], 7)], [info("y", None)])
    plans = {"table": Plan((1,), None, 2**-8), "q": Plan((0, 1), None, 2**-8)}
    check(tmp_path, path, plans, {"i": np.array([0, 7, 49])})


@pytest.mark.parametrize("ir", [3, 8])
def test_an_initializer_that_is_an_input_too_is_none_any_more_and_comes_back(tmp_path, ir):
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Add", ["a", "b"], ["y"])]
    inits = {"w": smooth(40, 40), "b": smooth(40)}
    inputs = [info("w", [40, 40]), info("x", [2, 40]), info("b", [40])]
    path = write(tmp_path, nodes, inits, inputs, [info("y", None)], ir=ir)
    model = check(tmp_path, path, {"w": Plan((0, 1), None, 2**-9)}, {"x": smooth(2, 40, seed=1)})
    assert [value.name for value in model.graph.input] == ["x", "b"]


def test_results_of_the_graph_and_weights_of_quantising_nodes_stay_dense(tmp_path):
    nodes = [
        node("QuantizeLinear", ["w", "s"], ["q"]), node("DequantizeLinear", ["q", "s"], ["d"]),
        node("MatMul", ["x", "d"], ["y"]), node("MatMul", ["x", "v"], ["z"]),
    ]  # fmt: skip
    inits = {"w": smooth(40, 40), "v": smooth(40, 40, seed=1), "s": np.array(0.01, np.float32)}
    outputs = [info("y", None), info("z", None), info("v", [40, 40])]
    path = write(tmp_path, nodes, inits, [info("x", [2, 40])], outputs)
    plan = Plan((0, 1), None, 2**-9)
    feeds = {"x": smooth(2, 40, seed=2)}
    check(tmp_path, path, {"w": plan, "v": plan}, feeds, taken=())


def test_a_tensor_of_one_value_is_one_node(tmp_path):
    nodes = [node("Mul", ["x", "ones"], ["a"]), node("Add", ["a", "v"], ["y"])]
    inits = {"ones": np.ones(500, np.float32), "v": smooth(500)}
    path = write(tmp_path, nodes, inits, [info("x", [2, 500])], [info("y", None)])
    model = check(tmp_path, path, {}, {"x": smooth(2, 500, seed=2)})
    assert [item.op_type for item in model.graph.node] == ["ConstantOfShape", "Mul", "Add"]


FACTORED = [
    (node("MatMul", ["x", "w"], ["y"], name="n"), (300, 400)),
    (node("Gemm", ["x", "w"], ["y"], transB=1), (400, 300)),
    (node("Gemm", ["x", "w", "b"], ["y"], transB=1), (400, 300)),
    (node("Gemm", ["x", "w", "b"], ["y"], alpha=1.0, beta=1.0, transB=0), (300, 400)),
]


@pytest.mark.parametrize("plan", [((0, 1), 900), ((0, 1), 64), ((0,), None), ((1,), None)])
@pytest.mark.parametrize("case", range(len(FACTORED)))
def test_a_linear_layer_of_few_coefficients_needs_no_weight(tmp_path, case, plan):
    product, shape = FACTORED[case]
    axes, keep = plan
    w = smooth(*shape)
    if keep is None:  # few frequencies along one axis
        from scipy import fft

        spectrum = fft.dct(w, axis=axes[0], norm="ortho")
        np.moveaxis(spectrum, axes[0], 0)[40:] = 0
        w = fft.idct(spectrum, axis=axes[0], norm="ortho").astype(np.float32)
    inits = {"w": w, "b": smooth(400)} if "b" in product.input else {"w": w}
    nodes = [node("Relu", ["x0"], ["x"]), product]
    path = write(tmp_path, nodes, inits, [info("x0", [3, 300])], [info("y", None)])
    feeds = {"x0": smooth(3, 300, seed=1)}
    model = check(tmp_path, path, {"w": Plan(axes, keep, 2**-6)}, feeds, factors=True, folds=False)
    assert "w" not in {name for item in model.graph.node for name in (*item.input, *item.output)}
    optimised = onnx.load(tmp_path / "coded.opt.onnx")
    largest = max(int(np.prod(tensor.dims)) for tensor in optimised.graph.initializer)
    assert largest < 300 * 400 / 2


def test_a_weight_that_is_used_otherwise_too_is_not_factored(tmp_path):
    nodes = [node("MatMul", ["x", "w"], ["y"]), node("Gather", ["w", "i"], ["z"])]
    path = write(tmp_path, nodes, {"w": smooth(300, 400), "i": np.array([1, 2])}, [info("x", [3, 300])],
                 [info("y", None), info("z", None)])  # fmt: skip
    model = check(tmp_path, path, {"w": Plan((0, 1), 64, 2**-6)}, {"x": smooth(3, 300, seed=1)}, factors=True)
    assert any("w" in item.output for item in model.graph.node)


# The whole way, by convert.


@pytest.fixture
def network(tmp_path):
    nodes = [
        node("Conv", ["x", "conv.weight", "conv.bias"], ["a"]), node("Relu", ["a"], ["b"]),
        node("Flatten", ["b"], ["c"]), node("Gemm", ["c", "fc.weight"], ["y"], transB=1),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    inits = {
        "conv.weight": smooth(64, 16, 3, 3), "conv.bias": smooth(64),
        "fc.weight": rng.standard_normal((50, 64 * 16), np.float32),
    }  # fmt: skip
    return write(tmp_path, nodes, inits, [info("x", [1, 16, 6, 6])], [info("y", None)])


def test_frq_to_onnx_and_back_keeps_every_coefficient(network, tmp_path):
    packed, embedded, again = (tmp_path / name for name in ("a.frq", "a.idct.onnx", "b.frq"))
    frconvert.convert(network, packed, snr=30)
    frconvert.convert(packed, embedded)
    frconvert.convert(embedded, again)
    first, second = load(packed), load(again)
    assert second.attachments == first.attachments
    for a, b in zip(first, second, strict=True):
        assert a.read().tobytes() == b.read().tobytes()
        if not a.encoded_layout.is_plain:
            one, other = existing(a), existing(b)
            assert one.values.tobytes() == other.values.tobytes()
            assert one.step == other.step
    assert embedded.stat().st_size < network.stat().st_size / 3


def test_differences_to_a_base_become_dense_and_that_is_said(network, tmp_path):
    frconvert.convert(network, tmp_path / "base.frq", snr=30)
    model = onnx.load(network)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        moved = 100 * values[::-1] if tensor.name == "fc.weight" else values * np.float32(1.01)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(moved), tensor.name))
    onnx.save(model, tmp_path / "tuned.onnx")
    frconvert.convert(tmp_path / "tuned.onnx", tmp_path / "tuned.frq", snr=20, base=tmp_path / "base.frq")
    source = frconvert.load(tmp_path / "tuned.frq", base=tmp_path / "base.frq")
    relations = {entry.name: entry.encoded_layout.relation for entry in source.stored}
    summary = frconvert.save(source, tmp_path / "a.idct.onnx")
    differences = sum(relation != "own" for relation in relations.values())
    assert differences
    assert any(f"{differences} of the tensors become dense" in notice for notice in summary.notices)


def test_dense_weights_come_out_of_coefficients_again(network, tmp_path):
    frconvert.convert(network, tmp_path / "a.idct.onnx", snr=30)
    frconvert.convert(tmp_path / "a.idct.onnx", tmp_path / "dense.onnx")
    model = onnx.load(tmp_path / "dense.onnx")
    assert len(model.graph.initializer) == 3
    assert [item.op_type for item in model.graph.node] == ["Conv", "Relu", "Flatten", "Gemm"]
    assert not model.metadata_props


@pytest.mark.parametrize("snr", [15, 30, 50])
def test_an_snr_target_holds_for_what_is_in_the_graph(network, tmp_path, snr):
    summary = frconvert.convert(network, tmp_path / "a.idct.onnx", snr=snr)
    assert snr <= summary.sqnr_db < snr + 0.5
    result = frconvert.load(tmp_path / "a.idct.onnx").numpy()
    original = frconvert.load(network).numpy()
    names = ["conv.weight", "fc.weight"]
    energy = sum(np.square(original[name].astype(float)).sum() for name in names)
    error = sum(np.square(original[name].astype(float) - result[name]).sum() for name in names)
    assert 10 * np.log10(energy / error) == pytest.approx(summary.sqnr_db, abs=0.01)


@pytest.mark.parametrize("ratio", [3, 6, 10])
def test_a_size_target_holds_for_the_file(network, tmp_path, ratio):
    summary = frconvert.convert(network, tmp_path / "a.idct.onnx", ratio=ratio)
    assert summary.ratio >= ratio
    assert summary.destination_bytes == (tmp_path / "a.idct.onnx").stat().st_size


def test_a_target_holds_with_an_old_operator_set(tmp_path):
    path = conv_model(tmp_path, 9, 4)
    summary = frconvert.convert(path, tmp_path / "a.idct.onnx", snr=30)
    assert 30 <= summary.sqnr_db < 30.5
    assert summary.ratio > 3
    assert not summary.notices


def test_a_largest_error_holds(network, tmp_path):
    frconvert.convert(network, tmp_path / "a.idct.onnx", max_error=0.01)
    result, original = frconvert.load(tmp_path / "a.idct.onnx").numpy(), frconvert.load(network).numpy()
    assert all(np.abs(original[name] - result[name]).max() <= 0.01 for name in original)


def test_keep_stores_a_prefix(network, tmp_path):
    summary = frconvert.convert(network, tmp_path / "a.idct.onnx", keep=0.02)
    assert {tensor.keep for tensor in summary.tensors if len(tensor.shape) > 1} == {184, 1024}


def test_excluded_tensors_keep_their_values(network, tmp_path):
    frconvert.convert(network, tmp_path / "a.idct.onnx", exclude=["fc.*"])
    result, original = frconvert.load(tmp_path / "a.idct.onnx").numpy(), frconvert.load(network).numpy()
    assert np.array_equal(result["fc.weight"], original["fc.weight"])
    assert not np.array_equal(result["conv.weight"], original["conv.weight"])


def test_the_mode_follows_the_name_and_the_option(network, tmp_path):
    for name, onnx_option, has_notes in (
        ("a.idct.onnx", None, True), ("b.onnx", None, False), ("c.onnx", "idct", True),
        ("d.onnx", "functions", True), ("e.idct.onnx", "dense", False),
    ):  # fmt: skip
        frconvert.convert(network, tmp_path / name, onnx=onnx_option)
        model = onnx.load(tmp_path / name)
        assert any(item.key == KEY for item in model.metadata_props) == has_notes
        assert bool(model.functions) == (onnx_option == "functions")


def test_the_same_input_gives_the_same_bytes(network, tmp_path):
    frconvert.convert(network, tmp_path / "a.idct.onnx", jobs=1)
    frconvert.convert(network, tmp_path / "b.idct.onnx", jobs=2)
    assert (tmp_path / "a.idct.onnx").read_bytes() == (tmp_path / "b.idct.onnx").read_bytes()


def test_a_matrix_and_its_transpose_are_stored_once(tmp_path):
    w = smooth(300, 200)
    nodes = [node("Gather", ["w", "i"], ["a"]), node("MatMul", ["a", "t"], ["y"])]
    inits = {"w": w, "t": np.ascontiguousarray(w.T)}
    path = write(tmp_path, nodes, inits, [info("i", [3], TensorProto.INT64)], [info("y", None)])
    feeds = {"i": np.array([5, 0, 299])}
    for plans in (
        {"w": Plan(step=2**-6), "t": Plan(step=2**-6)},
        {"w": Plan((0,), None, 2**-6), "t": Plan((1,), None, 2**-6)},
        {"w": Plan((0, 1), 5000, 2**-6), "t": Plan((0, 1), 5000, 2**-6)},  # prefixes of zigzag orders differ
        {"w": Plan(step=2**-6), "t": Plan(step=2**-7)},
    ):
        model = check(tmp_path, path, plans, feeds)
        last = [item.op_type for item in model.graph.node if item.output[0] == "t"]
        is_twin = plans["w"].keep is None and plans["w"].step == plans["t"].step
        assert (last == ["Transpose"]) == is_twin


@pytest.mark.parametrize("mode", ["idct", "functions"])
@pytest.mark.parametrize("rows", [60, 40_000])  # the latter needs more than 16 bits for places
def test_words_with_numbers_that_do_not_fit_are_replaced(tmp_path, rows, mode):
    rng = np.random.default_rng(0)
    integers = rng.integers(-19, 20, (rows, 10)).astype(np.int32)
    integers.reshape(-1)[7::401] = 20
    integers.reshape(-1)[8::401] = -3000
    integers[-1, -1] = 100
    path = write(tmp_path, [node("Mul", ["w", "x"], ["y"])], {"w": integers.astype(np.float32) / 4},
                 [info("x", [1])], [info("y", None)])  # fmt: skip
    model = check(tmp_path, path, {"w": Plan(step=0.25)}, {"x": np.ones(1, np.float32)}, mode)
    (item,) = json.loads(next(prop.value for prop in model.metadata_props))["tensors"]
    assert any(len(run) > 3 for run in item["runs"])
    (found,) = run(tmp_path / "coded.onnx", {"x": np.ones(1, np.float32)})
    assert np.array_equal(found * 4, integers)


def test_no_byte_is_scattered_and_no_float_is_moved_about(tmp_path):
    """OpenVINO does not fold the former, and of the latter a runtime keeps too many."""
    for plan in ("spatial", "coarse", "prefix", "few"):
        model = check(tmp_path, conv_model(tmp_path), {"w": PLANS[plan]}, {"x": smooth(1, 40, 6, 6, seed=1)})
        inferred = onnx.shape_inference.infer_shapes(model)
        kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
        for item in model.graph.node:
            if item.op_type == "ScatterElements":
                assert kinds[item.output[0]] in (TensorProto.INT16, TensorProto.INT32)
            if item.op_type in ("Slice", "Reshape"):
                assert kinds[item.output[0]] != TensorProto.FLOAT


FLOATS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("options", [{}, {"snr": 40}, {"keep": 0.1}, {"max_error": 0.05}, {"ratio": 5}])
def test_models_of_narrow_floats_export_agree_and_read_back(tmp_path, dtype, options):
    """A model whose weights are narrow and are cast before they are used, as bfloat16 is on a CPU."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(FLOATS[dtype]))
    nodes = [node("Cast", [name], [name + "32"], to=1) for name in "wfb"]
    nodes += [node("Conv", ["x", "w32"], ["c"]), node("Flatten", ["c"], ["d"])]
    nodes += [node("Gemm", ["d", "f32", "b32"], ["y"])]
    values = {"w": smooth(32, 16, 3, 3), "f": smooth(512, 64, seed=2), "b": smooth(64, seed=3)}
    inits = {
        name: numpy_helper.from_array(array.astype(FLOATS[dtype]), name) for name, array in values.items()
    }
    assert {tensor.data_type for tensor in inits.values()} == {kind}
    path = write(tmp_path, nodes, inits, [info("x", [1, 16, 6, 6])], [info("y", [1, 64])])
    target, dense, packed = (tmp_path / name for name in ("a.idct.onnx", "dense.onnx", "a.frq"))
    frconvert.convert(path, target, **options)
    onnx.checker.check_model(str(target), full_check=True)
    assert onnx.load(target).metadata_props
    frconvert.convert(target, dense)
    frconvert.convert(target, packed)
    for entry in load(dense):
        assert entry.dtype == dtype
        assert load(packed)[entry.name].read().tobytes() == entry.read().tobytes()
    feeds = {"x": smooth(1, 16, 6, 6, seed=1)}
    (a,), (b,) = (run(file, feeds) for file in (dense, target))
    # A value beside the middle between two narrow floats may be rounded to either.
    assert np.linalg.norm(b - a) <= float(ml_dtypes.finfo(FLOATS[dtype]).eps) * 0.1 * np.linalg.norm(a)
