"""What a model says of its coefficients: one JSON object in the metadata of the ModelProto.

    {"version": 1, "prefix": "q/", "ir": 8, "tensors": [{...}, ...]}

Of each tensor: `value`, the name by which the graph knows it; `place`, its index among the initializers that
the graph had without us, or index, name and tensor's name of the Constant node that it was in; `graph`, the
way to its subgraph; `input`, its index among the inputs, where it was one; `shape`, `dtype`, `axes`, `keep`,
`step`, `order`, `box` and `runs`: form, count, initializer, and where words are replaced how many, the types
of their numbers and of the upper bits of their places, the initializers of lower and upper bits and numbers.
A tensor of one value has `fill`, its bytes in hexadecimal, instead of axes and all that follow.
`products` are the nodes, as base64 of their bytes, that the factored form stands for.
What has its usual value is left out, see `formats/onnx-idct-1.md`.

Law: `parse(text)` of what `write` wrote gives what was told.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from frconvert.coding.quantize import storable_step
from frconvert.dtypes import ITEM_BYTES, is_float
from frconvert.errors import DamagedError, quoted
from frconvert.idct.coefficients import Arranged, Fill
from frconvert.idct.spots import Path, Spot
from frconvert.idct.storage import FLOAT_FORMS, FORMS, place_count
from frconvert.idct.types import KEY

if TYPE_CHECKING:
    from onnx import ModelProto

VERSION = 1

_MOST_AXES = 26  # of an Einsum
_MOST_ELEMENTS = 1 << 40
_LONGEST_PREFIX = 1 << 27  # beyond, no runtime would fold its order
_SHOWN = 200
_KEYS = {
    "value", "graph", "place", "input", "shape", "dtype", "fill", "axes", "keep", "step", "order", "box",
    "runs", "products",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunNote:
    """A run: form, how many numbers, and the names of initializers.

    Attributes:
        replaced: how many words are.
        types: of the numbers, and of the upper bits of the places.
        parts: lower bits, upper bits ("" if they are 0), numbers.
    """

    form: str
    count: int
    name: str
    replaced: int = 0
    types: tuple[str, str] = ("", "")
    parts: tuple[str, str, str] = ("", "", "")


@dataclass(frozen=True, slots=True)
class Note:
    """What is told of one tensor, checked; see above for the meanings.

    Attributes:
        node: the names of the Constant node and of the tensor in it; None for an initializer.
    """

    value: str
    path: Path
    index: int
    node: tuple[str, str] | None
    input: int | None
    shape: tuple[int, ...]
    dtype: str
    axes: tuple[int, ...]
    keep: int | None
    step: float | None
    order: tuple[int, ...] | None
    box: tuple[int, ...]
    runs: tuple[RunNote, ...]
    fill: bytes | None = None
    products: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Content:
    """All that a model says: the prefix of our names, the IR version before us, and its tensors."""

    prefix: str
    ir: int
    tensors: tuple[Note, ...]


def tell(spot: Spot, stored: Arranged | Fill, parts: dict[str, Any]) -> dict[str, Any]:
    """The JSON object of one tensor; `parts` are its runs."""
    said: dict[str, Any] = {"value": spot.value}
    if spot.path:
        said["graph"] = [list(step) for step in spot.path]
    said["place"] = [spot.index] if spot.node is None else [spot.index, spot.node.name, spot.tensor.name]
    inputs = [number for number, value in enumerate(spot.graph.input) if value.name == spot.value]
    if inputs and spot.node is None:
        said["input"] = inputs[0]
    said["shape"] = list(stored.shape)
    if stored.dtype != "float32":
        said["dtype"] = stored.dtype
    if isinstance(stored, Fill):
        return said | parts
    if stored.axes != tuple(range(len(stored.shape))):
        said["axes"] = list(stored.axes)
    said |= {key: value for key, value in (("keep", stored.keep), ("step", stored.step)) if value is not None}
    if stored.order is not None:
        said["order"] = list(stored.order)
        if stored.box != stored.shape:
            said["box"] = list(stored.box)
    return said | parts


def write(model: ModelProto, prefix: str, ir_version: int, tensors: list[dict[str, Any]]) -> None:
    """Puts the notes into a model."""
    content = {"version": VERSION, "prefix": prefix, "ir": ir_version, "tensors": tensors}
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    model.metadata_props.add(key=KEY, value=text)


def find(model: ModelProto) -> str | None:
    """The notes of a model, if it has some."""
    return next((item.value for item in model.metadata_props if item.key == KEY), None)


def parse(text: str) -> Content:
    """Reads notes.

    Raises:
        DamagedError: they break a rule.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise DamagedError(f"metadata {KEY} is no JSON") from None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise DamagedError(f"metadata {KEY} is not of version {VERSION}; a newer frconvert may read it")
    prefix, ir, tensors = content.get("prefix"), content.get("ir"), content.get("tensors")
    if not isinstance(prefix, str) or not prefix or type(ir) is not int or not isinstance(tensors, list):
        raise DamagedError(f"metadata {KEY} lacks prefix, ir or tensors")
    if not 0 <= ir < 2**31:
        raise DamagedError(f"metadata {KEY} has an impossible ir")
    found = tuple(_note(item, number) for number, item in enumerate(tensors))
    if len({(note.path, note.value) for note in found}) != len(found):
        raise DamagedError(f"metadata {KEY} names a tensor twice")
    return Content(prefix, ir, found)


