"""Sound vectors: together they use every rule of `frq-1.md` that a decoder needs."""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace

import ml_dtypes
import numpy as np
from assemble import Source, bits_of, chunks, columns, exact_code, file_of, join, quantised, write

import frconvert
from frconvert.coding import coefficients, lossless, quantize
from frconvert.coding.bits import varint
from frconvert.coding.coefficients import Coded
from frconvert.coding.difference import DIFFERENCE, EQUAL
from frconvert.coding.record import INTEGERS, SPARSE, TRELLIS, UNIFORM, Layout, Plan, Record, make_record
from frconvert.coding.scales import Scales
from frconvert.dtypes import DTYPE_NAMES, numpy_dtype

RNG = np.random.default_rng(20)
F32 = np.float32
KINDS = (TRELLIS, UNIFORM, INTEGERS)


def normal(*shape: int, dtype: str = "float32", scale: float = 1.0) -> np.ndarray:
    """Gaussian values."""
    return np.asarray(RNG.standard_normal(shape) * scale).astype(numpy_dtype(dtype))


def smooth(*shape: int) -> np.ndarray:
    """Values that change slowly along the last axis, float32."""
    return np.cumsum(RNG.standard_normal(shape), axis=-1).astype(F32)


def example() -> bytes:
    """The worked example of annex A."""
    weights = np.array([[0.5, 0.25], [1.0, 0.125]], F32)
    bias = Source(np.array([1.0, -2.0], F32))
    return file_of({"w": quantised(weights, INTEGERS, 0.125, (0, 1)), "b": bias}, {}, {}, {"licence": "MIT"})


def dtypes() -> bytes:
    """All element types, any bits; of one byte all values."""
    tensors = {}
    for number, dtype in enumerate(DTYPE_NAMES):
        wide = numpy_dtype(dtype).itemsize > 1 or dtype == "bool"
        array = (
            bits_of(dtype, 40, number) if wide else np.arange(256, dtype=np.uint8).view(numpy_dtype(dtype))
        )
        tensors[dtype] = Source(array.reshape(-1, 8))
    return file_of(tensors)


def special() -> bytes:
    """NaN with payloads, infinities, zeros of both signs, subnormals."""
    words = {
        "float16": [0x7C00, 0xFC00, 0x7E01, 0x7C01, 0x8000, 0, 1, 0x83FF, 0x3C00],
        "float32": [0x7F800000, 0xFF800000, 0x7FC00001, 0x7F800001, 0x80000000, 0, 1, 0x807FFFFF, 0x3F800000],
        "float64": [0x7FF << 52, 0xFFF << 52, (0x7FF8 << 48) + 1, (0x7FF << 52) + 1, 1 << 63, 0, 1,
                    (1 << 63) + 7, 0x3FF << 52],
        "bfloat16": [0x7F80, 0xFF80, 0x7FC1, 0x7F81, 0x8000, 0, 1, 0x807F, 0x3F80],
    }  # fmt: skip
    return file_of({
        name: Source(np.array(values, f"u{numpy_dtype(name).itemsize}").view(numpy_dtype(name)))
        for name, values in words.items()
    })  # fmt: skip


def ranks() -> bytes:
    """Rank 0 to 6 of every kind."""
    tensors = {}
    for rank in range(7):
        shape = (3, 2, 4, 1, 2, 3)[:rank]
        tensors[f"exact/{rank}"] = Source(normal(*shape))
        for kind in KINDS:
            axes = tuple(range(0, rank, 2)) if rank % 2 else tuple(range(rank))
            tensors[f"{kind}/{rank}"] = quantised(normal(*shape), kind, 0.2, axes)
    return file_of(tensors)


def axes() -> bytes:
    """Every subset of three axes, lengths that are no powers of two; axes of length 1."""
    tensors = {}
    for mask in range(8):
        chosen = tuple(axis for axis in range(3) if mask >> axis & 1)
        for kind in (TRELLIS, INTEGERS):
            tensors[f"{kind}{mask}"] = quantised(smooth(5, 3, 7), kind, 0.3, chosen)
    tensors["exact"] = Source(smooth(6, 5), Plan((1,)))
    tensors["long"] = quantised(smooth(1, 601), TRELLIS, 2.0, (0, 1))
    return file_of(tensors)


