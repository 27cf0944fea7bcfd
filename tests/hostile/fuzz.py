"""Feeds broken files to frconvert and tells what came of it.

    python tests/hostile/fuzz.py --count 10000 --seed 0 --keep /tmp/defects

Every mutant (see `mutations.py`) is loaded and all its tensors are read; every third one is converted to
`.frq` and to a dense format, too, analysed and compared. That happens in a worker process of bounded memory:
a mutant that kills or stops it costs no more than a new one. What a mutant may do is said at `examine`.
"""

import argparse
import contextlib
import gc
import hashlib
import io
import json
import os
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from mutations import Mutant, Seed, build_seeds, mutate

import frconvert
from frconvert import analysis, compare, tables
from frconvert.checkpoint import Checkpoint
from frconvert.container import salvage
from frconvert.container.reader import open_reader
from frconvert.container.sources import PathSource
from frconvert.dtypes import numpy_dtype
from frconvert.errors import FrqError

LIMIT_SECONDS = 10.0  # of processor time
LIMIT_GROWTH_MIB = 1536.0
_ADDRESS_SPACE_BYTES = 4 << 30  # beyond what the worker has when it starts
_LONGEST_MESSAGE = 1000  # characters
_DENSE = (".safetensors", ".pt", ".npz", ".h5", ".onnx", ".keras")
_KEEPS_ALL = (".safetensors", ".pt")  # dense formats that hold every dtype under its own name


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a mutant.

    Attributes:
        outcome: "refused", "loaded" or "defect".
        cause: for a defect, what is alike in all mutants with the same one.
        text: the message, or the end of a traceback.
        seconds: of processor time; growth_mib: of resident memory, at its peak.
    """

    outcome: str
    cause: str = ""
    text: str = ""
    seconds: float = 0.0
    growth_mib: float = 0.0


class DefectError(Exception):
    """A broken promise that is no exception by itself: which one, and what was seen."""

    def __init__(self, promise: str, seen: object = "") -> None:
        super().__init__(f"{promise}: {seen}")
        self.promise = promise


# In the worker.


def examine(folder: Path, seed: Seed, *, is_blind: bool, convert: int) -> str:
    """Opens and reads a mutant and returns the message of the refusal, "" if all of it could be read.

    Args:
        folder: with the mutant's files; results go into its subfolder "out", which is empty afterwards.
        seed: what the mutant was made of.
        is_blind: whether a `.frq` must be refused unless it has the values of the seed.
        convert: 0 to read only, else which dense format to convert to as well.

    Raises:
        DefectError: a message of several lines, a value of another shape than announced, a silent change, ...
        Exception: any but FrqError is a defect as well.
    """
    path = folder / seed.main
    if path.suffix == ".frq":
        _salvage(path, seed, is_blind=is_blind)
    try:
        checkpoint = frconvert.load(path, seed.source_format)
    except FrqError as error:
        return checked_message(str(error))
    digests, refusal = _read_all(checkpoint)
    for notice in checkpoint.notices:
        checked_message(notice, "notice")
    if checkpoint.format == "frq":
        _examine_frq(path, checkpoint, seed, digests, refusal, is_blind=is_blind)
    if convert:
        _convert(checkpoint, path, folder / "out", convert, digests, refusal)
    return refusal


def checked_message(text: str, what: str = "message") -> str:
    """The text, if it is one line of a decent length that a terminal can show."""
    if not text or not text.isprintable():
        raise DefectError(f"a {what} is not one printable line", repr(text[:300]))
    if len(text) > _LONGEST_MESSAGE:
        raise DefectError(f"a {what} is too long", f"{len(text)} characters, {text[:100]!r}")
    return text


def _read_all(checkpoint: Checkpoint) -> tuple[dict[str, str], str]:
    """A digest of each tensor that can be read, and the first refusal."""
    digests = {}
    refusal = ""
    for entry in checkpoint:
        try:
            values = entry.read()
        except FrqError as error:
            refusal = refusal or checked_message(str(error))
            continue
        if (values.shape, values.dtype) != (entry.shape, numpy_dtype(entry.dtype)):
            raise DefectError(
                "another shape or dtype than announced", f"{entry}, {values.dtype} {values.shape}"
            )
        if not values.flags.c_contiguous:
            raise DefectError("an array is not C-contiguous")
        digests[entry.name] = _digest(values)
    return digests, refusal


def _digest(values: np.ndarray) -> str:
    digest = hashlib.sha256(f"{values.dtype.name} {values.shape} ".encode())
    digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _examine_frq(
    path: Path, checkpoint: Checkpoint, seed: Seed, digests: dict[str, str], refusal: str, *, is_blind: bool
) -> None:
    try:
        attachments = dict(checkpoint.attachments)
    except FrqError as error:
        attachments, refusal = {}, refusal or checked_message(str(error))
    reader = open_reader(path)
    damages = list(salvage.examine(PathSource(path)).lines())
    with contextlib.redirect_stdout(io.StringIO()):
        tables.print_inspection(reader)
    if refusal and not damages:
        raise DefectError("verify finds nothing wrong with a file that cannot be read")
    if not is_blind or path.read_bytes() == seed.files[seed.main]:
        return
    right_attachments, metadata, truth = _truth(seed.files[seed.main])
    if not digests.items() <= truth.items() or (not refusal and digests != truth):
        raise DefectError("a mutant gives other values than the file it was made of")
    if not refusal and (attachments, checkpoint.metadata) != (right_attachments, metadata):
        raise DefectError("a mutant gives other attachments than the file it was made of")


def _salvage(path: Path, seed: Seed, *, is_blind: bool) -> None:
    """What is salvaged has the values of the seed, and every change of a byte is said."""
    try:
        found = salvage.examine(PathSource(path))
    except FrqError as error:
        checked_message(str(error))
        return
    lines = [checked_message(line) for line in found.lines()]
    reader = found.reader
    digests = {
        name: _digest(reader.read(name)) for name in reader.head.names if name not in found.lost_tensors
    }
    attachments = {
        n: reader.attachment(n) for n in reader.head.attachments if n not in found.lost_attachments
    }
    if not is_blind or path.read_bytes() == seed.files[seed.main]:
        return
    if not lines:
        raise DefectError("verify finds nothing wrong with a mutant")
    sound, _, truth = _truth(seed.files[seed.main])
    if not digests.items() <= truth.items() or not attachments.items() <= sound.items():
        raise DefectError("salvage gives other values than the file was made of")


@cache
def _truth(data: bytes) -> tuple[dict[str, bytes], dict[str, str], dict[str, str]]:
    """What is in a sound `.frq`: attachments, metadata, digests of the tensors."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.frq"
        path.write_bytes(data)
        checkpoint = frconvert.load(path)
        return dict(checkpoint.attachments), dict(checkpoint.metadata), _read_all(checkpoint)[0]