def _note(item: Any, number: int) -> Note:
    value = item.get("value") if isinstance(item, dict) else None
    if not isinstance(value, str) or not value:
        raise DamagedError(f"metadata {KEY}: tensor {number} has no name")
    try:
        return _checked(item, value)
    except (_RuleError, TypeError, KeyError, ValueError) as error:
        reason = error if isinstance(error, _RuleError) else "is incomplete"
        raise DamagedError(f"metadata {KEY}: tensor {quoted(value, _SHOWN)} {reason}") from None


class _RuleError(Exception):
    """What is wrong with a note."""


def _checked(item: dict[str, Any], value: str) -> Note:
    if not item.keys() <= _KEYS:  # what is not understood may be what the numbers are
        raise _RuleError("has unknown notes")
    shape = _counts(item["shape"], "shape", _MOST_ELEMENTS)
    dtype = item.get("dtype", "float32")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES or not is_float(dtype):
        raise _RuleError("has no float type")
    if len(shape) > _MOST_AXES or not 0 < prod(shape) <= _MOST_ELEMENTS:
        raise _RuleError("has an impossible shape")
    path = tuple(_step(step) for step in item.get("graph", []))
    index, node = _place(item["place"])
    where = item.get("input")
    if where is not None and not _is_count(where, 2**31):
        raise _RuleError("was an impossible input")
    common = value, path, index, node, where, shape, dtype
    if "fill" in item:
        fill = bytes.fromhex(_text(item["fill"]))
        if len(fill) != ITEM_BYTES[dtype]:
            raise _RuleError("is filled with no value of its type")
        return Note(*common, (), None, None, None, (), (), fill)
    rank = len(shape)
    axes = _counts(item.get("axes", list(range(rank))), "axes", rank - 1)
    if list(axes) != sorted(set(axes)):
        raise _RuleError("has axes out of order")
    keep, step = item.get("keep"), item.get("step")
    if keep is not None and not (_is_count(keep, prod(shape)) and keep):
        raise _RuleError("keeps an impossible number of coefficients")
    if step is not None and not (
        isinstance(step, float) and 0 < step < 2.0**128 and storable_step(step) == step
    ):
        raise _RuleError("has an impossible step")
    runs = tuple(_run(run, step) for run in item["runs"])
    count = sum(run.count for run in runs)
    order, box = _order_and_box(item, shape, axes, count)
    if order is None and not 0 < count <= min(prod(shape) if keep is None else keep, _LONGEST_PREFIX):
        raise _RuleError("has more coefficients than it keeps")
    products = tuple(_text(text) for text in item.get("products", []))
    return Note(*common, axes, keep, step, order, box, runs, None, products)


def _order_and_box(
    item: dict[str, Any], shape: tuple[int, ...], axes: tuple[int, ...], count: int
) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    if "order" not in item:
        return None, ()
    order = _counts(item["order"], "order", len(shape))
    box = _counts(item.get("box", list(shape)), "box", _MOST_ELEMENTS)
    if sorted(order) != list(range(len(shape))) or len(box) != len(shape):
        raise _RuleError("has an impossible order")
    for axis, (extent, length) in enumerate(zip(box, shape, strict=True)):
        if not 0 < extent <= length or (axis not in axes and extent != length):
            raise _RuleError("has an impossible box")
    if prod(box) != count:
        raise _RuleError(f"has {count} coefficients in a box of {prod(box)}")
    return order, box


def _run(run: Any, step: float | None) -> RunNote:
    form, count, name, *more = run
    if form not in FORMS or (FORMS[form] in FLOAT_FORMS) != (step is None):
        raise _RuleError("has a run of an unknown form")
    if not _is_count(count, _MOST_ELEMENTS) or not count:
        raise _RuleError("has a run of an impossible length")
    if not more:
        return RunNote(form, count, _text(name))
    number, kind, upper, low, high, numbers = more
    if step is None or not _is_count(number, place_count(FORMS[form], count)) or not number:
        raise _RuleError("replaces an impossible number of words")
    if kind not in ("int8", "int16", "int32") or upper not in ("", "uint8", "uint16"):
        raise _RuleError("replaces words by numbers of an unknown type")
    return RunNote(form, count, _text(name), number, (kind, upper), (_text(low), _text(high), _text(numbers)))


def _step(step: Any) -> tuple[int, str, int]:
    node, attribute, number = step
    if not _is_count(node, 2**31) or not _is_count(number, 2**31):
        raise _RuleError("is in no graph")
    return node, _text(attribute), number


def _place(place: Any) -> tuple[int, tuple[str, str] | None]:
    index, *names = place
    if not _is_count(index, 2**31) or len(names) not in (0, 2):
        raise _RuleError("was in no place")
    return index, (_text(names[0]), _text(names[1])) if names else None


def _counts(values: Any, what: str, most: int) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(_is_count(value, most) for value in values):
        raise _RuleError(f"has an impossible {what}")
    return tuple(values)


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _RuleError("names something that is no text")
    return value
