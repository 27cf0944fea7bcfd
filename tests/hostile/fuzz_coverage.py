"""Coverage-guided fuzzing of everything that reads bytes of a `.frq`.

    python tests/hostile/fuzz_coverage.py [-max_total_time=600] [CORPUS_FOLDER]

The first byte of an input chooses what reads the rest: a whole file through the reader or through salvage, a
head index, or a chunk of one of the kinds of storage, with shapes that the next bytes choose, so that
checksums do not keep the fuzzer out. Anything but an FrqError ends the run, and libFuzzer writes the input
down. The corpus begins with the conformance vectors and their parts.
"""

import io
import sys
import tempfile
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["frconvert"]):
    from frconvert.coding import lossless
    from frconvert.coding.difference import DIFFERENCE
    from frconvert.coding.quantize import step_of_code
    from frconvert.coding.record import (
        INTEGERS,
        SPARSE,
        TRELLIS,
        UNIFORM,
        WORDS,
        Layout,
        decode_chunk,
        restore,
    )
    from frconvert.container import head, salvage
    from frconvert.container.reader import Reader, open_reader, read_contents
    from frconvert.container.sources import open_source
    from frconvert.errors import FrqError
    from frconvert.importers.frq import checkpoint_of

VECTORS = Path(__file__).resolve().parents[2] / "formats" / "vectors"
DTYPES = ("float32", "float64", "float16", "int64", "uint8", "bool", "complex64")
QUANTISED = (TRELLIS, UNIFORM, INTEGERS, SPARSE)
KINDS = (*QUANTISED, *DTYPES, WORDS)
BASES = [VECTORS / "valid" / name for name in ("base.frq", "delta.frq")]
SHAPES = ((7,), (3, 5), (64, 40), (1,), (2, 3, 4, 5), (5000,), (0, 3), ())
MOST_ELEMENTS = 1 << 16


def read_all(reader: Reader) -> None:
    """Every tensor and attachment that is not too large to be worth the time."""
    for entry in checkpoint_of(reader, BASES if reader.head.base else ()):
        if entry.size <= MOST_ELEMENTS:
            _quietly(entry.read)
    for name, size in reader.head.attachments.items():
        if size <= MOST_ELEMENTS:
            _quietly(lambda name=name: reader.attachment(name))


def a_file(data: bytes) -> None:
    read_all(open_reader(io.BytesIO(data)))


def a_damaged_file(data: bytes) -> None:
    read_all(salvage.examine(open_source(io.BytesIO(data))).reader)


def a_head(data: bytes) -> None:
    head.unpack(data)


def a_chunk(data: bytes) -> None:
    if len(data) < 5:
        return
    kind = KINDS[data[0] % len(KINDS)]
    dtype = kind if kind not in QUANTISED else ("float32", "float64", "float16")[data[0] // 16 % 3]
    if kind == WORDS:
        a_difference(data)
        return
    step = step_of_code(0x7F00 + data[4]) if kind in QUANTISED else None
    shapes = [SHAPES[byte % len(SHAPES)] for byte in data[1 : 2 + data[3] % 2]]
    layouts = [
        Layout(shape, dtype, tuple(range(len(shape)))[: data[3] // 2 % 3] if step else (), None, step, kind)
        for shape in shapes
    ]
    layouts = [layout for layout in layouts if layout.count]
    if layouts:
        for record in decode_chunk(data[5:], layouts):
            restore(record)


def a_difference(data: bytes) -> None:
    dtype, shape = DTYPES[data[1] % 5], SHAPES[data[2] % len(SHAPES)]
    layout = Layout(shape, dtype, stored=WORDS, relation=DIFFERENCE)
    for record in decode_chunk(data[5:], [layout]) if layout.count else ():
        restore(record, np.ones(shape, dtype))


def exact_values(data: bytes) -> None:
    if len(data) > 2:
        lossless.decode(data[2:], DTYPES[data[0] % len(DTYPES)], data[1] * 40)


READERS = (a_file, a_chunk, a_head, exact_values, a_damaged_file)


def one_input(data: bytes) -> None:
    """What the fuzzer calls."""
    if data:
        _quietly(lambda: READERS[data[0] % len(READERS)](data[1:]))


def seeds(folder: Path) -> None:
    """The vectors, and the parts of the sound ones."""
    for number, path in enumerate(sorted(VECTORS.rglob("*.frq"))):
        data = path.read_bytes()
        for reader in (0, 4):
            (folder / f"file{reader}-{number}").write_bytes(bytes([reader]) + data)
        try:
            source = open_source(io.BytesIO(data))
            whole = Reader(source, read_contents(source))
            payloads = [whole.payload(chunk) for chunk in range(len(whole.head.groups))]
        except FrqError:
            continue
        (folder / f"head-{number}").write_bytes(b"\x02" + head.pack(whole.head))
        for chunk, (group, payload) in enumerate(zip(whole.head.groups, payloads, strict=True)):
            if group.kind in KINDS:
                where = bytes([1, KINDS.index(group.kind), 0, 0, 0, 0])
                (folder / f"chunk-{number}-{chunk}").write_bytes(where + payload)


def _quietly(read) -> None:  # type: ignore[no-untyped-def]
    try:
        read()
    except FrqError as error:
        if "\n" in str(error):
            raise AssertionError("an error of more than one line") from error


def main() -> None:
    """Runs until libFuzzer's options say so."""
    options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
    folders = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    with tempfile.TemporaryDirectory() as temporary:
        begin = Path(temporary) / "seeds"
        begin.mkdir()
        seeds(begin)
        grown = folders or [str(Path(temporary) / "corpus")]
        Path(grown[0]).mkdir(exist_ok=True)
        defaults = ["-rss_limit_mb=2048", "-timeout=60", "-max_len=20000"]
        atheris.Setup([sys.argv[0], *defaults, *options, *grown, str(begin)], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
