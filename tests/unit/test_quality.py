"""`--max-drop`: the smallest file that loses no more than a given amount of a metric."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import frconvert
from frconvert import quality
from frconvert.checkpoint import Checkpoint
from frconvert.cli import cli
from frconvert.errors import TargetError, UsageError


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    generator = np.random.default_rng(0)
    arrays = {"a": generator.normal(size=(64, 96)).astype(np.float32), "b": generator.normal(size=96)}
    np.savez(tmp_path / "a.npz", **arrays)
    return frconvert.load(tmp_path / "a.npz")


def _closeness(source: Checkpoint) -> Callable[[Checkpoint], float]:
    """A metric that falls with the error: minus the relative squared error."""
    original = source["a"].read().astype(np.float64)

    def metric(restored: Checkpoint) -> float:
        gap = restored["a"].read() - original
        return -float((gap * gap).sum() / (original * original).sum())

    return metric


@pytest.mark.parametrize("drop", [0.3, 0.02, 0.0001])
def test_the_smallest_file_that_passes_is_found_in_few_evaluations(
    tmp_path: Path, source: Checkpoint, drop: float
):
    path = tmp_path / "a.frq"
    found = quality.convert(source, path, _closeness(source), drop)
    assert path.stat().st_size == found.summary.destination_bytes
    lost = -_closeness(source)(frconvert.load(path))
    assert 0.8 * drop < lost <= drop
    assert len(found.curve) <= quality.MOST_EVALUATIONS
    assert min(p.size_bytes for p in found.curve if p.passed) == path.stat().st_size


def test_a_drop_that_cannot_be_met_leaves_no_file(tmp_path: Path, source: Checkpoint):
    with pytest.raises(TargetError, match="no file loses at most 0"):
        quality.convert(source, tmp_path / "a.frq", _closeness(source), 0.0)
    assert not (tmp_path / "a.frq").exists()


def test_a_metric_that_fails_is_named(tmp_path: Path, source: Checkpoint):
    with pytest.raises(UsageError, match="the metric failed: KeyError"):
        quality.convert(source, tmp_path / "a.frq", lambda _: {}["x"], 0.1)
    with pytest.raises(UsageError, match="no finite number"):
        quality.convert(source, tmp_path / "a.frq", lambda _: float("nan"), 0.1)


def test_on_the_command_line(
    tmp_path: Path, source: Checkpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    del source
    (tmp_path / "metric_code.py").write_text(
        "def metric(checkpoint):\n    return -abs(checkpoint['a'].read()).max()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["convert", "a.npz", "a.frq", "--max-drop", "0.2", "--eval", "metric_code:metric", "--json"]
    cli.main(arguments, standalone_mode=False)
    printed = json.loads(capsys.readouterr().out)
    assert printed["destination_bytes"] == (tmp_path / "a.frq").stat().st_size
    assert printed["curve"][0].keys() == {"snr_db", "bytes", "metric", "passed"}
    for wrong in (["--max-drop", "1"], ["--eval", "metric_code:metric"], ["--max-drop", "1", "--snr", "30"]):
        with pytest.raises(UsageError):
            cli.main(["convert", "a.npz", "b.frq", *wrong], standalone_mode=False)
