"""Model-local functions (domain `ai.frconvert`) that make a graph with coefficients readable.

They compute the same as the nodes of `frconvert.idct.graph`, in float32 and for any lengths; onnxruntime puts
their nodes in their place and folds those. Not every runtime knows functions, hence nodes are the default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from frconvert.idct.types import DOMAIN

if TYPE_CHECKING:
    from onnx import ModelProto

OLDEST_IR = 8
OLDEST_OPSET = 13
ORDER_BYTES = 1 << 28  # ZigzagUnpack takes 8 bytes for each place and axis
MOST_AXES = 4  # of an IDCT function

DEQUANTIZE, TABLE, UNPACK, BASIS, IDCT = "Dequantize", "DigitTable", "ZigzagUnpack", "DCTBasis", "IDCT"

_BODIES = {
    # Integers times their step.
    DEQUANTIZE: """
        Dequantize (integers, step) => (values) {
            floats = Cast <to = 1> (integers)
            values = Mul (floats, step)
        }""",
    # The digits, about 0, of all words of so many digits of an odd base, lowest first: int8 [words, digits].
    TABLE: """
        DigitTable <base, digits, words> () => (table) {
            zero = Constant <value_int: int = 0> ()
            one = Constant <value_int: int = 1> ()
            half = Constant <value_float: float = 0.5> ()
            b = Constant <value_int: int = @base> ()
            d = Constant <value_int: int = @digits> ()
            n = Constant <value_int: int = @words> ()
            bf = Cast <to = 1> (b)
            number = Range (zero, d, one)
            exponent = Cast <to = 1> (number)
            power = Pow (bf, exponent)
            above = Mul (power, bf)
            words = Range (zero, n, one)
            floats = Cast <to = 1> (words)
            column = Constant <value_ints: ints = [-1, 1]> ()
            whole = Reshape (floats, column)
            word = Add (whole, half)
            low = Div (word, power)
            high = Div (word, above)
            lows = Floor (low)
            highs = Floor (high)
            rest = Mul (highs, bf)
            digit = Sub (lows, rest)
            scaled = Mul (bf, half)
            centre = Floor (scaled)
            centred = Sub (digit, centre)
            table = Cast <to = 3> (centred)
        }""",
    # Coefficients in zigzag order (sum of indices, then flat index) in a corner box; the rest is zero.
    UNPACK: """
        ZigzagUnpack <box, strides, zero> (coefficients) => (corner) {
            nought = Constant <value_int: int = 0> ()
            one = Constant <value_int: int = 1> ()
            lengths = Constant <value_ints: ints = @box> ()
            stride = Constant <value_ints: ints = @strides> ()
            size = ReduceProd <keepdims = 0> (lengths)
            places = Range (nought, size, one)
            column = Constant <value_ints: ints = [-1, 1]> ()
            flat = Reshape (places, column)
            quotient = Div (flat, stride)
            index = Mod (quotient, lengths)
            axis = Constant <value_ints: ints = [1]> ()
            sum = ReduceSum <keepdims = 0> (index, axis)
            count = Shape (coefficients)
            smallest, order = TopK <largest = 0, sorted = 1> (sum, count)
            single = Constant <value_ints: ints = [1]> ()
            sizes = Reshape (size, single)
            empty = ConstantOfShape <value: tensor = @zero> (sizes)
            spread = ScatterElements <axis = 0> (empty, order, coefficients)
            corner = Reshape (spread, lengths)
        }""",
    # The first `extent` rows of the orthonormal DCT-II matrix of that length.
    BASIS: """
        DCTBasis <length, extent> () => (basis) {
            zero = Constant <value_int: int = 0> ()
            one = Constant <value_int: int = 1> ()
            two = Constant <value_int: int = 2> ()
            n = Constant <value_int: int = @length> ()
            b = Constant <value_int: int = @extent> ()
            rows = Range (zero, b, one)
            column = Constant <value_ints: ints = [-1, 1]> ()
            frequency = Reshape (rows, column)
            twice = Mul (n, two)
            period = Mul (twice, two)
            odd = Range (one, twice, two)
            product = Mul (frequency, odd)
            phase = Mod (product, period)
            whole = Cast <to = 1> (phase)
            half_pi = Constant <value_float: float = 1.5707963267948966> ()
            nf = Cast <to = 1> (n)
            unit = Div (half_pi, nf)
            angle = Mul (whole, unit)
            cosine = Cos (angle)
            onef = Constant <value_float: float = 1.0> ()
            twof = Constant <value_float: float = 2.0> ()
            mean = Div (onef, nf)
            means = Div (twof, nf)
            first = Sqrt (mean)
            others = Sqrt (means)
            is_first = Equal (frequency, zero)
            scale = Where (is_first, first, others)
            basis = Mul (cosine, scale)
        }""",
}

# Coefficients along all axes at once, as the equation says.
for _number in range(1, MOST_AXES + 1):
    _bases = ", ".join(f"basis{axis}" for axis in range(_number))
    _BODIES[f"{IDCT}{_number}"] = f"""
        {IDCT}{_number} <equation> (coefficients, {_bases}) => (weights) {{
            weights = Einsum <equation: string = @equation> (coefficients, {_bases})
        }}"""


def add(model: ModelProto, used: set[str], opset: int) -> None:
    """Puts the functions of those names into a model."""
    if not used:
        return
    from onnx import parser  # noqa: PLC0415

    for name in sorted(used):
        head = f'<domain: "{DOMAIN}", opset_import: ["": {opset}]>'
        model.functions.append(parser.parse_function(head + _BODIES[name]))
    model.opset_import.add(domain=DOMAIN, version=1)