def _convert(
    checkpoint: Checkpoint, path: Path, out: Path, number: int, digests: dict[str, str], refusal: str
) -> None:
    """The mutant through every stage that a user would send it through."""
    is_lossless = number % 2 == 0
    for suffix in (".frq", _DENSE[number % len(_DENSE)]):
        target = {"lossless": True} if suffix == ".frq" and is_lossless else {}
        destination = out / f"result{suffix}"
        try:
            summary = frconvert.convert(
                path, destination, format="frereg" if checkpoint.format == "frereg" else None, **target
            )
        except FrqError as error:
            checked_message(str(error))
            continue
        for notice in summary.notices:
            checked_message(notice, "notice")
        json.dumps(summary.to_json(), allow_nan=False)
        if refusal and (checkpoint.format != "frq" or suffix != ".frq" or target):
            raise DefectError(f"a file that cannot be read became a {suffix}")
        is_exact = checkpoint.format != "frereg" and (is_lossless or checkpoint.format == "frq")
        if suffix in _KEEPS_ALL or (suffix == ".frq" and is_exact):
            back, complaint = _read_all(frconvert.load(destination))
            is_other = len(back) > 1 and checkpoint.format != "frereg" and back != digests
            if bool(complaint) != bool(refusal) or is_other:
                raise DefectError(f"a {suffix} holds other values than its source", complaint)
        destination.unlink()
    with contextlib.suppress(FrqError), contextlib.redirect_stdout(io.StringIO()):
        tables.print_analysis(checkpoint, analysis.analyze_checkpoint(checkpoint, 1, lambda *_: None))
        compare.compare(checkpoint, checkpoint)


