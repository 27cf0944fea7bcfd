"""Weights of exported programs of torch, and programs as ONNX; nothing of a file is executed."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")

from torch import nn  # noqa: E402

import frconvert  # noqa: E402
from frconvert.errors import DamagedError, FrqError, UnsupportedError, UsageError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

MODEL = "m/models/model.json"
WEIGHTS = "m/data/weights/model_weights_config.json"


class Network(nn.Module):
    """Ties, types and strides of weights, constants, a subgraph, and several outputs."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(40, 16)
        self.linear = nn.Linear(16, 16)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.tied = self.linear.weight
        self.narrow = nn.Parameter(torch.randn(3, 5).bfloat16().t())
        self.register_buffer("scale", torch.full((16,), 0.5))
        self.register_buffer("hidden", torch.arange(16.0), persistent=False)
        self.constant = torch.randn(4, 32)[::2, 1::2]

    def forward(self, ids):
        with torch.no_grad():
            x = self.embedding(ids).mul_(self.scale)
        x, _ = self.lstm(x)
        x = nn.functional.gelu(self.linear(x), approximate="tanh") + self.hidden
        left, right = x.chunk(2, -1)
        values, indices = torch.topk(left * right, 3)
        factor = self.constant.sum() + self.narrow.float().sum() + torch.tensor([1.0, 2.0]).sum()
        return {"values": values * factor, "rest": [x[..., None, :].mean(1), indices]}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch.manual_seed(0)
    network = Network().eval()
    ids = torch.arange(12).reshape(2, 6)
    program = torch.export.export(
        network, (ids,), dynamic_shapes={"ids": {0: torch.export.Dim("batch", min=2, max=64)}}
    )
    path = tmp_path_factory.mktemp("pt2") / "m.pt2"
    torch.export.save(program, path)
    return network, program, path


