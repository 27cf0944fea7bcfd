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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import peers
import shared

_PEAK = "next(int(l.split()[1]) / 1024 for l in open('/proc/self/status') if l.startswith('VmHWM'))"  # MiB
_PEER_IMPORTS = "import numpy, nnc_shim, nncodec.nn"
_OWN_IMPORTS = "import frconvert.cli, frconvert.pipeline"
_MIB = 2**20
_COMPILED, _NUMPY = "frconvert, compiled", "frconvert, numpy"


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


def base_mib(python: Path | str, imports: str, environment: dict[str, str]) -> float:
    """Peak MiB of a process that only imports."""
    return float(printed([python, "-c", f"{imports}; print({_PEAK})"], environment)[-1])


def recorded_sqnr(name: str, qp: int) -> float:
    """SQNR of NNCodec's recorded point, what frconvert is asked to reach."""
    return next(point["sqnr_db"] for point in peers.points(name) if point["qp"] == qp)


def best(runs: list[dict[str, float]], key: str) -> float:
    return min(run[key] for run in runs)


def measure_speed(row: Any, name: str, source: Path, qp: int, runs: int) -> float:
    """Up to three rows; returns the peak MiB of the peer's processes, 0 without it."""
    packed, wanted = source.with_suffix(".frq"), recorded_sqnr(name, qp)
    found: dict[str, list[dict[str, float]]] = {
        codec: [] for codec in (_COMPILED, _NUMPY, f"NNCodec, qp {qp}")
    }
    weights = source.with_suffix(".npz")
    for number in range(runs):
        found[_COMPILED].append(own_run(source, wanted, packed, native=True))
        if not number:  # several times slower: once is enough
            found[_NUMPY].append(own_run(source, wanted, packed, native=False))
        if peers.is_there():
            found[f"NNCodec, qp {qp}"].append(peer_run(weights, qp))
    megabytes = found[_COMPILED][0]["source_bytes"] / 1e6
    theirs = found[f"NNCodec, qp {qp}"]
    for codec, results in found.items():
        if not results:
            continue
        cells = []
        for own, peer in (("encode_s", "encode_cpu_s"), ("decode_s", "decode_cpu_s")):
            seconds = best(results, peer if results is theirs else own)
            cells.append(f"{megabytes / seconds:.1f}")
            cells.append(f"{best(theirs, peer) / seconds:.2f}" if theirs else "")
        row(name, codec, f"{results[0]['sqnr_db']:.2f}", f"{results[0]['bytes']:,}", *cells)
    return best(theirs, "peak") if theirs else 0.0


def own_memory(source: Path, sqnr_db: float) -> tuple[float, float]:
    """Peak MiB of converting to `.frq` and back, at one job."""
    packed, back = source.with_suffix(".frq"), source.with_name("back.safetensors")
    goal = ("--snr", f"{sqnr_db:g}", "--importance", "mse", "--jobs", "1", "--overwrite")
    there, _ = shared.run("convert", source, packed, *goal)
    again, _ = shared.run("convert", packed, back, "--jobs", "1", "--overwrite")
    return there["peak_rss_bytes"] / _MIB, again["peak_rss_bytes"] / _MIB


def jobs_seconds(source: Path, sqnr_db: float, runs: int) -> tuple[list[float], list[float], list[float]]:
    """Wall seconds but for the start of the process, in turn: 1 job; 2 jobs; 1 job, twice at once."""
    found: tuple[list[float], list[float], list[float]] = ([], [], [])

    def seconds(jobs: str, name: str) -> float:
        goal = ("--snr", f"{sqnr_db:g}", "--importance", "mse", "--jobs", jobs, "--overwrite")
        return shared.run("convert", source, source.with_name(name), *goal)[0]["seconds"]

    for _ in range(runs):
        found[0].append(seconds("1", "a.frq"))
        found[1].append(seconds("2", "a.frq"))
        with ThreadPoolExecutor(2) as pool:
            found[2].append(max(pool.map(seconds, ("1", "1"), ("a.frq", "b.frq"))))
    return found


def show_memory(page: shared.Page, prepared: dict[str, Path], qp: int, peaks: dict[str, float]) -> None:
    """Whole processes, and without what imports take."""
    row = page.table(
        "model", "its float32", "process", "after imports", "peak", "codec work", "peak, of NNCodec's",
        "codec work, of NNCodec's",
    )  # fmt: skip
    own = base_mib(sys.executable, _OWN_IMPORTS, dict(os.environ))
    peer = base_mib(peers.PYTHON, _PEER_IMPORTS, peers.single_threaded()) if peers.is_there() else 0.0
    for name, source in prepared.items():
        there, back = own_memory(source, recorded_sqnr(name, qp))
        theirs = peaks[name]
        size = f"{source.stat().st_size / _MIB:.0f}"
        for process, peak in (("frconvert, to .frq", there), ("frconvert, from .frq", back)):
            parts = (f"{peak / theirs:.3f}", f"{(peak - own) / (theirs - peer):.3f}") if theirs else ("", "")
            row(name, size, process, f"{own:.0f}", f"{peak:.0f}", f"{peak - own:.0f}", *parts)
        if theirs:
            row(name, size, "NNCodec, both", f"{peer:.0f}", f"{theirs:.0f}", f"{theirs - peer:.0f}", "1", "1")


def main() -> None:
    """Prints three tables."""
    arguments = shared.arguments_of(
        __doc__, ("--qp", {"default": "-32,-24"}), ("--runs", {"type": int, "default": 2})
    )
    levels = [int(qp) for qp in arguments.qp.split(",")]
    sources = shared.sources()
    prepared: dict[str, Path] = {}
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch, shared.Page("speed", keep=arguments.results) as page:
        page.say("## Speed on one core")
        page.say(f"Load average at the start: {shared.load_average()}.")
        row = page.table(
            "model", "codec", "dB", "bytes", "encode MB/s", "of NNCodec's", "decode MB/s", "of NNCodec's"
        )  # fmt: skip
        for name in arguments.models or ("minilm", "crepe_full"):
            (Path(scratch) / name).mkdir()
            source = prepared[name] = Path(scratch) / name / "model.safetensors"
            shared.run("convert", sources[name](), source)
            peers.write_weights(source, source.with_suffix(".npz"))
            peaks[name] = max(measure_speed(row, name, source, qp, arguments.runs) for qp in levels)
        page.say()
        page.say("## Memory, MiB")
        show_memory(page, prepared, levels[0], peaks)
        page.say()
        page.say("## Two jobs, wall clock")
        page.say(
            "The last column is what two processors can do here at all: two conversions of one job at once."
        )
        page.say()
        row = page.table(
            "model", "load average", "seconds, 1 job", "seconds, 2 jobs", "speed-up of the best",
            "seconds, twice 1 job at once", "speed-up of these",
        )  # fmt: skip
        for name, source in prepared.items():
            load = shared.load_average()
            found = jobs_seconds(source, recorded_sqnr(name, levels[0]), arguments.runs + 1)
            lists = [", ".join(f"{value:.2f}" for value in values) for values in found]
            one, two, twice = map(min, found)
            row(name, load, lists[0], lists[1], f"{one / two:.2f}", lists[2], f"{2 * one / twice:.2f}")


if __name__ == "__main__":
    main()
