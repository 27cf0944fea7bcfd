"""The compiled twins give the bytes that numpy gives, and never leave their buffers."""

import numpy as np
import pytest

from frconvert.coding import (
    choice,
    coefficients,
    fit,
    integers,
    lanes,
    lossless,
    rows,
    segments,
    symbols,
    trellis,
)
from frconvert.coding.native import native

needs_native = pytest.mark.skipif(native is None, reason="no compiler was there when frconvert was installed")


def everything() -> list[bytes]:
    """Bytes and restored values of all codecs, for data that reach every branch."""
    rng = np.random.default_rng(7)
    found = []
    for size, loudness in ((1, 1.0), (37, 0.2), (5000, 3.0), (70_000, 40.0)):
        weights = (rng.laplace(size=(size, 3)) * loudness * rng.uniform(0.01, 1, (1, 3))).astype(np.float32)
        scales = fit.fit(weights).scales(1.0)
        for state_bits in (0, 3, coefficients.STATE_BITS):
            values = weights.reshape(-1).copy()
            part = coefficients.Coded(values, weights.shape, 1.0, scales)
            payload = coefficients.encode([part], state_bits, aware=state_bits > 0)
            (back,) = coefficients.decode(payload, [weights.shape], [1.0], [np.float32])
            found += [payload, back.values.tobytes()]
        whole = np.rint(weights.reshape(-1) * 10).astype(np.int32)
        payload = integers.encode(whole)
        found += [payload, integers.decode(payload, whole.size).tobytes()]
        for values in (weights.reshape(-1), whole, (whole % 5).astype(np.uint8)):
            payload = lossless.encode(values, values.dtype.name)
            found += [payload, lossless.decode(payload, values.dtype.name, values.size).tobytes()]
    return found


@needs_native
def test_compiled_and_numpy_loops_give_the_same_bytes(monkeypatch):
    compiled = everything()
    for module in (trellis, rows, lanes, segments, choice, symbols):
        monkeypatch.setattr(module, "native", None)
    assert everything() == compiled


@needs_native
def test_the_loops_refuse_buffers_that_are_too_short():
    small, floats = np.zeros(4, np.uint8), np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="too short"):
        native.search(floats, b"", b"", b"", 100, 100, 6, 33, 10, small, small)
    with pytest.raises(ValueError, match="no such trellis"):
        native.search(floats, b"", b"", b"", 1, 4, 9, 33, 10, small, small)
    with pytest.raises(ValueError, match="too short"):
        native.encode(
            bytes(9), bytes(18), b"", small, small, np.zeros(1, np.uint32), 9, np.zeros(9, np.uint16)
        )
    tables, room = np.zeros(2, np.uint32), np.zeros(10, np.uint16)
    with pytest.raises(ValueError, match="without a frequency"):
        native.encode(b"\7" * 9, bytes(18), b"", tables, tables, np.ones(1, np.uint32), 9, room)


@needs_native
@pytest.mark.parametrize("row", [1, 500, 65535])
def test_a_row_beyond_the_tables_is_refused(row):
    table = lanes.lookup(np.array([[2048, 2048] + [0] * 254]))
    state, symbols = np.full(1, 1 << 16, np.uint32), np.zeros(3, np.uint8)
    with pytest.raises(ValueError, match="no such row"):
        native.decode(b"", state, np.zeros(3, np.uint8), np.full(256, row, np.uint16), table, symbols)
    pull = np.zeros(256, np.int32)
    with pytest.raises(ValueError, match="no such row"):
        native.decode_running(b"", state, table, pull, np.full(1, row, np.uint16), 0, 4, 0, symbols)


@needs_native
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": np.full(5, 112, np.uint8)}, "no such class"),
        (
            {"classes": np.full(5, 40, np.uint8)},
            "no such class, row or raw bit",
        ),  # whose raw bits are missing
        ({"ends": np.array([4])}, "no such class"),  # the parts end before the segment does
        ({"bases": np.full(1, 60000, np.uint16)}, "no such class, row"),
        ({"integers": np.empty(4, np.int32)}, "too short"),
        ({"state": np.empty(0, np.uint32)}, "too short"),
        ({"moves": np.zeros(6, np.uint8)}, "too short"),
    ],
)
def test_a_segment_of_impossible_classes_rows_or_sizes_is_refused(changes, message):
    model = segments.Model(7, (0,))
    arguments = {
        "words": b"",
        "state": np.full(1, 1 << 16, np.uint32),
        "classes": np.full(5, 20, np.uint8),
        "row_of": segments.tables.row_of_class(model.first),
        "bases": np.zeros(1, np.uint16),
        "ends": np.array([5]),
        "table": lanes.lookup(model.frequencies),
        "moves": trellis.moves(7),
        "raw_bits": segments.tables.RAW_BITS,
        "raw": b"",
        "first_served": 9,
        "wide": 32,
        "drained_from": 0,
        "integers": np.empty(5, np.int32),
    }
    assert native.decode_segment(*arguments.values()) == 0
    with pytest.raises(ValueError, match=message):
        native.decode_segment(*(arguments | changes).values())