def altered(path, to, changes):
    """A copy of an archive with members replaced by bytes, or JSON changed in place by functions."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            data, change = old.read(name), changes.get(name)
            if callable(change):
                value = json.loads(data)
                change(value)
                data = json.dumps(value).encode()
            elif change is not None:
                data = change
            new.writestr(name, data)
    return to


def assert_is_same(path, network, program):
    state = program.state_dict
    found = frconvert.load(path)
    assert {entry.name for entry in found} == set(state)
    for entry in found:
        expected = state[entry.name].detach()
        assert entry.dtype == str(expected.dtype).removeprefix("torch.")
        assert np.array_equal(entry.read().astype(np.float64), expected.double().numpy())


def run(path, ids):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: ids.numpy()})


def test_weights_are_read_with_ties_types_and_strides(made, tmp_path):
    network, program, path = made
    assert_is_same(path, network, program)
    found = {entry.name: entry for entry in frconvert.load(path)}
    pair = found["linear.weight"], found["tied"]
    assert {entry.tied_to for entry in pair} in ({None, "tied"}, {None, "linear.weight"})
    summary = frconvert.convert(path, tmp_path / "m.frq", lossless=True)
    assert any("constants" in notice for notice in summary.notices)
    network.load_state_dict(
        {name: torch.from_numpy(values.astype(np.float32)) for name, values in
         frconvert.load(tmp_path / "m.frq").numpy().items()}
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int8", "bool", "complex64", "uint16", "float64"])
def test_other_types_are_read(dtype, tmp_path):
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("x", torch.tensor([[0.0, 1.0, 2.0]]).to(getattr(torch, dtype)))

        def forward(self, y):
            return y + 1

    torch.export.save(torch.export.export(Holder(), (torch.ones(2),)), tmp_path / "m.pt2")
    (entry,) = frconvert.load(tmp_path / "m.pt2")
    assert (entry.name, entry.dtype, entry.shape) == ("x", dtype, (1, 3))
    assert entry.read().astype(np.complex128).tolist() == [[0, 1, 1 if dtype == "bool" else 2]]


@pytest.mark.parametrize("layout", ["2.7", "2.8"])
def test_archives_of_older_versions_are_read(layout, made, tmp_path):
    network, program, path = made
    parts = {}
    for kind, tensors in (("weights", program.state_dict), ("constants", program.constants)):
        stream = io.BytesIO()
        torch.save(dict(tensors), stream)
        parts[kind] = stream.getvalue()
    with zipfile.ZipFile(path) as archive:
        model = archive.read(MODEL)
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        if layout == "2.7":
            archive.writestr("version", "8.1")
            archive.writestr("serialized_exported_program.json", model)
            archive.writestr("serialized_state_dict.pt", parts["weights"])
            archive.writestr("serialized_constants.pt", parts["constants"])
        else:
            archive.writestr(MODEL, model)
            archive.writestr("m/data/weights/model.pt", parts["weights"])
            archive.writestr("m/data/constants/model.pt", parts["constants"])
    assert_is_same(tmp_path / "m.pt2", network, program)
    frconvert.convert(tmp_path / "m.pt2", tmp_path / "m.onnx")
    ids = torch.arange(18).reshape(3, 6)
    assert np.allclose(run(tmp_path / "m.onnx", ids)[0], network(ids)["values"].detach(), rtol=1e-4)


@pytest.mark.parametrize("batch", [2, 5])
def test_a_program_becomes_an_onnx_model_that_computes_the_same(batch, made, tmp_path):
    network, _, path = made
    frconvert.convert(path, tmp_path / "m.onnx")
    ids = torch.arange(6 * batch).reshape(batch, 6)
    values, mean, indices = run(tmp_path / "m.onnx", ids)
    expected = network(ids)
    assert np.allclose(values, expected["values"].detach(), rtol=1e-4)
    assert np.allclose(mean, expected["rest"][0].detach(), atol=1e-5)
    assert np.array_equal(indices, expected["rest"][1])


def test_targets_hold_for_onnx_made_of_a_program(made, tmp_path):
    _, _, path = made
    summary = frconvert.convert(path, tmp_path / "m.idct.onnx", snr=30)
    assert summary.sqnr_db >= 30
    assert frconvert.load(tmp_path / "m.idct.onnx")["embedding.weight"].encoded_layout is not None
    assert run(tmp_path / "m.idct.onnx", torch.arange(12).reshape(2, 6))


def test_a_frq_of_a_program_has_no_graph(made, tmp_path):
    _, _, path = made
    frconvert.convert(path, tmp_path / "m.frq")
    with pytest.raises(UsageError, match="carries none"):
        frconvert.convert(tmp_path / "m.frq", tmp_path / "m.onnx")


# Hostile files: each would make a mark if any of its code ran.


class Mark:
    """What makes a mark when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def nodes(model):
    return model["graph_module"]["graph"]["nodes"]


def calls(target):
    def change(model):
        nodes(model)[3]["target"] = target

    return change


def names_input(name):
    def change(model):
        text = json.dumps(model["graph_module"]).replace('"name": "ids"', f'"name": {json.dumps(name)}')
        model["graph_module"] = json.loads(text.replace('"ids": {', f"{json.dumps(name)}: {{"))

    return change


def test_what_is_pickled_or_evaluated_by_torch_is_not_looked_at(made, tmp_path):
    network, _, path = made
    mark = tmp_path / "mark"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"

    def change(model):
        graph_module = model["graph_module"]
        sizes = graph_module["graph"]["tensor_values"]["ids"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = code
        for value in graph_module["graph"]["sym_int_values"].values():
            value["as_expr"]["expr_str"] = code
        context = json.dumps({"__enum__": True, "fqn": "antigravity:x", "name": "y"})
        spec = json.dumps([1, {"type": "builtins.dict", "context": context, "children_spec": []}])
        graph_module["module_call_graph"][0]["signature"]["in_spec"] = spec
        model["guards_code"] = [code]
        model["verifiers"] = [code]
        for node in nodes(model):
            node["metadata"] = {"source_fn_stack": f"x,{code}", "from_node": "[1]", "custom": "{"}

    changes = {MODEL: change, "m/data/sample_inputs/model.pt": pickle.dumps(Mark(mark))}
    hostile = altered(path, tmp_path / "m.pt2", changes)
    frconvert.convert(hostile, tmp_path / "m.onnx")
    ids = torch.arange(12).reshape(2, 6)
    assert np.allclose(run(tmp_path / "m.onnx", ids)[0], network(ids)["values"].detach(), rtol=1e-4)
    assert not mark.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system", "torch.hub.load", "_operator.attrgetter", "math.sqrt", "os.system", "#ext:x",
        "torch.ops.load_library", "torch.ops.aten.from_file.default", "torch.ops.aten.save.default",
        "torch.ops.aten.__class__.__init__", "torch.ops.aten.add.Tensor.__globals__",
        "torch.ops.aten.add.None",
        "torch.ops.higher_order.cond", "torch.ops.aten.relu.default\n", "torch.ops.other.add.Tensor",
    ],
)  # fmt: skip
def test_only_operators_that_compute_are_called(target, made, tmp_path):
    hostile = altered(made[2], tmp_path / "m.pt2", {MODEL: calls(target)})
    with pytest.raises(UnsupportedError, match="the program calls"):
        frconvert.convert(hostile, tmp_path / "m.onnx")
    assert frconvert.convert(hostile, tmp_path / "m.frq")  # its weights have nothing to do with it


