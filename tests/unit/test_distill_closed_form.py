"""`--calib`: models that are nearer to the original at no more bytes, and plain words where it cannot be."""

import sys

import numpy as np
import pytest

import frconvert
from frconvert.coding.record import TRELLIS, UNIFORM, Plan
from frconvert.distill.closed_form import refine
from frconvert.distill.layers import LOOKUP, Use
from frconvert.errors import UsageError

torch = pytest.importorskip("torch")


class Network(torch.nn.Module):
    """A convolution with normalisation, and two linear layers."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 16, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(16)
        self.first = torch.nn.Linear(16 * 16, 64)
        self.second = torch.nn.Linear(64, 8)

    def forward(self, inputs):
        hidden = torch.relu(self.norm(self.conv(inputs)))[:, :, ::2, ::2].flatten(1)
        return self.second(torch.relu(self.first(hidden)))


class Words(torch.nn.Module):
    """A table that is looked up, normalised, and projected on both sides of an attention."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(50, 24)
        self.norm = torch.nn.LayerNorm(24)
        self.attention = torch.nn.MultiheadAttention(24, 2, batch_first=True)
        self.unused = torch.nn.Linear(24, 24)

    def forward(self, words):
        hidden = self.norm(self.table(words))
        return self.attention(hidden, hidden, hidden, need_weights=False)[0]


def samples(seed, count=64):
    random = np.random.default_rng(seed)
    smooth = random.standard_normal((count, 2, 8, 8)).cumsum(axis=2).cumsum(axis=3) / 4
    return smooth.astype(np.float32)


def words(seed, count=40):
    return np.random.default_rng(seed).geometric(0.1, (count, 7)).clip(1, 49)


MODULE = """
import numpy as np, torch
import test_distill_closed_form as here
network, words = here.Network, here.Words
def data():
    return [here.samples(1)[:32], here.samples(2)[:32]]
def word_data():
    return [here.words(1)]
def broken():
    raise ValueError("no such luck")
def nothing():
    return 3
"""


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A module of the user's in the current folder."""
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "test_distill_closed_form", sys.modules[__name__])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def saved(network, path):
    torch.save(network.state_dict(), path)
    return path


def network_of(kind=Network, seed=0):
    torch.manual_seed(seed)
    return kind().eval()


def output_error(network, packed, inputs):
    restored = type(network)().eval()
    values = frconvert.load(packed).numpy()
    restored.load_state_dict({name: torch.from_numpy(np.array(each)) for name, each in values.items()})
    with torch.no_grad():
        expected, found = (each(torch.from_numpy(inputs)) for each in (network, restored))
    return float((expected - found).square().sum() / expected.square().sum())


def test_calibration_makes_outputs_better_at_no_more_bytes(user):
    network = network_of()
    source = saved(network, user / "net.pt")
    plain = frconvert.convert(source, user / "plain.frq", bits=3)
    calibrated = frconvert.convert(
        source, user / "calib.frq", bits=3, calib="mine:data", model="mine:network"
    )
    assert calibrated.destination_bytes <= 3 * calibrated.parameters / 8
    assert calibrated.destination_bytes <= 1.03 * plain.destination_bytes
    held_out = samples(9)
    assert output_error(network, user / "calib.frq", held_out) < 0.5 * output_error(
        network, user / "plain.frq", held_out
    )


def test_the_same_data_give_the_same_bytes(user):
    source = saved(network_of(), user / "net.pt")
    for name in ("one.frq", "two.frq"):
        frconvert.convert(source, user / name, bits=3, calib="mine:data", model="mine:network")
    assert (user / "one.frq").read_bytes() == (user / "two.frq").read_bytes()


def test_errors_are_measured_against_the_source(user):
    source = saved(network_of(), user / "net.pt")
    summary = frconvert.convert(source, user / "net.frq", snr=15, calib="mine:data", model="mine:network")
    original, restored = (frconvert.load(user / name).numpy() for name in ("net.pt", "net.frq"))
    names = [name for name in original if original[name].ndim >= 2]
    energy = sum(float(np.square(original[name]).sum()) for name in names)
    error = sum(float(np.square(original[name] - restored[name]).sum()) for name in names)
    assert 10 * np.log10(energy / error) == pytest.approx(summary.sqnr_db, abs=1e-3)
    assert summary.sqnr_db >= 15


def test_what_cannot_be_quantised_or_is_not_used_stays_as_planned(user):
    network = network_of(Words)
    with torch.no_grad():
        network.unused.weight[3, 3] = torch.nan
    source = saved(network, user / "words.pt")
    frconvert.convert(source, user / "words.frq", snr=20, calib="mine:word_data", model="mine:words")
    restored = frconvert.load(user / "words.frq").numpy()
    np.testing.assert_array_equal(restored["unused.weight"], network.unused.weight.detach().numpy())
    assert output_error(network, user / "words.frq", words(9)) < 0.05


