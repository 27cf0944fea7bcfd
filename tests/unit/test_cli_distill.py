"""`frconvert distill` on the command line."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from frconvert.cli import cli
from frconvert.errors import TargetError, UsageError

_CODE = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)).eval()

def batches(epoch):
    for _ in range(4):
        yield torch.randn(8, 12)

def pairs():
    for _ in range(4):
        yield torch.randn(8, 12), torch.randint(3, (8,))

def loss(outputs, target):
    return nn.functional.cross_entropy(outputs, target)

def metric(module):
    return -float(module(torch.ones(1, 12)).square().mean())

def broken():
    raise ValueError("no data today")
"""


@pytest.fixture(autouse=True)
def _code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "distillation_code.py").write_text(_CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "distillation_code", raising=False)


def _run(*arguments: str) -> None:
    named = ["distillation_code" + each[1:] if each.startswith("@:") else each for each in arguments]
    cli.main(["distill", *named], standalone_mode=False)


def test_may_begin_with_what_closed_form_refines(tmp_path: Path) -> None:
    arguments = ["a.frq", "--model", "@:model", "--calib", "@:batches", "--refine-first", "--epochs", "1"]
    _run(*arguments, "--size", "700", "--quiet")
    assert (tmp_path / "a.frq").stat().st_size <= 700
    with pytest.raises(UsageError, match="needs a size"):
        _run(*arguments, "--rate", "0.1", "--overwrite")
    with pytest.raises(TargetError, match=r"refining first, for 0.97 of the size: .* cannot be made"):
        _run(*arguments, "--size", "20", "--overwrite")


def test_writes_a_file_and_prints_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(
        "a.frq", "--model", "@:model", "--calib", "@:pairs", "--task-loss", "@:loss", "--eval", "@:metric",
        "--rate", "0.1", "--epochs", "2", "--resume", "state.pt", "--json",
    )  # fmt: skip
    summary = json.loads(capsys.readouterr().out)
    assert summary["destination_bytes"] == (tmp_path / "a.frq").stat().st_size
    assert (tmp_path / "state.pt").exists()


def test_batches_come_from_files_too(tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "a.npz", inputs=np.random.default_rng(0).normal(size=(64, 12)).astype(np.float32),
             target=np.arange(64) % 3)  # fmt: skip
    _run("a.frq", "--model", "@:model", "--calib", "a.npz", "--rate", "0.1", "--epochs", "1", "--quiet")
    _run(
        "b.frq", "--model", "@:model", "--calib", "a.npz", "--task-loss", "@:loss", "--rate", "0.1",
        "--epochs", "1", "--quiet",
    )  # fmt: skip
    assert (tmp_path / "a.frq").read_bytes() != (tmp_path / "b.frq").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "@:model", "--calib", "@:batches"], "--size or --rate"),
        (["--model", "@:none", "--calib", "@:batches", "--rate", "1"], "has no none"),
        (["--model", "@:metric", "--calib", "@:batches", "--rate", "1"], "@:metric: failed"),
        (["--model", "@:model", "--calib", "@:broken", "--rate", "1"], "no data today"),
        (["--model", "@:model", "--calib", "@:batches", "--size", "much"], "'much'"),
    ],
)
def test_wrong_use_is_said(tmp_path: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("@", "distillation_code")):
        _run("a.frq", *arguments)
    assert not (tmp_path / "a.frq").exists()
