"""Fine-tuning: the parametrisation, the rate, the loop and its state, the paper's rule."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import frconvert  # noqa: E402
from frconvert.distill.coefficients import (  # noqa: E402
    EXACT,
    Basis,
    forward_dct,
    inverse_dct,
    register,
    set_mode,
    trained,
)
from frconvert.distill.prefix import budgets, prefixes, ranks  # noqa: E402
from frconvert.distill.rate import Rate  # noqa: E402
from frconvert.distill.run import fine_tune  # noqa: E402
from frconvert.distill.settings import Settings  # noqa: E402
from frconvert.distill.tuned import Tuned  # noqa: E402
from frconvert.errors import TargetError, UnreadableError, UsageError  # noqa: E402
from frconvert.spectral import dct, zigzag  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()


def _batches(count: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(16, 1, 8, 8, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("axes", [(), (1,), (0, 2), (0, 1, 2)])
def test_transform_is_that_of_the_codec(axes):
    weights = np.random.default_rng(0).normal(size=(5, 4, 7))
    ours = forward_dct(torch.from_numpy(weights), axes)
    assert np.allclose(ours.numpy(), dct.forward(weights.copy(), axes), atol=1e-12)
    assert np.allclose(inverse_dct(ours, axes).numpy(), weights, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    layer = nn.Linear(6, 8).double()
    part = register(layer, "weight", Basis((0, 1), (2, 4, 6)), 0.1)
    set_mode(layer, EXACT)
    inputs = torch.randn(3, 6, dtype=torch.float64)

    def loss(q: torch.Tensor, log_step: torch.Tensor) -> torch.Tensor:
        part.log_step.data = log_step.detach()
        weight = inverse_dct(q * log_step.exp(), (0, 1)).reshape(8, 6)
        assert torch.allclose(weight, part(q))
        return (inputs @ weight.T).square().sum()

    q = trained(layer, "weight").detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (q, part.log_step.detach().clone().requires_grad_()))


def test_exact_mode_keeps_the_weight_and_rounding_is_what_a_file_restores():
    layer = nn.Conv2d(3, 4, 5)
    before = layer.weight.detach().clone()
    part = register(layer, "weight", Basis((2, 3)), 0.05)
    set_mode(layer, EXACT)
    assert torch.allclose(layer.weight, before, atol=1e-6)
    set_mode(layer, "round")
    item = Tuned(trained(layer, "weight").detach().round().int().numpy(), part.step, (2, 3))
    assert np.allclose(item.dense(), layer.weight.detach().numpy(), atol=1e-6)


def test_straight_through_rounding_passes_the_gradient_and_support_stops_it():
    layer = nn.Linear(4, 4, bias=False)
    support = torch.zeros(4, 4, dtype=torch.bool)
    support[0, 1] = True
    register(layer, "weight", Basis((0, 1)), 0.1, support)
    layer(torch.ones(1, 4)).square().sum().backward()
    gradient = trained(layer, "weight").grad
    assert gradient[0, 1] != 0 or gradient.abs().sum() == 0
    assert torch.count_nonzero(gradient[~support]) == 0


def test_a_limited_transform_is_that_of_the_other_coefficients_being_zero():
    torch.manual_seed(0)
    for view, axes in ((None, (0, 1)), (None, (1,)), ((6, 2, 5), (0, 1, 2))):
        layer = nn.Linear(10, 6, bias=False)
        part = register(layer, "weight", Basis(axes, view), 0.1)
        support = torch.rand(view or (6, 10)) < 0.1
        support[..., -1] = False
        part.limit(support)
        q = trained(layer, "weight")
        expected = inverse_dct(q.detach().round() * support * part.step, axes).reshape(6, 10)
        assert torch.allclose(layer.weight, expected, atol=1e-6)
        layer.weight.square().sum().backward()
        assert q.grad.shape == q.shape
        assert torch.count_nonzero(q.grad[~support]) == 0
    part.limit(torch.zeros(6, 2, 5, dtype=torch.bool))
    assert not layer.weight.any()


def test_a_view_must_have_the_size_of_the_tensor():
    with pytest.raises(UsageError, match="cannot be seen as"):
        register(nn.Linear(4, 4), "weight", Basis((0,), (3, 5)), 0.1)


def test_rate_of_integers_is_near_their_entropy_and_dead_rows_are_nearly_free():
    generator = np.random.default_rng(0)
    values = torch.from_numpy(np.rint(generator.laplace(0, 0.6, (64, 64))).astype(np.float32))
    _, counts = np.unique(values.numpy(), return_counts=True)
    share = counts / values.numel()
    entropy = float(-(share * np.log2(share)).sum() * values.numel())
    rate = Rate()
    rate.update({"a": values})
    assert rate.total_bits == pytest.approx(entropy, rel=0.05)
    half = values.clone()
    half[32:] = 0
    rate.update({"a": half})
    assert rate.total_bits < 0.58 * entropy


def test_gradients_of_the_rate_are_slopes_towards_zero():
    q = torch.tensor([[0.3, -0.6, 2.4, 0.0]], requires_grad=True)
    rate = Rate()
    rate.update({"a": q})
    rate.add_gradients({"a": q}, 0.5)
    first, more = rate.first["a"][0], rate.more["a"][0]
    assert (first > 0).all()
    assert torch.allclose(q.grad[0], 0.5 * torch.tensor([first[0], -first[1], more[2], 0.0]))
    rate.add_gradients({"a": q}, 0.5)
    assert torch.allclose(q.grad[0, 0], first[0])


def test_a_size_is_met_and_the_file_restores_what_was_measured(tmp_path: Path):
    module = _network()
    path = tmp_path / "a.frq"
    seen = []
    summary = frconvert.distill(module, _batches(60), path, size=640, epochs=4, report=seen.append)
    assert path.stat().st_size == summary.destination_bytes <= 640
    assert [epoch.number for epoch in seen] == [1, 2, 3, 4]
    assert summary.destination_bytes in [epoch.size_bytes for epoch in seen]
    restored = frconvert.load(path).numpy()
    assert {name: value.shape for name, value in restored.items()} == {
        name: tuple(value.shape) for name, value in module.state_dict().items()
    }
    state = {name: torch.from_numpy(value.copy()) for name, value in restored.items()}
    other = _network()
    other.load_state_dict(state)
    batch = _batches(1)[0]
    assert (other(batch) - module(batch)).square().mean() < 0.2 * module(batch).square().mean()


@pytest.mark.parametrize(("size", "epochs", "count"), [(640, 3, 5), (400, 3, 5), (500, 4, 30)])
def test_a_short_run_ends_at_the_size_or_a_little_under(tmp_path: Path, size: int, epochs: int, count: int):
    seen = []
    frconvert.distill(
        _network(), _batches(count), tmp_path / "a.frq", size=size, epochs=epochs, report=seen.append
    )
    assert 0.98 * size <= seen[-1].size_bytes <= size


def test_trimming_moves_those_nearest_to_the_next_cell_and_saves_about_what_is_asked():
    q = nn.Parameter(torch.randn(200, 50, generator=torch.Generator().manual_seed(0)) * 1.2)
    before, rate = q.detach().clone(), Rate()
    rate.update({"a": q})
    bits = rate.total_bits
    rate.trim({"a": q}, 0.1 * bits)
    rate.update({"a": q})
    moved = before.round() != q.detach().round()
    assert 0.8 * bits < rate.total_bits < 0.92 * bits
    assert ((before.round() - q.detach().round())[moved].abs() == 1).all()
    assert float((before.abs() - before.abs().round())[moved].mean()) < -0.3


def test_rows_of_tables_that_no_batch_uses_stay(tmp_path: Path):
    torch.manual_seed(0)
    table = nn.Embedding(40, 16)
    module = nn.Sequential(table, nn.Flatten(), nn.Linear(48, 5))
    data = [torch.randint(0, 20, (32, 3)) for _ in range(10)]
    options = {"epochs": 6, "noise": 0.0, "rate": 50.0, "ramp": 0.0, "coarseness": 0.2, "learning_rate": 0.05}
    run = fine_tune(module, data, Settings(**options))
    symbols, step = run.tuned["0.weight"].symbols, run.tuned["0.weight"].step
    assert np.abs(symbols[20:]).sum() > 5 * np.abs(symbols[:20]).sum()
    start = table.weight.detach().numpy() / (0.2 * float(table.weight.detach().square().mean().sqrt()))
    assert step > 0
    assert np.array_equal(symbols[20:], np.rint(start[20:]))


def test_distil_can_be_called_before_and_after_its_package_is_imported(tmp_path: Path):
    import frconvert.distill as package

    path = tmp_path / "a.frq"
    package(_network(), _batches(2), path, rate=0.1, epochs=1)
    frconvert.distill(_network(), _batches(2), path, rate=0.1, epochs=1, overwrite=True)
    assert path.exists()


def test_a_size_that_cannot_be_met_leaves_no_file(tmp_path: Path):
    with pytest.raises(TargetError, match="the smallest"):
        frconvert.distill(_network(), _batches(2), tmp_path / "a.frq", size=20, epochs=1)
    assert not list(tmp_path.iterdir())


def _symbols(run) -> list[bytes]:
    return [item.dense().tobytes() for item in run.tuned.values()]


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_run_that_was_killed_goes_on_to_the_same_result(tmp_path: Path, stop_after: int):
    settings = Settings(rate=0.05, epochs=3)
    whole = fine_tune(_network(), _batches(), settings)

    class _KilledError(Exception):
        pass

    def kill(epoch) -> None:
        if epoch.number > stop_after:
            raise _KilledError

    state = tmp_path / "state.pt"
    with pytest.raises(_KilledError):
        fine_tune(_network(), _batches(), settings, state=state, report=kill)
    torch.rand(7)  # the generator of the process is elsewhere by now
    resumed = fine_tune(_network(), _batches(), settings, state=state)
    assert _symbols(resumed) == _symbols(whole)
    assert resumed.epochs == whole.epochs


def test_the_state_of_another_run_is_refused(tmp_path: Path):
    state = tmp_path / "state.pt"
    fine_tune(_network(), _batches(2), Settings(rate=0.1, epochs=1), state=state)
    with pytest.raises(UsageError, match="other settings"):
        fine_tune(_network(), _batches(2), Settings(rate=0.2, epochs=1), state=state)
    state.write_bytes(b"no state")
    with pytest.raises(UnreadableError, match="state of a run"):
        fine_tune(_network(), _batches(2), Settings(rate=0.1, epochs=1), state=state)


def test_equal_seeds_give_equal_files_and_the_original_stays(tmp_path: Path):
    module = _network()
    before = [value.clone() for value in module.state_dict().values()]
    for name in ("a", "b"):
        frconvert.distill(module, _batches(), tmp_path / f"{name}.frq", rate=0.05, epochs=2, seed=3)
    assert (tmp_path / "a.frq").read_bytes() == (tmp_path / "b.frq").read_bytes()
    assert all(torch.equal(a, b) for a, b in zip(before, module.state_dict().values(), strict=True))


def test_patience_ends_a_run():
    settings = Settings(rate=1e-9, ramp=0.0, epochs=9, patience=1)
    run = fine_tune(_network(), _batches(1), settings, metric=lambda _: 1.0)
    assert len(run.epochs) == 2
    assert run.best == 1


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({}, {"rate": 1.0, "size": 10.0}, {"rate": -1.0}, {"rate": 1.0, "outputs": "words"}):
        with pytest.raises(UsageError):
            Settings(**wrong)
    with pytest.raises(UsageError, match="no parameter is selected"):
        fine_tune(_network(), _batches(1), Settings(rate=1.0, include=("x.*",)))
    with pytest.raises(UsageError, match="no batches"):
        fine_tune(_network(), [], Settings(rate=1.0))
    with pytest.raises(UsageError, match="no part 'x'"):
        fine_tune(_network(), _batches(1), Settings(rate=1.0, features=("x",)))


def test_budgets_are_those_of_the_papers_appendix():
    channels, kernels, widths = (3, 64, 192, 384, 256, 256), (11, 5, 3, 3, 3), (9216, 4096, 4096, 10)
    with torch.device("meta"):  # AlexNet
        convolutions = [nn.Conv2d(channels[i], channels[i + 1], kernels[i]) for i in range(5)]
        layers = nn.ModuleList([*convolutions, *(nn.Linear(widths[i], widths[i + 1]) for i in range(3))])
    assert sum(budgets(layers, 0.01).values()) == pytest.approx(570_365, rel=1e-4)  # rounded otherwise there
    assert sum(budgets(layers, 0.0).values()) == 5 * 128 + 3 * 256 == 1408
    assert budgets(nn.ConvTranspose2d(64, 32, 2), 0.0) == {"weight": 32}


def test_prefixes_shrink_and_ranks_are_the_zigzag_order():
    assert ranks((3, 4)).flatten()[torch.from_numpy(zigzag.prefix((3, 4), 12))].tolist() == list(range(12))
    sizes = {"a": 1000}
    lengths = [prefixes({"a": 10}, sizes, left)["a"] for left in (1.0, 0.5, 0.0)]
    assert lengths == [1000, 100, 10]


def test_regularize_stores_no_more_than_the_prefix(tmp_path: Path):
    generator = torch.Generator().manual_seed(2)
    batches = [(torch.randn(16, 1, 8, 8, generator=generator), torch.randint(5, (16,), generator=generator))
               for _ in range(4)]  # fmt: skip
    path = tmp_path / "a.frq"
    module = nn.Sequential(nn.Conv2d(1, 16, 5), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(256, 5))
    frconvert.regularize(
        module, batches, path,
        keep=0.01, task_loss=nn.functional.cross_entropy, epochs=3, ramp=0.5,
    )  # fmt: skip
    restored = frconvert.load(path).numpy()
    for name, count in (("0.weight", 128), ("3.weight", 256)):
        coefficients = dct.forward(restored[name], tuple(range(restored[name].ndim))).reshape(-1)
        outside = np.ones(coefficients.size, bool)
        outside[zigzag.prefix(restored[name].shape, count)] = False
        assert np.abs(coefficients[outside]).max(initial=0) < 1e-5 < np.abs(coefficients).max()
    assert not np.array_equal(restored["1.running_mean"], np.zeros(16, np.float32))


def test_regularize_may_see_a_layer_as_what_it_is(tmp_path: Path):
    """A linear layer over 16 maps of 4 x 4."""
    torch.manual_seed(0)
    batches = [(torch.randn(16, 16, 4, 4), torch.randint(40, (16,))) for _ in range(4)]
    path, view = tmp_path / "a.frq", (40, 16, 4, 4)
    frconvert.regularize(
        nn.Sequential(nn.Flatten(), nn.Linear(256, 40)), batches, path, keep=0.0, schedule=lambda _: 0.0,
        task_loss=nn.functional.cross_entropy, epochs=2, bases={"1.weight": Basis((0, 1, 2, 3), view)},
    )  # fmt: skip
    coefficients = dct.forward(frconvert.load(path).numpy()["1.weight"].reshape(view), (0, 1, 2, 3)).reshape(
        -1
    )
    outside = np.ones(coefficients.size, bool)
    outside[zigzag.prefix(view, 256)] = False
    assert np.abs(coefficients[outside]).max() < 1e-5 < np.abs(coefficients).max()
