"""Vectors that break a rule of the head index."""

from collections.abc import Iterator

from assemble import RAW, Damage, Vector, attached, chunks, columns, exact_code, head, join
from valid_vectors import base

from frconvert.coding.bits import varint
from frconvert.coding.quantize import step_code
from frconvert.container.deflate import NAMES, deflate
from frconvert.dtypes import DTYPE_NAMES

FLOAT32, INT32 = exact_code("float32"), exact_code("int32")
STEP = step_code(0.5).to_bytes(2, "little")


def index() -> Iterator[Vector]:  # noqa: PLR0915  (a list)
    """Section 4, and rules of sections 2 and 5 in the head index."""
    packed = deflate(columns(), NAMES)
    yield "deflate-damaged", join(b"", [RAW], Damage(head=b"\xff" + packed)), "deflate", "no DEFLATE"
    yield "deflate-cut", join(b"", [RAW], Damage(head=packed[:-1])), "deflate", "a stream that does not end"
    yield "deflate-added", join(b"", [RAW], Damage(head=packed + b"\0")), "deflate", "a byte after the stream"
    yield (
        "limit-head",
        join(b"\0\1" + bytes(5 << 20), [RAW]),
        "limit",
        "a head index that inflates without bound",
    )
    yield "feature", head(features=varint(1 << 40)), "feature", "a feature that this version does not know"
    yield "varint-long", head(count=b"\x82\0"), "varint", "a number in a longer form than it needs"
    yield "varint-large", head(count=b"\xff" * 9), "varint", "a number of more than 63 bits"
    yield "count", head(count=varint(2**62)), "count", "more tensors than bytes"
    yield "count-metadata", head(metadata=varint(3)), "count", "more pairs than bytes"
    yield "text", head(names=b"a\xff\xc3\xff"), "text", "a name that is no UTF-8"
    yield "text-end", join(columns()[:3], [RAW]), "count", "a head index that ends after a name"
    yield "short-head", join(columns()[:-1], [RAW]), "short", "a head index that ends before its last number"
    yield "name-twice", head(names=b"a\xffa\xff"), "name-twice", "two tensors of one name"
    twice = attached((b"x", 1), (b"x", 1))
    yield (
        "name-twice-attachment",
        join(columns(attachments=twice), [RAW, deflate(b"1"), deflate(b"2")]),
        "name-twice",
        "two attachments of one name",
    )
    yield (
        "name-twice-key",
        head(metadata=varint(2) + b"k\xffv\xffk\xffw\xff"),
        "name-twice",
        "two pairs of one key",
    )
    yield (
        "rank",
        head(ranks=varint(65) * 2, shapes=varint(1) * 128 + varint(2) * 2),
        "rank",
        "a tensor of 65 axes",
    )
    yield (
        "shape",
        head(shapes=varint(2**40) + varint(2) + varint(2**40) + varint(3)),
        "shape",
        "2^80 elements",
    )
    zero = varint(0) * 2 + varint(2**62) * 2 + varint(2) * 2
    yield (
        "shape-zero",
        head(ranks=varint(3) * 2, shapes=zero, chunks=chunks()),
        "shape",
        "no elements, but impossible lengths",
    )
    yield "dtype", head(dtypes=bytes([10, 20])), "dtype", "an element type that this version does not know"
    one = {"kinds": FLOAT32, "axes": b"\0", "keeps": b"\0", "chunks": chunks((FLOAT32, 1))}
    half = [b"\0" + bytes(24)]
    yield (
        "tie-order",
        join(columns(3, ties=bytes([2, 2, 0, 1, 0]), **one), half),
        "tie-order",
        "ties in another order",
    )
    yield (
        "tie-twice",
        join(columns(3, ties=bytes([2, 1, 0, 1, 0]), **one), half),
        "tie-order",
        "a tensor that is tied twice",
    )
    yield (
        "tie-order-beyond",
        join(columns(2, ties=bytes([1, 2, 0]), **one), half),
        "tie-order",
        "an alias that is no tensor",
    )
    yield (
        "tie-target",
        join(columns(ties=bytes([1, 0, 1]), **one), half),
        "tie-target",
        "a tensor that is tied to a later one",
    )
    yield (
        "tie-self",
        join(columns(ties=bytes([1, 1, 1]), **one), half),
        "tie-target",
        "a tensor that is tied to itself",
    )
    yield (
        "tie-chain",
        join(columns(3, ties=bytes([2, 1, 0, 2, 1]), **one), half),
        "tie-target",
        "a tensor that is tied to an alias",
    )
    like = {"shapes": bytes([2, 3, 3, 2])}
    yield (
        "tie-unlike",
        join(columns(ties=bytes([1, 1, 0]), **one, **like), half),
        "tie-unlike",
        "tied tensors of different shapes",
    )
    yield (
        "tie-unlike-dtype",
        join(columns(ties=bytes([1, 1, 0]), **one, dtypes=bytes([10, 5])), half),
        "tie-unlike",
        "tied tensors of different element types",
    )
    future = {"kinds": FLOAT32 + b"\xc8", "chunks": chunks((FLOAT32, 1), (b"\xc8", 1))}
    yield (
        "kind",
        join(columns(parameters=b"\0", **future), [*half, b"later"]),
        "kind",
        "a tensor of a kind that this version does not know",
    )
    yield (
        "count-parameters",
        join(columns(parameters=varint(2**40), **future), [*half, b""]),
        "count",
        "parameters that are longer than the head index",
    )
    yield "axes", head(axes=varint(4) + varint(0)), "axes", "a transformed axis that the tensor does not have"
    yield "keep", head(keeps=varint(8) + varint(0)), "keep", "more coefficients than elements"
    trellis = {"kinds": b"\1\1", "parameters": STEP[:1] * 2 + STEP[1:] * 2, "chunks": chunks((b"\1", 2))}
    yield "keep-trellis", head(keeps=varint(4) * 2, **trellis), "keep", "a prefix of a kind that has none"
    yield (
        "keep-trellis-none",
        join(columns(**trellis | {"keeps": varint(1) * 2, "chunks": chunks()}), []),
        "keep",
        "no coefficients of a kind that has all",
    )
    yield (
        "step-small",
        join(columns(**trellis | {"parameters": b"\xff\0\0\x3f"}), [RAW]),
        "step",
        "a step that is no normal float32",
    )
    yield (
        "step-large",
        join(columns(**trellis | {"parameters": b"\0\1\x3f\xfe"}), [RAW]),
        "step",
        "a step beyond the largest",
    )
    yield (
        "kind-dtype",
        head(kinds=FLOAT32 + INT32, chunks=chunks((FLOAT32, 1), (INT32, 1))),
        "kind-dtype",
        "floats that are stored as integers",
    )
    yield (
        "kind-dtype-axes",
        head(dtypes=bytes([6, 6]), kinds=INT32 * 2, axes=b"\1\0", chunks=chunks((INT32, 2))),
        "kind-dtype",
        "integers that are transformed",
    )
    e8m0 = bytes([DTYPE_NAMES.index("float8_e8m0fnu")])
    yield (
        "kind-dtype-scales",
        join(columns(dtypes=e8m0 * 2, **trellis), [RAW]),
        "kind-dtype",
        "powers of two as coefficients",
    )
    yield (
        "kind-dtype-integers",
        join(columns(dtypes=bytes([5, 5]), **trellis), [RAW]),
        "kind-dtype",
        "integers as coefficients",
    )
    yield (
        "chunk-empty",
        join(columns(chunks=chunks((FLOAT32, 2), (FLOAT32, 0))), [RAW, b""]),
        "chunk-empty",
        "a chunk of no tensors",
    )
    yield "chunk-count-few", head(chunks=chunks((FLOAT32, 1))), "chunk-count", "a tensor that is in no chunk"
    yield (
        "chunk-count-many",
        head(chunks=chunks((FLOAT32, 3))),
        "chunk-count",
        "more tensors in chunks than there are",
    )
    yield (
        "chunk-count-kind",
        head(chunks=chunks((INT32, 2))),
        "chunk-count",
        "a chunk of a kind that no tensor has",
    )
    constant = b"\2\0\0\0"  # integers without a bit
    big = varint(1 << 24) * 2
    yield (
        "limit-tensor",
        join(columns(shapes=big + varint(17) * 2), [constant]),
        "limit",
        "a tensor of more than a gigabyte in a small file",
    )
    many = columns(
        100, shapes=varint(1 << 25) * 100 + varint(2) * 100, kinds=FLOAT32, axes=b"\0", keeps=b"\0",
        ties=varint(99) + b"".join(bytes([n, 0]) for n in range(1, 100)), chunks=chunks((FLOAT32, 1)),
    )  # fmt: skip
    yield "limit-ties", join(many_names(many), [constant]), "limit", "many names of one large tensor"
    chunk = columns(40, shapes=varint(1 << 23) * 40 + varint(2) * 40, chunks=chunks((FLOAT32, 40)))
    yield (
        "limit-chunk",
        join(many_names(chunk), [constant]),
        "limit",
        "a chunk of more than a gigabyte in a small file",
    )
    yield (
        "limit-attachment",
        join(columns(attachments=attached((b"x", 1 << 20))), [RAW, deflate(b"x")]),
        "limit",
        "an attachment that cannot be so large",
    )
    yield (
        "limit-attachments",
        join(columns(attachments=attached((b"x", 1 << 40))), [RAW, deflate(b"x")]),
        "limit",
        "attachments of a terabyte",
    )


