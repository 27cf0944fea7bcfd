"""PyTorch modules as ONNX models with coefficients, by both of torch's exporters."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from torch import nn  # noqa: E402

import frconvert  # noqa: E402
from frconvert.errors import UnsupportedError, UsageError  # noqa: E402

# torch's own, of its own exporters.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


class Tagger(nn.Module):
    """An embedding tied to the output, an LSTM and a linear layer on three axes."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(80, 32)
        self.lstm = nn.LSTM(32, 32, batch_first=True)
        self.linear = nn.Linear(32, 32)

    def forward(self, tokens):
        hidden, _ = self.lstm(self.embedding(tokens))
        return self.linear(hidden) @ self.embedding.weight.T


def module(kind):
    torch.manual_seed(0)
    if kind == "tagger":
        return Tagger().eval(), (torch.arange(12).reshape(2, 6),)
    layers = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
        nn.ConvTranspose2d(24, 16, 2, 2), nn.Conv2d(16, 16, 3, groups=4), nn.Flatten(), nn.Linear(3136, 10),
    )  # fmt: skip
    return layers.eval(), (torch.randn(1, 3, 8, 8),)


def run(path, inputs):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, [value.numpy() for value in inputs], strict=True)))[0]


@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
@pytest.mark.parametrize("kind", ["tagger", "layers"])
def test_a_module_becomes_a_small_model_that_computes_nearly_the_same(kind, exporter, tmp_path):
    network, inputs = module(kind)
    expected = network(*inputs).detach().numpy()
    path = tmp_path / "m.onnx"
    summary = frconvert.export_onnx(network, inputs, path, exporter=exporter, snr=40)
    assert summary.destination_bytes < 0.5 * summary.source_bytes
    found = run(path, inputs)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    # What the graph computes is what its coefficients stand for.
    frconvert.convert(path, tmp_path / "dense.onnx")
    decoded = run(tmp_path / "dense.onnx", inputs)
    assert np.abs(found - decoded).max() <= 1e-5 * np.abs(decoded).max()
    text = path.read_bytes()
    assert b"stack_trace" not in text
    assert b"test_torch_onnx.py" not in text


def test_coefficients_of_a_frq_are_taken_over(tmp_path):
    network, inputs = module("layers")
    torch.save(network.state_dict(), tmp_path / "m.pt")
    frconvert.convert(tmp_path / "m.pt", tmp_path / "m.frq", keep=0.2)
    restored = frconvert.load(tmp_path / "m.frq").numpy()
    network.load_state_dict({name: torch.from_numpy(values) for name, values in restored.items()})
    path = tmp_path / "m.onnx"
    summary = frconvert.export_onnx(network, inputs, path, weights=tmp_path / "m.frq", exporter="legacy")
    copied = {tensor.name for tensor in summary.tensors if tensor.method == "copied"}
    assert {"3.weight", "4.weight", "6.weight"} <= copied  # the first is changed by its normalisation
    found, again = frconvert.load(path), frconvert.load(tmp_path / "m.frq")
    for name in ("3.weight", "6.weight"):
        a, b = found[name].read_encoded(), again[name].read_encoded()
        assert np.array_equal(a.values, b.values)
        assert (a.layout.keep, a.layout.step) == (b.layout.keep, b.layout.step)


def test_weights_of_another_network_are_not_taken_over(tmp_path):
    network, inputs = module("layers")
    torch.save({name: values + 1 for name, values in network.state_dict().items()}, tmp_path / "m.pt")
    frconvert.convert(tmp_path / "m.pt", tmp_path / "m.frq", keep=0.2)
    path = tmp_path / "m.onnx"
    summary = frconvert.export_onnx(
        network, inputs, path, weights=tmp_path / "m.frq", exporter="legacy", snr=40
    )
    assert all(tensor.method != "copied" for tensor in summary.tensors)


def test_an_exported_program_is_taken_as_an_object(tmp_path):
    network, inputs = module("layers")
    program = torch.export.export(network, inputs)
    summary = frconvert.export_onnx(program, (), tmp_path / "m.onnx", onnx="functions", snr=30)
    assert summary.sqnr_db >= 30
    assert onnx.load(tmp_path / "m.onnx").functions


def test_what_cannot_be_exported_is_said_in_one_line(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return x if x.sum().item() > 0 else -x.flatten()

    with pytest.raises(UnsupportedError, match="torch cannot export this module") as caught:
        frconvert.export_onnx(Odd(), (torch.ones(2, 2),), tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="exporter"):
        frconvert.export_onnx(nn.Identity(), (torch.ones(1),), tmp_path / "m.onnx", exporter="other")
