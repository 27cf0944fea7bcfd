"""Package and reference decoder on the vectors of the format, and the text of the format against both."""

import hashlib
import json
import re
import sys
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assemble import chunks, columns, join
from decoders import FORMATS, REFERENCE, VECTORS, are_near, stored_integers

import frconvert
from frconvert.attach import restore_files
from frconvert.coding import models, tables
from frconvert.coding.bits import varint
from frconvert.container.deflate import NAMES
from frconvert.container.salvage import examine
from frconvert.container.sources import PathSource
from frconvert.dtypes import largest_finite, numpy_dtype
from frconvert.errors import FrqError, UnsupportedError

TEXT = (FORMATS / "frq-1.md").read_text(encoding="utf-8")
MANIFEST = json.loads((VECTORS / "manifest.json").read_text(encoding="utf-8"))
# What only a look at the whole file shows; a reader of single tensors does not need it.
SEEN_BY_VERIFY_ALONE = {"frame-header", "sha256"}


def names_of(part: str) -> Any:
    """Parametrises a test with the vectors of the manifest."""
    found = [pytest.param(facts, id=Path(facts["file"]).stem) for facts in MANIFEST[part]]
    return pytest.mark.parametrize("vector", found)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def contents(vector: dict[str, Any]) -> tuple[bytes, list[bytes]]:
    """Of a file and of its bases."""
    return (VECTORS / vector["file"]).read_bytes(), [
        (VECTORS / base).read_bytes() for base in vector["bases"]
    ]


def check_values(values: np.ndarray, facts: dict[str, Any]) -> None:
    """The values at some places are near those of exact arithmetic, clipped to the dtype's range."""
    dtype, ideal = facts["dtype"], np.array(facts["values"])
    if dtype not in ("float32", "float64"):
        ideal = np.clip(ideal, -largest_finite(dtype), largest_finite(dtype))
    assert are_near(ideal, values.reshape(-1)[facts["at"]], dtype, facts["largest"], decoders=1)


def test_the_manifest_lists_every_vector_and_no_other_and_no_vector_has_changed():
    listed = {v["file"]: v["sha256"] for part in MANIFEST.values() for v in part}
    there = {p.relative_to(VECTORS).as_posix(): sha256(p.read_bytes()) for p in VECTORS.glob("*/*.frq")}
    assert listed == there
    assert sum(path.stat().st_size for path in VECTORS.rglob("*.*")) < 1_000_000


def test_no_vector_of_the_frozen_version_has_changed():
    lines = (VECTORS / "frozen.sha256").read_text(encoding="ascii").splitlines()
    assert len(lines) >= 190
    for digest, name in (line.split("  ") for line in lines):
        assert sha256((VECTORS / name).read_bytes()) == digest


@names_of("valid")
def test_the_reference_decoder_restores_a_sound_vector(vector):
    tensors, attachments, metadata = REFERENCE.decode(*contents(vector))
    assert {name: sha256(content) for name, content in attachments.items()} == vector["attachments"]
    assert metadata == vector["metadata"]
    for tensor, facts in zip(tensors, vector["tensors"], strict=True):
        found = {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}
        assert found.items() <= facts.items()
        assert (tensor.target.name if tensor.target else None) == facts.get("tied_to")
        assert (str(tensor.error) if tensor.error else None) == facts.get("error")
        if "sha256" in facts:
            assert sha256(tensor.words.tobytes()) == facts["sha256"]
        if "integers_sha256" in facts:
            assert sha256(tensor.integers.astype("<i8").tobytes()) == facts["integers_sha256"]
        if "values" in facts:
            check_values(REFERENCE.values(tensor), facts)