def empty() -> bytes:
    """Tensors without elements, of many types and kinds; a prefix of no coefficients."""
    tensors = {f"{name}": Source(np.zeros((2, 0, 3), numpy_dtype(name))) for name in DTYPE_NAMES}
    layouts = {name: make_record(item.array, name, item.plan).layout for name, item in tensors.items()}
    for kind in KINDS:
        layouts[kind] = Layout((0, 4), "float32", (0,), None, 0.25, kind)
    layouts["nothing kept"] = Layout((3, 4), "float32", (0, 1), 0, 0.25, INTEGERS)
    return write(layouts, [])


def no_tensors() -> bytes:
    """A file of nothing."""
    return write({}, [])


def ties() -> bytes:
    """Two names of one tensor, three of another; an alias of an empty tensor."""
    tensors = {
        "embedding": quantised(normal(12, 8), TRELLIS, 0.25), "bias": Source(normal(5)),
        "none": Source(np.zeros(0, F32)),
    }  # fmt: skip
    return file_of(tensors, {"head": "embedding", "bias2": "bias", "bias3": "bias", "none2": "none"})


def names() -> bytes:
    """Names that are empty, path-like, not ASCII or control characters."""
    found = ["", "..", "/etc/passwd", "C:\\x", "a/b", "空間", "🙂", "a\nb", "x" * 300, "layer.0.weight"]
    return file_of({name: Source(np.array([number], np.int16)) for number, name in enumerate(found)})


def attachments() -> bytes:
    """Attachments and metadata, with provenance under the reserved prefix."""
    files = {"config.json": b'{"layers": 12}' * 20, "onnx/skeleton.onnx": bytes(range(256)), "empty": b""}
    pairs = {"licence": "Apache-2.0", "": "", "ключ": "значение", "frconvert.source": "model.pt"}
    return file_of({"w": Source(normal(3, 3))}, {}, files, pairs)


def many_chunks() -> bytes:
    """Several chunks of each kind, in turn; some hold several tensors."""
    tensors = {f"w{n}": quantised(normal(9, 10 + n), KINDS[n % 3], 0.25) for n in range(9)}
    tensors |= {f"b{n}": Source(normal(4)) for n in range(4)}
    order = [["w0", "w3"], ["b0"], ["w1"], ["w2", "w5", "w8"], ["b1", "b2"], ["w4", "w7"], ["w6"], ["b3"]]
    return file_of(tensors, members=order)


def sparse(size: int, places: dict[int, int]) -> np.ndarray:
    """Zeros but for some values, float32."""
    values = np.zeros(size, F32)
    for place, value in places.items():
        values[place] = value
    return values