def serve() -> None:
    """The worker: a request a line on stdin, a verdict a line on what was stdout."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    noise = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process)
    os.dup2(noise.fileno(), 1)
    os.dup2(noise.fileno(), 2)
    warnings.simplefilter("always")
    for quiet in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", quiet)
    home = Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory() as folder:
        seeds = build_seeds(Path(folder))
        for seed in seeds:  # loads what will be needed, before memory is limited
            (home / "m" / "out").mkdir(parents=True)
            _write(home / "m", seed.files)
            if refusal := examine(home / "m", seed, is_blind=True, convert=2):
                raise DefectError(f"the sound {seed.label} is refused: {refusal}")
            shutil.rmtree(home / "m")
    gc.collect()
    gc.freeze()  # what is loaded now need not be searched after every mutant
    limit = _memory_mib("VmSize") * 2**20 + _ADDRESS_SPACE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (int(limit), int(limit)))
    print("ready", file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        mutant = mutate(seeds, request["number"], request["series"])
        verdict = _judge(home, mutant, request["convert"], noise)
        print(json.dumps(asdict(verdict)), file=answers)


def _judge(home: Path, mutant: Mutant, convert: int, noise: Any) -> Verdict:
    folder = home / "m"
    (folder / "out").mkdir(parents=True)
    _write(folder, mutant.files)
    noise.seek(0)
    noise.truncate()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before_mib, began = _memory_mib("VmRSS"), time.process_time()
    outcome, cause, text = "loaded", "", ""
    try:
        text = examine(folder, mutant.seed, is_blind=mutant.is_blind, convert=convert)
        outcome = "refused" if text else "loaded"
    except BaseException as error:
        outcome, cause, text = "defect", _cause(error), "".join(traceback.format_exception(error)[-6:])
        del error
    seconds, growth_mib = time.process_time() - began, _memory_mib("VmHWM") - before_mib
    gc.collect()
    sys.stderr.flush()
    left = {item.relative_to(home).as_posix() for item in home.rglob("*")}
    left -= {"m", "m/out", *(f"m/{name}" for name in mutant.files)}
    if outcome != "defect":
        noise.seek(0)
        said = noise.read().decode(errors="replace")
        if left:
            outcome, cause, text = "defect", "files left behind", " ".join(sorted(left))
        elif said:
            outcome, cause, text = "defect", f"said {said.splitlines()[0].rpartition('/')[2][:120]}", said
        elif seconds > LIMIT_SECONDS:
            outcome, cause = "defect", "slow"
        elif growth_mib > LIMIT_GROWTH_MIB:
            outcome, cause = "defect", "memory"
    shutil.rmtree(folder)
    return Verdict(outcome, cause, text[-4000:], seconds, growth_mib)


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _cause(error: BaseException) -> str:
    """Kind of an exception and where in the package it arose."""
    if isinstance(error, DefectError):
        return error.promise
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if "/frconvert/" in frame.filename] or frames
    return f"{type(error).__name__} at {inside[-1].filename.rpartition('/frconvert/')[2]}:{inside[-1].lineno}"


def _memory_mib(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(key)


# Outside of it.


class Worker:
    """A worker process, started when needed and again after it died. Use as a context manager."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._home = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def judge(self, series: int, number: int, convert: int) -> Verdict:
        """The verdict on one mutant."""
        if self._process is None:
            self._start()
        process = self._process
        request = {"series": series, "number": number, "convert": convert}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = self._answer(6 * LIMIT_SECONDS)  # the processor may have other work
        if line:
            return Verdict(**json.loads(line))
        status = process.poll()
        self._stop()
        cause = "hang" if status is None else f"the process died ({status})"
        return Verdict("defect", cause, seconds=6 * LIMIT_SECONDS if status is None else 0.0)

    def _start(self) -> None:
        self._home = tempfile.mkdtemp(prefix="frconvert-fuzz-")
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **single, "MALLOC_ARENA_MAX": "2", "TMPDIR": self._home},
        )
        if self._answer(300) != "ready":
            self._stop()
            raise RuntimeError("the worker does not start")

    def _answer(self, seconds: float) -> str:
        """The worker's next line; "" if there is none in time or the worker has died."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                return ""
        line = self._process.stdout.readline().strip()
        if not line:
            self._process.wait(30)
        return line

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None
        shutil.rmtree(self._home, ignore_errors=True)


def run(series: int, numbers: Iterator[int] | range) -> Iterator[tuple[int, Verdict]]:
    """The verdicts on the mutants of these numbers."""
    with Worker() as worker:
        for number in numbers:
            # Not a multiple of the number of seeds, so that each kind of file meets each kind of conversion.
            convert = number // 3 % 12 + 1 if number % 19 % 3 == 0 else 0
            yield number, worker.judge(series, number, convert)


def main() -> None:
    """Command line; exit status 1 if there are defects."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="mutants (default 10000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--seed", type=int, default=0, help="series of mutants")
    parser.add_argument("--only", default="", help="comma-separated beginnings of the kinds of files wanted")
    parser.add_argument("--keep", type=Path, help="folder for the bytes of defects")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    with tempfile.TemporaryDirectory() as folder:
        seeds = build_seeds(Path(folder))
    wanted = tuple(arguments.only.split(","))
    numbers = range(arguments.first, arguments.first + arguments.count)
    chosen = (number for number in numbers if seeds[number % len(seeds)].label.startswith(wanted))
    verdicts: dict[str, list[Verdict]] = defaultdict(list)
    causes: dict[tuple[str, str], list[int]] = defaultdict(list)
    texts: dict[str, str] = {}
    for number, verdict in run(arguments.seed, chosen):
        mutant = mutate(seeds, number, arguments.seed)
        verdicts[mutant.seed.label].append(verdict)
        if verdict.outcome == "defect":
            causes[verdict.cause, mutant.seed.label].append(number)
            texts.setdefault(verdict.cause, verdict.text)
            if arguments.keep:
                place = arguments.keep / f"{arguments.seed}-{number}-{mutant.how}"
                place.mkdir(parents=True, exist_ok=True)
                _write(place, mutant.files)
                (place / "verdict.txt").write_text(f"{verdict.cause}\n{verdict.text}\n")
    _print_table([seed.label for seed in seeds], verdicts)
    for (cause, label), examples in sorted(causes.items(), key=lambda item: -len(item[1])):
        print(f"{len(examples):5} {label}: {cause} (mutants {', '.join(map(str, examples[:4]))})")
    for cause, text in texts.items():
        print(f"\n--- {cause}\n{text.rstrip()}")
    sys.exit(bool(causes))


def _print_table(labels: list[str], verdicts: dict[str, list[Verdict]]) -> None:
    print(f"{'':15}{'mutants':>9}{'refused':>9}{'loaded':>9}{'defects':>9}{'worst s':>9}{'worst MiB':>11}")
    rows = [(label, verdicts[label]) for label in labels if verdicts[label]]
    for label, group in [*rows, ("all", list(chain.from_iterable(verdicts.values())))]:
        counts = Counter(verdict.outcome for verdict in group)
        slowest = max((verdict.seconds for verdict in group), default=0.0)
        largest = max((verdict.growth_mib for verdict in group), default=0.0)
        print(
            f"{label:15}{len(group):9}{counts['refused']:9}{counts['loaded']:9}{counts['defect']:9}"
            f"{slowest:9.2f}{largest:11.0f}"
        )


if __name__ == "__main__":
    main()