def test_the_coefficients_that_are_kept_make_good_what_the_others_did(user):
    network = network_of()
    source = saved(network, user / "net.pt")
    frconvert.convert(source, user / "plain.frq", keep=0.5)
    frconvert.convert(source, user / "calib.frq", keep=0.5, calib="mine:data", model="mine:network")
    held_out = samples(9)
    assert output_error(network, user / "calib.frq", held_out) < 0.8 * output_error(
        network, user / "plain.frq", held_out
    )


class Lookups:
    """Runs nothing but the look-up of rows."""

    uses = (Use("table", LOOKUP),)

    def __init__(self, *batches):
        self.batches, self._pairs = len(batches), [(each, each) for each in batches]

    def walk(self, changed):
        yield self._pairs

    def outputs(self, changed):
        return []


@pytest.mark.parametrize("kind", [UNIFORM, TRELLIS])
def test_rows_are_as_exact_as_they_are_frequent_however_many_data_there_are(kind):
    table = np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32)
    looked_up = np.repeat(np.arange(4), 100)

    def restored(*batches):
        plans = {"table": Plan((), None, 2.0, kind)}
        return refine(Lookups(*batches), lambda _: table, plans)["table"].values

    once = restored(looked_up)
    error = np.square(once - table).mean(axis=1)
    assert error[:4].mean() < 0.9 * error[4:].mean()
    np.testing.assert_array_equal(restored(*[looked_up] * 50), once)
    alike = restored(np.empty(0, np.int64))
    np.testing.assert_array_equal(restored(np.arange(64)), alike)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calib": "mine:data"}, "--model module:factory"),
        ({"model": "mine:network"}, "serves --calib only"),
        ({"calib": "mine:data", "model": "mine:broken"}, "ValueError: no such luck"),
        ({"calib": "mine:data", "model": "mine:nothing"}, "returns int, not a torch module"),
        ({"calib": "mine:data", "model": "mine:words"}, "no weight in common"),
        ({"calib": "mine:word_data", "model": "mine:network"}, "does not run"),
        ({"calib": "mine:data", "model": "mine:network", "lossless": True}, "does not allow"),
        ({"calib": "mine:data", "model": "mine:network", "max_error": 0.1}, "does not allow"),
    ],
)
def test_wrong_usage_is_said_in_one_line(user, options, message):
    source = saved(network_of(), user / "net.pt")
    with pytest.raises(UsageError, match=message) as caught:
        frconvert.convert(source, user / "net.frq", **options)
    assert "\n" not in str(caught.value)
    assert not (user / "net.frq").exists()


@pytest.mark.parametrize("constants", [False, True])
def test_an_onnx_model_runs_by_itself(user, constants):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    random = np.random.default_rng(0)
    tensors = {
        "w1": random.standard_normal((16, 2, 3, 3)) / 4, "scale": np.ones(16), "shift": np.zeros(16),
        "mean": np.zeros(16), "variance": np.ones(16), "w2": random.standard_normal((16 * 64, 32)) / 30,
        "b2": np.zeros(32), "w3": random.standard_normal((8, 32)) / 5, "b3": np.zeros(8),
    }  # fmt: skip
    node = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [
            node("Conv", ["x", "w1"], ["c"], pads=[1, 1, 1, 1]),
            node("BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["n"]),
            node("Relu", ["n"], ["r"]),
            node("Flatten", ["r"], ["f"]),
            node("MatMul", ["f", "w2"], ["m"]),
            node("Add", ["m", "b2"], ["a"]),
            node("Relu", ["a"], ["h"]),
            node("Gemm", ["h", "w3", "b3"], ["y"], transB=1),
        ],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, ["n", 2, 8, 8])],
        [onnx.helper.make_tensor_value_info("y", 1, ["n", 8])],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    if constants:  # as Paddle's exporter has weights and free axes
        nodes = [node("Constant", [], [each.name], value=each) for each in graph.initializer]
        nodes += list(model.graph.node)
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.extend(nodes)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    onnx.save(model, user / "net.onnx")
    np.save(user / "data.npy", samples(1))
    held_out, errors = {"x": samples(9)}, []
    expected = runtime.InferenceSession(str(user / "net.onnx")).run(None, held_out)[0]
    for calib in (None, str(user / "data.npy")):
        frconvert.convert(user / "net.onnx", user / "net.frq", bits=3, calib=calib, overwrite=True)
        frconvert.convert(user / "net.frq", user / "back.onnx", overwrite=True)
        found = runtime.InferenceSession(str(user / "back.onnx")).run(None, held_out)[0]
        errors.append(float(np.square(found - expected).sum()))
    assert errors[1] < 0.5 * errors[0]
