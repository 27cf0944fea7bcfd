"""A killed conversion and a full disk leave the old file, nothing, or the complete new one: a short look.

`tests/benchmarks/kill.py` is the long one.
"""

import importlib.util
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).resolve().parents[1] / "benchmarks" / "kill.py"


@pytest.fixture(scope="module")
def kill():
    if sys.platform == "win32":
        pytest.skip("SIGKILL and file size limits are not of this system")
    spec = importlib.util.spec_from_file_location("kill", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def source(tmp_path):
    weights = np.random.default_rng(0).standard_normal((600, 500)).astype(np.float32)
    np.savez(tmp_path / "model.npz", weight=weights)
    return tmp_path / "model.npz"


def test_sigkill_at_random_moments_breaks_no_destination(kill, tmp_path, source):
    states = kill.kill_runs(tmp_path, source, 8, random.Random(5))  # noqa: S311
    for counts in states.values():
        assert counts["BROKEN"] == 0
        assert counts["absent"] + counts["old"] + counts["complete"] == 4


def test_a_full_disk_is_one_line_and_leaves_the_old_file_and_no_other(kill, tmp_path, source):
    whole = tmp_path / "whole.frq"
    subprocess.run(kill.command(source, whole), check=True)
    counts = kill.full_runs(tmp_path, source, whole.read_bytes(), kill.limit_files(100_000))
    assert counts == {"absent": 1, "old": 1, "temporary files left": 0}
