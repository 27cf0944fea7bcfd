"""Damages archives at random and counts what was not noticed, what came back wrong, and what was lost.

    python tests/benchmarks/damage.py [--count 10000] [--seed 0]

Prints a Markdown table, a row a kind of damage. "Touched" are the tensors whose data a damage changed or took
away; "lost beyond" are those lost without being touched, not counting files whose head index was destroyed,
which have a column of their own. Exit status 1 if anything was not noticed or came back wrong.
"""

import argparse
import hashlib
import io
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from frconvert.coding.quantize import storable_step
from frconvert.coding.record import Plan, encode_chunk, make_record
from frconvert.container.frames import Frame
from frconvert.container.head import Group, Head
from frconvert.container.reader import open_reader
from frconvert.container.salvage import examine
from frconvert.container.sources import FileSource
from frconvert.container.writer import Writer
from frconvert.errors import FrqError

# What a damage removes: bytes from `begin` to `end`; it puts `new` there.
Damage = tuple[int, int, bytes]


@dataclass(slots=True)
class Sample:
    """A sound archive: its bytes, where everything is, and a digest of each tensor."""

    data: bytes
    head_end: int
    frames: dict[str, Frame] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)


def make_sample(count: int, step: float | None, seed: int) -> Sample:
    """An archive of `count` tensors, each in a chunk of its own, and two attachments.

    Without a step they are noise of one or two bytes, which is stored as it is: decoding is not what is tried
    here, and takes nearly all of the time otherwise.
    """
    rng = np.random.default_rng(seed)
    records = {}
    for number in range(count):
        shape = (int(rng.integers(4, 150)), int(rng.integers(4, 150)))
        weights = rng.integers(0, 256, shape).astype(np.uint8 if number % 2 else np.int16)
        plan = Plan()
        if step:
            weights = rng.standard_normal(shape).astype(np.float32)
            plan = Plan((0, 1), None, storable_step(step)) if number % 2 else Plan()
        records[f"layer{number}.weight"] = make_record(weights, weights.dtype.name, plan)
    attachments = {"config.json": b'{"a": 1}' * 40, "tokens.bin": rng.bytes(5000)}
    layouts = tuple(record.layout for record in records.values())
    groups = tuple(Group(layout.stored, 1) for layout in layouts)
    sizes = {name: len(content) for name, content in attachments.items()}
    stream = io.BytesIO()
    writer = Writer(stream, Head(tuple(records), layouts, {}, groups, sizes, {"licence": "MIT"}), attachments)
    for record in records.values():
        writer.add_chunk(encode_chunk([record]))
    writer.finish()
    reader = open_reader(stream)
    found = reader.contents.frames
    sample = Sample(stream.getvalue(), found[0].start if found[0] else 0)
    for name in records:
        frame = found[reader.chunk_of(name) or 0]
        assert frame is not None
        sample.frames[name] = frame
        sample.digests[name] = hashlib.sha256(reader.read(name).tobytes()).digest()
    return sample


def flip(rng: random.Random, data: bytes) -> Damage:
    """One bit."""
    place = rng.randrange(len(data))
    return place, place + 1, bytes([data[place] ^ 1 << rng.randrange(8)])


def burst(rng: random.Random, data: bytes) -> Damage:
    """Up to 512 bytes side by side."""
    place = rng.randrange(len(data))
    end = min(len(data), place + rng.choice((2, 4, 16, 64, 512)))
    return place, end, rng.randbytes(end - place)


def truncation(rng: random.Random, data: bytes) -> Damage:
    """The end is missing."""
    return rng.randrange(len(data)), len(data), b""


def insertion(rng: random.Random, data: bytes) -> Damage:
    """Up to 4 KiB more."""
    place = rng.randrange(len(data) + 1)
    return place, place, rng.randbytes(rng.choice((1, 2, 7, 64, 4096)))


def removal(rng: random.Random, data: bytes) -> Damage:
    """Up to 4 KiB less."""
    place = rng.randrange(len(data))
    return place, min(len(data), place + rng.choice((1, 2, 7, 64, 4096))), b""


KINDS: tuple[Callable[[random.Random, bytes], Damage], ...] = (flip, burst, truncation, insertion, removal)


def try_one(sample: Sample, damage: Damage) -> Counter[str]:
    """What one damage did."""
    begin, end, new = damage
    data = sample.data[:begin] + new + sample.data[end:]
    counts = Counter(damages=1)
    if data == sample.data:
        return Counter(damages=1, harmless=1)
    touched = {
        name
        for name, frame in sample.frames.items()
        if (begin < frame.end and end > frame.offset) or (begin == end and frame.offset < begin < frame.end)
    }
    counts["touched"] = len(touched)
    try:
        found = examine(FileSource(io.BytesIO(data)))
    except FrqError:
        counts["head lost"] = 1
        counts["head lost, untouched"] = begin >= sample.head_end
        return counts
    counts["undetected"] = not list(found.lines())
    lost = set(found.lost_tensors)
    counts["lost"] = len(lost)
    counts["lost beyond"] = len(lost - touched)
    counts["touched, but repaired"] = len(touched - lost)
    for name in sample.digests.keys() - lost:
        counts["wrong"] += hashlib.sha256(found.reader.read(name).tobytes()).digest() != sample.digests[name]
    return counts


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    samples = [make_sample(24, None, 1), make_sample(90, None, 2)] * 12 + [make_sample(8, 0.05, 3)]
    rng = random.Random(arguments.seed)  # noqa: S311  (not for secrets)
    totals = {kind.__name__: Counter[str]() for kind in KINDS}
    began = time.monotonic()
    for number in range(arguments.count):
        kind = KINDS[number % len(KINDS)]
        sample = samples[number // len(KINDS) % len(samples)]
        totals[kind.__name__] += try_one(sample, kind(rng, sample.data))
    columns = ("damages", "undetected", "wrong", "touched", "lost", "touched, but repaired", "lost beyond",
               "head lost", "head lost, untouched")  # fmt: skip
    print(f"| damage | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, counts in (*totals.items(), ("all", sum(totals.values(), Counter[str]()))):
        print(f"| {name} | {' | '.join(f'{counts[column]:,}' for column in columns)} |")
    shown = [*samples[:2], samples[-1]]
    sizes = ", ".join(f"{len(sample.data):,} bytes with {len(sample.frames)} tensors" for sample in shown)
    print(f"\nArchives of {sizes}; {time.monotonic() - began:.0f} s.")
    if any(counts["undetected"] or counts["wrong"] for counts in totals.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