@names_of("valid")
def test_the_package_restores_a_sound_vector(vector):
    path = VECTORS / vector["file"]
    checkpoint = frconvert.load(path, base=[VECTORS / file for file in vector["bases"]])
    assert examine(PathSource(path)).is_sound
    attachments = {name: sha256(content) for name, content in checkpoint.attachments.items()}
    assert attachments == vector["attachments"]
    provenance = {f"frconvert.{key}": value for key, value in checkpoint.provenance.items()}
    assert checkpoint.metadata | provenance == vector["metadata"]
    for entry, facts in zip(checkpoint, vector["tensors"], strict=True):
        assert (entry.name, entry.dtype, list(entry.shape)) == (facts["name"], facts["dtype"], facts["shape"])
        assert entry.tied_to == facts.get("tied_to")
        if "error" in facts:
            with pytest.raises(UnsupportedError, match=re.escape(repr(entry.name))):
                entry.read()
        if "sha256" in facts:
            assert sha256(entry.read().tobytes()) == facts["sha256"]
        if "integers_sha256" in facts:
            assert sha256(stored_integers(entry).tobytes()) == facts["integers_sha256"]
        if "values" in facts:
            check_values(entry.read(), facts)


@names_of("valid")
def test_both_decoders_agree_on_every_value(vector):
    bases = [VECTORS / file for file in vector["bases"]]
    checkpoint = frconvert.load(VECTORS / vector["file"], base=bases)
    facts_by_name = {facts["name"]: facts for facts in vector["tensors"]}
    for tensor in REFERENCE.decode(*contents(vector))[0]:
        if tensor.error:
            continue
        first, second = REFERENCE.values(tensor), checkpoint[tensor.name].read()
        assert first.shape == second.shape
        if "values" not in facts_by_name[(tensor.target or tensor).name]:
            assert tensor.words.tobytes() == second.tobytes()
            continue
        largest = float(np.abs(first.astype(np.float64)).max(initial=0))
        assert are_near(first, second, tensor.dtype, largest, decoders=2)


@names_of("invalid")
def test_the_reference_decoder_refuses_a_broken_vector_by_the_name_of_the_rule(vector, tmp_path, capsys):
    output, folder = tmp_path / "out.npz", tmp_path / "attachments"
    arguments = [str(VECTORS / vector["file"]), "-o", str(output), "--attachments", str(folder)]
    for base in vector["bases"]:
        arguments += ["--base", str(VECTORS / base)]
    with pytest.raises(SystemExit) as caught:
        REFERENCE.main(arguments)
    lines = capsys.readouterr().err.splitlines()
    assert {line.rsplit(": ", 1)[1] for line in lines} == {vector["error"]}
    assert caught.value.code == (1 if output.exists() else 3)
    assert [path.name for path in tmp_path.rglob("*") if path not in (output, folder)] == []


@names_of("invalid")
def test_the_package_refuses_a_broken_vector_in_one_line(vector, tmp_path):
    path = VECTORS / vector["file"]

    def read_all() -> None:
        checkpoint = frconvert.load(path, base=[VECTORS / base for base in vector["bases"]])
        checkpoint.numpy()
        restore_files(dict(checkpoint.attachments), tmp_path, overwrite=False)

    if vector["error"] in SEEN_BY_VERIFY_ALONE:
        read_all()
        lines = list(examine(PathSource(path)).lines())
        assert lines
    else:
        with pytest.raises(FrqError) as caught:
            read_all()
        lines = [str(caught.value)]
    assert all(line and line.isprintable() for line in lines)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_every_error_of_the_text_has_a_vector_and_every_error_of_a_vector_is_in_the_text():
    section = TEXT.split("## 14. Errors")[1].split("## Annex A")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    listed = set(re.findall(r"`([a-z0-9-]+)`", " ".join(rows)))
    assert {vector["error"] for vector in MANIFEST["invalid"]} == listed
    assert set(re.findall(r"\[`([a-z0-9-]+)`\]", TEXT)) <= listed