def test_arithmetic_is_for_sizes_only(made, tmp_path):
    def change(model):
        model["graph_module"]["graph"]["sym_int_values"]["many"] = {"as_int": 1}
        nodes(model).insert(1, {
            "target": "_operator.mul",
            "inputs": [
                {"name": "", "arg": {"as_ints": [0]}, "kind": 1},
                {"name": "", "arg": {"as_int": 2**40}, "kind": 1},
            ],
            "outputs": [{"as_sym_int": {"as_name": "many"}}],
            "metadata": {},
        })  # fmt: skip

    hostile = altered(made[2], tmp_path / "m.pt2", {MODEL: change})
    with pytest.raises(UnsupportedError, match="no number"):
        frconvert.convert(hostile, tmp_path / "m.onnx")


class Arithmetic(nn.Module):
    """Sizes are computed with."""

    def forward(self, x):
        return torch.cat([x, torch.zeros(x.shape[0] * 2 + 1, 7)]) * (x.shape[0] - 1)


def test_arithmetic_on_sizes_is_rebuilt(tmp_path):
    x = torch.randn(8, 7)
    sizes = {"x": {0: torch.export.Dim("rows", min=4, max=100)}}
    torch.export.save(torch.export.export(Arithmetic(), (x,), dynamic_shapes=sizes), tmp_path / "m.pt2")
    frconvert.convert(tmp_path / "m.pt2", tmp_path / "m.onnx", onnx="dense")
    for rows in (8, 12):
        x = torch.randn(rows, 7)
        (found,) = run(tmp_path / "m.onnx", x)
        assert np.allclose(found, Arithmetic()(x), rtol=1e-6)


def test_names_do_not_become_code(made, tmp_path):
    mark = tmp_path / "mark"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    for number, name in enumerate((f"x={code}", f"x):\n    pass\n{code}\ndef f(y", "class", "")):
        hostile = altered(made[2], tmp_path / f"{number}.pt2", {MODEL: names_input(name)})
        with pytest.raises(DamagedError, match="an input named"):
            frconvert.convert(hostile, tmp_path / "m.onnx")

    def rename(new):
        def change(value):
            text = json.dumps(value).replace('"linear.bias"', json.dumps(new))
            value.clear()
            value.update(json.loads(text))

        return change

    for number, name in enumerate((f'x"), {code}, ("', f"x.{code}", "", "forward.x", "__class__", "a..b")):
        changes = {MODEL: rename(name), WEIGHTS: rename(name)}
        hostile = altered(made[2], tmp_path / f"w{number}.pt2", changes)
        with pytest.raises(FrqError):
            frconvert.convert(hostile, tmp_path / "m.onnx")
    assert not mark.exists()


def meta(key, value, tensor="linear.weight"):
    def change(config):
        config["config"][tensor]["tensor_meta"][key] = value

    return {WEIGHTS: change}


