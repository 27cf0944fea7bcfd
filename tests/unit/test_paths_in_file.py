"""Tensors on paths of the trellis, which have chunks of their own, between others."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import frconvert
from frconvert import search
from frconvert.coding.record import TRELLIS, Plan
from frconvert.encode import Settled, Task


@pytest.mark.parametrize("refined", [("b",), ("a", "c"), ("c",), ("a", "b", "c", "d")])
def test_every_tensor_comes_back_as_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refined: tuple[str, ...]
) -> None:
    random = np.random.default_rng(0)
    shapes = {"a": (40, 30), "b": (24, 50), "c": (30, 40), "d": (16, 64)}
    values = {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    np.savez(tmp_path / "model.npz", **values)
    attempt = search.attempt

    def refine(plans: Mapping[str, Plan]) -> dict[str, Settled]:
        assert all(plans[name].kind == TRELLIS for name in refined)
        return {name: Settled(values[name].copy(), plans[name]) for name in refined}

    def with_paths(task: Task, plans: list[Plan]) -> object:
        task.refine = refine
        return attempt(task, plans)

    monkeypatch.setattr(search, "attempt", with_paths)
    frconvert.convert(tmp_path / "model.npz", tmp_path / "model.frq", bits=4)
    restored = frconvert.load(tmp_path / "model.frq").numpy()
    for name, value in values.items():
        assert np.square(restored[name] - value).mean() < 0.02, name
