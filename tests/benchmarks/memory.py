"""Peak memory and time of converting a synthetic sharded safetensors of some gigabytes, there and back.

python tests/benchmarks/memory.py [--gigabytes 4] [--tensor-megabytes 64] [--target "--snr 30"]
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import shared
from safetensors.numpy import save_file

SHARD_TENSORS = 8


def make(folder: Path, gigabytes: float, tensor_megabytes: int) -> Path:
    """Shards of Gaussian float32 matrices with an index beside them; returns the index."""
    rows = tensor_megabytes * 10**6 // (4 * 4096)
    count = round(gigabytes * 1e9 / (rows * 4096 * 4))
    generator = np.random.default_rng(0)
    names: dict[str, str] = {}
    for first in range(0, count, SHARD_TENSORS):
        shard = f"model-{first:05}.safetensors"
        tensors = {
            f"layers.{number}.weight": 0.02 * generator.standard_normal((rows, 4096), np.float32)
            for number in range(first, min(first + SHARD_TENSORS, count))
        }
        save_file(tensors, folder / shard)
        names |= dict.fromkeys(tensors, shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return index


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--tensor-megabytes", type=int, default=64)
    parser.add_argument("--target", default="--snr 30")
    parser.add_argument("--jobs", default="1")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = make(folder, arguments.gigabytes, arguments.tensor_megabytes)
        packed = folder / "model.frq"
        print("| step | bytes | seconds | peak MB | peak / largest tensor |\n|---|---|---|---|---|")
        largest = arguments.tensor_megabytes * 1e6
        for step, command in (
            (f"to .frq {arguments.target}", [source, packed, *arguments.target.split()]),
            ("back to .safetensors", [packed, folder / "back.safetensors"]),
        ):
            figures, seconds = shared.run("convert", *command, "--jobs", arguments.jobs)
            peak = figures["peak_rss_bytes"]
            print(
                f"| {step} | {figures['destination_bytes']:,} | {seconds:.0f} | {peak / 1e6:.0f} "
                f"| {peak / largest:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
