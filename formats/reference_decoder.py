"""Reference decoder of `.frq` version 1, written from `frq-1.md`, whose rules the comments name.

    python reference_decoder.py FILE.frq [-o TENSORS.npz] [--raw] [--attachments FOLDER] [--base BASE.frq]

Needs Python 3.10 or later and numpy. Reads the whole file, checks every rule, writes the tensors to an .npz:
bfloat16 and float8 as float32 of the same values, or with --raw as the integers that hold their bits. Exit
status: 0 done; 1 a part of the file was refused, the rest is written; 3 the file was refused.
"""

# ruff: noqa: B905, D101, D102, D103, E401, E701, I001, PLR0915, SIM905, T201
# fmt: off
import argparse, hashlib, re, struct, sys, zipfile, zlib
from functools import lru_cache
from itertools import product
from math import isqrt, prod
from pathlib import Path
from types import SimpleNamespace
import numpy as np

DTYPES = ("bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 float32 float64 bfloat16 "
          "float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu complex64 "
          "complex128").split()  # D1
BYTES = dict(zip(DTYPES, (1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1, 1, 1, 1, 8, 16)))
NATIVE, FLOATS, U64 = DTYPES[9:12], DTYPES[9:17], np.uint64
SMALL = {"bfloat16": (127, 7, 2.0**128 - 2.0**120), "float8_e4m3fn": (7, 3, 448),
         "float8_e5m2": (15, 2, 57344), "float8_e4m3fnuz": (8, 3, 240),
         "float8_e5m2fnuz": (16, 2, 57344)}  # bias, bits of mantissa, largest
MAGIC, DICTIONARY = b"FRQ\x01", b"".join(name + b"\xff" for name in b"""
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
mlp.up_proj.weight mlp.down_proj.weight model.layers.0.input_layernorm.weight
post_attention_layernorm.weight model.norm.weight module.backbone.stages.0.blocks.0.norm1.weight
decoder.blocks.1.attn.qkv.bias blocks.1.mlp.fc1.weight blocks.0.mlp.fc2.bias head.weight features.0.0.weight
features.1.conv.0.1.running_mean classifier.1.weight classifier.6.bias fc1.bias layer1.0.conv1.weight
layer1.0.bn1.weight layer1.0.bn1.bias layer1.0.bn1.running_mean layer1.0.bn1.running_var
layer1.0.bn1.num_batches_tracked layer2.0.downsample.0.weight net.0.conv.weight inc.double_conv.0.weight
down1.maxpool_conv.1.double_conv.0.weight up1.conv.double_conv.3.weight up1.up.weight outc.conv.weight
fc2.weight fc2.bias conv1.weight conv1.bias conv2.weight fc.weight fc.bias
""".split())  # annex C

class FormatError(Exception):
    """A broken rule, by its name in section 14."""

def need(condition, code):
    if not condition: raise FormatError(code)

class Reader:
    def __init__(self, data): self.data, self.at = memoryview(data), 0

    def left(self): return len(self.data) - self.at

    def end(self): need(not self.left(), "rest")

    def take(self, count):  # B7
        need(count <= self.left(), "short")
        self.at += count
        return self.data[self.at - count : self.at]

    def u8(self): return self.take(1)[0]

    def array(self, count, dtype): return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype)

    def varint(self):  # B1
        value, shift, byte = 0, 0, 128
        while byte > 127 and shift < 63:
            byte = self.u8()
            value, shift = value | (byte & 127) << shift, shift + 7
        need(byte < 128 and (byte or shift == 7), "varint")
        return value

    def count(self):  # H3
        need((value := self.varint()) <= self.left(), "count")
        return value

    def texts(self, count):  # B2
        pieces = bytes(self.data[self.at :]).split(b"\xff", count)
        need(len(pieces) > count, "short")
        self.at = len(self.data) - len(pieces[count])
        try: return [str(piece, "utf-8") for piece in pieces[:count]]
        except UnicodeDecodeError: raise FormatError("text") from None

def bit_string(data, count):  # B3
    bits = np.unpackbits(np.frombuffer(data, "u1"))
    need(not bits[count:].any(), "padding")
    return bits[:count]

def add_bits(values, bits, widths):  # to the values of width 1 first, then to those of width 2, ...
    for width in range(1, 22):
        chosen = np.flatnonzero(widths == width)
        own, bits = np.split(bits, [width * chosen.size])
        values[chosen] += own.reshape(-1, width) @ (1 << np.arange(width)[::-1])

