"""How much a `.frq` file may claim to expand to: the reader refuses more, so the writer does not write it.

A short prefix legitimately expands a lot (31 million weights from 759 numbers), a hostile file without bound.
"""

from collections.abc import Iterable
from math import prod

from frconvert.coding.difference import EQUAL
from frconvert.coding.record import Layout
from frconvert.dtypes import ITEM_BYTES

_TENSOR_FLOOR_BYTES, _TENSOR_EXPANSION = 1 << 30, 4096
_ALL_TENSORS = 16  # times as much may all tensors take together, tied ones counted each time
# Attachments are texts and graphs; all of them are restored on opening.
_ATTACHMENTS_FLOOR_BYTES, _ATTACHMENTS_EXPANSION = 1 << 28, 100


def expansion_limit(file_bytes: int) -> int:
    """Most bytes a dense tensor may take: 1 GiB, or 4096 times the file's size where that is more."""
    return max(_TENSOR_FLOOR_BYTES, _TENSOR_EXPANSION * file_bytes)


def tensor_excess(name: str, layout: Layout, file_bytes: int) -> str | None:
    """What is wrong with a tensor that expands too much for its file, or None."""
    if layout.relation == EQUAL:  # the base's reader has its own say
        return None
    item_bytes = ITEM_BYTES[layout.dtype]
    if layout.axes or layout.keep is not None or layout.step is not None:
        item_bytes = max(item_bytes, 4)  # coefficients are float32 at least
    size = prod(layout.shape) * item_bytes
    if size <= expansion_limit(file_bytes):
        return None
    return f"tensor {name!r} claims {size} bytes, too much for a file of {file_bytes}"


def is_holdable(layout: Layout) -> bool:
    """Whether numpy has arrays of these lengths: those that are not 0 must stay below 2^63 bytes."""
    item_bytes = ITEM_BYTES[layout.dtype]
    if layout.stored != layout.dtype or layout.axes or layout.keep is not None:
        item_bytes = max(item_bytes, 8)  # it is restored by way of float64 at most
    shapes = (layout.shape, layout.view or ())
    return all(prod(length or 1 for length in shape) * item_bytes < 1 << 63 for shape in shapes)


def total_excess(layouts: Iterable[Layout], attachment_bytes: int, file_bytes: int) -> str | None:
    """What is wrong with a file whose tensors or attachments expand too much in total, or None."""
    here = [layout for layout in layouts if layout.relation != EQUAL]
    tensor_bytes = sum(prod(layout.shape) * ITEM_BYTES[layout.dtype] for layout in here)
    for what, claimed, most in (
        ("tensors", tensor_bytes, _ALL_TENSORS * expansion_limit(file_bytes)),
        ("attachments", attachment_bytes, max(_ATTACHMENTS_FLOOR_BYTES, _ATTACHMENTS_EXPANSION * file_bytes)),
    ):
        if claimed > most:
            return f"its {what} claim {claimed} bytes, too much for a file of {file_bytes}"
    return None
