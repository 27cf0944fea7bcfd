"""A short run of the coverage-guided fuzzer; `make fuzz` has the long one."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="the fuzzer is not there for this interpreter or system")


def test_a_thousand_inputs_near_the_vectors_end_in_one_line_errors_or_values(tmp_path):
    program = Path(__file__).with_name("fuzz_coverage.py")
    command = [sys.executable, program, "-runs=1000", "-seed=1", "-timeout=60"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 1000 runs" in done.stderr