def differences() -> Iterator[Vector]:
    """Section 4.1."""
    uint32 = exact_code("uint32")
    sound = {"features": varint(1), "base": bytes(32) + b"\0\1", "kinds": FLOAT32 + uint32}
    sound["chunks"] = chunks((FLOAT32, 1), (uint32, 1))
    payloads = [b"\0" + bytes(24)] * 2
    yield "base", join(columns(**sound), payloads), "base", "a difference to a file that is not given"
    unlike = sound | {"base": base()[-36:-4] + b"\0\1", "names": b"a\xfffloat32\xff"}
    yield (
        "base-unlike",
        join(columns(**unlike), payloads),
        "base",
        "a tensor of another shape in the base",
    )
    missing = unlike | {"names": b"a\xffb\xff"}
    yield (
        "base-without",
        join(columns(**missing), payloads),
        "base",
        "no such tensor in the base",
    )
    relation = sound | {"base": bytes(32) + b"\0\3"}
    yield "base-relation", join(columns(**relation), payloads), "base", "a relation that there is not"
    floats = {"kinds": FLOAT32 * 2, "chunks": chunks((FLOAT32, 2))}
    words = join(columns(**sound | floats), [RAW])
    yield "base-words", words, "base", "a difference of words that is stored as floats"
    boolean = exact_code("bool")
    none = {"dtypes": b"\x0a\0", "kinds": FLOAT32 + boolean, "chunks": chunks((FLOAT32, 1), (boolean, 1))}
    bools = join(columns(**sound | none), [payloads[0], b"\0" + bytes(6)])
    yield "base-bools", bools, "base", "a difference of bools"
    equal = sound | {"base": bytes(32) + b"\0\2", "chunks": chunks((FLOAT32, 1))}
    yield (
        "base-equal",
        join(columns(**equal), payloads[:1]),
        "base",
        "an equal one of another kind",
    )


def many_names(content: bytes) -> bytes:
    """Spells the names of `columns` in two letters: for many tensors one would not be UTF-8."""
    count = content[1]
    old = b"".join(bytes([(97 + number) % 256, 255]) for number in range(count))
    new = b"".join(b"%c%c\xff" % (97 + number // 26, 97 + number % 26) for number in range(count))
    return content.replace(old, new)
