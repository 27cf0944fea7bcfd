"""Reference decoder of `.frq` version 1, written from `frq-1.md`, whose sections and rules the comments name.

    python reference_decoder.py FILE.frq [-o TENSORS.npz] [--raw] [--attachments FOLDER] [--base BASE.frq]

Needs Python 3.10 and numpy 2, or later. Reads the whole file, checks every rule, writes tensors to an .npz:
bfloat16 and float8 as float32 of the same values, or with --raw as the integers that hold their bits. Exit
status: 0 done; 1 a part of the file was refused, the rest is written; 3 the file was refused.
"""

# ruff: noqa: B905, D102, D103, E401, I001, SIM905, T201
import argparse, hashlib, re, struct, sys, zipfile, zlib
from contextlib import contextmanager
from functools import lru_cache
from itertools import product
from math import isqrt, prod
from pathlib import Path
from types import SimpleNamespace
import numpy as np

MAGIC = b"FRQ\x01"
DTYPES = """bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 float32 float64 bfloat16
float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu complex64 complex128""".split()  # D1
BYTES = dict(zip(DTYPES, (1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1, 1, 1, 1, 8, 16)))
FLOATS = DTYPES[9:17]  # the real ones; below, of the narrow ones: bias, bits of mantissa, largest
SMALL = {"float16": (15, 10, 65504), "bfloat16": (127, 7, 2.0**128 - 2.0**120), "float8_e5m2": (15, 2, 57344)}
SMALL |= {"float8_e4m3fn": (7, 3, 448), "float8_e4m3fnuz": (8, 3, 240), "float8_e5m2fnuz": (16, 2, 57344)}
POLYNOMIALS = {0: (0, 0), 3: (0o13, 4), 4: (0o23, 4), 5: (0o45, 8), 6: (0o103, 0o24), 7: (0o235, 0o126)}  # Q2
SHAPES = """256 321, 17 125 125 277 114 398, 34 114 143 284 79 476, 45 103 146 288 65 547,
51 97 144 288 61 592, 56 90 143 288 56 640, 63 76 139 281 53 723, 69 59 134 261 53 808""".split(",")  # T4
KNOTS = """1 2 3 6 10 16 27 45 73 120 194 310 488 747 1101 1546 2047 2549 2994 3348 3607 3785 3901 3975 4022
4050 4068 4079 4085 4089 4092 4093 4094""".split()  # P6
DICTIONARY = """
tokenizer.json config.json keras/ hdf5/skeleton.json safetensors/metadata.json onnx/skeleton.onnx
pytorch/layout.json frconvert.source model.safetensors frconvert.version frconvert.source model.pt
frconvert.version 0.1.0 frconvert.options --max-error --importance --keep --bits --size --snr --lossless
frconvert.sha256 frconvert.size /kernel:0 /bias:0 batch_normalization_1/gamma:0 beta:0 moving_mean:0
moving_variance:0 layers/conv2d_1/vars/0 layers/dense_1/vars/1 kernel lstm.weight_ih_l0 lstm.weight_hh_l0
lstm.bias_ih_l0 lstm.bias_hh_l0_reverse embeddings.position_ids embeddings.word_embeddings.weight
embeddings.position_embeddings.weight embeddings.token_type_embeddings.weight embeddings.LayerNorm.bias
encoder.layer.0.attention.self.query.weight encoder.layer.1.attention.self.key.bias
encoder.layer.0.attention.self.value.weight encoder.layer.1.attention.output.dense.bias
encoder.layer.0.attention.output.LayerNorm.weight encoder.layer.1.intermediate.dense.bias
encoder.layer.0.output.dense.weight pooler.dense.weight transformer.wte.weight
transformer.h.0.attn.c_attn.bias transformer.h.0.mlp.c_fc.weight mlp.c_proj.bias ln_1.weight ln_2.bias
ln_f.bias lm_head.weight model.layers.0.self_attn.q_proj.weight model.layers.0.self_attn.k_proj.weight
self_attn.v_proj.weight self_attn.o_proj.weight self_attn.out_proj.bias mlp.gate_proj.weight
mlp.up_proj.weight mlp.down_proj.weight model.layers.0.input_layernorm.weight post_attention_layernorm.weight
model.norm.weight module.backbone.stages.0.blocks.0.norm1.weight decoder.blocks.1.attn.qkv.bias
blocks.1.mlp.fc1.weight blocks.0.mlp.fc2.bias head.weight features.0.0.weight features.1.conv.0.1.running_mean
classifier.1.weight classifier.6.bias fc1.bias layer1.0.conv1.weight layer1.0.bn1.weight layer1.0.bn1.bias
layer1.0.bn1.running_mean layer1.0.bn1.running_var layer1.0.bn1.num_batches_tracked
layer2.0.downsample.0.weight net.0.conv.weight inc.double_conv.0.weight
down1.maxpool_conv.1.double_conv.0.weight up1.conv.double_conv.3.weight up1.up.weight outc.conv.weight
fc2.weight fc2.bias conv1.weight conv1.bias conv2.weight fc.weight fc.bias
"""  # annex C
DICTIONARY = b"".join(name.encode() + b"\xff" for name in DICTIONARY.split())
LOW = np.array([*range(16), *(4 + quarter << e + 2 for e in range(20) for quarter in range(4))])  # I2
EXTRA = np.repeat([0, *range(2, 22)], [16] + [4] * 20)
PULL = np.array([16 * isqrt(256 * min(int(m), 65535)) for m in LOW + ((1 << EXTRA) - 1) // 2])  # I3
OCTAVE = np.frexp(np.arange(1 << 16))[1] - 1
CLASS = np.where(OCTAVE < 4, 0, 4 * OCTAVE - 15 + (np.arange(1 << 16) >> np.maximum(OCTAVE - 2, 0) & 3))
KNOT, U = np.array([*map(int, KNOTS), 0])[np.arange(4224) >> 7], np.arange(4096) & 127
SQUASH = [*np.maximum(1, KNOT[:4096] * (128 - U) + KNOT[128:] * U + 64 >> 7).tolist(), 4095]  # -2048 to 2048
STRETCH = np.minimum(np.searchsorted(SQUASH[1:4096], range(4096)) - 2047, 2047).tolist()


class FormatError(Exception):
    """A broken rule, by its name in section 14."""


def need(condition, code):
    """Refuses what breaks a rule."""
    if not condition:
        raise FormatError(code)


def bounded(value, low, high, code):
    """A number, refused outside of the bounds of a rule."""
    need(low <= value <= high, code)
    return value


class Reader:
    """What is left of a payload (section 2)."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def left(self):
        return len(self.data) - self.at

    def take(self, count):  # B7
        need(count <= self.left(), "short")
        self.at += count
        return self.data[self.at - count : self.at]

    def array(self, count, dtype):
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype)

    def u8(self):
        return self.take(1)[0]

    def varint(self):  # B1
        value = shift = 0
        while (byte := self.u8()) > 127 and shift < 56:
            value, shift = value | (byte & 127) << shift, shift + 7
        need(byte < 128 and (byte or not shift), "varint")
        return value | byte << shift

    def count(self):  # H3
        return bounded(self.varint(), 0, self.left(), "count")

    def texts(self, count):  # B2
        *found, rest = self.data[self.at :].split(b"\xff", count)
        need(len(found) == count, "short")
        self.at = len(self.data) - len(rest)
        try:
            return [text.decode() for text in found]
        except UnicodeDecodeError:
            raise FormatError("text") from None

    def fields(self, count, width):  # B4
        values = np.zeros(count, np.uint64)
        for part in (part for part in (64, 32, 16, 8, 4, 2, 1) if width & part):
            found = np.frombuffer(self.take((count * part + 7) // 8), f"<u{max(part // 8, 1)}")
            if part < 8:
                found = np.concatenate([found >> shift & (1 << part) - 1 for shift in range(0, 8, part)])
                need(not found[count:].any(), "padding")
            values |= found[:count].astype(np.uint64) << (width & -2 * part)
        return values

    def bits(self, widths):  # B3: a number for each width, those of the least width first (I6, Q4)
        values, total = np.zeros(widths.size, np.int64), int(widths.sum())
        bits = np.unpackbits(np.frombuffer(self.take((total + 7) // 8), "u1"))
        need(not bits[total:].any(), "padding")
        for width in range(1, 22):
            chosen = np.flatnonzero(widths == width)
            own, bits = np.split(bits, [width * chosen.size])
            values[chosen] = own.reshape(-1, width) @ (1 << np.arange(width)[::-1])
        return values

    def table(self, alphabet):  # B5
        first, last = self.take(2)
        need(first <= last < alphabet, "table")
        bits = "".join(f"{byte:08b}" for byte in self.data[self.at : self.at + 576])
        table, at = [0] * alphabet, 0
        for symbol in range(first, last + 1):
            length = int("0" + bits[at : at + 4], 2)
            table[symbol] = int("1" + bits[at + 4 : at + 3 + length], 2) if length else 0
            at += 4 + max(0, length - 1)
        self.take((at + 7) // 8)
        need("1" not in bits[at : (at + 7) // 8 * 8], "padding")
        return table

    @contextmanager
    def carried(self, data):  # N4: bytes come before those that are left; what the block does not take is 0
        self.data, self.at = data + self.data[self.at :], 0
        yield
        need(not any(self.data[self.at : len(data)]), "padding")
        self.at = max(self.at, len(data))


class Lanes:
    """Section 6: states side by side, the tables and words that they are decoded with."""

    def __init__(self, tables, states, words):
        self.f, self.states, self.words = np.array(tables), states.astype(np.int64), words.astype(np.int64)
        need((self.f.sum(1) == 4096).all() and self.f.max() < 4096, "table")  # B6
        self.below = np.cumsum(self.f, 1) - self.f
        self.symbol = np.repeat(np.tile(np.arange(self.f.shape[1]), len(tables)), self.f.ravel())

    def step(self, table, refill=True):
        """N3: a symbol of each of the first lanes, by the table that is named for it."""
        x = self.states[: table.size]
        slot = x & 4095
        y = self.symbol[4096 * table + slot]
        x[:] = (x >> 12) * self.f[table, y] + slot - self.below[table, y]
        low = np.flatnonzero((x < 1 << 16) & refill)
        need(low.size <= self.words.size, "words")
        x[low] = x[low] << 16 | self.words[: low.size]
        self.words = self.words[low.size :]
        return y


def lane_stream(reader, count, tables, table_of, past, pull, rate, given=None):
    """N1 to N4: symbols and carried bytes; classes are given, or `past`, which symbols pull at."""
    lanes = min(max(1, count // 256), 4032)
    steps, words, out = count // lanes, reader.varint(), np.empty(count, "u1")
    states, groups = reader.array(lanes, "<u2").astype(np.uint64), reader.fields(lanes, 2)
    for group in range(4):
        chosen = np.flatnonzero(groups == group)
        states[chosen] |= reader.fields(chosen.size, 4 * group + 4) << 16
    coder, past = Lanes(tables, states, reader.array(words, "<u2")), np.full(lanes, past)
    for step in range(-(-count // lanes)):
        end = steps * lanes
        places = np.arange(step, end, steps) if step < steps else np.arange(end, count)
        past = past[: places.size] if given is None else given[places]
        out[places] = y = coder.step(table_of[past])
        past = past + (pull[y] - past >> rate)
    need(not coder.words.size and (coder.states >> 16 == 1).all(), "words")
    return out, coder.states.astype("<u2").tobytes()


@lru_cache(None)
def built_in(number, alphabet):  # I5
    centre = (2 * (4 + (number - 1) % 4) + 1 << (number - 1) // 4 + 4) >> 3 if number else 8
    mean = max(centre << 8, 5 * centre * centre >> 2)
    ratio, tail = (mean << 30) // (mean + 65536), np.full(alphabet, 1 << 30)
    for bit in range(24):
        tail = np.where(LOW[:alphabet] >> bit & 1, tail * ratio >> 30, tail)
        ratio = ratio * ratio >> 30
    weights = np.maximum(-np.diff(tail, append=0), 1)
    f = np.maximum(weights * 4096 // weights.sum(), 1)
    while excess := f.sum() - 4096:
        f[f.argmax()] -= min(excess, max(1, f.max() // 16)) if excess > 0 else excess
    return f


def integers(data, count):  # Section 7
    reader, number = Reader(data), -1
    if not count:
        need(not reader.left(), "rest")
        return np.zeros(0, np.int64)
    start, alphabet = bounded(reader.varint(), 0, 65535, "model"), bounded(reader.u8(), 1, 95, "model") + 1
    tables = [built_in(number, alphabet) for number in range(49)]
    for _ in range(reader.varint()):
        number = bounded(reader.u8(), number + 1, 48, "class")
        tables[number] = reader.table(alphabet)
    tokens, carried = lane_stream(reader, count, tables, CLASS, start, PULL, 4)
    signed = np.flatnonzero(tokens)
    with reader.carried(carried):
        raw = reader.bits(np.append(np.ones(signed.size, int), EXTRA[tokens]))  # I6
    need(not reader.left(), "rest")
    values = LOW[tokens] + raw[signed.size :]
    values[signed] *= 1 - 2 * raw[: signed.size]
    return values


class Decisions:
    """P1, P2 and L7: an interval of the payload, the number in it, and how many decisions it may have."""

    def __init__(self, data):
        self.data, self.at, self.low, self.high = data, 4, 0, (1 << 32) - 1
        self.x, self.left = int.from_bytes(data[:4].ljust(4, b"\0"), "big"), 4096 + 64 * len(data)

    def next(self, *models, p=None):
        need(self.left, "limit")
        p = p or max(1, min(4095, models[0][0] >> 4))
        middle = self.low + (self.high - self.low >> 12) * p
        y, self.left = int(self.x <= middle), self.left - 1
        self.low, self.high = (self.low, middle) if y else (middle + 1, self.high)
        while not (self.low ^ self.high) >> 24:
            taken, self.at = int.from_bytes(self.data[self.at : self.at + 1], "big"), self.at + 1
            pairs = (self.low, 0), (self.high, 255), (self.x, taken)
            self.low, self.high, self.x = ((value << 8 | byte) & 0xFFFFFFFF for value, byte in pairs)
        for model in models:
            q, n = model
            q += (65535 * y - q) * (65536 // (n + 2)) >> 16
            model[:] = max(32, min(65503, q)), min(n + 1, 4095)
        return y


def sparse_tensor(coder, shape):  # P3 to P5
    values, live = np.zeros(shape, np.int64), []
    for length in shape:
        models, flags = ([32768, 0], [32768, 0]), [1, 1] if length == 1 else [1]
        while len(flags) <= length:
            flags.append(coder.next(models[flags[-1]]))
        live.append([i for i, flag in enumerate(flags[1:]) if flag])
    axes = [axis for axis in range(len(shape)) if len(live[axis]) > 1]
    whole, size, known, a = [32768, 0], [[32768, 0] for _ in range(6)], {}, [0] + [45000] * len(axes)
    for cell in product(*live):
        base = STRETCH[whole[0] >> 4]
        own = [known.setdefault((axis, cell[axis]), [whole[0], 0]) for axis in axes]
        v = [256] + [(STRETCH[q >> 4] - base) * n // (n + 1) for q, n in own]
        d = base + (sum(map(int.__mul__, a, v)) >> 16)
        y = coder.next(whole, *own, p=(p := SQUASH[max(-2048, min(2048, d)) + 2048]))
        a = [max(-1 << 20, min(1 << 20, w + (x * 2 * (4096 * y - p) + 512 >> 10))) for w, x in zip(a, v)]
        if y:
            negative, m = coder.next(p=2048), 1
            while m < 4096 and coder.next(size[min(m, 6) - 1]):
                m += 1
            values[cell] = -m if negative else m
    return values.ravel()


def symbol_stream(reader, count, alphabet, given=None):  # X7
    starts = bounded(reader.varint(), 0, (1 << 31) - 1, "model")
    rate, first = reader.take(2) if starts and given is None else (1, 0)
    need(1 <= rate <= 8 and first < alphabet, "model")
    tables = [reader.table(alphabet) for _ in range(starts.bit_count() + 1)]
    table_of = np.cumsum([0] + [starts >> bit & 1 for bit in range(31)])
    if given is not None:
        return lane_stream(reader, count, tables, table_of, 0, np.zeros(alphabet, int), 0, given)
    pull = np.arange(alphabet) << 12 - max(0, (alphabet - 1).bit_length() - 5)
    return lane_stream(reader, count, tables, np.repeat(table_of, 4096), pull[first], pull, rate)


def rests(reader, classes, bits, alphabet, carried):
    """X8: a number for each word; classes are those of low bytes."""
    values, runs, end = np.zeros(classes.size, np.uint64), [], 0
    count = bounded(reader.varint(), 1, 1 << 63, "run") if classes.size and bits else 0
    for number in range(count):
        start, left = end, classes.size - end
        end += bounded(128 * reader.varint() if number < count - 1 else left, 1, left, "run")
        zeros, width = reader.take(2)
        coded, width, low, more = width >> 7, width & 127, 0, b""
        need(zeros + width <= bits and (not coded or (width > 7 and alphabet > 1)), "run")
        if coded:
            low, more = symbol_stream(reader, end - start, 256, classes[start:end])
        runs.append((start, end, zeros, width - 8 * coded, 8 * coded, low, more))
    with reader.carried(b"".join(more for *_, more in runs) + carried):  # X9
        for start, end, zeros, width, eight, low, _ in runs:
            values[start:end] = (reader.fields(end - start, width) << eight | low) << zeros
    return values


def word(reader, w):  # X5
    size = bounded(reader.u8(), 0, w // 8, "word")
    return int.from_bytes(reader.take(size), "little", signed=True) % (1 << w)


def piece(reader, n, w, floats, depth):
    """X2 to X6: n words of w bits, as uint64."""
    form = reader.u8()
    need(form in (0, 1, 2, 3, 4, 5, 9, 10, 11, 13) and (form != 4 or depth == 2), "form")
    (escapes, kind), mask = divmod(form, 8), (1 << w) - 1
    need(depth >= escapes and (floats or kind != 1), "form")
    if kind == 0:
        return reader.array(n, f"<u{w // 8}").astype(np.uint64)
    if kind == 4:
        size = bounded(reader.varint(), 1, min(65536, n), "dictionary")
        words, index = piece(reader, size, w, floats, 1), piece(reader, n, 8 if size <= 256 else 16, False, 1)
        need(index.max() < size, "dictionary")
        return words[index]
    signed, shift, base = kind == 1, reader.u8(), word(reader, w)
    origin, alphabet = word(reader, w) if kind in (3, 5) else 0, reader.u8() + 1
    need(shift <= w - signed and alphabet > escapes, "split")
    symbols, carried = symbol_stream(reader, n, alphabet) if alphabet > 1 else (np.zeros(n, "u1"), b"")
    inside, values = symbols >= escapes, np.empty(n, np.uint64)
    if not inside.all():
        found = piece(reader, np.count_nonzero(~inside), w, False, depth - 1)
        values[~inside] = (found >> 1 | found << w - 1) & mask if signed else found
    classes = symbols[inside] >> max(0, (alphabet - 1).bit_length() - 5)
    rest = rests(reader, classes, shift + signed, alphabet, carried)
    start = np.uint64((base << max(0, shift - 4) if signed else base) & mask)
    number = ((symbols[inside] - escapes).astype(np.uint64) << shift) + start + (rest & (1 << shift) - 1)
    values[inside] = number & mask | (rest >> shift << w - 1 if signed else 0)
    if kind == 3:
        values = np.cumsum(values)
    if kind == 5:
        values = values >> 1 ^ -(values & 1)
    return values + np.uint64(origin) & mask


def exact(data, dtype, count):
    """X1: the words of so many elements."""
    reader, parts = Reader(data), 2 if dtype.startswith("complex") else 1
    words = np.empty(count * parts, f"<u{BYTES[dtype] // parts}")
    for part in np.split(words, range(1 << 21, words.size, 1 << 21)) if count else ():
        part[:] = piece(reader, part.size, 8 * part.itemsize, dtype in FLOATS or parts == 2, 2)
    need(not reader.left(), "rest")
    need(dtype != "bool" or words.max(initial=0) < 2, "bool")
    return words


def differences(data, count):
    """G5: the numbers that are added to a base's words."""
    reader = Reader(data)
    found = integers(reader.take(reader.varint()), count)
    large = np.flatnonzero(found == (1 << 24) - 1)
    found[large] = exact(reader.take(reader.left()), "uint64", large.size).view(np.int64)
    return found


@lru_cache(None)
def distribution(tail):  # T4
    odd, total, numbers = np.arange(1, 2049, 2), np.zeros(1024, np.int64), [*map(int, SHAPES[tail].split())]
    for weight, deviation in zip(numbers[::2], numbers[1::2]):
        e, half, root = odd * odd * 189096 // deviation**2, np.full(1024, 1 << 30), 1 << 29
        for bit in range(16):
            root = isqrt(root << 30)
            half = np.where(e >> 15 - bit & 1, half * root >> 30, half)
        total += weight * (half >> np.minimum(e >> 16, 31)) // deviation
    return np.append(0, np.cumsum(total))


@lru_cache(None)
def built_in_row(tail, number, half_way):  # T4
    octave, quarter = divmod(16 - number, 4)
    roots = 1 << 30, isqrt(isqrt(2 << 60) << 30), isqrt(2 << 60), isqrt(isqrt(8 << 60) << 30)
    span, sums = roots[quarter] << octave + 4 >> 12, distribution(tail)
    shift, total = min((span >> 8) ** 2 >> 10, span >> 1) - (0 if half_way else span >> 1), sums[-1]
    p = np.minimum(span * np.arange(1, 128) + shift, (1024 << 16) - 1)
    b = np.append(0, sums[p >> 16] + (np.diff(sums)[p >> 16] * (p & 65535) >> 16))
    share = (np.diff(b) * 4096 + total) // (2 * total)
    reach = max(np.count_nonzero(share) - 1, 1)
    escape = ((total - b[reach + 1]) * 4096 + total) // (2 * total)
    half = np.maximum(np.append(escape, share[: reach + 1]), 1)
    half[1] += 2048 - half.sum() if half_way else 4096 - 2 * half.sum() + half[1]
    return completed(half, half_way)


def completed(half, half_way):  # T6
    row, side = np.zeros(256, np.int64), half[1:]
    row[[0, 255]] = half[0]
    row[129 - half_way - len(side) : 129 - half_way] = side[::-1]
    row[128 : 128 + len(side)] = side
    return row


def scale_classes(reader, shapes):
    """S1 to S3: the tail shape and the classes of each tensor."""
    heads = []
    for shape in shapes:
        tail, z, modes = bounded(reader.u8(), 0, 7, "scales"), reader.varint(), reader.varint()
        base = bounded(-(z + 1 >> 1) if z & 1 else z >> 1, -1024, 1024, "scales")
        listed = [bounded(modes >> 2 * axis & 3, 0, 2, "scales") for axis in range(len(shape))]
        need(not modes >> 2 * len(shape), "scales")
        heads.append((tail, np.full(shape, base, np.int16), np.array(listed)))
    count = sum(int(np.array(classes.shape)[listed > 0].sum()) for _, classes, listed in heads)
    entries = integers(reader.take(reader.varint()), count)
    for _, classes, listed in heads:
        for axis in np.flatnonzero(listed):
            table, entries = np.split(entries, [classes.shape[axis]])
            table = np.cumsum(table) if listed[axis] == 2 else table
            need(np.abs(table).max() <= 127, "scales")
            np.moveaxis(classes, axis, -1)[...] += table.astype(np.int16)
    return [(tail, np.clip(classes, 0, 111).ravel()) for tail, classes, _ in heads]


def coefficients(data, shapes):
    """Section 9: the numbers of each tensor, in half steps."""
    reader, row = Reader(data), -1
    need((state_bits := reader.u8()) in POLYNOMIALS, "state-bits")
    scales = scale_classes(reader, shapes)
    tails, first = sorted({tail for tail, _ in scales}), 9 if state_bits else 32
    kinds = [(k, half) for k in range(32) for half in range(1 + (k >= first))]  # T1, T3
    kinds += [(k, 1) for k in range(28, 32)]
    tables = [built_in_row(tail, *kind) for tail in tails for kind in kinds]  # T2
    for _ in range(reader.varint()):
        row = bounded(reader.varint(), row + 1, len(tables) - 1, "class")  # T5
        need((half := reader.table(128))[0], "table")
        tables[row] = completed(half, kinds[row % len(kinds)][1])
    start = [k if k < first else 2 * k - first if k < 32 else len(kinds) - 4 + k % 4 for k in range(112)]
    rows = np.concatenate([np.array(start, "i2")[of] + len(kinds) * tails.index(tail) for tail, of in scales])
    classes = np.concatenate([of for _, of in scales])
    count, result = bounded(reader.varint(), 0, classes.size, "escapes"), np.empty(classes.size, np.int64)
    escapes = integers(reader.take(reader.varint()), count)
    for begin in range(0, classes.size, 1 << 20):  # Q1
        some = slice(begin, begin + (1 << 20))
        result[some], escapes = segment(reader, tables, classes[some], rows[some], state_bits, escapes)
    need(not escapes.size, "escapes")
    need(not reader.left(), "rest")
    return np.split(result, np.cumsum([of.size for _, of in scales])[:-1])


def segment(reader, tables, classes, rows, state_bits, escapes):
    """Q1 to W3: the numbers of a segment, and the escapes that it leaves."""
    served, (h0, h1) = classes >= (9 if state_bits else 112), POLYNOMIALS[state_bits]
    order = np.argsort(~served, kind="stable")
    classes, rows, served = classes[order], rows[order], served[order]
    raw_bits = np.maximum(classes.astype(np.int64) - 28 >> 2, 0)  # Q3
    raw, lanes = reader.bits(raw_bits), max(1, classes.size // 2048)
    steps, drained, words = -(-classes.size // lanes), reader.u8(), reader.varint()
    need(drained <= min(16, steps), "drained")
    coder = Lanes(tables, reader.array(lanes, "<u4"), reader.array(words, "<u2"))
    symbols, halves, state = *np.zeros((2, classes.size), np.int64), np.zeros(lanes, np.int64)
    for step in range(steps):
        here = slice(step * lanes, (step + 1) * lanes)
        state = state[: served[here].size]
        halves[here] = state & served[here]
        symbols[here] = coder.step(rows[here] + halves[here] * (classes[here] < 32), step < steps - drained)
        parity = np.where(raw_bits[here] > 0, raw[here], symbols[here]) & 1
        moved = state >> 1 ^ (state & 1) * (h0 >> 1) ^ parity * (h1 >> 1)
        state = np.where(served[here], moved, state)
    x = coder.states
    need(not coder.words.size and (x > 0).all() and not (x & x - 1).any(), "words")
    whole, escaped = (symbols - 128 << raw_bits) | raw, np.flatnonzero(symbols % 255 == 0)
    need(escaped.size <= escapes.size, "escapes")
    whole[escaped] = 2 * escapes[: escaped.size] + (symbols[escaped] & 1)  # Q5
    need(np.abs(whole).max() <= 1 << 20, "range")
    result = np.empty_like(whole)
    result[order] = 2 * whole + halves
    return result, escapes[escaped.size :]


def values_of(words, dtype):
    """D1: floats of the same values."""
    size = BYTES[dtype]
    if dtype in ("float32", "float64"):
        return words.view(f"<f{size}")
    if dtype == "float8_e8m0fnu":
        return np.append(2.0 ** np.arange(-127, 128), np.nan).astype("<f4")[words]
    (bias, bits, largest), code = SMALL[dtype], np.arange(1 << 8 * size - 1)
    exponent, mantissa = code >> bits, code & (1 << bits) - 1
    value = (mantissa + (exponent > 0) * (1 << bits)) * 2.0 ** (np.maximum(exponent, 1) - bias - bits)
    value = np.where(value <= largest, value, np.where(mantissa, np.nan, np.inf))
    negative = np.append(np.nan, -value[1:]) if dtype.endswith("uz") else -value
    return np.append(value, negative).astype("<f4")[words]


def words_of(values, dtype):
    """V6: float64 rounded to the dtype."""
    size, half, is_uz = BYTES[dtype], 1 << 8 * BYTES[dtype] - 1, dtype.endswith("uz")
    if dtype in ("float32", "float64"):
        return values.astype(f"<f{size}").view(f"<u{size}")
    known = values_of(np.arange(half), dtype).astype(np.float64)
    known = known[np.isfinite(known)]
    middle = (known[1:] + known[:-1]) / 2
    below, upto = (np.searchsorted(middle, np.abs(values), side) for side in ("left", "right"))
    code = np.where(below & 1, upto, below)  # where they differ, it is a tie, and one of them is even
    code += half * (np.signbit(values) & ((code > 0) | (not is_uz)))
    return np.where(np.isnan(values), half if is_uz else half - 1, code).astype(f"<u{size}")


def inverse_dct(values, axis):
    """V5, as the real part of a Fourier transform of twice the length."""
    n, k = values.shape[axis], np.arange(values.shape[axis])
    factor = np.sqrt(np.where(k, 0.5, 1) / n) * np.exp(0.5j * np.pi / n * k)
    spectrum = np.moveaxis(values, axis, -1) * factor
    return np.moveaxis(np.fft.irfft(spectrum, 2 * n, norm="forward")[..., :n], -1, axis)


@np.errstate(all="ignore")
def restore(tensor, sequence):
    """Section 10: the words of a tensor."""
    dtype, view, base = tensor.dtype, tensor.view, tensor.base
    if tensor.relation == 2:  # G2
        return base.words
    if tensor.kind == 3:  # G5
        words, width = base.words.copy(), 8 * base.words.itemsize
        key = (words & ((1 << width - 1) - 1)) >> max(0, width - 9)
        words[np.argsort(key, kind="stable")] += sequence.astype(words.dtype)
        return words
    if tensor.stored == dtype and tensor.plain:  # V1
        return sequence
    if not tensor.size:
        return words_of(np.zeros(0), dtype)
    if tensor.stored:  # V2
        numbers = values_of(sequence, tensor.stored).astype(np.float64)
    else:
        numbers = sequence * (tensor.step / (2 if tensor.kind in (1, 2) else 1))
    if tensor.keep is None:  # V4
        values = numbers.reshape([view[axis] for axis in tensor.order]).transpose(np.argsort(tensor.order))
    else:  # V3
        places = np.argsort(np.ravel(sum(np.ix_(*map(range, view)))), kind="stable")
        values = np.append(numbers, np.zeros(tensor.size - tensor.keep))[np.argsort(places)].reshape(view)
    for axis in tensor.axes:
        values = inverse_dct(values, axis)
    return words_of(values.ravel() + (values_of(base.words, dtype) if tensor.relation else 0), dtype)  # G6


def inflate(data, most, damaged, large, dictionary=b""):
    """H1, M1: the content of a DEFLATE stream; the names of the rules that it is one and not too large."""
    machine = zlib.decompressobj(-15, zdict=dictionary)
    try:
        content = machine.decompress(data, most + 1)
    except zlib.error:
        raise FormatError(damaged) from None
    need(len(content) <= most, large)
    need(machine.eof and not machine.unused_data, damaged)
    return content


def head_index(payload):
    """Section 4: tensors, those of each chunk, sizes of attachments, metadata, SHA-256 of the base."""
    limit = min(1 << 28, max(1 << 22, 128 * len(payload)))  # L2
    reader, alias = Reader(inflate(payload, limit, "deflate", "limit", DICTIONARY)), -1
    features = bounded(reader.varint(), 0, 1, "feature")  # H2
    names = reader.texts(reader.count())
    ranks, shapes = [bounded(reader.varint(), 0, 64, "rank") for _ in names], [[] for _ in names]  # H4
    for axis in range(max(ranks, default=0)):
        for shape in (shape for shape, rank in zip(shapes, ranks) if axis < rank):
            shape.append(reader.varint())
    none = dict.fromkeys(("target", "base", "code", "integers", "words", "error"))
    tensors = [SimpleNamespace(name=name, shape=tuple(shape), **none) for name, shape in zip(names, shapes)]
    for tensor in tensors:
        need(prod(length for length in tensor.shape if length) <= 1 << 62, "shape")
        tensor.dtype = DTYPES[bounded(reader.u8(), 0, len(DTYPES) - 1, "dtype")]  # H5
        tensor.size = prod(tensor.shape)
    for _ in range(reader.count()):  # H6
        alias = bounded(reader.varint(), alias + 1, len(tensors) - 1, "tie-order")
        tensors[alias].target = target = tensors[bounded(reader.varint(), 0, alias - 1, "tie-target")]
        need(target.target is None, "tie-target")
        need((target.shape, target.dtype) == (tensors[alias].shape, tensors[alias].dtype), "tie-unlike")
    own = [tensor for tensor in tensors if tensor.target is None]  # G2
    base, relations = (reader.take(32), reader.take(len(own))) if features else (None, bytes(len(own)))
    numbers = [
        reader.take(len(own)),
        [reader.varint() for _ in own],
        [reader.varint() for _ in own],
    ]  # H7 to H9
    for tensor, *facts in zip(own, relations, *numbers):
        tensor.relation, tensor.kind, tensor.mask, tensor.keep = facts
    for kind in range(3):  # H10
        some = [tensor for tensor in own if tensor.kind == kind]
        for tensor, low, high in zip(some, reader.take(len(some)), reader.take(len(some))):
            tensor.code = low | high << 8
    for tensor in own:
        complete(tensor, reader)
    kinds, chunks, waiting = reader.take(reader.count()), [], [[] for _ in range(256)]  # H11
    for tensor in (tensor for tensor in own if tensor.count):
        waiting[tensor.kind].append(tensor)
    for kind in kinds:
        need(size := reader.varint(), "chunk-empty")
        need(size <= len(waiting[kind]), "chunk-count")
        chunks.append(waiting[kind][:size])
        del waiting[kind][:size]
    need(not any(waiting), "chunk-count")
    attached = reader.texts(reader.count())  # H12
    sizes, pairs = [reader.varint() for _ in attached], reader.texts(2 * reader.count())  # H13
    need(all(len({*some}) == len(some) for some in (names, attached, pairs[::2])), "name-twice")
    return tensors, chunks, dict(zip(attached, sizes)), dict(zip(pairs[::2], pairs[1::2])), base


def complete(tensor, reader):
    """H8 to H10, K2 to K7, G4 to G6: what the columns say of a tensor, and what its parameters do."""
    kind, dtype, mask, view, parameters = tensor.kind, tensor.dtype, tensor.mask, tensor.shape, Reader(b"")
    tensor.stored = stored = DTYPES[kind - 64] if 64 <= kind < 64 + len(DTYPES) else None
    if kind > 3 and not stored:
        parameters = Reader(reader.take(reader.count()))
    if kind == 4:
        tensor.code = int(parameters.array(1, "<u2")[0])
        rank = bounded(parameters.varint(), 0, 64, "view")
        view = tuple(parameters.varint() for _ in range(rank)) or view
        need(prod(view) == tensor.size and not parameters.left(), "view")
    if tensor.code is not None:
        need(0x100 <= tensor.code <= 0xFE00, "step")
    tensor.step = tensor.code and float(np.uint32(tensor.code << 15).view("f4"))
    tensor.view, tensor.axes = view, [axis for axis in range(len(view)) if mask >> axis & 1]
    need(not mask >> len(view), "axes")
    tensor.order = [] if kind in (1, 2) else tensor.axes  # V4
    tensor.order = tensor.order + [axis for axis in range(len(view)) if axis not in tensor.order]
    tensor.keep, tensor.count = (tensor.keep - 1, tensor.keep - 1) if tensor.keep else (None, tensor.size)
    need(tensor.count <= tensor.size and (tensor.keep is None or kind not in (1, 2, 4)), "keep")
    tensor.plain = not mask and tensor.keep is None
    whole = stored if tensor.plain else None
    words = tensor.plain and dtype not in ("bool", "complex64", "complex128")
    fits = kind != 3, words if kind == 3 else not whole, whole == dtype
    need(tensor.relation < 3 and fits[tensor.relation], "base")
    is_known = kind < 5 or stored
    need(not is_known or kind == 3 or whole == dtype or {dtype, stored or dtype} <= {*FLOATS}, "kind-dtype")
    tensor.count = 0 if tensor.relation == 2 else tensor.count


def decode_chunk(payload, chunk, most):
    """Sections 5 to 10: `words` of the tensors of a chunk, or of one that is in none."""
    kind, stored, counts = chunk[0].kind, chunk[0].stored, [tensor.count for tensor in chunk]
    need(kind < 5 or stored, "kind")
    need(sum(counts) * (BYTES[stored] if stored else 8 if kind == 3 else 4) <= most, "limit")  # L4
    for tensor in chunk:  # L3
        least = 1 if tensor.plain and not tensor.step else 4
        need(tensor.relation == 2 or tensor.size * max(BYTES[tensor.dtype], least) <= most, "limit")
    if kind in (1, 2) and sum(counts):
        found = coefficients(payload, [tensor.shape for tensor in chunk])
    elif kind == 4 and sum(counts):
        coder = Decisions(payload)
        found = [sparse_tensor(coder, [tensor.view[axis] for axis in tensor.order]) for tensor in chunk]
        need(not any(payload[coder.at :]), "rest")
    else:
        one = differences if kind == 3 and sum(counts) else integers
        found = exact(payload, stored, sum(counts)) if stored else one(payload, sum(counts))
        found = np.split(found, np.cumsum(counts)[:-1] * (found.size // max(1, sum(counts))))
    for tensor, sequence in zip(chunk, found):
        tensor.integers = None if stored else sequence
        tensor.words = None if tensor.error else restore(tensor, sequence)


def find_bases(tensors, sha256, files):
    """G3 and G7: gives each tensor that has a relation that of the base."""
    fitting = [file for file in files if file[-36:-4] == sha256]
    need(fitting or not files, "base")
    known = decode(fitting[0], [file for file in files if file not in fitting])[0] if fitting else []
    known = {(tensor.name, tensor.shape, tensor.dtype): tensor for tensor in known if not tensor.error}
    for tensor in (tensor for tensor in tensors if tensor.target is None and tensor.relation):
        tensor.base = known.get((tensor.name, tensor.shape, tensor.dtype))
        tensor.error = None if tensor.base else FormatError("base")


def decode(data, bases=()):
    """Section 3: tensors, with `words` or `error`; attachments by name, bytes or FormatError; metadata."""
    need(data[:3] == MAGIC[:3], "magic")
    need(data[:4] == MAGIC, "version")  # F1
    need(len(data) >= 53 and data[-4:] == MAGIC, "end")  # F2
    head_length, tail_length, crc = struct.unpack("<III", data[-48:-36])
    need(head_length <= 1 << 28 and head_length + tail_length + 57 <= len(data), "footer")  # F3, L1
    reader, tail = Reader(data[: -48 - tail_length]), Reader(data[-48 - tail_length : -48])
    reader.at = 4
    need(reader.varint() == head_length, "footer")
    head_crc, head = reader.array(1, "<u4")[0], reader.take(head_length)
    need(zlib.crc32(tail.data + data[-48:-40]) == crc, "tail-crc")  # F4
    need(zlib.crc32(head) == head_crc, "head-crc")  # F8
    lengths = [tail.varint() for _ in range(bounded(tail.varint(), 0, tail_length // 5, "tail"))]  # F5
    sums = tail.array(len(lengths), "<u4")
    need(not tail.left(), "rest")
    tensors, chunks, attachments, metadata, base = head_index(head)
    need(len(sums) == len(chunks) + len(attachments), "frame-count")  # F6
    here = [tensor for tensor in tensors if (tensor.target or tensor).relation < 2]
    most, seed, frames = max(1 << 30, 4096 * len(data)), hashlib.sha256(head).digest()[:4], []
    need(sum(tensor.size * BYTES[tensor.dtype] for tensor in here) <= 16 * most, "limit")  # L5
    need(sum(attachments.values()) <= max(1 << 28, 100 * len(data)), "limit")  # L6
    for number, (length, crc) in enumerate(zip(lengths, sums), 1):
        need((reader.varint(), reader.array(1, "<u4")[0]) == (length, crc), "frame-header")  # F7
        need(length <= reader.left(), "tail")
        payload = reader.take(length)
        proven = zlib.crc32(seed + struct.pack("<I", number) + payload) == crc  # F9
        frames.append(payload if proven else None)
    need(not reader.left(), "tail")
    need(hashlib.sha256(data[:-36]).digest() == data[-36:-4], "sha256")  # F10
    find_bases(tensors, base, bases if base else ())
    empty = [[tensor] for tensor in tensors if tensor.target is None and not tensor.count]
    for part, payload in zip([*chunks, *attachments, *empty], [*frames, *[b""] * len(empty)]):
        try:
            need(payload is not None, "frame-crc")
            if isinstance(part, list):
                decode_chunk(payload, part, most)
            else:
                size = bounded(attachments[part], 0, 1040 * len(payload), "limit")  # L6
                attachments[part] = inflate(payload, size, "attachment", "attachment")
                need(len(attachments[part]) == size, "attachment")  # M1
        except FormatError as error:
            if isinstance(part, str):
                attachments[part] = error
            for tensor in part if isinstance(part, list) else ():
                tensor.error = error
    for tensor in (tensor for tensor in tensors if tensor.target):
        vars(tensor).update(vars(tensor.target) | {"name": tensor.name, "target": tensor.target})
    return tensors, attachments, metadata


def values(tensor, raw=False):
    """A decoded tensor as numpy knows it; see the top of this file."""
    if tensor.dtype in DTYPES[12:18]:
        return (tensor.words if raw else values_of(tensor.words, tensor.dtype)).reshape(tensor.shape)
    return tensor.words.view(np.dtype(tensor.dtype).newbyteorder("<")).reshape(tensor.shape)


def convert(options):
    """Writes what a file holds; one line for each part that was refused."""
    tensors, attachments, _ = decode(options.file.read_bytes(), [path.read_bytes() for path in options.base])
    refused = [f"tensor {tensor.name!r}: {tensor.error}" for tensor in tensors if tensor.error]
    with zipfile.ZipFile(options.output or options.file.with_suffix(".npz"), "w") as archive:
        for tensor in (tensor for tensor in tensors if not tensor.error):
            elements = prod(length or 1 for length in tensor.shape)
            if "\0" in tensor.name or len(tensor.name.encode()) > 60000 or elements >> 59:
                refused.append(f"tensor {tensor.name[:100]!r}: an .npz cannot hold it")
                continue
            with archive.open(zipfile.ZipInfo(tensor.name + ".npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, values(tensor, options.raw), allow_pickle=False)
    for name, content in attachments.items() if options.attachments else ():
        parts = name.split("/")
        sound = all(part.strip(".") and re.fullmatch(r"[^\\:\x00-\x1f\x7f]+", part) for part in parts)
        if isinstance(content, FormatError) or not sound:  # M2
            refused.append(f"attachment {name!r}: {content if sound else 'attachment-name'}")
            continue
        (options.attachments / name).parent.mkdir(parents=True, exist_ok=True)
        (options.attachments / name).write_bytes(content)
    return refused


def main(arguments=None):
    """The command line."""
    raw_text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw_text)
    parser.add_argument("file", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="default: FILE with the suffix .npz")
    parser.add_argument("--raw", action="store_true", help="bits of bfloat16 and float8 as integers")
    parser.add_argument("--attachments", type=Path, metavar="FOLDER", help="write attachments there")
    parser.add_argument("--base", type=Path, action="append", default=[], help="FILE's base, or that one's")
    options = parser.parse_args(arguments)
    try:
        refused, status = convert(options), 0
    except (OSError, FormatError) as error:
        refused, status = [str(error)], 3
    for line in refused:
        print(f"{options.file}: {line}", file=sys.stderr)
    sys.exit(status or int(bool(refused)))


if __name__ == "__main__":
    main()
