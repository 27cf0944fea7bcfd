"""Encode and decode speed beside the peer codec, one core each, in one run: MB of float32 a second.

    python tests/benchmarks/speed.py [--snr 30] [--qp -32] [MODEL ...]

The peer needs its own environment, see its script; without it its columns stay empty.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import shared

import frconvert

PEER = Path.home() / ".cache/peer-nncodec/bin/python"


def ours(source: Path, snr: float, folder: Path) -> str:
    """Processor seconds of encoding and decoding in this process, after one warm-up."""
    checkpoint = frconvert.load(source)
    packed = folder / "model.frq"
    for _ in range(2):
        began = shared.cpu_seconds()
        summary = frconvert.save(checkpoint, packed, snr=snr, overwrite=True)
        encode = shared.cpu_seconds() - began
        began = shared.cpu_seconds()
        frconvert.load(packed).numpy()
        decode = shared.cpu_seconds() - began
    size = summary.source_bytes / 1e6
    return (
        f"{summary.destination_bytes:,} | {summary.sqnr_db:.2f} | {size / encode:.1f} | {size / decode:.1f}"
    )


def peer(source: Path, qp: int, folder: Path) -> str:
    """The same of the peer, in a process of its own."""
    script = shared.SHARED / "peers/nncodec/bench.py"
    if not (PEER.exists() and script.exists()):
        return "| | |"
    weights = folder / "weights.npz"
    np.savez(weights, **{k: v for k, v in frconvert.load(source).numpy().items() if v.dtype == np.float32})
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [PEER, script, weights, str(qp), "1"], check=True, capture_output=True, text=True, env=environment
    )
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    return (
        f"{figures['bytes']:,} | {figures['sqnr_db']:.2f} | {figures['encode_MBps']:.1f} "
        f"| {figures['decode_MBps']:.1f}"
    )


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--snr", type=float, default=30)
    parser.add_argument("--qp", type=int, default=-32)
    parser.add_argument("models", nargs="*", default=["minilm"])
    arguments = parser.parse_args()
    print("| model | bytes | dB | encode MB/s | decode MB/s | peer: bytes | dB | encode MB/s | decode MB/s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in arguments.models:
        source = Path(getattr(shared.models(), f"load_{name}")()[0])
        with tempfile.TemporaryDirectory() as folder:
            time.sleep(0.1)
            print(f"| {name} | {ours(source, arguments.snr, Path(folder))} |", end="", flush=True)
            print(f" {peer(source, arguments.qp, Path(folder))} |", flush=True)


if __name__ == "__main__":
    main()
