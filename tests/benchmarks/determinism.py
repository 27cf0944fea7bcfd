"""Digests of archives made by different interpreters, numbers of jobs, and instructions: all must agree.

    python tests/benchmarks/determinism.py [--python /path/to/python3.12 ...] [MODEL.safetensors ...]

Every interpreter must have frconvert installed. Without models, a synthetic one of 3 million weights is used.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

TARGETS = ("--snr 20", "--bits 3 --importance mse", "--max-error 1e-3", "--keep 0.1", "--lossless", "")


def simd_off() -> dict[str, str]:
    """Environment in which numpy and its BLAS take the oldest instructions they have, else the program ends.

    The names of the instruction sets differ between versions of numpy, which passes over unknown ones.
    """
    probe = "from numpy._core._multiarray_umath import __cpu_dispatch__ as d, __cpu_features__ as f\n"
    names = shown(probe + "print(*d)", {})
    found = {"NPY_DISABLE_CPU_FEATURES": names, "OPENBLAS_CORETYPE": "Prescott"}
    if left := shown(probe + "print(*(name for name in d if f[name]))", found):
        sys.exit(f"numpy does not switch off {left}")
    return found


def shown(program: str, environment: dict[str, str]) -> str:
    """What a program prints."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment)
    return done.stdout.strip()


def synthetic(folder: Path) -> Path:
    """Smooth, noisy, row-scaled, tiny and half-precision tensors."""
    rng = np.random.default_rng(5)
    tensors = {
        "smooth": np.cumsum(rng.standard_normal((512, 1024)), axis=1).astype(np.float32),
        "rows": (rng.standard_t(4, (2048, 768)) * rng.lognormal(size=(2048, 1))).astype(np.float32),
        "kernels": rng.laplace(size=(128, 64, 5, 5)).astype(np.float32),
        "half": rng.standard_normal((300, 400)).astype(np.float16),
        "wide": rng.standard_normal((300, 400)),
        "bias": rng.standard_normal(777).astype(np.float32),
        "steps": np.arange(1000),
    }
    path = folder / "synthetic.safetensors"
    save_file(tensors, path)
    return path


def digest(python: str, source: Path, target: str, jobs: int, environment: dict[str, str]) -> str:
    """SHA-256 of the archive, shortened."""
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "model.frq"
        command = [python, "-m", "frconvert", "convert", source, packed, *target.split(), "--jobs", str(jobs)]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | environment)
        return hashlib.sha256(packed.read_bytes()).hexdigest()[:16]


def main() -> None:
    """Prints a Markdown table; exit status 1 if any two archives differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", action="append", default=[])
    parser.add_argument("models", nargs="*", type=Path)
    arguments = parser.parse_args()
    plain = simd_off()
    ways: list[tuple[str, str, int, dict[str, str]]] = [
        ("1 job", sys.executable, 1, {}),
        ("2 jobs", sys.executable, 2, {}),
        ("numpy alone", sys.executable, 2, {"FRCONVERT_NATIVE": "0"}),
        ("SIMD off", sys.executable, 1, plain),
        ("numpy alone, SIMD off", sys.executable, 1, plain | {"FRCONVERT_NATIVE": "0"}),
        *((Path(python).name + " of " + python, python, 1, {}) for python in arguments.python),
    ]
    print("| model | target | " + " | ".join(name for name, *_ in ways) + " |")
    print("|---" * (len(ways) + 2) + "|")
    differ = False
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models or [synthetic(Path(folder))]:
            for target in TARGETS:
                found = [digest(python, model, target, jobs, extra) for _, python, jobs, extra in ways]
                differ |= len(set(found)) > 1
                print(f"| {model.stem} | {target or '(none)'} | " + " | ".join(found) + " |", flush=True)
    sys.exit(differ)


if __name__ == "__main__":
    main()
