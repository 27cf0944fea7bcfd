"""Fine-tuning of ONNX models: from graph to `.frq` and back to a graph."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
ort = pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper  # noqa: E402

import frconvert  # noqa: E402
from frconvert.cli import cli  # noqa: E402
from frconvert.distill.graphs import open_graph  # noqa: E402
from frconvert.errors import UsageError  # noqa: E402


def made(path: Path, *, dtype: type = np.float32, softmax: bool = True) -> Path:
    """A small classifier with a constant in a node, integers and odd names."""
    rng = np.random.default_rng(0)
    tensors = {
        "a.weight": rng.normal(size=(24, 96)), "a.bias": rng.normal(size=96),
        "values": rng.normal(size=(96, 5)), "table": np.arange(96),
    }  # fmt: skip
    last = {"axis": 1} if softmax else {}
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    scale = numpy_helper.from_array(np.abs(rng.normal(size=(1, 96)) + 2).astype(dtype), "s")
    nodes = [
        helper.make_node("MatMul", ["x", "a.weight"], ["h"]),
        helper.make_node("Add", ["h", "a.bias"], ["i"]),
        helper.make_node("Relu", ["i"], ["j"]),
        helper.make_node("Constant", [], ["scale"], value=scale),
        helper.make_node("Mul", ["j", "scale"], ["k"]),
        helper.make_node("Gather", ["k", "table"], ["l"], axis=1),
        helper.make_node("MatMul", ["l", "values"], ["logits"]),
        helper.make_node("Softmax" if softmax else "Neg", ["logits"], ["y"], **last),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", kind, ["n", 24])],
        [helper.make_tensor_value_info("y", kind, ["n", 5])],
        [
            numpy_helper.from_array(array.astype(dtype if array.dtype.kind == "f" else np.int64), name)
            for name, array in tensors.items()
        ],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def batches(epoch: int) -> Iterator[dict[str, torch.Tensor]]:
    for _ in range(15):
        yield {"x": torch.randn(32, 24)}


def run(path: Path, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def test_an_onnx_model_is_trained_and_becomes_an_onnx_model_again(tmp_path: Path) -> None:
    source, packed, back = made(tmp_path / "m.onnx", softmax=False), tmp_path / "m.frq", tmp_path / "b.onnx"
    summary = frconvert.distill(source, batches, packed, rate=0.1, epochs=20)
    assert packed.stat().st_size == summary.destination_bytes
    frconvert.convert(source, tmp_path / "plain.frq", size=summary.destination_bytes)
    frconvert.convert(packed, back)
    frconvert.convert(tmp_path / "plain.frq", tmp_path / "plain.onnx")
    x = np.random.default_rng(1).normal(size=(500, 24)).astype(np.float32)
    before, after, untrained = run(source, x), run(back, x), run(tmp_path / "plain.onnx", x)
    assert np.square(after - before).sum() < 0.8 * np.square(untrained - before).sum()
    restored = frconvert.load(packed)
    assert [entry.name for entry in restored] == [entry.name for entry in frconvert.load(source)]
    assert np.array_equal(restored["table"].read(), np.arange(96))


def test_a_metric_sees_the_whole_graph(tmp_path: Path) -> None:
    seen = []

    def metric(module: torch.nn.Module) -> float:
        seen.append(module(torch.randn(4, 24)).detach())
        return 0.0

    frconvert.distill(
        made(tmp_path / "m.onnx"), batches, tmp_path / "m.frq", rate=0.1, epochs=2, metric=metric
    )
    assert seen
    for probabilities in seen:
        torch.testing.assert_close(probabilities.sum(1), torch.ones(4))


def test_the_same_run_gives_the_same_bytes_whether_the_source_is_an_onnx_or_a_frq_of_it(
    tmp_path: Path,
) -> None:
    source = made(tmp_path / "m.onnx")
    frconvert.convert(source, tmp_path / "same.frq", lossless=True)
    for name, given in (("a", source), ("b", tmp_path / "same.frq"), ("c", frconvert.load(source))):
        frconvert.distill(given, batches, tmp_path / f"{name}.frq", rate=0.1, epochs=2, provenance=False)
    found = {(tmp_path / f"{name}.frq").read_bytes() for name in "ac"}
    assert len(found) == 1
    a, b = (frconvert.load(tmp_path / f"{name}.frq").numpy() for name in "ab")
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_half_floats_stay_half_floats(tmp_path: Path) -> None:
    source, packed = made(tmp_path / "m.onnx", dtype=np.float16), tmp_path / "m.frq"
    frconvert.distill(source, batches, packed, rate=0.1, epochs=2)
    types = {entry.name: entry.dtype for entry in frconvert.load(packed)}
    assert types == {entry.name: entry.dtype for entry in frconvert.load(source)}
    assert types["a.bias"] == "float16"


def test_logits_are_compared_where_the_graph_ends_in_a_softmax(tmp_path: Path) -> None:
    with_softmax, without = (
        open_graph(made(tmp_path / "a.onnx")),
        open_graph(made(tmp_path / "b.onnx", softmax=False)),
    )
    assert (with_softmax.outputs, without.outputs) == ("logits", "values")
    x = torch.randn(3, 24)
    logits = with_softmax.module("logits")(x)
    torch.testing.assert_close(with_softmax.module("values")(x), logits.softmax(1))
    torch.testing.assert_close(without.module("logits")(x), -logits)


def test_values_of_the_graph_can_be_matched_too(tmp_path: Path) -> None:
    source = made(tmp_path / "m.onnx")
    losses = {}
    for features in ((), ("k",)):
        frconvert.distill(
            source, batches, tmp_path / "a.frq", rate=0.1, epochs=1, features=features, overwrite=True,
            report=lambda epoch, key=features: losses.setdefault(key, epoch.loss),
        )  # fmt: skip
    assert losses[("k",)] > losses[()]
    with pytest.raises(UsageError, match="no part 'nothing'"):
        frconvert.distill(source, batches, tmp_path / "b.frq", rate=0.1, features=("nothing",))


def test_a_short_run_on_a_graph_ends_at_the_size_or_a_little_under(tmp_path: Path) -> None:
    source, seen = made(tmp_path / "m.onnx", softmax=False), []
    for size in (1500, 900):
        frconvert.distill(
            source, batches, tmp_path / "m.frq", size=size, epochs=3, report=seen.append, overwrite=True
        )
        assert 0.98 * size <= seen[-1].size_bytes <= size


def test_rows_of_a_graph_that_no_batch_gathers_stay(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {"words": rng.normal(size=(40, 16)), "w": rng.normal(size=(48, 5))}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["words", "i"], ["g"]),
            helper.make_node("Flatten", ["g"], ["f"]),
            helper.make_node("MatMul", ["f", "w"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("i", onnx.TensorProto.INT64, ["n", 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "m.onnx")
    data = [{"i": torch.randint(0, 20, (32, 3))} for _ in range(10)]
    frconvert.distill(
        tmp_path / "m.onnx", data, tmp_path / "m.frq", rate=100.0, ramp=0.0, epochs=6, coarseness=0.2,
        learning_rate=0.05, noise=0.0,
    )  # fmt: skip
    words = frconvert.load(tmp_path / "m.frq").numpy()["words"]
    error = np.square(words - tensors["words"])
    assert error[20:].mean() < 0.02
    assert error[:20].mean() > 0.1


def test_the_command_takes_a_source_and_finds_inputs_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    np.savez("data.npz", other=np.zeros((64, 2)), x=rng.normal(size=(64, 24)))  # doubles become floats
    options = ["--calib", "data.npz", "--rate", "0.1", "--epochs", "2", "--json"]
    cli.main(["distill", "m.onnx", "a.frq", *options], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["destination_bytes"] == (tmp_path / "a.frq").stat().st_size
    for files in (["a.frq"], ["m.onnx", "b.frq", "c.frq"], ["m.onnx", "b.frq", "--model", "a:b"]):
        with pytest.raises(UsageError, match="give SRC and DST, or --model and DST"):
            cli.main(["distill", *files, *options], standalone_mode=False)
    np.savez("wrong.npz", x=np.zeros((64, 23), np.float32))
    with pytest.raises(UsageError, match=r"the model's input is 'x'"):
        cli.main(["distill", "m.onnx", "b.frq", "--calib", "wrong.npz", *options[2:]], standalone_mode=False)
    np.savez("weights.npz", w=np.zeros((64, 23), np.float32))
    with pytest.raises(UsageError, match="does not say how the model runs"):
        cli.main(["distill", "weights.npz", "b.frq", *options], standalone_mode=False)


def test_targets_in_files_serve_a_task_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "graph_loss.py").write_text("from torch.nn.functional import cross_entropy as loss\n")
    made(tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    np.savez("data.npz", target=rng.integers(0, 5, 64), x=rng.normal(size=(64, 24)))
    options = ["--calib", "data.npz", "--rate", "0.1", "--epochs", "1", "--quiet"]
    cli.main(["distill", "m.onnx", "a.frq", *options], standalone_mode=False)
    cli.main(
        ["distill", "m.onnx", "b.frq", "--task-loss", "graph_loss:loss", *options], standalone_mode=False
    )
    assert (tmp_path / "a.frq").read_bytes() != (tmp_path / "b.frq").read_bytes()


def test_inputs_become_what_the_graph_takes(tmp_path: Path) -> None:
    module = open_graph(made(tmp_path / "m.onnx")).made
    assert module(torch.randn(2, 24).double()).dtype == torch.float32
