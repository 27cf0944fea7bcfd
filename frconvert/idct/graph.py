"""The nodes that make weights of stored coefficients, in one graph.

They are made so that a runtime folds them into constants when it loads the model: all shapes are static,
Cast and Mul instead of DequantizeLinear, one Einsum over all axes, cosines of phases that integers have
reduced to less than a period, and no integer division, shift or running sum, which not every runtime has
right. Bases, orders and constants are made once for each graph. While it folds, a runtime keeps what every
node makes, so there are few nodes whose output is as large as a weight, and of those most are of small
integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import pi, prod, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frconvert.dtypes import numpy_dtype
from frconvert.idct import functions
from frconvert.idct.coefficients import Arranged, Fill, working_dtype
from frconvert.idct.storage import Form, Packed, Replaced, Run
from frconvert.idct.types import DOMAIN, code_of
from frconvert.spectral import zigzag

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

OLDEST_OPSET = 7  # Mul and Cast as they are used here
FULL_OPSET = 11  # Range, TopK and ScatterElements; without them plain runs in C order, and stored bases
_EINSUM_OPSET = 12
_LITERAL_BYTES = 400  # a basis or an order up to this many is stored instead of made
_NOT_MATRICES = 4  # axes of a weight that no runtime takes for a matrix
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_INDICES = _LETTERS.upper()

Names = Callable[[], str]


class Builder:
    """Collects nodes and initializers of one graph.

    Attributes:
        nodes, initializers: what has been made so far, in an order that a runtime can execute.
        functions: names of the functions that the nodes use.
        name: gives a name that nothing in the model has yet.
    """

    def __init__(self, names: Names, opset: int, *, with_functions: bool = False) -> None:
        """An empty collection.

        Args:
            names: gives a name that nothing in the model has yet.
            opset: of the model.
            with_functions: use the model-local functions of `frconvert.idct.functions`.
        """
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.functions: set[str] = set()
        self.name = names
        self._opset = opset
        self._with_functions = with_functions
        self._known: dict[Any, str] = {}

    def emit(self, stored: Arranged, output: str) -> dict[str, Any]:
        """Nodes whose last output is the weight; returns the names of its stored parts for the metadata."""
        working = np.dtype(working_dtype(stored.dtype)).name
        places: dict[str, Any] = {}
        value, dtype = self._boxed(stored, places)
        if stored.axes:
            value = self._transformed(value, stored, working)
        else:
            value = self._dequantised(self._in_order(value, stored), stored, working, dtype)
        if stored.dtype != working:
            value = self._cast(value, stored.dtype)
        self._rename(value, output)
        return places

    def turn(self, value: str, output: str) -> None:
        """One node whose output is the transpose of a weight that was made before."""
        self._op("Transpose", value, outputs=[output], perm=[1, 0])

    def core(self, stored: Arranged) -> tuple[str, dict[str, Any]]:
        """The coefficients as floats in their box, its axes in the stored order; and as `emit`."""
        places: dict[str, Any] = {}
        value, _ = self._boxed(stored, places)
        return self._dequantised(value, stored, np.dtype(working_dtype(stored.dtype)).name), places

    def factors(self, stored: Arranged, core: str, contracted: int) -> tuple[str, str]:
        """Of a matrix two thin ones, whose product it is; of its transpose, where axis 1 is contracted."""
        thin = thin_axis(stored)
        other = 1 - thin
        order = stored.order or (0, 1)
        narrow = self.basis(stored.shape[thin], stored.box[thin], stored.dtype)
        key = "wide", core
        if key not in self._known:
            if other in stored.axes:
                far = self.basis(stored.shape[other], stored.box[other], stored.dtype)
                inputs = "".join(_LETTERS[axis] for axis in order)
                equation = f"{inputs},{_LETTERS[other]}{_INDICES[other]}->{_LETTERS[thin]}{_INDICES[other]}"
                self._known[key] = self._op("Einsum", core, far, equation=equation)
            else:
                self._known[key] = core if order[0] == thin else self._op("Transpose", core, perm=[1, 0])
        wide = self._known[key]
        left, right = (narrow, wide) if contracted == thin else (wide, narrow)
        turned = "turned", left
        if turned not in self._known:
            self._known[turned] = self._op("Transpose", left, perm=[1, 0])
        return self._known[turned], right

    def fill(self, item: Fill, output: str) -> dict[str, Any]:
        """One node whose output is a tensor of one value."""
        from onnx import numpy_helper  # noqa: PLC0415

        value = numpy_helper.from_array(np.frombuffer(item.value, numpy_dtype(item.dtype)))
        self._op("ConstantOfShape", self._ints(item.shape), outputs=[output], value=value)
        return {"fill": item.value.hex()}

    # Numbers.

    def _boxed(self, stored: Arranged, places: dict[str, Any]) -> tuple[str, str]:
        """The numbers without their step, in the box with its axes in the stored order, and their type.

        A runtime keeps all that it makes while it folds, so up to here numbers have the narrowest type that
        holds them: each step that moves them about costs little then.
        """
        packed = stored.packed
        box = [stored.box[axis] for axis in stored.order or range(len(stored.box))]
        first = packed.runs[0]
        is_single = len(packed.runs) == 1
        if is_single and first.form.is_plain and first.replaced is None and stored.order is not None:
            name = self.store(first.words.reshape(box))  # in the shape of its box, it needs no Reshape
            places["runs"] = [[first.form.name, first.count, name]]
            return name, first.form.name
        # Full words need no Reshape before that of the box.
        flat = not (is_single and first.is_full and stored.order is not None)
        value, dtype = self._sequence(packed, places, flat=flat)
        if stored.order is None:
            value = self._unpacked(value, dtype, stored)
        elif len(box) > 1 or not flat:
            value = self._op("Reshape", value, self._ints(box))
        return value, dtype

    def _sequence(self, packed: Packed, places: dict[str, Any], *, flat: bool) -> tuple[str, str]:
        """The numbers along one axis, if they are to be flat, and their type."""
        places["runs"] = []
        parts = [self._run(run, places["runs"], flat=flat) for run in packed.runs]
        dtype = _widest(*(dtype for _, dtype in parts))
        values = [value if own == dtype else self._cast(value, dtype) for value, own in parts]
        value = values[0] if len(values) == 1 else self._op("Concat", *values, axis=0)
        return value, dtype

    def _run(self, run: Run, places: list[Any], *, flat: bool) -> tuple[str, str]:
        """The numbers of a run, along one axis if they are to be flat, and their type."""
        form = run.form
        name = "" if form.name == "zeros" else self.store(run.words)
        note = [form.name, run.count, name]
        places.append(note)
        if not form.base:
            return self._plain(name, run, note)
        words, table, dtype = self._cast(name, "int32"), self._table(form), "int8"
        if run.replaced is not None:
            # They get rows of their own behind those of the table.
            dtype = run.replaced.numbers.dtype.name
            indices, rows = self._replaced(run.replaced, note)
            first = form.base**form.per_word
            codes = self._range(first, first + run.replaced.places.size, 1, np.int32)
            words = self._op("ScatterElements", words, indices, codes, axis=0)
            table = self._op("Concat", table if dtype == "int8" else self._cast(table, dtype), rows, axis=0)
        value = self._op("Gather", table, words)
        if flat:
            value = self._op("Reshape", value, self._ints([-1]))
            if not run.is_full:
                value = self._op("Slice", value, self._ints([0]), self._ints([run.count]))
        return value, dtype

    def _plain(self, name: str, run: Run, note: list[Any]) -> tuple[str, str]:
        """The numbers of a run without digits and their type."""
        dtype = run.form.name if name else "int8"
        if run.replaced is None:
            return name or self._zeros(run.count, dtype), dtype
        indices, numbers = self._replaced(run.replaced, note)
        dtype, own = _widest("int16", dtype, run.replaced.numbers.dtype.name), run.replaced.numbers.dtype.name
        # Not int8, of which OpenVINO would not fold the ScatterElements.
        value = self._cast(name, dtype) if name else self._zeros(run.count, dtype)
        numbers = numbers if own == dtype else self._cast(numbers, dtype)
        return self._op("ScatterElements", value, indices, numbers, axis=0), dtype

    def _replaced(self, replaced: Replaced, note: list[Any]) -> tuple[str, str]:
        """Places of words, int32, and the numbers they stand for, flat if there is one a word."""
        numbers = replaced.numbers
        low, high = self.store(replaced.low), "" if replaced.high is None else self.store(replaced.high)
        stored = self.store(numbers if numbers.shape[1] > 1 else numbers.reshape(-1))
        kind = "" if replaced.high is None else replaced.high.dtype.name
        note += [len(numbers), numbers.dtype.name, kind, low, high, stored]
        indices = self._cast(low, "int32")
        if high:
            upper = self._op("Mul", self._cast(high, "int32"), self._scalar(1 << 16, np.int32))
            indices = self._op("Add", indices, upper)
        return indices, stored

    def _dequantised(self, value: str, stored: Arranged, working: str, dtype: str = "") -> str:
        """Integers times their step, or floats, in the working type; `dtype` is that of whole weights."""
        if stored.step is None:
            is_working = stored.packed.runs[0].form.name == working
            return value if is_working else self._cast(value, working)
        if self._with_functions and working == "float32":
            return self._function(functions.DEQUANTIZE, value, self._scalar(stored.step, working))
        floats = self._cast(value, working)
        if dtype == "int8" and len(stored.shape) < _NOT_MATRICES:
            # OpenVINO takes a matrix of bytes times a scale for quantised, and quantises the activations too.
            floats = self._op("Identity", floats)
        return self._op("Mul", floats, self._scalar(stored.step, working))

    def _scalar(self, value: float, dtype: str | type[np.generic]) -> str:
        return self.constant(np.asarray(value, dtype))

    def _table(self, form: Form) -> str:
        """The digits of every word, int8: [base^per_word, per_word].

        A table takes less than arithmetic on all words. It is made, not stored: one of bytes, times a step,
        OpenVINO takes for a quantised one, and wrongly.
        """
        key = "table", form.name
        if key not in self._known:
            base, number = form.base, form.per_word
            if self._with_functions:
                value = self._function(functions.TABLE, base=base, digits=number, words=base**number)
            else:
                value = self._digits(form)
            self._known[key] = value
        return self._known[key]

    def _digits(self, form: Form) -> str:
        """In a cube of all words digit i, the lowest first, changes along one axis only, the i-th last."""
        base, number = form.base, form.per_word
        digits = self._cast(self._range(-form.limit, form.limit + 1, 1, np.int32), "int8")
        planes = []
        for place in range(number):
            shape = [base if axis == number - 1 - place else 1 for axis in range(number)] + [1]
            plane = self._op("Reshape", digits, self._ints(shape))
            planes.append(self._op("Expand", plane, self._ints([base] * number + [1])))
        return self._op("Reshape", self._op("Concat", *planes, axis=number), self._ints([-1, number]))

    # Places.

    def _unpacked(self, value: str, dtype: str, stored: Arranged) -> str:
        """A prefix of the zigzag order put into its box."""
        from onnx import numpy_helper  # noqa: PLC0415

        box = stored.box
        if dtype == "int8":  # OpenVINO would not fold its ScatterElements
            value, dtype = self._cast(value, "int16"), "int16"
        if self._with_functions and 8 * prod(box) * len(box) < functions.ORDER_BYTES:
            strides = [prod(box[axis + 1 :]) for axis in range(len(box))]
            zero = numpy_helper.from_array(np.zeros(1, dtype))
            return self._function(functions.UNPACK, value, box=box, strides=strides, zero=zero)
        order = self._order(stored.shape, box, stored.packed.count)
        spread = self._op("ScatterElements", self._zeros(prod(box), dtype), order, value, axis=0)
        return self._op("Reshape", spread, self._ints(box))

    def _order(self, shape: tuple[int, ...], box: tuple[int, ...], count: int) -> str:
        """Flat indices in the box of the first positions of the zigzag order."""
        key = "order", box, count
        if key not in self._known:
            item = np.int32 if prod(box) > 2**15 else np.int16
            if np.dtype(item).itemsize * count <= _LITERAL_BYTES:
                places = np.unravel_index(zigzag.prefix(shape, count), shape)
                flat = np.ravel_multi_index(places, box).astype(item)
                self._known[key] = self._cast(self.store(flat), "int64")
            else:
                self._known[key] = self._sorted(box, count)
        return self._known[key]

    def _sorted(self, box: tuple[int, ...], count: int) -> str:
        total = ""
        for axis, length in enumerate(box):
            shape = [1] * len(box)
            shape[axis] = length
            index = self._op("Reshape", self._range(0, length, 1, np.int32), self._ints(shape))
            total = self._op("Add", total, index) if total else index
        flat = self._op("Reshape", total, self._ints([-1]))
        smallest = self.name()  # the values, which TopK gives first
        return self._op("TopK", flat, self._ints([count]), outputs=[smallest, self.name()], largest=0)

    # Bases.

    def _in_order(self, value: str, stored: Arranged) -> str:
        """The axes back in their own order."""
        order = stored.order or ()
        return value if list(order) == sorted(order) else self._op("Transpose", value, perm=np.argsort(order))

    def _transformed(self, value: str, stored: Arranged, working: str) -> str:
        """The inverse transform of the numbers in the box, times the step, in the tensor's own axes."""
        rank = len(stored.shape)
        order = stored.order or tuple(range(rank))
        bases = {axis: self.basis(stored.shape[axis], stored.box[axis], working) for axis in stored.axes}
        smallest = min(stored.axes, key=lambda axis: stored.shape[axis] * stored.box[axis])
        if (
            stored.step is None
            or self._with_functions
            or stored.shape[smallest] * stored.box[smallest] > prod(stored.box)
        ):
            value = self._dequantised(value, stored, working)
        else:  # rather the step goes to what is small
            value = self._cast(value, working)
            bases[smallest] = self._multiple(bases[smallest], stored.step, working)
        if self._opset < _EINSUM_OPSET:
            return self._by_matrices(value, order, bases)
        inputs = "".join(_LETTERS[axis] for axis in order)
        result = "".join(_INDICES[axis] if axis in bases else _LETTERS[axis] for axis in range(rank))
        pairs = [_LETTERS[axis] + _INDICES[axis] for axis in bases]
        equation = ",".join([inputs, *pairs]) + "->" + result
        if self._with_functions and len(bases) <= functions.MOST_AXES:
            return self._function(f"{functions.IDCT}{len(bases)}", value, *bases.values(), equation=equation)
        return self._op("Einsum", value, *bases.values(), equation=equation)

    def _multiple(self, basis: str, step: float, working: str) -> str:
        key = "multiple", basis, step
        if key not in self._known:
            self._known[key] = self._op("Mul", basis, self._scalar(step, working))
        return self._known[key]

    def _by_matrices(self, value: str, order: tuple[int, ...], bases: dict[int, str]) -> str:
        """The same with a product for each axis, which is the last one then."""
        at = list(order)
        for axis, basis in bases.items():
            place = at.index(axis)
            turned = [*(other for other in range(len(at)) if other != place), place]
            if turned != list(range(len(at))):
                value = self._op("Transpose", value, perm=turned)
            at = [at[number] for number in turned]
            value = self._op("MatMul", value, basis)
        if at != sorted(at):
            value = self._op("Transpose", value, perm=np.argsort(at))
        return value

    def basis(self, length: int, extent: int, working: str) -> str:
        """Rows 0 to `extent` of the orthonormal DCT-II matrix of that length: [extent, length]."""
        key = "basis", length, extent, working
        if key not in self._known:
            if self._with_functions and working == "float32":
                self._known[key] = self._function(functions.BASIS, length=length, extent=extent)
            elif self._opset < FULL_OPSET or is_literal(length, extent, working):
                self._known[key] = self.constant(dct_rows(length, extent).astype(working))
            else:
                self._known[key] = self._cosines(length, extent, working)
        return self._known[key]

    def _cosines(self, length: int, extent: int, working: str) -> str:
        """One Gather out of a period of the cosine, by integers, as all that is as large as the basis counts.

        Row 0, which is scaled otherwise, always comes to the entry behind the period: an odd multiple of 4n
        is 4n modulo 8n.
        """
        period = 4 * length
        item = np.int32 if 2 * period * length < 2**31 else np.int64
        frequency = self._op("Reshape", self._range(0, extent, 1, item), self._ints([extent, 1]))
        is_first = self._op("Equal", frequency, self._scalar(0, item))
        factor = self._op("Where", is_first, self._scalar(period, item), frequency)
        periods = self._op("Where", is_first, self._scalar(2 * period, item), self._scalar(period, item))
        phase = self._op("Mod", self._op("Mul", factor, self._range(1, 2 * length, 2, item)), periods)
        phases = self._range(0, period, 1, np.dtype(working).type)
        cosines = self._op("Cos", self._op("Mul", phases, self._scalar(pi / 2 / length, working)))
        scaled = self._op("Mul", cosines, self._scalar(sqrt(2 / length), working))
        first = self.constant(np.asarray([sqrt(1 / length)], working))
        return self._op("Gather", self._op("Concat", scaled, first, axis=0), phase)

    # What the above are made of.

    def store(self, values: NDArray[np.generic]) -> str:
        """A new initializer."""
        from onnx import numpy_helper  # noqa: PLC0415

        name = self.name()
        self.initializers.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def constant(self, values: NDArray[Any] | np.generic) -> str:
        """An initializer that may be shared."""
        array = np.asarray(values)
        key = "constant", array.dtype.name, array.shape, array.tobytes()
        if key not in self._known:
            self._known[key] = self.store(array)
        return self._known[key]

    def _ints(self, values: Sequence[int]) -> str:
        return self.constant(np.asarray(values, np.int64))

    def _range(self, start: int, stop: int, stride: int, item: type[np.generic]) -> str:
        key = "range", start, stop, stride, np.dtype(item).name
        if key not in self._known:
            bounds = (self._scalar(value, item) for value in (start, stop, stride))
            self._known[key] = self._op("Range", *bounds)
        return self._known[key]

    def _zeros(self, count: int, dtype: str) -> str:
        from onnx import numpy_helper  # noqa: PLC0415

        key = "zeros", count, dtype
        if key not in self._known:
            zero = numpy_helper.from_array(np.zeros(1, dtype))
            self._known[key] = self._op("ConstantOfShape", self._ints([count]), value=zero)
        return self._known[key]

    def _cast(self, value: str, dtype: str) -> str:
        return self._op("Cast", value, to=code_of(dtype))

    def _function(self, kind: str, *inputs: str, **attributes: Any) -> str:
        self.functions.add(kind)
        return self._op(kind, *inputs, domain=DOMAIN, **attributes)

    def _op(self, kind: str, *inputs: str, outputs: list[str] | None = None, **attributes: Any) -> str:
        """One node; returns its last output."""
        from onnx import helper  # noqa: PLC0415

        plain = {
            name: [int(item) for item in value] if name == "perm" else value
            for name, value in attributes.items()
        }
        node = helper.make_node(kind, inputs, outputs or [self.name()], **plain)
        self.nodes.append(node)
        name: str = node.output[-1]
        return name

    def _rename(self, value: str, output: str) -> None:
        """Gives the output of the last node its name."""
        last = self.nodes[-1]
        if last.output[-1] != value:
            raise ValueError("the weight is no output of the last node")
        last.output[-1] = output


def _widest(*dtypes: str) -> str:
    """Of signed integers, or of one type, that which holds all others."""
    return max(dtypes, key=lambda dtype: np.dtype(dtype).itemsize)


def is_literal(length: int, extent: int, working: str) -> bool:
    """Whether a basis is so small that it is stored."""
    return length * extent * np.dtype(working).itemsize <= _LITERAL_BYTES


def thin_axis(stored: Arranged) -> int:
    """The transformed axis of the smallest extent."""
    return min(stored.axes, key=lambda axis: stored.box[axis])


def dct_rows(length: int, extent: int) -> NDArray[np.float64]:
    """Rows of the orthonormal DCT-II matrix, from phases reduced by integers."""
    phase = np.arange(extent)[:, None] * np.arange(1, 2 * length, 2) % (4 * length)
    rows: NDArray[np.float64] = np.cos(phase * (pi / 2 / length)) * sqrt(2 / length)
    rows[0] *= sqrt(0.5)
    return rows
