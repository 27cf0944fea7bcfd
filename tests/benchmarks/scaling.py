"""Time and memory against size: sharded safetensors of 1 to 1,000 million parameters, there and back.

    python tests/benchmarks/scaling.py [--millions 1,10,100,1000] [--jobs 1] [--target "--bits 4"] [--results]

Tensors are Gaussian float32 matrices of 4 million parameters (of 1 million in the smallest model), eight to a
shard. Times are processor seconds of whole processes.
"""

import json
import resource
import tempfile
from pathlib import Path

import numpy as np
import shared
from safetensors.numpy import save_file

_COLUMNS = 2000
_SHARD_TENSORS = 8
_MIB = 2**20


def make(folder: Path, parameters: int) -> Path:
    """Shards with an index beside them; returns the index."""
    rows = min(parameters, 4_000_000) // _COLUMNS
    count = round(parameters / (rows * _COLUMNS))
    generator = np.random.default_rng(0)
    names: dict[str, str] = {}
    for first in range(0, count, _SHARD_TENSORS):
        shard = f"model-{first:05}.safetensors"
        tensors = {
            f"layers.{number}.weight": np.float32(0.02)
            * generator.standard_normal((rows, _COLUMNS), np.float32)
            for number in range(first, min(first + _SHARD_TENSORS, count))
        }
        save_file(tensors, folder / shard)
        names |= dict.fromkeys(tensors, shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return index


def run(*arguments: str | Path) -> tuple[float, float, int]:
    """Processor seconds, peak MiB and bytes of a conversion."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures, _ = shared.run("convert", *arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, figures["peak_rss_bytes"] / _MIB, figures["destination_bytes"]


def main() -> None:
    """Prints a Markdown table."""
    arguments = shared.arguments_of(
        __doc__, ("--millions", {"default": "1,10,100,1000"}), ("--jobs", {"default": "1"}),
        ("--target", {"default": "--bits 4"}),
    )  # fmt: skip
    with shared.Page("scaling", keep=arguments.results) as page:
        page.say(f"## Cost against size, {arguments.target}, {arguments.jobs} job(s)")
        row = page.table(
            "million parameters", "bytes", "to .frq: s", "s per million", "peak MiB", "from .frq: s",
            "s per million", "peak MiB",
        )  # fmt: skip
        for millions in map(int, arguments.millions.split(",")):
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                source, packed = make(folder, millions * 10**6), folder / "model.frq"
                jobs = ("--jobs", arguments.jobs)
                there, peak, size = run(source, packed, *arguments.target.split(), *jobs)
                for shard in folder.glob("model-*"):  # gigabytes that are not needed any more
                    shard.unlink()
                back, back_peak, _ = run(packed, folder / "back.safetensors", *jobs)
                row(
                    f"{millions:,}", f"{size:,}", f"{there:.1f}", f"{there / millions:.3f}", f"{peak:.0f}",
                    f"{back:.1f}", f"{back / millions:.4f}", f"{back_peak:.0f}",
                )  # fmt: skip


if __name__ == "__main__":
    main()