def test_the_sound_vectors_use_every_form_of_piece_and_tables_of_every_sort(monkeypatch):
    forms, sorts, escapes, raw = set(), set(), 0, 0
    piece, completed, segment = REFERENCE.piece, REFERENCE.completed, REFERENCE.segment
    rows = [(tail, k, half) for tail in range(8) for k in range(32) for half in (False, True)]
    built_in = {REFERENCE.built_in_row(*row).tobytes() for row in rows}

    def seen_piece(reader, n, w, floats, depth):
        forms.add((reader.data[reader.at], depth))
        return piece(reader, n, w, floats, depth)

    def seen_completed(half, half_way):
        if completed(half, half_way).tobytes() not in built_in:
            sorts.add(half_way)
        return completed(half, half_way)

    def seen_segment(reader, tables, classes, rows, state_bits, *more):
        nonlocal escapes, raw
        raw += int(np.count_nonzero(classes >= 32))
        served = np.count_nonzero(classes >= 9) if state_bits else 0
        sorts.add("mixed" if 0 < served < classes.size else "served" if served else "unserved")
        result, left = segment(reader, tables, classes, rows, state_bits, *more)
        escapes += more[-1].size - left.size
        return result, left

    monkeypatch.setattr(REFERENCE, "piece", seen_piece)
    monkeypatch.setattr(REFERENCE, "completed", seen_completed)
    monkeypatch.setattr(REFERENCE, "segment", seen_segment)
    for vector in MANIFEST["valid"]:
        REFERENCE.decode(*contents(vector))
    assert {form for form, _ in forms} == {0, 1, 2, 3, 4, 5, 9, 10, 11, 13}
    assert {depth for _, depth in forms} == {0, 1, 2}
    assert sorts == {False, True, "mixed", "served", "unserved"}
    assert escapes > 10
    assert raw > 1000


def test_the_worked_example_is_the_vector_and_its_bytes_are_at_their_offsets():
    block = TEXT.split("```hex\n")[1].split("```")[0]
    found = b""
    for line in block.splitlines():
        pattern = r"([0-9a-f]{4})  ((?:[0-9a-f]{2} )*[0-9a-f]{2})(?=  |$)"
        offset, hexadecimal = re.match(pattern, line).groups()
        assert int(offset, 16) == len(found)
        found += bytes.fromhex(hexadecimal)
    assert found == (VECTORS / "valid" / "example.frq").read_bytes()
    values = {tensor.name: REFERENCE.values(tensor).tolist() for tensor in REFERENCE.decode(found)[0]}
    assert values == {"w": [[0.5625, 0.3125], [0.9375, 0.1875]], "b": [1, -2]}


def test_the_dictionary_of_the_text_is_that_of_both_decoders():
    words = TEXT.split("```dictionary\n")[1].split("```")[0].split()
    text = b"".join(word.encode() + b"\xff" for word in words)
    assert text == NAMES == REFERENCE.DICTIONARY
    assert sha256(text) in TEXT
    assert f"{len(text):,} bytes" in TEXT


