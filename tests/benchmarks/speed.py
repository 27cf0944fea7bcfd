"""Speed and memory beside NNCodec in one run, on one core; and what a second job brings.

    python tests/benchmarks/speed.py [--qp=-32,-24] [--runs 2] [--results] [MODEL ...]

Each run is a fresh process, ours and NNCodec's in turn; a table has the best run of each. Speeds are
float32 bytes by processor time, of work that nothing has warmed up. frconvert reaches the SQNR of NNCodec's
point from a safetensors file; its times include reading, writing and hashing files, while NNCodec works on
arrays in memory. Memory is the largest resident size of whole processes (VmHWM), and without what they have
after imports.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import peers
import shared

_PEAK = "next(int(l.split()[1]) / 1024 for l in open('/proc/self/status') if l.startswith('VmHWM'))"  # MiB
_PEER_IMPORTS = "import numpy, nnc_shim, nncodec.nn"
_OWN_IMPORTS = "import frconvert.cli, frconvert.pipeline"
_MIB = 2**20


def printed(command: list[Any], environment: dict[str, str]) -> list[str]:
    """The lines that a process prints."""
    done = subprocess.run(
        list(map(str, command)), check=False, capture_output=True, text=True, env=environment
    )
    if done.returncode:
        sys.exit(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip().splitlines()


def peer_run(weights: Path, qp: int) -> dict[str, float]:
    """Figures of the peer's script, with the peak memory of its process in MiB."""
    code = (
        "import runpy, sys; script = sys.argv.pop(1); sys.argv[0] = script; "
        f"runpy.run_path(script, run_name='__main__'); print({_PEAK})"
    )
    lines = printed([peers.PYTHON, "-c", code, peers.SCRIPT, weights, qp, 1], peers.single_threaded())
    return json.loads(lines[-2]) | {"peak": float(lines[-1])}


def own_run(source: Path, sqnr_db: float, packed: Path, *, native: bool) -> dict[str, float]:
    """Figures of `speed_point.py`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment |= {"FRCONVERT_NATIVE": "1" if native else "0"}
    script = Path(__file__).with_name("speed_point.py")
    return json.loads(printed([sys.executable, script, source, sqnr_db, packed], environment)[-1])


def best(runs: list[dict[str, float]], key: str) -> float:
    return min(run[key] for run in runs)


def measure_speed(
    row: Any, name: str, source: Path, weights: Path, qp: int, runs: int
) -> list[dict[str, float]]:
    """Three rows; returns what the peer's runs gave."""
    packed = source.with_suffix(".frq")
    wanted = next(p["sqnr_db"] for p in peers.points(name) if p["qp"] == qp)
    theirs: list[dict[str, float]] = []
    own: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for _ in range(runs):
        for native, found in own.items():
            found.append(own_run(source, wanted, packed, native=native))
        theirs.append(peer_run(weights, qp))
    megabytes = own[True][0]["source_bytes"] / 1e6
    encode, decode = megabytes / best(theirs, "encode_cpu_s"), megabytes / best(theirs, "decode_cpu_s")
    for codec, found in (("frconvert, compiled", own[True]), ("frconvert, numpy", own[False])):
        speeds = megabytes / best(found, "encode_s"), megabytes / best(found, "decode_s")
        row(
            name, codec, f"{found[0]['sqnr_db']:.2f}", f"{found[0]['bytes']:,}", f"{speeds[0]:.1f}",
            f"{speeds[1]:.0f}", f"{speeds[0] / encode:.2f}", f"{speeds[1] / decode:.2f}",
        )  # fmt: skip
    row(
        name, f"NNCodec, qp {qp}", f"{theirs[0]['sqnr_db']:.2f}", f"{theirs[0]['bytes']:,}", f"{encode:.1f}",
        f"{decode:.0f}", "1", "1",
    )  # fmt: skip
    return theirs