def fields(take, count, width):  # B4
    values, position = np.zeros(count, U64), 0
    for part in (part for part in (64, 32, 16, 8, 4, 2, 1) if width & part):
        piece = np.frombuffer(take((count * part + 7) // 8), f"<u{max(part // 8, 1)}")
        if part < 8:
            piece = np.concatenate([piece >> shift & (1 << part) - 1 for shift in range(0, 8, part)])
            need(not piece[count:].any(), "padding")
        values |= piece[:count].astype(U64) << U64(position)
        position += part
    return values

def frequency_table(reader, alphabet):  # B5
    first, last = reader.take(2)
    need(first <= last < alphabet, "table")
    window = int.from_bytes(bytes(reader.data[reader.at : reader.at + 576]).ljust(576, b"\0"), "big")
    left, table = 8 * 576, np.zeros(alphabet, np.int64)  # 256 symbols of 4 + 14 bits at most
    for symbol in range(first, last + 1):
        left -= 4
        if length := window >> left & 15:
            left -= length - 1
            table[symbol] = 1 << length - 1 | window >> left & (1 << length - 1) - 1
    reader.take(576 - left // 8)
    need(not window >> left // 8 * 8 & (1 << left % 8) - 1, "padding")
    return table

class Coder:
    def __init__(self, tables):
        need(all(table.sum() == 4096 and table.max() < 4096 for table in tables), "table")  # B6
        symbols = [np.repeat(np.arange(table.size), table) for table in tables]
        begin = np.concatenate([(np.cumsum(table) - table)[of] for table, of in zip(tables, symbols)])
        self.frequency = np.concatenate([table[of] for table, of in zip(tables, symbols)])
        self.symbol, self.offset = np.concatenate(symbols), np.tile(np.arange(4096), len(tables)) - begin

    def start(self, states, words):
        self.states, self.words, self.at = states.astype(np.int64), words.astype(np.int64), 0

    def step(self, table, refill=True):  # N3, for the first lanes
        x = self.states[: table.size]
        cell = table * 4096 + (x & 4095)
        x[:] = (x >> 12) * self.frequency[cell] + self.offset[cell]
        low = np.flatnonzero((x < 65536) & refill)
        need(self.at + low.size <= self.words.size, "words")
        x[low] = x[low] << 16 | self.words[self.at : self.at + low.size]
        self.at += low.size
        return self.symbol[cell]

    def finish(self, sound):
        need(self.at == self.words.size and sound.all(), "words")

def lane_stream(reader, count, tables, table_of, given=None, start=0, pull=None, rate=0):
    """Section 6: symbols and carried bytes; tables follow given classes or the lanes' means."""
    coder, out, lanes = Coder(tables), np.empty(count, "u1"), min(max(1, count // 256), 4032)
    (steps, left), mean, words = divmod(count, lanes), np.full(lanes, start), reader.varint()  # N1, N2
    states, groups = reader.array(lanes, "<u2").astype(np.int64), fields(reader.take, lanes, 2)
    for group in range(4):
        chosen = np.flatnonzero(groups == group)
        states[chosen] |= fields(reader.take, chosen.size, 4 * group + 4).astype(np.int64) << 16
    coder.start(states, reader.array(words, "<u2"))
    for step in range(steps + (left > 0)):
        places = np.arange(lanes) * steps + step if step < steps else steps * lanes + np.arange(left)
        out[places] = found = coder.step(table_of[mean[: places.size] if given is None else given[places]])
        if pull is not None and step < steps: mean += pull[found] - mean >> rate
    coder.finish(coder.states >> 16 == 1)  # N4
    return out, coder.states.astype("<u2").tobytes()

# Integers: section 7.

LOW = np.array([*range(16), *(4 + quarter << e + 2 for e in range(20) for quarter in range(4))])  # I2
EXTRA = np.array([0] * 16 + [e + 2 for e in range(20) for _ in range(4)])
PULL = np.array([16 * isqrt(256 * int(m)) for m in np.minimum(LOW + ((1 << EXTRA) - 1) // 2, 65535)])  # I3
OCTAVE = np.frexp(np.arange(65536))[1] - 1
CLASS = np.where(OCTAVE < 4, 0, 4 * (OCTAVE - 4) + (np.arange(65536) >> np.maximum(OCTAVE - 2, 0) & 3) + 1)

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

def integers(data, count):
    reader, latest = Reader(data), -1
    if count:
        start, alphabet = reader.varint(), reader.u8() + 1
        need(start < 65536 and 2 <= alphabet <= 96, "model")  # I1
        tables = [built_in(number, alphabet) for number in range(49)]
        for _ in range(reader.varint()):
            need(latest < (number := reader.u8()) < 49, "class")  # I4
            tables[number], latest = frequency_table(reader, alphabet), number
        tokens, carried = lane_stream(reader, count, tables, CLASS, None, start, PULL, 4)
        signs = np.count_nonzero(tokens)
        total = signs + int(EXTRA[tokens].sum())  # I6
        raw = carried[: (total + 7) // 8]
        bits = bit_string(raw + bytes(reader.take((total + 7) // 8 - len(raw))), total)
        need(not any(carried[len(raw) :]), "padding")
        values = LOW[tokens]
        add_bits(values, bits[signs:], EXTRA[tokens])
        values[tokens > 0] *= 1 - 2 * bits[:signs].astype(np.int64)
    reader.end()
    return values if count else np.empty(0, np.int64)

# Sparse integers: section 7.1.

KNOTS = [*map(int, """1 2 3 6 10 16 27 45 73 120 194 310 488 747 1101 1546 2047 2549 2994 3348 3607 3785
3901 3975 4022 4050 4068 4079 4085 4089 4092 4093 4094""".split())]

def squash(d):  # P6
    if not -2047 <= d <= 2047: return 4095 if d > 0 else 1
    i, u = (d >> 7) + 16, d & 127
    return max(1, KNOTS[i] * (128 - u) + KNOTS[i + 1] * u + 64 >> 7)

@lru_cache(None)
def stretches():
    found = np.searchsorted([squash(d) for d in range(-2047, 2048)], range(4096)) - 2047
    return np.minimum(found, 2047).tolist()

class Decisions:  # P1, P2
    def __init__(self, data):
        self.bytes, self.at, self.low, self.high = bytes(data), 4, 0, 0xFFFFFFFF
        self.left = 4096 + 64 * len(data)
        self.x = int.from_bytes(self.bytes[:4].ljust(4, b"\0"), "big")

    def take(self, p):
        need(self.left, "limit")  # L7
        middle = self.low + (self.high - self.low >> 12) * p
        y, self.left = int(self.x <= middle), self.left - 1
        if y: self.high = middle
        else: self.low = middle + 1
        while not (self.low ^ self.high) >> 24:
            taken = self.bytes[self.at] if self.at < len(self.bytes) else 0
            pairs = (self.low, 0), (self.high, 255), (self.x, taken)
            self.low, self.high, self.x = (value << 8 & 0xFFFFFFFF | byte for value, byte in pairs)
            self.at += 1
        return y

    def by(self, model):
        learn(model, y := self.take(max(1, min(4095, model[0] >> 4))))
        return y

def learn(model, y):
    q, n = model
    model[:] = max(32, min(65503, q + ((65535 * y - q) * (65536 // (n + 2)) >> 16))), min(n + 1, 4095)

def sparse_tensor(coder, shape):  # P3 to P5
    values, live, stretch = np.zeros(shape, np.int64), [], stretches()
    for length in shape:
        models, flags = ([32768, 0], [32768, 0]), [1]
        for _ in range(length if length != 1 else 0): flags.append(coder.by(models[flags[-1]]))
        live.append([i for i, flag in enumerate(flags[1:]) if flag] if length != 1 else [0])
    if not all(live): return values
    axes = [axis for axis in range(len(shape)) if len(live[axis]) > 1]
    whole, size, known, a = [32768, 0], [[32768, 0] for _ in range(6)], {}, [0] + [45000] * len(axes)
    for cell in product(*live):
        base = stretch[whole[0] >> 4]
        own = [known.setdefault((axis, cell[axis]), [whole[0], 0]) for axis in axes]
        v = [256] + [(stretch[q >> 4] - base) * n // (n + 1) for q, n in own]
        y = coder.take(p := squash(base + (sum(map(int.__mul__, a, v)) >> 16)))
        a = [max(-1 << 20, min(1 << 20, w + (x * 2 * (4096 * y - p) + 512 >> 10))) for w, x in zip(a, v)]
        for model in (whole, *own): learn(model, y)
        if y:
            negative, m = coder.take(2048), 1
            while m < 4096 and coder.by(size[min(m, 6) - 1]): m += 1
            values[cell] = -m if negative else m
    return values

def sparse(data, shapes):
    coder = Decisions(data)
    found = [sparse_tensor(coder, shape).reshape(-1) for shape in shapes]
    need(not any(coder.bytes[coder.at :]), "rest")
    return found

# Exact values: section 8.

def class_shift(alphabet): return max(0, (alphabet - 1).bit_length() - 5)

def symbol_stream(reader, count, alphabet, given=None):  # X7
    need((starts := reader.varint()) < 1 << 31, "model")
    rate, first = reader.take(2) if starts and given is None else (1, 0)
    need(1 <= rate <= 8 and first < alphabet, "model")
    tables = [frequency_table(reader, alphabet) for _ in range(starts.bit_count() + 1)]
    table_of = np.cumsum([0] + [starts >> bit & 1 for bit in range(31)])
    if given is not None: return lane_stream(reader, count, tables, table_of, given)
    shift = 12 - class_shift(alphabet)
    past = None, first << shift, np.arange(alphabet) << shift, rate
    return lane_stream(reader, count, tables, np.repeat(table_of, 4096), *past)

def rests(reader, symbols, shift, signed, alphabet, carried):  # X8
    values, bits, runs, pool, left = np.zeros(symbols.size, U64), shift + signed, [], b"", symbols.size
    count = reader.varint() if left and bits else 0
    need(count or not left or not bits, "run")
    for number in range(count):
        size, first = 128 * reader.varint() if number < count - 1 else left, symbols.size - left
        zeros, width = reader.take(2)
        coded, width, low = width >> 7, width & 127, U64(0)
        fits = zeros + width <= bits and (not coded or (width >= 8 and alphabet > 1))
        need(0 < size <= left and fits, "run")
        if coded:
            classes = symbols[first : first + size] >> class_shift(alphabet)
            low, more = symbol_stream(reader, size, 256, classes)
            pool += more
        runs.append((slice(first, first + size), zeros, width - 8 * coded, 8 * coded, low))
        left -= size
    carried = pool + carried  # X9
    source = Reader(carried + bytes(reader.data[reader.at :]))
    for part, zeros, width, eight, low in runs:
        field = fields(source.take, part.stop - part.start, width)
        values[part] = (field << U64(eight) | low) << U64(zeros)
    need(not any(carried[source.at :]), "padding")
    reader.at += max(0, source.at - len(carried))
    return values

def word(reader, w):  # X5
    need((size := reader.u8()) <= w // 8, "word")
    return int.from_bytes(reader.take(size), "little", signed=True) % (1 << w)

def piece(reader, n, w, floats, depth):  # X2: n words of w bits, as uint64
    form, mask = reader.u8(), U64((1 << w) - 1)
    escapes, kind = divmod(form, 8)
    sound = form in (0, 1, 2, 3, 4, 5, 9, 10, 11, 13) and (form != 4 or depth == 2) and depth >= escapes
    need(sound and (kind != 1 or floats), "form")
    if kind == 0: return reader.array(n, f"<u{w // 8}").astype(U64)  # X3
    if kind == 4:  # X4
        need(0 < (size := reader.varint()) <= min(65536, n), "dictionary")
        words, index = piece(reader, size, w, floats, 1), piece(reader, n, 8 if size <= 256 else 16, False, 1)
        need(index.max() < size, "dictionary")
        return words[index]
    signed, shift, base = kind == 1, reader.u8(), word(reader, w)  # X5
    origin, alphabet = word(reader, w) if kind in (3, 5) else 0, reader.u8() + 1
    need(shift <= w - signed and alphabet > escapes, "split")
    symbols, carried = symbol_stream(reader, n, alphabet) if alphabet > 1 else (np.zeros(n, "u1"), b"")
    inside, values = symbols >= escapes, np.empty(n, U64)  # X6
    if not inside.all():
        found = piece(reader, int(n - np.count_nonzero(inside)), w, False, depth - 1)
        values[~inside] = (found >> U64(1) | found << U64(w - 1)) & mask if signed else found
    rest = rests(reader, symbols[inside], shift, signed, alphabet, carried)
    base = U64((base << max(0, shift - 4) if signed else base) % (1 << w))
    high = (symbols[inside] - escapes).astype(U64) << U64(shift)
    sign = rest >> U64(shift) << U64(w - 1) if signed else U64(0)
    values[inside] = high + base + (rest & U64((1 << shift) - 1)) & mask | sign
    if kind == 3: values = np.cumsum(values, dtype=U64)
    if kind == 5: values = values >> U64(1) ^ -(values & U64(1))
    return values + U64(origin) & mask

def exact(data, dtype, count):  # X1
    reader, parts = Reader(data), 2 if dtype.startswith("complex") else 1
    words = np.empty(count * parts, f"<u{BYTES[dtype] // parts}")
    for first in range(0, words.size, 1 << 21):
        part = words[first : first + (1 << 21)]
        part[:] = piece(reader, part.size, 8 * part.itemsize, dtype in FLOATS or parts == 2, 2)
    reader.end()
    need(dtype != "bool" or words.max(initial=0) < 2, "bool")
    return words

# Coefficients: section 9.

SHAPES = (((256, 321),), ((17, 125), (125, 277), (114, 398)), ((34, 114), (143, 284), (79, 476)),  # T4
          ((45, 103), (146, 288), (65, 547)), ((51, 97), (144, 288), (61, 592)),
          ((56, 90), (143, 288), (56, 640)), ((63, 76), (139, 281), (53, 723)),
          ((69, 59), (134, 261), (53, 808)))
POLYNOMIALS = {0: (0, 0), 3: (0o13, 0o4), 4: (0o23, 0o4), 5: (0o45, 0o10), 6: (0o103, 0o24),
               7: (0o235, 0o126)}  # Q2

@lru_cache(None)
def distribution(tail):  # T4: D
    odd, total = np.arange(1, 2049, 2), np.zeros(1024, np.int64)
    for weight, deviation in SHAPES[tail]:
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
    row[129 - half_way - side.size : 129 - half_way] = side[::-1]
    row[128 : 128 + side.size] = side
    return row

def scale_classes(reader, shapes):  # S1 to S3
    heads, result = [], []
    for shape in shapes:
        tail, z, modes = reader.u8(), reader.varint(), reader.varint()
        base = -(z + 1 >> 1) if z & 1 else z >> 1
        listed = [modes >> 2 * axis & 3 for axis in range(len(shape))]
        need(tail < 8 and abs(base) <= 1024 and not modes >> 2 * len(shape) and 3 not in listed, "scales")
        heads.append((shape, tail, base, listed))
    lengths = [n for shape, _, _, listed in heads for n, mode in zip(shape, listed) if mode]
    tables = iter(np.split(integers(reader.take(reader.varint()), sum(lengths)), np.cumsum(lengths)))
    for shape, tail, base, listed in heads:
        total = np.full(shape, base, np.int16)
        for axis in (axis for axis, mode in enumerate(listed) if mode):
            table = next(tables) if listed[axis] == 1 else np.cumsum(next(tables))
            need(np.abs(table).max(initial=0) <= 127, "scales")
            total += table.astype(np.int16).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        result.append((tail, np.clip(total, 0, 111).astype("u1").reshape(-1)))
    return result

def coefficients(data, shapes):  # the integers of all tensors, in half steps
    reader, latest = Reader(data), -1
    need((state_bits := reader.u8()) in POLYNOMIALS, "state-bits")
    scales = scale_classes(reader, shapes)
    tails, first = sorted({tail for tail, _ in scales}), 9 if state_bits else 32
    order = [(k, half) for k in range(32) for half in ((False, True) if k >= first else (False,))]  # T1, T3
    order += [(28 + k, True) for k in range(4)]
    tables = [built_in_row(tail, *row) for tail in tails for row in order]  # T2
    for _ in range(reader.varint()):
        need(latest < (row := reader.varint()) < len(tables), "class")  # T5
        need((half := frequency_table(reader, 128))[0] > 0, "table")
        tables[row], latest = completed(np.trim_zeros(half, "b"), order[row % len(order)][1]), row
    of_class = [k if k < first else 2 * k - first if k < 32 else len(order) - 4 + k % 4 for k in range(112)]
    classes = np.concatenate([of for _, of in scales])
    begin = {tail: np.array(of_class, "u2") + len(order) * place for place, tail in enumerate(tails)}
    rows = np.concatenate([begin[tail][of] for tail, of in scales])
    need((count := reader.varint()) <= classes.size, "escapes")
    escapes, coder = integers(reader.take(reader.varint()), count), Coder(tables)
    result = np.empty(classes.size, np.int64)
    for start in range(0, classes.size, 1 << 20):  # Q1
        some = slice(start, start + (1 << 20))
        served = classes[some] >= (9 if state_bits else 112)
        trellis = np.count_nonzero(served), *POLYNOMIALS[state_bits]
        places = np.argsort(~served, kind="stable")
        found, escapes = segment(reader, coder, classes[some][places], rows[some][places], *trellis, escapes)
        result[start + places] = found
    need(not escapes.size, "escapes")
    reader.end()
    return np.split(result, np.cumsum([of.size for _, of in scales])[:-1])

def segment(reader, coder, classes, rows, served, h0, h1, escapes):
    raw_bits, raw = np.maximum(classes.astype(np.int64) - 28 >> 2, 0), np.zeros(classes.size, np.int64)  # Q3
    total = int(raw_bits.sum())
    add_bits(raw, bit_string(reader.take((total + 7) // 8), total), raw_bits)  # Q4
    lanes = max(1, classes.size // 2048)  # Q2
    steps, drained, words = -(-classes.size // lanes), reader.u8(), reader.varint()
    need(drained <= min(16, steps), "drained")  # W1
    coder.start(reader.array(lanes, "<u4"), reader.array(words, "<u2"))
    symbols, halves, state = *np.zeros((2, classes.size), np.int64), np.zeros(lanes, np.int64)
    for step in range(steps):
        here = slice(step * lanes, min((step + 1) * lanes, classes.size))
        mine = slice(here.start, max(here.start, min(here.stop, served)))
        now = state[: mine.stop - mine.start]
        halves[mine] = now & 1
        row = rows[here] + halves[here] * (classes[here] < 32)
        symbols[here] = coder.step(row, step < steps - drained)  # W2
        parity = np.where(raw_bits[mine] > 0, raw[mine], symbols[mine]) & 1
        now[:] = now >> 1 ^ (now & 1) * (h0 >> 1) ^ parity * (h1 >> 1)
    coder.finish((coder.states > 0) & (coder.states & coder.states - 1 == 0))  # W3
    whole, escaped = (symbols - 128 << raw_bits) | raw, np.flatnonzero(symbols % 255 == 0)
    need(escaped.size <= escapes.size, "escapes")
    whole[escaped] = 2 * escapes[: escaped.size] + (symbols[escaped] & 1)  # Q5
    need(np.abs(whole).max() <= 1 << 20, "range")  # Q6
    return 2 * whole + halves, escapes[escaped.size :]

# Floats: section 10.

def values_of(words, dtype):  # of real floats and float8_e8m0fnu, as floats of the same values
    if dtype in NATIVE: return words.view(f"<f{BYTES[dtype]}")
    code, half = np.arange(1 << 8 * BYTES[dtype]), 1 << 8 * BYTES[dtype] - 1
    if dtype == "float8_e8m0fnu":
        return np.where(code < 255, 2.0 ** (code - 127), np.nan).astype("<f4")[words]
    bias, bits, largest = SMALL[dtype]
    exponent, mantissa = code % half >> bits, code % (1 << bits)
    value = (mantissa + (exponent > 0) * (1 << bits)) * 2.0 ** (np.maximum(exponent, 1) - bias - bits)
    value[value > largest] = np.nan
    value[(mantissa == 0) & np.isnan(value)] = np.inf
    value[half:] *= -1
    value[half] = np.nan if dtype.endswith("uz") else -0.0
    return value.astype("<f4")[words]

def words_of(values, dtype, clip):  # V6, of float64
    size = BYTES[dtype]
    if dtype in NATIVE:
        limit = 65504 if clip and size == 2 else np.inf
        return np.clip(values, -limit, limit).astype(f"<f{size}").view(f"<u{size}")
    known = values_of(np.arange(1 << 8 * size - 1), dtype).astype(np.float64)  # of codes 0, 1, ...
    known, no_zero = known[np.isfinite(known)], dtype.endswith("uz")
    amount = np.minimum(np.abs(values), known[-1])
    upper = np.clip(np.searchsorted(known, amount), 1, known.size - 1)
    gap = known[upper] + known[upper - 1] - 2 * amount
    code = upper - ((gap > 0) | (gap == 0) & (upper % 2 == 1))
    code |= (np.signbit(values) & ((code > 0) | (not no_zero))).astype(np.int64) << 8 * size - 1
    return np.where(np.isnan(values), 128 if no_zero else (1 << 8 * size - 1) - 1, code).astype(f"<u{size}")

def inverse_dct(values, axis):  # V5
    n, moved, result = values.shape[axis], np.moveaxis(values, axis, 0), []
    x = moved.reshape(n, -1) * np.where(np.arange(n), (2 / n) ** 0.5, (1 / n) ** 0.5)[:, None]
    cosine, rows = np.cos(np.pi * np.arange(4 * n) / (2 * n)), max(1, (1 << 22) // n)
    for first in range(0, n, rows):
        odd = 2 * np.arange(first, min(n, first + rows)) + 1
        result.append(cosine[odd[:, None] * np.arange(n) % (4 * n)] @ x)
    return np.moveaxis(np.concatenate(result).reshape(moved.shape), 0, axis)

def words_of_payload(data, count):  # G5
    reader = Reader(data)
    found = integers(reader.take(reader.varint()), count)
    large = np.flatnonzero(found == (1 << 24) - 1)
    found[large] = exact(reader.take(reader.left()), "uint64", large.size).view(np.int64)
    return found

def order_of(shape, axes): return *axes, *(axis for axis in range(len(shape)) if axis not in axes)  # V4

@np.errstate(all="ignore")
def restore(tensor, sequence):  # words in the tensor's shape, of complex elements two
    shape, dtype, axes, kind = tensor.shape, tensor.dtype, tensor.axes, tensor.kind
    if tensor.relation:  # G3
        base = tensor.base
        need(base and not base.error and (base.shape, base.dtype) == (shape, dtype), "base")
        if tensor.relation == 2:
            return base.words
        if kind == 3:  # G5
            words = base.words.reshape(-1).view(f"<u{BYTES[dtype]}").copy()
            width = 8 * words.itemsize
            key = (words & ((1 << width - 1) - 1)) >> max(0, width - 9)
            words[np.argsort(key, kind="stable")] += sequence.astype(words.dtype)
            return words.reshape(shape)
    plain = tensor.exact
    if plain and kind == 64 + DTYPES.index(dtype):  # V1
        return sequence.reshape(*shape, 2) if dtype.startswith("complex") else sequence.reshape(shape)
    values = values_of(sequence, DTYPES[kind - 64]) if kind >= 64 else sequence  # V2
    values = values.astype(np.float64) * (1 if kind >= 64 else tensor.step / (2 if kind in (1, 2) else 1))
    order, shape = () if kind in (1, 2) else axes, tensor.view
    order = order_of(shape, order)
    if tensor.keep is not None:  # V3
        places = np.argsort(np.ravel(sum(np.ix_(*map(range, shape)))), kind="stable")[: tensor.keep]
        kept, values, order = values, np.zeros(prod(shape)), range(len(shape))
        values[places] = kept
    values = values.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))
    for axis in axes if values.size else ():
        values = inverse_dct(values, axis)
    if tensor.relation:  # G6
        values = values.reshape(tensor.shape) + values_of(base.words, dtype)
    return words_of(np.ascontiguousarray(values), dtype, not plain).reshape(tensor.shape)

# Head index: section 4.

def inflate(data, limit, code, dictionary=b""):
    try:
        plain = (machine := zlib.decompressobj(-15, zdict=dictionary)).decompress(data, limit + 1)
    except zlib.error:
        raise FormatError(code) from None
    return plain, machine.eof and not machine.unused_data

def base_columns(reader, count):  # G2
    base, relations = bytes(reader.take(32)), bytes(reader.take(count))
    need(max(relations, default=0) < 3, "base")
    return base, relations

def check_relation(tensor, partial):
    tensor.exact = bool(tensor.stored and not partial)
    if tensor.relation == 2:  # G4
        need(tensor.exact and tensor.stored == tensor.dtype, "base")
        tensor.count = 0
    elif tensor.kind == 3:  # G5
        need(tensor.relation and not partial, "base")
        need(tensor.dtype not in ("bool", "complex64", "complex128"), "base")
    else:  # G6
        need(not (tensor.relation and tensor.exact), "base")

def step_of(code):  # K2
    need(0x100 <= code <= 0xFE00, "step")
    return float(np.uint32(code << 15).view("f4"))

def head_index(payload):
    limit = min(1 << 28, max(1 << 22, 128 * len(payload)))
    plain, whole = inflate(payload, limit, "deflate", DICTIONARY)
    need(len(plain) <= limit, "limit")
    need(whole, "deflate")  # H1
    reader = Reader(plain)
    need((features := reader.varint()) < 2, "feature")  # H2
    names = reader.texts(reader.count())  # H3
    need(len(set(names)) == len(names), "name-twice")
    ranks, shapes = [reader.varint() for _ in names], [[] for _ in names]  # H4
    need(max(ranks, default=0) <= 64, "rank")
    for axis in range(max(ranks, default=0)):
        for shape in (shape for shape, rank in zip(shapes, ranks) if axis < rank):
            shape.append(reader.varint())
    need(all(prod(length for length in shape if length) <= 1 << 62 for shape in shapes), "shape")
    codes, latest = bytes(reader.take(len(names))), -1
    need(max(codes, default=0) < len(DTYPES), "dtype")  # H5
    facts = {"target": None, "step": None, "integers": None, "words": None, "error": None}
    tensors = [SimpleNamespace(name=name, shape=tuple(shape), dtype=DTYPES[code], size=prod(shape), **facts)
               for name, shape, code in zip(names, shapes, codes)]
    for _ in range(reader.count()):  # H6
        alias, target = reader.varint(), reader.varint()
        need(latest < alias < len(names), "tie-order")
        need(target < alias and tensors[target].target is None, "tie-target")
        need((shapes[alias], codes[alias]) == (shapes[target], codes[target]), "tie-unlike")
        tensors[alias].target, latest = tensors[target], alias
    own = [tensor for tensor in tensors if tensor.target is None]
    base, relations = base_columns(reader, len(own)) if features else (None, bytes(len(own)))
    kinds, masks = bytes(reader.take(len(own))), [reader.varint() for _ in own]  # H7
    keeps = [reader.varint() for _ in own]
    for tensor in own: tensor.view = tensor.shape
    for kind in range(3):  # H10
        some = [tensor for tensor, other in zip(own, kinds) if other == kind]
        low, high = (reader.array(len(some), "u1").astype("u4") for _ in range(2))
        for tensor, code in zip(some, low | high << 8):
            tensor.step = step_of(code)
    for tensor, tensor.kind, tensor.relation, mask, keep in zip(own, kinds, relations, masks, keeps):
        tensor.stored = DTYPES[tensor.kind - 64] if 64 <= tensor.kind < 64 + len(DTYPES) else None
        tensor.keep, tensor.count = (keep - 1, keep - 1) if keep else (None, tensor.size)
        check_relation(tensor, mask or keep)
        parameters = Reader(reader.take(reader.count())) if tensor.kind > 3 and not tensor.stored else None
        if tensor.kind == 4:  # K7
            tensor.step = step_of(int(parameters.array(1, "<u2")[0]))
            need((rank := parameters.varint()) <= 64, "view")
            tensor.view = tuple(parameters.varint() for _ in range(rank)) or tensor.shape
            need(prod(tensor.view) == tensor.size and not parameters.left(), "view")
        tensor.axes = tuple(axis for axis in range(len(tensor.view)) if mask >> axis & 1)
        if parameters and tensor.kind > 4:
            pass
        elif tensor.kind != 3 and (mask or keep or tensor.stored != tensor.dtype):  # K3, K4
            need(tensor.dtype in FLOATS and tensor.stored in (None, *FLOATS), "kind-dtype")
        need(not mask >> len(tensor.view), "axes")  # H8
        need(tensor.count <= tensor.size and not (keep and tensor.kind in (1, 2, 4)), "keep")  # H9, K5
    kinds, chunks = bytes(reader.take(reader.count())), []  # H11
    waiting = {kind: [some for some in own if some.kind == kind and some.count] for kind in range(256)}
    for kind, size in [(kind, reader.varint()) for kind in kinds]:
        need(size, "chunk-empty")
        need(size <= len(waiting[kind]), "chunk-count")
        chunks.append(waiting[kind][:size])
        waiting[kind] = waiting[kind][size:]
    need(not any(waiting.values()), "chunk-count")
    attached = reader.texts(reader.count())  # H12
    sizes, pairs = [reader.varint() for _ in attached], reader.texts(2 * reader.count())  # H13
    need(len(set(attached)) == len(attached) and len(set(pairs[::2])) == len(pairs) // 2, "name-twice")
    return tensors, chunks, dict(zip(attached, sizes)), dict(zip(pairs[::2], pairs[1::2])), base

# The file: sections 3 and 11 to 14.

def decode_chunk(payload, chunk, most):
    kind, stored, counts = chunk[0].kind, chunk[0].stored, [tensor.count for tensor in chunk]
    need(kind < 5 or stored, "kind")
    need(sum(counts) * (BYTES[stored] if stored else 8 if kind == 3 else 4) <= most, "limit")  # L4
    for tensor in chunk:  # L3
        least = 4 if tensor.axes or tensor.keep is not None or tensor.step else 1
        need(tensor.relation == 2 or tensor.size * max(BYTES[tensor.dtype], least) <= most, "limit")
    if kind in (1, 2) and sum(counts):
        found = coefficients(payload, [tensor.shape for tensor in chunk])
    elif kind == 4:
        shapes = [[tensor.view[axis] for axis in order_of(tensor.view, tensor.axes)] for tensor in chunk]
        found = sparse(payload, shapes) if sum(counts) else [np.empty(0, np.int64)] * len(chunk)
    else:
        one = words_of_payload if kind == 3 else integers
        found = exact(payload, stored, sum(counts)) if stored else one(payload, sum(counts))
        found = np.split(found, np.cumsum(counts)[:-1] * (found.size // max(1, sum(counts))))
    for tensor, sequence in zip(chunk, found):
        try:
            tensor.integers, tensor.words = None if stored else sequence, restore(tensor, sequence)
        except FormatError as error:
            tensor.error = error

def base_tensors(sha256, files):  # G7
    fitting = [file for file in files if file[-36:-4] == sha256]
    need(fitting, "base")
    return {tensor.name: tensor for tensor in decode(fitting[0], [f for f in files if f not in fitting])[0]}

def decode(data, bases=()):
    """Tensors, each with `words` or `error`; attachments (bytes or FormatError) by name; metadata."""
    need(data[:3] == MAGIC[:3], "magic")
    need(data[:4] == MAGIC, "version")  # F1
    need(len(data) >= 53 and data[-4:] == MAGIC, "end")  # F2
    head_length, tail_length, crc = struct.unpack("<III", data[-48:-36])
    need(head_length + tail_length + 57 <= len(data) and head_length <= 1 << 28, "footer")  # F3, L1
    reader, tail = Reader(data), Reader(data[-48 - tail_length : -48])
    reader.at = 4
    need(reader.varint() == head_length, "footer")
    head_crc, head = reader.array(1, "<u4")[0], bytes(reader.take(head_length))
    need(zlib.crc32(bytes(tail.data) + data[-48:-40]) == crc, "tail-crc")  # F4
    need(zlib.crc32(head) == head_crc, "head-crc")  # F8
    need((n := tail.varint()) <= tail_length // 5, "tail")  # F5
    lengths, sums = [tail.varint() for _ in range(n)], tail.array(n, "<u4")
    tail.end()
    tensors, chunks, sizes, metadata, base = head_index(head)
    need(n == len(chunks) + len(sizes), "frame-count")  # F6
    most, frames = max(1 << 30, 4096 * len(data)), []
    here = [tensor for tensor in tensors if (tensor.target or tensor).relation < 2]
    need(sum(tensor.size * BYTES[tensor.dtype] for tensor in here) <= 16 * most, "limit")  # L5
    need(sum(sizes.values()) <= max(1 << 28, 100 * len(data)), "limit")  # L6
    for length, crc in zip(lengths, sums):
        header = reader.varint(), reader.array(1, "<u4")[0]
        need(header == (length, crc), "frame-header")  # F7
        need(reader.left() >= length + tail_length + 48, "tail")
        frames.append(bytes(reader.take(length)))
    need(reader.left() == tail_length + 48, "tail")
    need(hashlib.sha256(data[:-36]).digest() == data[-36:-4], "sha256")  # F10
    seed, attachments = hashlib.sha256(head).digest()[:4], dict(sizes)
    known = base_tensors(base, bases) if base and bases else {}
    for tensor in tensors:
        tensor.base = known.get(tensor.name)
    empty = [[tensor] for tensor in tensors if tensor.target is None and not tensor.count]
    for number, part in enumerate([*chunks, *sizes, *empty]):
        try:
            payload = frames[number] if number < n else b""
            own = zlib.crc32(seed + struct.pack("<I", number + 1) + payload)
            need(number >= n or own == sums[number], "frame-crc")  # F9
            if isinstance(part, list):
                decode_chunk(payload, part, most)
            else:
                need(sizes[part] <= 1040 * len(payload), "limit")  # L6
                attachments[part], whole = inflate(payload, sizes[part], "attachment")
                need(whole and len(attachments[part]) == sizes[part], "attachment")  # M1
        except FormatError as error:
            if isinstance(part, str): attachments[part] = error
            for tensor in part if isinstance(part, list) else ():
                tensor.error = error
    for tensor in tensors:
        own = {"name": tensor.name, "target": tensor.target}
        if tensor.target: vars(tensor).update(vars(tensor.target) | own)
    return tensors, attachments, metadata

def values(tensor, raw=False):  # of a decoded tensor, as numpy knows them; see the top of this file
    if tensor.dtype in DTYPES[12:18]: return tensor.words if raw else values_of(tensor.words, tensor.dtype)
    return tensor.words.view(np.dtype(tensor.dtype).newbyteorder("<")).reshape(tensor.shape)

def write_attachment(folder, name, content):
    if isinstance(content, FormatError): raise content
    plain = all(part.strip(".") and re.fullmatch(r"[^\\:\x00-\x1f\x7f]+", part) for part in name.split("/"))
    need(plain, "attachment-name")  # M2
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)

def convert(options):
    bases = [path.read_bytes() for path in options.base]
    tensors, attachments, _ = decode(options.file.read_bytes(), bases)
    refused = [f"tensor {tensor.name!r}: {tensor.error}" for tensor in tensors if tensor.error]
    with zipfile.ZipFile(options.output or options.file.with_suffix(".npz"), "w") as archive:
        for tensor in (tensor for tensor in tensors if not tensor.error):
            if "\0" in tensor.name or len(tensor.name.encode()) > 60000:
                refused.append(f"tensor {tensor.name[:100]!r}: an .npz cannot have this name")
                continue
            with archive.open(zipfile.ZipInfo(tensor.name + ".npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, values(tensor, options.raw), allow_pickle=False)
    for name, content in attachments.items() if options.attachments else ():
        try:
            write_attachment(options.attachments, name, content)
        except FormatError as error:
            refused.append(f"attachment {name!r}: {error}")
    return refused

def main(arguments=None):
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
