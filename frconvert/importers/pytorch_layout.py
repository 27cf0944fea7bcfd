"""Names of tensors in nested PyTorch objects, and the layout by which they can be nested again.

Names are those of the innermost state dict. Where the tensors lie in a nested object is kept in the
attachment `PYTORCH_LAYOUT`, so that the exporter can nest them again: a JSON list with one item for each
group of tensors, `[prefix, steps]` or `[prefix, steps, kind]`. A tensor belongs to the group with the longest
prefix that its name starts with; the rest of its name is its key in the container that `steps` lead to. A
step is a string or an integer (keys of a dict) or `["list" | "tuple", position]`; `kind` is the container
itself: "dict" with string keys (the default), "ints" for a dict with integer keys, "list", "tuple", or
"tensor" for a file that is one tensor. A state dict that is not nested needs no attachment.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from frconvert.errors import DamagedError, UnsupportedError, printable

# A key that a pickle names again and again costs next to nothing there, but all of it in every tensor's name.
_NAMES_FLOOR = 1 << 20  # characters
_NAMES_RATIO = 10  # characters a byte of the file
_INTEGER_LENGTH = 20  # characters of the longest one that is allowed as a key
SHOWN = 100  # characters of a key in a message, and of those that are searched for what it means


class Item(NamedTuple):
    """A step into a list or tuple."""

    kind: str
    position: int


Steps = tuple[Any, ...]  # keys of dicts as they are, and Items


def names_and_layout(path: Path, file_bytes: int, found: Sequence[Steps]) -> tuple[list[str], bytes | None]:
    """Names for tensors at the ends of these steps, and the layout if a flat state dict does not tell it."""
    groups: dict[tuple[Steps, str], int] = {}  # container and kind -> position
    keys: list[tuple[int, str]] = []
    for steps in found:
        for step in steps:
            if type(step) not in (str, int, Item):
                raise UnsupportedError(
                    f"{path}: a tensor under a key of type {type(step).__name__}, which is no string or "
                    f"integer: {printable(str(_short(step)))}"
                )
            if type(step) is int and step.bit_length() > 64:
                raise DamagedError(f"{path}: a tensor under an integer key of {step.bit_length()} bits")
        kind = _kind(steps)
        position = groups.setdefault((steps[:-1], kind), len(groups))
        keys.append((position, _dotted(steps[-1:]) if steps else path.stem))
    _check_names(path, file_bytes, groups, keys)
    prefixes = _dotted_prefixes([steps for steps, _ in groups])
    names = [prefixes[position] + key for position, key in keys]
    lengths = sorted({len(prefix) for prefix in prefixes}, reverse=True)
    by_prefix = {prefix: position for position, prefix in enumerate(prefixes)}
    for name, (position, _) in zip(names, keys, strict=True):
        longest = next(by_prefix[name[:length]] for length in lengths if name[:length] in by_prefix)
        if longest != position:  # dots in keys make this ambiguous: number the groups instead
            prefixes = [f"{position}/" for position in range(len(groups))]
            names = [prefixes[position] + key for position, key in keys]
            break
    layout = [
        [prefix, [list(step) if isinstance(step, Item) else step for step in steps]]
        + ([] if kind == "dict" else [kind])
        for prefix, (steps, kind) in zip(prefixes, groups, strict=True)
    ]
    if layout in ([], [["", []]]):
        return names, None
    return names, json.dumps(layout, separators=(",", ":"), ensure_ascii=False).encode()


def _check_names(
    path: Path, file_bytes: int, groups: Iterable[tuple[Steps, str]], keys: Sequence[tuple[int, str]]
) -> None:
    """Refuses names and a layout that would be much larger than the file, before they are made."""

    def size(steps: Steps) -> int:
        return sum(1 + (len(step) if isinstance(step, str) else _INTEGER_LENGTH) for step in steps)

    containers = [steps for steps, _ in groups]
    shared = _shared(containers)
    prefixes = [size(steps[shared:]) for steps in containers]
    characters = sum(map(size, containers)) + sum(prefixes[position] + len(key) for position, key in keys)
    if characters > _NAMES_FLOOR + _NAMES_RATIO * file_bytes:
        raise DamagedError(
            f"{path}: the names of its tensors would have {characters:,} characters, in a file of "
            f"{file_bytes:,} bytes; refused as no honest file does so"
        )


def _kind(steps: Steps) -> str:
    if not steps:
        return "tensor"
    if isinstance(steps[-1], Item):
        return steps[-1].kind
    return "dict" if isinstance(steps[-1], str) else "ints"


def _dotted_prefixes(groups: Sequence[Steps]) -> list[str]:
    """The steps of each group that not all of them share, with dots: "generator."."""
    shared = _shared(groups)
    return [_dotted(steps[shared:]) + "." if len(steps) > shared else "" for steps in groups]


def _shared(groups: Sequence[Steps]) -> int:
    """How many steps all groups begin with."""
    shared = 0
    if groups:
        while shared < min(map(len, groups)) and len({steps[shared] for steps in groups}) == 1:
            shared += 1
    return shared


def _dotted(steps: Sequence[Any]) -> str:
    return ".".join(str(step.position if isinstance(step, Item) else step) for step in steps)


def shown(steps: Steps) -> str:
    """`_dotted` for a message: no longer than one is, whatever the keys are."""
    return printable(_dotted([_short(step) for step in steps]), SHOWN)


def _short(step: Any) -> Any:
    if isinstance(step, str):
        return step[: SHOWN + 1]
    return step if isinstance(step, int | float | Item) or step is None else type(step).__name__