def payload(key, value, tensor="linear.weight"):
    def change(config):
        config["config"][tensor][key] = value

    return {WEIGHTS: change}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (meta("sizes", [{"as_int": 17}, {"as_int": 16}]), "beyond the 1024 bytes"),
        (meta("storage_offset", {"as_int": 1}), "beyond the 1024 bytes"),
        (meta("strides", [{"as_int": -16}, {"as_int": 1}]), "incomplete"),
        (meta("strides", [{"as_int": 2**62}, {"as_int": 2**62}]), "beyond the 1024 bytes"),
        (meta("strides", [{"as_int": 1}]), "2 axes and 1 strides"),
        (meta("sizes", [{"as_int": 2**40}, {"as_int": 2**40}]), "beyond"),
        (
            {WEIGHTS: lambda config: config["config"]["linear.weight"]["tensor_meta"].update(
                sizes=[{"as_int": 2**20}, {"as_int": 2**20}], strides=[{"as_int": 0}, {"as_int": 0}])},
            "claim",
        ),
        (meta("dtype", 99), "element type"),
        (meta("layout", 2), "element type or layout"),
        (payload("use_pickle", True), "pickled"),
        (payload("path_name", "weight_99"), "missing"),
        (payload("path_name", "../../models/model.json/x"), "missing"),
        (payload("tensor_meta", None), "incomplete"),
        ({WEIGHTS: b"[]"}, "incomplete"),
        ({WEIGHTS: b"{"}, "no JSON"),
        ({WEIGHTS: b"[" * 100_000}, "no JSON"),
    ],
)  # fmt: skip
def test_weights_that_contradict_themselves_are_refused(changes, error, made, tmp_path):
    hostile = altered(made[2], tmp_path / "m.pt2", changes)
    with pytest.raises(FrqError, match=error) as caught:
        frconvert.load(hostile)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.clear(),
        lambda model: model["graph_module"]["graph"]["inputs"].pop(),
        lambda model: model["graph_module"]["graph"]["outputs"].append({"as_tensor": {"name": "nowhere"}}),
        lambda model: nodes(model).append(dict(nodes(model)[4])),
        lambda model: nodes(model)[4]["inputs"][0].update(arg={"as_graph": {}}),
        lambda model: nodes(model)[4]["inputs"].append({"name": "odd", "arg": {"as_int": 1}, "kind": 1}),
        lambda model: nodes(model)[4]["inputs"][0].update(arg={"as_int": [["x"]]}),
        lambda model: model["graph_module"]["graph"]["tensor_values"]["ids"].update(
            sizes=[{"as_int": 2**40}, {"as_int": 6}]),
    ],
)  # fmt: skip
def test_a_program_that_contradicts_itself_is_refused_in_one_line(change, made, tmp_path):
    hostile = altered(made[2], tmp_path / "m.pt2", {MODEL: change})
    with pytest.raises(FrqError) as caught:
        frconvert.convert(hostile, tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m.onnx").exists()


def test_compressed_members_and_truncated_files_are_refused(made, tmp_path):
    with (
        zipfile.ZipFile(made[2]) as old,
        zipfile.ZipFile(tmp_path / "c.pt2", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(UnsupportedError, match="compressed"):
        frconvert.load(tmp_path / "c.pt2")
    (tmp_path / "t.pt2").write_bytes(made[2].read_bytes()[:3000])
    with pytest.raises(FrqError, match="broken zip archive"):
        frconvert.load(tmp_path / "t.pt2")
    flipped = bytearray(made[2].read_bytes())
    with zipfile.ZipFile(made[2]) as archive:
        place = flipped.index(archive.read("m/data/weights/weight_3"))
    flipped[place] ^= 1
    (tmp_path / "f.pt2").write_bytes(flipped)
    with pytest.raises(DamagedError, match="cannot be read"):
        frconvert.load(tmp_path / "f.pt2").numpy()


def test_a_pickle_in_an_old_archive_runs_no_code(made, tmp_path):
    mark = tmp_path / "mark"
    stream = io.BytesIO()
    torch.save({"x": Mark(mark)}, stream)
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", b"{}")
        archive.writestr("serialized_state_dict.pt", stream.getvalue())
    with pytest.raises(UnsupportedError, match="only running its code"):
        frconvert.load(tmp_path / "m.pt2")
    assert not mark.exists()