def own_memory(source: Path, sqnr_db: float) -> tuple[float, float]:
    """Peak MiB of converting to `.frq` and back, at one job."""
    packed, back = source.with_suffix(".frq"), source.with_name("back.safetensors")
    goal = ("--snr", f"{sqnr_db:g}", "--importance", "mse", "--jobs", "1", "--overwrite")
    there, _ = shared.run("convert", source, packed, *goal)
    again, _ = shared.run("convert", packed, back, "--jobs", "1", "--overwrite")
    return there["peak_rss_bytes"] / _MIB, again["peak_rss_bytes"] / _MIB


def jobs_seconds(source: Path, sqnr_db: float, runs: int) -> tuple[list[float], list[float]]:
    """Wall seconds of conversions with one and with two jobs, in turn, start of the process excluded."""
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for jobs, seconds in zip(("1", "2"), found, strict=True):
            goal = ("--snr", f"{sqnr_db:g}", "--importance", "mse", "--jobs", jobs, "--overwrite")
            seconds.append(shared.run("convert", source, source.with_suffix(".frq"), *goal)[0]["seconds"])
    return found


def main() -> None:
    """Prints three tables."""
    arguments = shared.arguments_of(
        __doc__, ("--qp", {"default": "-32,-24"}), ("--runs", {"type": int, "default": 2})
    )
    if not peers.is_there():
        sys.exit(f"needs NNCodec's environment: {peers.PYTHON} and {peers.SCRIPT}")
    names = arguments.models or ["minilm", "crepe_full"]
    levels = [int(qp) for qp in arguments.qp.split(",")]
    sources, memory = shared.sources(), {}
    with tempfile.TemporaryDirectory() as scratch, shared.Page("speed", keep=arguments.results) as page:
        prepared: dict[str, Path] = {}
        page.say("## Speed on one core")
        page.say(f"Load average at the start: {shared.load_average()}.")
        row = page.table(
            "model", "codec", "dB", "bytes", "encode MB/s", "decode MB/s", "encode, times NNCodec's",
            "decode, times NNCodec's",
        )  # fmt: skip
        for name in names:
            folder = Path(scratch) / name
            folder.mkdir()
            source = prepared[name] = folder / "model.safetensors"
            shared.run("convert", sources[name](), source)
            weights = peers.write_weights(source, folder / "weights.npz")
            for qp in levels:
                theirs = measure_speed(row, name, source, weights, qp, arguments.runs)
                memory[name] = max(memory.get(name, 0), best(theirs, "peak"))
        own_base = float(
            printed([sys.executable, "-c", f"{_OWN_IMPORTS}; print({_PEAK})"], dict(os.environ))[-1]
        )
        peer_base = float(
            printed([peers.PYTHON, "-c", f"{_PEER_IMPORTS}; print({_PEAK})"], peers.single_threaded())[-1]
        )
        page.say()
        page.say("## Memory, MiB")
        row = page.table(
            "model", "its float32", "after imports: frconvert", "NNCodec", "whole process: to .frq",
            "from .frq", "NNCodec", "ratio", "codec work: frconvert", "NNCodec", "ratio",
        )  # fmt: skip
        aims = {
            name: next(p["sqnr_db"] for p in peers.points(name) if p["qp"] == levels[0]) for name in names
        }
        for name in names:
            there, again = own_memory(prepared[name], aims[name])
            ours, theirs_peak = max(there, again), memory[name]
            row(
                name, f"{prepared[name].stat().st_size / _MIB:.0f}", f"{own_base:.0f}", f"{peer_base:.0f}",
                f"{there:.0f}", f"{again:.0f}", f"{theirs_peak:.0f}", f"{ours / theirs_peak:.3f}",
                f"{ours - own_base:.0f}", f"{theirs_peak - peer_base:.0f}",
                f"{(ours - own_base) / (theirs_peak - peer_base):.3f}",
            )  # fmt: skip
        page.say()
        page.say("## Two jobs, wall clock")
        row = page.table("model", "load average", "seconds, 1 job", "seconds, 2 jobs", "speed-up of the best")
        for name in names:
            load = shared.load_average()
            one, two = jobs_seconds(prepared[name], aims[name], arguments.runs + 1)
            lists = [", ".join(f"{value:.2f}" for value in values) for values in (one, two)]
            row(name, load, *lists, f"{min(one) / min(two):.2f}")


if __name__ == "__main__":
    main()
