"""Fine-tuning that begins with weights refined in closed form."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import frconvert  # noqa: E402
from frconvert.distill.coefficients import Basis, trained  # noqa: E402
from frconvert.distill.modules import checkpoint_of_module, make_student  # noqa: E402
from frconvert.distill.settings import Settings  # noqa: E402
from frconvert.distill.start import closed_form  # noqa: E402
from frconvert.errors import UsageError  # noqa: E402


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 96), nn.ReLU(), nn.Linear(96, 8))


def batches() -> list[tuple[torch.Tensor]]:
    """Inputs of which few directions carry most, so that plain rounding is far from the best."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(600, 48, generator=generator) @ torch.diag(torch.logspace(0, -2, 48))
    return [(part,) for part in inputs.split(100)]


def test_rounding_what_is_begun_with_changes_nothing():
    module = network()
    begin = closed_form(module, batches(), checkpoint_of_module(module), Settings(size=1500))
    student = make_student(network().requires_grad_(True), Settings(size=1500), begin)
    for name, part in student.parts.items():
        q = trained(student.module, name).detach()
        assert begin[name].step == pytest.approx(part.step)
        assert float((q - q.round()).abs().max()) < 1e-3
        weight = dict(student.module.named_modules())[name.partition(".")[0]].weight
        np.testing.assert_allclose(weight.detach(), begin[name].values, atol=1e-5)


def test_outputs_are_nearer_than_those_of_rounded_weights():
    module, data = network(), batches()
    begin = closed_form(module, data, checkpoint_of_module(module), Settings(size=1500))
    plain = make_student(network().requires_grad_(True), Settings(size=1500, coarseness=1.2))
    refined = make_student(network().requires_grad_(True), Settings(size=1500), begin)

    @torch.no_grad()
    def error(student: nn.Module) -> float:
        return sum(float((student(part) - module(part)).square().sum()) for (part,) in data)

    assert error(refined.module) < 0.7 * error(plain.module)


def test_batches_by_name_are_put_in_order():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(48, 8)

        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return self.layer(first) + second

    module = Two()
    data = [{"second": torch.zeros(len(part), 8), "first": part} for (part,) in batches()]
    begin = closed_form(module, data, checkpoint_of_module(module), Settings(size=400))
    assert begin["layer.weight"].step
    with pytest.raises(UsageError, match="first inputs are first"):
        closed_form(
            module,
            [{"x": data[0]["first"]}],
            checkpoint_of_module(module),
            Settings(size=400),
        )


def test_a_run_that_was_stopped_goes_on_without_refining_again(tmp_path, monkeypatch):
    def run(destination: str, epochs: int, state: str | None) -> bytes:
        def report(epoch: object) -> None:
            if epoch.number == epochs:
                raise KeyboardInterrupt

        path = tmp_path / destination
        try:
            frconvert.distill(
                network(), batches(), path, size=1500, epochs=3, outputs="values", refine_first=True,
                resume=None if state is None else tmp_path / state, report=report,
            )  # fmt: skip
        except KeyboardInterrupt:
            return b""
        return path.read_bytes()

    whole = run("whole.frq", 9, None)
    run("part.frq", 2, "state")  # is stopped before the state of its second epoch is saved
    monkeypatch.setattr("frconvert.finetune.closed_form", None)
    assert run("part.frq", 9, "state") == whole


def test_what_is_begun_with_is_kept_if_training_makes_it_worse(tmp_path):
    module, data = network(), batches()
    values = []

    def nearness(student: nn.Module) -> float:
        values.append(-sum(float((student(part) - module(part)).square().sum()) for (part,) in data))
        return values[-1]

    settings = {"size": 1500, "epochs": 2, "outputs": "values", "refine_first": True, "metric": nearness}
    frconvert.distill(module, data, tmp_path / "a.frq", learning_rate=0.2, **settings)
    assert values[0] > max(values[1:])
    restored = network()
    state = {
        name: torch.from_numpy(value.copy())
        for name, value in frconvert.load(tmp_path / "a.frq").numpy().items()
    }
    restored.load_state_dict(state)
    with torch.no_grad():
        assert nearness(restored) == pytest.approx(values[0], rel=1e-5)


def test_tensors_that_are_excluded_stay_as_they_are():
    module = network()
    begin = closed_form(
        module,
        batches(),
        checkpoint_of_module(module),
        Settings(size=6000, exclude=("2.*",)),
    )
    assert begin["0.weight"].step
    assert begin["2.weight"].step is None
    assert np.array_equal(begin["2.weight"].values, module[2].weight.detach())


def test_narrow_weights_and_inputs_are_refined_as_floats():
    module = network().to(torch.bfloat16)
    data = [(part.to(torch.bfloat16),) for (part,) in batches()]
    begin = closed_form(module, data, checkpoint_of_module(module), Settings(size=1500))
    assert begin["0.weight"].step
    assert np.isfinite(begin["0.weight"].values.astype(np.float32)).all()


def test_what_does_not_run_is_named():
    module = network()
    with pytest.raises(UsageError, match="refining first: the model does not run: RuntimeError"):
        closed_form(module, [(torch.zeros(3, 7),)], checkpoint_of_module(module), Settings(size=900))


def test_a_rate_and_bases_are_refused(tmp_path):
    with pytest.raises(UsageError, match="leave out the bases"):
        frconvert.distill(
            network(), batches(), tmp_path / "a.frq", size=900, refine_first=True, bases={"0.weight": Basis()}
        )
    with pytest.raises(UsageError, match="needs a size"):
        frconvert.distill(network(), batches(), tmp_path / "a.frq", rate=0.1, refine_first=True)
