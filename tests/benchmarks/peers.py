"""The codecs that frconvert is compared with: NNCodec in its own environment, and rounding with zstd.

NNCodec needs a virtual environment, see the script `nncodec/bench.py` of the peers; where that or the script
is missing its columns stay empty.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import shared

import frconvert
from frconvert.checkpoint import Checkpoint, TensorEntry

PYTHON = Path.home() / ".cache/peer-nncodec/bin/python"
FOLDER = shared.SHARED / "peers/nncodec"
SCRIPT = FOLDER / "bench.py"
POINT_NAMES = {
    "crepe": "crepe_tiny",
    "efflite0": "effnet_lite0",
}  # where the recorded points say it otherwise
FIVE = ("minilm", "efflite0", "resemblyzer", "crepe_full", "crepe")  # models with recorded points
_QP_PER_BIT = 4  # two steps to an octave of the step size, with dependent quantisation


def is_there() -> bool:
    """Whether NNCodec can be run."""
    return PYTHON.exists() and SCRIPT.exists()


def points(name: str) -> list[dict[str, Any]]:
    """Recorded points of one of the `FIVE` with dependent quantisation, from few bits to many."""
    recorded = map(json.loads, (FOLDER / "points.jsonl").read_text().splitlines())
    wanted = POINT_NAMES.get(name, name)
    found = [point for point in recorded if point["model"] == wanted and point["dependent_quantisation"]]
    return sorted(found, key=lambda point: int(point["bytes"]))


def float_tensors(source: Path) -> Iterator[tuple[TensorEntry, np.ndarray]]:
    """The float tensors that NNCodec can take: float32, with at least one axis."""
    for entry in frconvert.load(source).stored:
        if entry.dtype == "float32" and entry.shape:
            yield entry, entry.read()


def write_weights(source: Path, target: Path) -> Path:
    """The npz that NNCodec's scripts read."""
    np.savez(target, **{entry.name: values for entry, values in float_tensors(source)})
    return target


@contextmanager
def nncodec(weights: Path, decoded: Path) -> Iterator[Callable[[int], dict[str, Any]]]:
    """A running NNCodec: from a qp to figures, see `nncodec_point.py`, with the weights in `decoded`."""
    script = Path(__file__).with_name("nncodec_point.py")
    process = subprocess.Popen(
        [PYTHON, "-W", "ignore", script, weights, decoded],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=single_threaded(),
    )  # fmt: skip

    def point(qp: int) -> dict[str, Any]:
        process.stdin.write(f"{qp}\n")
        process.stdin.flush()
        for line in process.stdout:
            word, _, figures = line.partition(" ")
            if word == "point":
                return json.loads(figures) | {"qp": qp}
        sys.exit(f"NNCodec ended at qp {qp} of {weights.name} without an answer")

    with process:
        yield point
        process.stdin.close()


def single_threaded() -> dict[str, str]:
    """The environment of a process that computes on one core."""
    return os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(FOLDER)}


def point_from_above(codec: Callable[[int], dict[str, Any]], size_bytes: float, qp: int) -> dict[str, Any]:
    """The smallest point that is not smaller than `size_bytes`; the search starts from `qp`.

    A step of qp changes the size by about a quarter bit a weight, so the peer gets up to that much more. The
    codec's decoded weights are then those of this point.
    """
    tried: dict[int, dict[str, Any]] = {}
    while True:
        tried[qp] = point = codec(qp)
        enough = max((q for q, p in tried.items() if p["bytes"] >= size_bytes), default=None)
        short = min((q for q, p in tried.items() if p["bytes"] < size_bytes), default=None)
        missing = (size_bytes / point["bytes"] - 1) * point["bits_per_weight"]  # bits a weight
        if enough is None:
            qp -= max(1, round(missing * _QP_PER_BIT))
        elif short is None:
            qp += max(1, round(-missing * _QP_PER_BIT))
        elif short - enough > 1:
            qp = min(max(qp - round(missing * _QP_PER_BIT), enough + 1), short - 1)
        else:
            return point if enough == qp else codec(enough)


def with_values(checkpoint: Checkpoint, decoded: Path) -> Checkpoint:
    """The checkpoint with the values of an npz where it has them, to be saved in the model's own format."""
    with np.load(decoded) as archive:
        values = {name: archive[name] for name in archive.files}

    def read(name: str) -> np.ndarray:
        return values[name].copy()

    entries = tuple(
        replace(entry, read=partial(read, entry.name)) if entry.name in values else entry
        for entry in checkpoint.entries
    )
    return replace(checkpoint, entries=entries)


def rounded(values: np.ndarray, bits: int, *, per_channel: bool) -> tuple[bytes, np.ndarray]:
    """Absmax rounding of a tensor with two or more axes: bytes of symbols and scales, and restored values.

    Scales are float32, one for the tensor or for each index of its first axis. Symbols of 4 bits are packed
    in pairs.
    """
    axes = tuple(range(1, values.ndim)) if per_channel else None
    largest = np.max(np.abs(values), axis=axes, keepdims=True).astype(np.float32)
    scale = np.where(largest > 0, largest / np.float32(2 ** (bits - 1) - 1), np.float32(1)).astype(np.float32)
    symbols = np.rint(values / scale).astype(np.int8)
    restored = symbols.astype(np.float32) * scale
    flat = symbols.reshape(-1)
    if bits == 4:
        padded = np.append(flat, np.zeros(flat.size % 2, np.int8)).astype(np.uint8) & 15
        flat = padded[::2] << 4 | padded[1::2]
    return flat.tobytes() + scale.tobytes(), restored