def segments() -> bytes:
    """More coefficients than a segment holds, in two tensors; a rest that is shorter than a segment."""
    parts, layouts = [], {}
    for name, size in (("first", (1 << 20) - 700), ("second", 1500)):
        values = sparse(size, {0: 3, size // 2: -2, size - 1: 1})
        scales = Scales(0, 1 if name == "first" else 12, (None,))
        parts.append(Coded(values, (size,), 0.5, scales))
        layouts[name] = Layout((size,), "float32", (), None, 0.5, TRELLIS)
    payload = coefficients.encode(parts)
    records = [Record(layouts[name], part.values) for name, part in zip(layouts, parts, strict=True)]
    return write(layouts, [records], payloads=[payload])


def coded(parts: dict[str, Coded], state_bits: int, kind: str = TRELLIS, aware: bool = True) -> bytes:
    """A file of coefficients with given scales and number of states."""
    layouts = {name: Layout(part.shape, "float32", (), None, part.step, kind) for name, part in parts.items()}
    payload = coefficients.encode(list(parts.values()), state_bits, aware=aware)
    records = [Record(layouts[name], part.values) for name, part in parts.items()]
    return write(layouts, [records], payloads=[payload])


def trellis_states(state_bits: int) -> bytes:
    """A trellis of 2^state_bits states, several lanes, served and unserved classes in one segment."""
    rows = np.arange(60, dtype=np.int16) - 30
    scales = Scales(2, 14, (rows, None))
    values = normal(60, 90) * np.exp2(rows[:, None] / 4).astype(F32)
    return coded({"w": Coded(values.reshape(-1), (60, 90), 1.0, scales)}, state_bits)


def tails() -> bytes:
    """All tail shapes and all narrow classes; tables of scales as they are and as differences."""
    parts = {}
    for tail in range(8):
        offsets = (
            np.arange(24, dtype=np.int16) - 12 if tail % 2 else RNG.integers(-9, 10, 24).astype(np.int16)
        )
        second = None if tail < 4 else np.array([0, 3, -4, 127], np.int16) - np.int16(tail)
        base = 20 if second is None else -60
        scales = Scales(tail, base, (offsets, second))
        values = RNG.standard_t(3, (24, 4)).astype(F32) * 2
        parts[f"w{tail}"] = Coded(values.reshape(-1), (24, 4), 1.0, scales)
    return coded(parts, 5)


def wide() -> bytes:
    """Classes with raw bits, and values that escape their tables."""
    parts = {}
    for number, base in enumerate((31, 32, 35, 40, 52, 70, 95, 111, 120)):
        scale = min(2.0 ** ((base - 16) / 4), 2.0**17)
        values = normal(8, 32, scale=scale).reshape(-1)
        values[::50] *= 4
        parts[f"w{base}"] = Coded(
            np.clip(values, -(2**18), 2**18), (8, 32), 1.0, Scales(number % 8, base, (None, None))
        )
    values = sparse(300, {3: 200, 4: -201, 100: 1 << 18, 299: -(1 << 18)})
    parts["escapes"] = Coded(values, (300,), 1.0, Scales(0, 2, (None,)))
    return coded(parts, 7)


def uniform_wide() -> bytes:
    """The same without a trellis."""
    parts = {}
    for base in (0, 8, 20, 31, 33, 47, 60):
        values = normal(300, scale=2.0 ** ((base - 16) / 4))
        values[7] = 3 * 2.0 ** ((base + 8) / 4)
        parts[f"w{base}"] = Coded(values, (300,), 1.0, Scales(base % 8, base, (None,)))
    return coded(parts, 0, UNIFORM, aware=False)


def own_tables() -> bytes:
    """Distributions that built-in tables do not fit: tables of their own for centred and half-way rows."""

    def values(low: int, high: int, size: int, centre: float) -> np.ndarray:
        return (RNG.integers(low, high, size) * 3 + centre).astype(F32)

    parts = {
        "unserved": Coded(RNG.choice([-2, 2], 3000).astype(F32), (3000,), 1.0, Scales(1, 5, (None,))),
        "served": Coded(values(-3, 4, 3000, 0), (3000,), 1.0, Scales(1, 20, (None,))),
        "wide": Coded(values(-40, 40, 3000, 0), (3000,), 1.0, Scales(1, 33, (None,))),
        "other tail": Coded(values(-3, 4, 2000, 0), (2000,), 1.0, Scales(6, 24, (None,))),
    }
    return coded(parts, 6, aware=False)


def prefixes() -> bytes:
    """Prefixes of the zigzag order, quantised and exact, with and without transform, in narrower dtypes."""
    tensors = {}
    for keep in (1, 7, 60):
        array = smooth(5, 4, 3)
        tensors[f"q{keep}"] = Source(array, Plan((0, 1, 2), keep, quantize.storable_step(0.1)))
        tensors[f"s{keep}"] = Source(array, Plan((), keep, quantize.storable_step(0.1)))
        tensors[f"e{keep}"] = Source(array, Plan((0, 2), keep))
        tensors[f"h{keep}"] = Source(array, Plan((0, 1, 2), keep, stored="float16"))
    tensors["scalar"] = Source(np.array(2.5, F32), Plan((), 1, quantize.storable_step(0.5)))
    tensors["wide tensor"] = Source(smooth(300, 200), Plan((0, 1), 33))
    tensors["float64"] = Source(smooth(6, 6).astype(np.float64), Plan((0, 1), 20, stored="float32"))
    return file_of(tensors)


def integer_tokens() -> bytes:
    """Integers up to the largest magnitude, of all tokens; more than one lane; tables of their own."""
    low = [int(v) for v in np.unique(np.geomspace(1, (1 << 24) - 1, 200).astype(np.int64))]
    values = {"tokens": np.array([*low, *(-v for v in low), 0, (1 << 24) - 1], np.int32)}
    values["zeros"] = np.zeros(700, np.int32)
    values["lanes"] = np.rint(RNG.laplace(size=1700) * np.exp2(np.arange(1700) / 200)).astype(np.int32)
    values["own tables"] = RNG.choice([-9, 5, 6], 4000).astype(np.int32)
    values["one"] = np.array([-5], np.int32)
    layouts = {name: Layout(v.shape, "float64", (), None, 0.5, INTEGERS) for name, v in values.items()}
    records = [[Record(layouts[name], v)] for name, v in values.items()]
    return write(layouts, records)


def pieces() -> bytes:
    """Every form of exact values."""

    def floats(count: int, dtype: str = "float32") -> np.ndarray:
        return normal(count, dtype=dtype)

    coarse = np.concatenate(
        [
            floats(600).astype(np.float16).astype(F32),
            floats(900),
            floats(500).astype(ml_dtypes.bfloat16).astype(F32),
        ]
    )
    walk = np.cumsum(RNG.integers(-2, 3, 1500)).astype(np.int32)
    jumps = np.where(np.arange(1200) % 97 == 0, 10**9, RNG.integers(0, 200, 1200)).astype(np.int32)
    zeros = np.where(RNG.random(1500) < 0.4, 0, floats(1500)).astype(F32)
    low = (RNG.integers(0, 40, 3000) * 1000 + 7).astype(np.int32)
    folded = np.rint(RNG.laplace(size=6000) * (1 + 8 * (np.arange(6000) // 1000 % 2))).astype(np.int8)
    found = {
        "raw": bits_of("uint32", 20),
        "float": floats(3000),
        "float of zeros and outliers": zeros,
        "runs of coarser grain": coarse,
        "float64": floats(700, "float64"),
        "float64 from float32": floats(700).astype(np.float64),
        "float16": floats(1500, "float16"),
        "bfloat16": floats(1500, "bfloat16"),
        "float8": floats(1500, "float8_e4m3fn"),
        "complex": (floats(300) + 1j * floats(300)).astype(np.complex64),
        "integers": RNG.integers(-90, 90, 2000).astype(np.int16),
        "integers with escapes": jumps,
        "differences": walk,
        "counter": np.arange(1000, 3000, dtype=np.int64),
        "dictionary": RNG.choice(floats(12), 1500),
        "dictionary of many": np.tile(floats(300), 8),
        "dictionary of integers": RNG.choice(RNG.integers(-(2**40), 2**40, 9), 1500),
        "folded": folded,
        "one value": np.full(5000, -1.5, F32),
        "one element": np.array([7], np.uint64),
        "low bytes": low,
        "bools": RNG.random(900) < 0.1,
        "all zero": np.zeros(600, np.float16),
    }  # fmt: skip
    return file_of({name: Source(a) for name, a in found.items()}, members=[[name] for name in found])


def forms() -> bytes:
    """Forms that an encoder seldom chooses: of all sorts with escapes, the escapes of which escape."""
    rng = np.random.default_rng(5)
    values = np.where(np.arange(400) % 3 == 0, rng.integers(3, 100, 400), rng.integers(0, 3, 400)).astype(
        np.int32
    )
    values[::67] = 1 << 30
    numbers = (lossless._INTEGER, lossless._DIFFERENCE, lossless._FOLDED)
    payloads = [hand_made(form, values) for form in numbers]
    layouts = {f"form {form}": Layout(values.shape, "int32", stored="int32") for form in numbers}
    grouped = [[Record(layout, values)] for layout in layouts.values()]
    return write(layouts, grouped, payloads=payloads)


def hand_made(form: int, values: np.ndarray) -> bytes:
    """A piece of integers of that form, few of which have a symbol of their own."""
    words = values.view("<u4")
    if form == lossless._DIFFERENCE:
        words = np.diff(words, prepend=np.uint32(3))
    if form == lossless._FOLDED:
        words = lossless.fold(words, 3)
    split = lossless.Split(0, 0, 4, escapes=True)
    return b"".join(bytes(part) for part in lossless._encode_split(form, words, 3, split, 2))


def long_piece() -> bytes:
    """More words than a piece holds."""
    values = np.zeros((1 << 21) + 5, np.uint8)
    values[[0, 1 << 20, (1 << 21) - 1, 1 << 21, (1 << 21) + 4]] = 1, 2, 3, 4, 5
    return file_of({"a": Source(values)})


def narrow() -> bytes:
    """Coefficients restored to narrow types; values past their ends are clipped."""
    tensors = {}
    for dtype in DTYPE_NAMES[9:17]:
        tensors[f"{dtype}"] = quantised(smooth(8, 9).astype(numpy_dtype(dtype)), TRELLIS, 0.2, (0, 1))
        tensors[f"{dtype}, uniform"] = quantised(normal(70, dtype=dtype), UNIFORM, 0.05)
        tensors[f"{dtype}, prefix"] = Source(smooth(5, 6).astype(numpy_dtype(dtype)), Plan((0, 1), 11))
    for dtype, largest in (("float16", 65504), ("float8_e4m3fn", 448), ("float8_e5m2fnuz", 57344)):
        ends = np.array([[largest, -largest] * 5], F32).astype(numpy_dtype(dtype))
        tensors[f"{dtype} clipped"] = quantised(ends, UNIFORM, largest / 2.75)
    return file_of(tensors)


def tiny() -> bytes:
    """Tensors of one element, of every kind, several in a chunk."""
    tensors = {f"{kind}{n}": quantised(normal(1, 1), kind, 0.1) for kind in KINDS for n in range(3)}
    tensors |= {
        "scalar": quantised(np.array(-0.75, F32), TRELLIS, 0.01),
        "step": Source(np.array(7, np.int64)),
    }
    tensors["largest step"] = Source(np.array([0.0], F32), Plan((), None, quantize.step_of_code(0xFE00)))
    tensors["smallest step"] = quantised(np.array([[2.0**-120]], F32), INTEGERS, 2.0**-126)
    return file_of(tensors)


def unknown_kind() -> bytes:
    """A tensor of a kind from the future between two that are known."""
    exact = exact_code("float32")
    content = columns(
        3, kinds=exact + b"\xc8" + exact, parameters=varint(5) + b"later",
        chunks=chunks((exact, 1), (b"\xc8", 1), (exact, 1)),
    )  # fmt: skip
    values = np.arange(12, dtype=F32)
    payloads = [lossless.encode(values[:6], "float32"), b"who knows", lossless.encode(values[6:], "float32")]
    return join(content, payloads)


def base_tensors() -> dict[str, Source]:
    """Tensors of all sorts, from a generator of their own: two vectors need the same."""
    rng = np.random.default_rng(7)
    tensors = {
        dtype: Source(rng.standard_normal(60).astype(numpy_dtype(dtype)).reshape(6, 10))
        for dtype in (*DTYPE_NAMES[9:17], "complex64")
    }
    tensors |= {name: Source(bits_of(name, 24, 8)) for name in (*DTYPE_NAMES[:9], "float8_e8m0fnu")}
    tensors["lossy"] = quantised(rng.standard_normal((8, 9)).astype(F32), TRELLIS, 0.1, (0,))
    tensors["not in the other"] = Source(np.arange(3))
    return tensors


def base() -> bytes:
    """The base of the next one: exact tensors of most types, and a quantised one."""
    return file_of(base_tensors())


def delta() -> bytes:
    """Differences to another file: of words, of numbers, none at all; tensors that stand by themselves."""
    whole = base()
    others = frconvert.load(io.BytesIO(whole)).numpy()
    rng = np.random.default_rng(8)
    tensors = {}
    for dtype in (*DTYPE_NAMES[9:17], *DTYPE_NAMES[1:9], "float8_e8m0fnu"):
        words = others[dtype].reshape(-1).view(f"u{others[dtype].itemsize}").copy()
        words += rng.integers(0, 3, words.size).astype(words.dtype)
        words[:2] ^= words.dtype.type(1 << 8 * words.itemsize - 1)  # signs change too
        tensors[dtype] = Source(
            words.view(numpy_dtype(dtype)).reshape(others[dtype].shape), Plan(relation=DIFFERENCE)
        )
    small = (rng.standard_normal((8, 9)) * 0.01).astype(F32)
    plan = quantised(small, TRELLIS, 0.002, (0, 1)).plan
    tensors["lossy"] = Source(others["lossy"] + small, replace(plan, relation=DIFFERENCE))
    tensors["bool"] = Source(others["bool"], Plan(relation=EQUAL))
    tensors["complex64"] = Source(others["complex64"], Plan(relation=EQUAL))
    tensors["own"] = Source(np.arange(4, dtype=F32))
    step = quantize.storable_step(0.01)
    near = np.asarray(others["float32"] * F32(1.01))
    tensors["float32"] = Source(near, Plan((0,), None, step, INTEGERS, relation=DIFFERENCE))
    narrow = others["float16"] + np.float16(0.25)
    tensors["float16"] = Source(narrow, Plan((1,), 9, relation=DIFFERENCE, stored="float16"))
    return file_of(tensors, {"alias": "bool", "other alias": "uint8"}, base=(whole[-36:-4], others))


def delta_of_delta() -> bytes:
    """A difference to a file that is a difference itself."""
    first, second = base(), delta()
    others = frconvert.load(io.BytesIO(second), base=io.BytesIO(first)).numpy()
    tensors = {
        "float64": Source(others["float64"] * 2, Plan(relation=DIFFERENCE)),
        "int16": Source(others["int16"], Plan(relation=EQUAL)),
    }
    return file_of(tensors, base=(second[-36:-4], others))


def extension() -> bytes:
    """Bytes of a later version at the end of the head index."""
    return join(columns(extensions=b"later\xff\x80"), [lossless.encode(np.arange(12, dtype=F32), "float32")])


def other_forms() -> bytes:
    """What the text allows and no encoder here writes: too wide a stored dtype, kind 2 with a trellis."""
    wide = Layout((6,), "float16", stored="float32")
    layout = Layout((40,), "float32", (), None, 0.5, UNIFORM)
    part = Coded(normal(40), (40,), 0.5, Scales(0, 16, (None,)))
    values = normal(6)
    payloads = [lossless.encode(values, "float32"), coefficients.encode([part], 3)]
    records = [[Record(wide, values)], [Record(layout, part.values)]]
    return write({"wide": wide, "trellis": layout}, records, payloads=payloads)


def sparse_kind() -> bytes:
    """Kind 4: ranks 0 to 5, dead rows and columns, views, zeros, large magnitudes, a budget of zeros."""
    rng = np.random.default_rng(4)

    def thinned(*shape: int, share: float = 0.1, dtype: str = "float32") -> np.ndarray:
        array = rng.laplace(size=shape) * (rng.random(shape) < share)
        return array.astype(numpy_dtype(dtype))

    shape = 4, 3, 1, 5, 2
    matrix = thinned(60, 80)
    matrix[rng.random(60) < 0.7] = 0
    matrix[:, rng.random(80) < 0.5] = 0
    tensors = {f"rank{rank}": quantised(thinned(*shape[:rank], share=0.4), SPARSE, 0.25) for rank in range(6)}
    tensors["matrix"] = quantised(matrix, SPARSE, 0.5)
    step = quantize.storable_step(0.3)
    viewed = Plan((2, 3), None, step, SPARSE, view=(5, 6, 4, 4))
    tensors["view"] = Source(thinned(10, 48, share=0.05), viewed)
    tensors["view of a vector"] = Source(thinned(24), Plan((1,), None, step, SPARSE, view=(2, 12)))
    tensors["spectral"] = quantised(
        np.cumsum(rng.normal(size=(5, 6, 7)), axis=2).astype(F32), SPARSE, 4.0, (0, 2)
    )
    tensors["zeros"] = quantised(np.zeros((7, 9), F32), SPARSE, 1.0)
    tensors["large"] = quantised(np.array([[0, -4096.0, 1], [0, 700, 0]], F32), SPARSE, 1.0)
    tensors["half"] = quantised(thinned(6, 7, dtype="float16"), SPARSE, 0.5)
    tensors["double"] = quantised(thinned(6, 7, dtype="float64"), SPARSE, 0.5, (1,))
    tensors["long"] = quantised(thinned(30000, share=1e-4), SPARSE, 0.5)
    return file_of(tensors, {"alias": "matrix"}, members=[list(tensors)[:7], list(tensors)[7:]])


def vectors() -> Iterator[tuple[str, bytes, str]]:
    """Name, content and purpose of each."""
    single: list[Callable[[], bytes]] = [
        example, dtypes, special, ranks, axes, empty, no_tensors, ties, names, attachments, many_chunks,
        segments, tails, wide, uniform_wide, own_tables, prefixes, integer_tokens, pieces, forms, long_piece,
        narrow, tiny, unknown_kind, base, delta, delta_of_delta, extension, other_forms,
        sparse_kind,
    ]  # fmt: skip
    for make in single:
        yield make.__name__.replace("_", "-"), make(), purpose(make)
    for state_bits in range(3, 8):
        yield f"trellis-{1 << state_bits}-states", trellis_states(state_bits), purpose(trellis_states)


def purpose(make: Callable[..., bytes]) -> str:
    """The first line of a docstring."""
    return (make.__doc__ or "").splitlines()[0]
