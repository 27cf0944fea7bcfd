"""Both decoders on broken files: they refuse the same tensors and decode all others alike."""

import io
import random

import numpy as np
import pytest
from assemble import join
from decoders import REFERENCE, VECTORS, are_near, stored_integers

import frconvert
from frconvert.container.deflate import NAMES, inflate
from frconvert.container.frames import FOOTER_BYTES, parse_header
from frconvert.dtypes import largest_finite
from frconvert.errors import FrqError

SEEDS = sorted(
    p for p in (VECTORS / "valid").glob("*.frq") if p.stem not in ("segments", "long-piece", "no-tensors")
)
BASES = [VECTORS / "valid" / "base.frq", VECTORS / "valid" / "delta.frq"]
COUNT = 300
FLOAT32_LARGEST = float(np.finfo(np.float32).max)


def parts_of(data: bytes) -> tuple[bytes, list[bytes]]:
    """Content of the head index, and the payloads of the frames."""
    end = len(data) - FOOTER_BYTES - int.from_bytes(data[-44:-40], "little")
    payloads, place = [], 4
    while place < end:
        frame = parse_header(data[place : place + 13], place)
        payloads.append(data[frame.offset : frame.end])
        place = frame.end
    return inflate(payloads[0], 1 << 28, NAMES), payloads[1:]


def edited(rng: random.Random, data: bytes) -> bytes:
    """A few bytes flipped, replaced, removed or inserted, near the beginning more often than elsewhere."""
    out = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        place = rng.randrange(max(1, min(len(out), rng.choice((8, 32, len(data) + 1)))))
        how = rng.random()
        if how < 0.5:
            out[place:place] = bytes([(out[place : place + 1] or b"\0")[0] ^ 1 << rng.randrange(8)])
            del out[place + 1 : place + 2]
        elif how < 0.7:
            out[place : place + 1] = bytes([rng.choice((0, 1, 2, 127, 128, 255, rng.randrange(256)))])
        elif how < 0.8:
            del out[place : place + 1]
        elif how < 0.9:
            out[place:place] = bytes([rng.choice((0, 1, 128, 255))])
        else:
            del out[place:]
    return bytes(out)


def mutant(number: int) -> bytes:
    """A sound vector with an edit beneath its checksums."""
    rng = random.Random(f"mutant {number}")  # noqa: S311  (not for secrets)
    content, payloads = parts_of(rng.choice(SEEDS).read_bytes())
    if rng.random() < 0.3 or not payloads:
        return join(edited(rng, content), payloads)
    chosen = rng.randrange(len(payloads))
    payloads[chosen] = edited(rng, payloads[chosen])
    return join(content, payloads)


@pytest.mark.parametrize("first", range(0, COUNT, 50))
def test_both_decoders_refuse_the_same_and_restore_the_same(first):
    refused = 0
    for number in range(first, first + 50):
        data = mutant(number)
        try:
            tensors, attachments, _ = REFERENCE.decode(data, [path.read_bytes() for path in BASES])
        except REFERENCE.FormatError:
            refused += 1
            with pytest.raises(FrqError):
                frconvert.load(io.BytesIO(data), base=BASES)
            continue
        checkpoint = frconvert.load(io.BytesIO(data), base=BASES)
        for tensor in tensors:
            refused += bool(tensor.error)
            compare(tensor, checkpoint[tensor.name])
        for name, content in attachments.items():
            if isinstance(content, bytes):
                assert checkpoint.attachments[name] == content
            else:
                with pytest.raises(FrqError):
                    checkpoint.attachments[name]
    assert refused


def compare(tensor, entry):
    if tensor.error:
        with pytest.raises(FrqError):
            entry.read()
        return
    values = entry.read()
    quantised = tensor.integers is not None and tensor.step is not None and tensor.step > 1e-30
    if quantised and np.isfinite(values.astype(np.float64)).all():
        assert np.array_equal(stored_integers(entry), tensor.integers) or not entry.size
    is_exact = tensor.stored == tensor.dtype and not tensor.axes and tensor.keep is None
    if tensor.kind == 3 or tensor.relation == 2 or is_exact:
        assert values.tobytes() == tensor.words.tobytes()
        return
    found = REFERENCE.values(tensor).reshape(values.shape)
    largest = float(np.abs(found.astype(np.float64)).max(initial=0))
    # Where coefficients leave the range of floats, and where they are NaN, V8 promises nothing.
    if largest < (FLOAT32_LARGEST / 1000 if values.dtype.itemsize > 2 else largest_finite(tensor.dtype)):
        assert are_near(found, values, tensor.dtype, largest, decoders=2)
