"""Makes candidates for `formats/vectors`: python tests/conformance/generate.py FOLDER

Files of an earlier run are replaced. Nothing here decides that a candidate is right: compare the manifest
with the one that is kept, and run the tests with both decoders, before it becomes a vector.
"""

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import invalid_files
import invalid_heads
import invalid_payloads
import numpy as np
import valid_vectors
from assemble import Vector

import frconvert
from frconvert.checkpoint import TensorEntry
from frconvert.coding.difference import OWN
from frconvert.coding.record import INTEGERS, SPARSE, Record, restore
from frconvert.errors import UnsupportedError

BASES = {
    "delta": ["base.frq"],
    "delta-of-delta": ["base.frq", "delta.frq"],
    "base-unlike": ["base.frq"],
    "base-without": ["base.frq"],
}
SAMPLES = 24  # of the values of a tensor that is restored from integers


def facts_of(entry: TensorEntry, owner: TensorEntry) -> dict[str, Any]:
    """What is expected of a tensor; `owner` is the one whose data it has, itself or another."""
    layout = owner.encoded_layout
    assert layout is not None
    found: dict[str, Any] = {
        "name": entry.name,
        "dtype": entry.dtype,
        "shape": list(entry.shape),
        "kind": layout.stored,
    }
    if entry.tied_to is not None:
        return found | {"tied_to": entry.tied_to}
    try:
        values = entry.read()
    except UnsupportedError:
        return found | {"error": "kind"}
    if layout.is_plain and (layout.stored == entry.dtype or layout.relation != OWN):
        return found | {"sha256": digest(values.tobytes())}
    record = entry.read_encoded()
    sequence = record.values.astype(np.float64)
    if layout.step is not None:
        unit = layout.step if layout.stored in (INTEGERS, SPARSE) else layout.step / 2
        integers = (
            record.values.astype(np.int64)
            if layout.stored in (INTEGERS, SPARSE)
            else np.rint(sequence / unit).astype("<i8")
        )
        found["integers_sha256"] = digest(integers.tobytes())
        sequence = integers if layout.stored in (INTEGERS, SPARSE) else integers * unit
    wide = replace(layout, dtype="float64")
    ideal = restore(Record(wide, sequence)).reshape(-1)
    largest = float(np.abs(ideal).max(initial=0))
    if entry.base is not None:  # rule G6
        other = entry.base.read().astype(np.float64).reshape(-1)
        ideal, largest = ideal + other, max(largest, float(np.abs(other).max(initial=0)))
    at = np.unique(np.linspace(0, ideal.size - 1, min(SAMPLES, ideal.size)).astype(int)) if ideal.size else []
    return found | {"largest": largest, "at": [int(i) for i in at], "values": [float(ideal[i]) for i in at]}


def digest(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def broken_vectors() -> Iterator[Vector]:
    """All that break a rule."""
    yield from invalid_files.container()
    yield from invalid_heads.index()
    yield from invalid_heads.differences()
    yield from invalid_payloads.coded()
    yield from invalid_payloads.models()
    yield from invalid_payloads.sparse_kind()
    yield from invalid_files.attachments()


def main() -> None:
    """Writes vectors and manifest."""
    folder = Path(sys.argv[1])
    manifest: dict[str, list[dict[str, Any]]] = {"valid": [], "invalid": []}
    for part in manifest:
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name, data, purpose in valid_vectors.vectors():
        (folder / "valid" / f"{name}.frq").write_bytes(data)
        bases = BASES.get(name, ())
        checkpoint = frconvert.load(io.BytesIO(data), base=[folder / "valid" / base for base in bases])
        manifest["valid"].append({
            "file": f"valid/{name}.frq", "sha256": digest(data), "purpose": purpose,
            "bases": [f"valid/{base}" for base in bases],
            "tensors": [facts_of(entry, checkpoint[entry.tied_to or entry.name]) for entry in checkpoint],
            "attachments": {key: digest(value) for key, value in checkpoint.attachments.items()},
            "metadata": checkpoint.metadata | {f"frconvert.{k}": v for k, v in checkpoint.provenance.items()},
        })  # fmt: skip
    for name, data, code, purpose in broken_vectors():
        (folder / "invalid" / f"{name}.frq").write_bytes(data)
        manifest["invalid"].append({
            "file": f"invalid/{name}.frq", "sha256": digest(data), "purpose": purpose,
            "bases": [f"valid/{base}" for base in BASES.get(name, ())], "error": code,
        })  # fmt: skip
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
    sizes = [path.stat().st_size for path in folder.rglob("*.*")]
    print(f"{len(manifest['valid'])} valid, {len(manifest['invalid'])} invalid, {sum(sizes):,} bytes")


if __name__ == "__main__":
    main()
