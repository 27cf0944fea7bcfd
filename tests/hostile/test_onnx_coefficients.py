"""Models that lie about their coefficients: one line each, and no memory for what they claim."""

import copy
import json
import tracemalloc
from functools import partial

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import helper, numpy_helper  # noqa: E402

from frconvert.coding.record import Plan  # noqa: E402
from frconvert.embed import planned  # noqa: E402
from frconvert.errors import DamagedError, FrqError  # noqa: E402
from frconvert.exporters import onnx_idct as exporter  # noqa: E402
from frconvert.idct.types import KEY  # noqa: E402
from frconvert.importers import load  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    rng = np.random.default_rng(0)
    w = rng.standard_normal((100, 40)).astype(np.float32)
    w[5::10, 7] = 5000  # words that are replaced
    c = np.tile(np.arange(5, dtype=np.float32), (40, 1))
    v = np.zeros((64, 64), np.float32)
    v[0] = 1
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Mul", ["a", "o"], ["b"]),
            helper.make_node("Gemm", ["b", "c"], ["y"]), helper.make_node("MatMul", ["v", "v"], ["z"]),
        ], "g",
        [helper.make_tensor_value_info("x", 1, [1, 100])],
        [helper.make_tensor_value_info("y", 1, [1, 5]), helper.make_tensor_value_info("z", 1, [64, 64])],
        [numpy_helper.from_array(a, name) for name, a in (
            ("w", w), ("o", np.full((100, 40), 2, np.float32)), ("v", v), ("c", c))],
    )  # fmt: skip
    source, target = folder / "m.onnx", folder / "m.idct.onnx"
    source.write_bytes(helper.make_model(graph, ir_version=8).SerializeToString())
    checkpoint = load(source)
    plans = {"w": Plan(step=0.5), "v": Plan((0, 1), 70, 2**-6), "c": Plan((0,), None, 0.5)}
    coefficients = {
        name: partial(planned, checkpoint[name].read(), "float32", plan) for name, plan in plans.items()
    }
    exporter.save(checkpoint, coefficients, target, "idct", pytest.fail)
    return onnx.load(target)


def notes(model):
    return json.loads(next(item.value for item in model.metadata_props if item.key == KEY))


def written(model, content, path):
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    text = content if isinstance(content, str) else json.dumps(content)
    next(item for item in changed.metadata_props if item.key == KEY).value = text
    path.write_bytes(changed.SerializeToString())
    return path


def places(value, path=()):
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*path, key))


def test_the_sample_holds_every_kind_of_note(model):
    told = notes(model)["tensors"]
    assert {key for item in told for key in item} >= {
        "fill", "runs", "step", "shape", "value", "box", "keep", "order", "axes",
    }  # fmt: skip
    assert any(len(run) > 3 for item in told for run in item.get("runs", []))  # words are replaced


def attempt(file):
    """The message of the error, or None if all tensors could be read."""
    try:
        for entry in load(file):
            assert entry.read().shape == entry.shape
            if entry.read_encoded is not None:
                entry.read_encoded()
    except FrqError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "wrong", [-1, 0, 2**31, 2**62, 2**70, 1.5, float("nan"), "x", "", None, [], [1], {}, True, "gone"]
)
def test_any_wrong_value_anywhere_is_refused_or_harmless(model, wrong, tmp_path):
    content = notes(model)
    refused = 0
    for path in places(content):
        changed = copy.deepcopy(content)
        if not path:
            changed = wrong
        else:
            holder = changed
            for key in path[:-1]:
                holder = holder[key]
            if wrong == "gone":
                del holder[path[-1]]
            else:
                holder[path[-1]] = wrong
        message = attempt(written(model, changed, tmp_path / "m.onnx"))
        if message is not None:
            refused += 1
            assert "\n" not in message
            assert len(message) < 1000
    assert refused > 10


@pytest.mark.parametrize("key", ["shape", "box", "keep", "runs"])
def test_no_memory_is_taken_for_what_is_claimed(model, key, tmp_path):
    content = notes(model)
    for item in content["tensors"]:
        if key in item:
            item[key] = (
                [["zeros", 2**38, ""]] if key == "runs" else 2**38 if key == "keep" else [2**19, 2**19]
            )
    tracemalloc.start()
    message = attempt(written(model, content, tmp_path / "m.onnx"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message is not None
    assert peak < 1 << 24


def test_notes_that_are_not_understood_are_refused(model, tmp_path):
    content = notes(model)
    content["tensors"][0]["outliers"] = [1, "int16", "q/0", "q/1"]
    with pytest.raises(DamagedError, match="unknown notes"):
        load(written(model, content, tmp_path / "m.onnx"))


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "9" * 10_000, "\ud7ff", '{"version":2}'])
def test_notes_that_are_no_notes_are_refused(model, text, tmp_path):
    with pytest.raises(DamagedError, match=KEY):
        load(written(model, text, tmp_path / "m.onnx"))


def test_a_small_file_does_not_claim_terabytes(model, tmp_path):
    content = notes(model)
    item = next(item for item in content["tensors"] if "fill" in item)
    item["shape"] = [1 << 20, 1 << 12]
    with pytest.raises(DamagedError, match="too much for a file"):
        load(written(model, content, tmp_path / "m.onnx"))


def test_a_model_whose_nodes_were_optimised_away_is_read_like_any_other(model, tmp_path):
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    node = next(node for node in changed.graph.node if "w" in node.output)
    changed.graph.node.remove(node)
    changed.graph.initializer.append(numpy_helper.from_array(np.ones((100, 40), np.float32), "w"))
    path = tmp_path / "m.onnx"
    path.write_bytes(changed.SerializeToString())
    checkpoint = load(path)
    assert any("not as frconvert wrote them" in notice for notice in checkpoint.notices)
    assert np.array_equal(checkpoint["w"].read(), np.ones((100, 40)))