def test_the_pseudo_code_of_the_text_gives_the_tables_of_both_decoders():
    def low(token: int) -> int:
        return token if token < 16 else (4 + token % 4) << ((token - 16) // 4 + 2)

    code = {}
    for name in ("def builtin(k, a)", "SHAPES = ["):
        block = next(part.split("```")[0] for part in TEXT.split("```\n") if part.startswith(name))
        code[name] = compile(block, "frq-1.md", "exec")
    space: dict[str, Any] = {"low": low, "isqrt": isqrt}
    exec(code["def builtin(k, a)"], space)  # noqa: S102  (our own text)
    for number, alphabet in ((0, 2), (0, 96), (1, 5), (17, 9), (30, 40), (48, 96)):
        expected = space["builtin"](number, alphabet)
        assert expected == models.built_in_table(number, alphabet).tolist()
        assert expected == REFERENCE.built_in(number, alphabet).tolist()
    exec(code["SHAPES = ["], space)  # noqa: S102
    distribution = space["distribution"]
    for tail in (0, 1, 5, 7):
        sums = distribution(tail)
        space["distribution"] = lambda _, sums=sums: sums
        for number in (0, 4, 9, 16, 23, 31):
            for half_way in (False, True):
                expected = space["row"](tail, number, half_way)
                assert expected == tables.frequencies(tail, number, half_way=half_way).tolist()
                assert expected == REFERENCE.built_in_row(tail, number, half_way).tolist()


def test_the_reference_decoder_needs_nothing_but_python_and_numpy():
    source = (FORMATS / "reference_decoder.py").read_text(encoding="utf-8")
    modules = set()
    for line in re.findall(r"^(?:import (.+)|from (\S+) import .*)$", source, re.MULTILINE):
        modules |= {name.split()[0].split(".")[0] for name in (line[0] or line[1]).split(",")}
    assert modules - set(sys.stdlib_module_names) == {"numpy"}


def test_the_reference_decoder_writes_every_tensor_and_attachment(tmp_path, capsys):
    output, folder = tmp_path / "out.npz", tmp_path / "files"
    path = VECTORS / "valid" / "attachments.frq"
    with pytest.raises(SystemExit) as caught:
        REFERENCE.main([str(path), "-o", str(output), "--attachments", str(folder)])
    assert caught.value.code == 0
    assert not capsys.readouterr().err
    with np.load(output) as archive:
        assert list(archive) == ["w"]
        assert archive["w"].dtype == np.float32
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "config.json", "empty", "onnx/skeleton.onnx",
    ]  # fmt: skip
    with pytest.raises(SystemExit):
        REFERENCE.main([str(VECTORS / "valid/dtypes.frq"), "-o", str(output), "--raw"])
    checkpoint = frconvert.load(VECTORS / "valid/dtypes.frq")
    with np.load(output) as archive:
        for entry in checkpoint:
            assert archive[entry.name].tobytes() == entry.read().tobytes()


def test_the_reference_decoder_says_in_one_line_what_it_cannot_do(tmp_path, capsys):
    example = str(VECTORS / "valid" / "example.frq")
    for arguments in ([str(tmp_path / "no.frq")], [example, "-o", str(tmp_path / "no" / "out.npz")]):
        with pytest.raises(SystemExit) as caught:
            REFERENCE.main(arguments)
        assert caught.value.code == 3
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_reference_decoder_refuses_no_more_than_an_npz_cannot_hold(tmp_path, capsys):
    deep = join(columns(1, "complex64", ranks=varint(64), shapes=varint(1) * 64), [b"\0" + bytes(8)])
    shapes = varint(0) + varint(2**62)
    wide = join(columns(1, "float64", ranks=varint(2), shapes=shapes, chunks=chunks()), [])
    for content, lines in ((deep, 0), (wide, 1)):
        path = tmp_path / "model.frq"
        path.write_bytes(content)
        assert REFERENCE.decode(content)[0][0].error is None
        with pytest.raises(SystemExit) as caught:
            REFERENCE.main([str(path)])
        assert caught.value.code == lines
        assert len(capsys.readouterr().err.splitlines()) == lines
    assert not np.load(path.with_suffix(".npz")).files


def test_the_reference_decoder_reads_small_floats_as_ml_dtypes_does():
    for dtype in (*REFERENCE.SMALL, "float8_e8m0fnu"):
        size = numpy_dtype(dtype).itemsize
        codes = np.arange(1 << 8 * size, dtype=f"<u{size}")
        expected = codes.view(numpy_dtype(dtype)).astype(np.float32)
        found = REFERENCE.values_of(codes, dtype)
        assert np.array_equal(found, expected, equal_nan=True)
        assert np.array_equal(np.signbit(found)[expected == 0], np.signbit(expected)[expected == 0])
        if dtype == "float8_e8m0fnu":
            continue
        finite = np.isfinite(expected)
        random = np.random.default_rng(1).standard_normal(2000) * 3
        between = np.concatenate([expected[finite], random]).astype(np.float32)
        found = REFERENCE.words_of(between.astype(np.float64), dtype)
        assert np.array_equal(found, between.astype(numpy_dtype(dtype)).view(f"<u{size}"))
