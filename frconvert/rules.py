"""Plan files: what was decided for each tensor, as TOML that can be read, edited and applied again.

    [[tensor]]
    name = "encoder.*.weight"   # a glob
    method = "trellis"          # exact, rounded (not weights), trellis or uniform (weights only)
    axes = [0]                  # transformed axes; weights only
    step = 0.0125               # of the quantiser; weights only
    keep = 256                  # coefficients in zigzag order, all axes transformed; weights only
    mantissa_bits = 8           # of rounded values
    weight = 2.0                # errors of these tensors count so many times as much

Every key but the name may be left out; what no rule says is decided as without a plan file. Of several rules
for a tensor the later one wins, key by key. `bits_per_weight` and `sqnr_db` say what came of it and are not
read.

Law: a conversion by the plan that it wrote, without a target, gives the same chunks.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path
from typing import Any

from frconvert.coding.record import TRELLIS, UNIFORM
from frconvert.errors import UnreadableError, UsageError, one_line, quoted

METHODS = ("exact", "rounded", TRELLIS, UNIFORM)
_TOLD = ("bits_per_weight", "sqnr_db")  # written, not read


@dataclass(frozen=True, slots=True)
class Rule:
    """What is wished for the tensors that a glob names; None leaves it open. See above for the meanings."""

    name: str = "*"
    method: str | None = None
    axes: tuple[int, ...] | None = None
    step: float | None = None
    keep: int | None = None
    mantissa_bits: int | None = None
    weight: float | None = None


def merged(rules: Sequence[Rule], name: str) -> Rule:
    """The wishes for one tensor."""
    wishes: dict[str, Any] = {}
    for rule in rules:
        if fnmatchcase(name, rule.name):
            said = {field.name: getattr(rule, field.name) for field in fields(rule)}
            wishes |= {key: value for key, value in said.items() if value is not None}
    return Rule(**(wishes | {"name": name}))


def read_plan(path: str | Path) -> tuple[Rule, ...]:
    """The rules of a plan file.

    Raises:
        UnreadableError: there is none, or it may not be read.
        UsageError: it is no TOML, or a rule makes no sense.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror or one_line(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no plan file: {one_line(error)}") from error
    entries = content.pop("tensor", [])
    if content or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path}: a plan file has [[tensor]] tables and nothing else")
    return tuple(_rule(entry, f"{path}: rule {number}") for number, entry in enumerate(entries, 1))


def _rule(entry: Mapping[str, Any], where: str) -> Rule:
    known = {field.name for field in fields(Rule)}
    unknown = set(entry) - known - set(_TOLD)
    if unknown:
        raise UsageError(f"{where}: unknown key {quoted(min(unknown))}; known: {', '.join(sorted(known))}")
    name = entry.get("name")
    if not isinstance(name, str):
        raise UsageError(f"{where}: a name is missing")
    method = entry.get("method")
    if method is not None and method not in METHODS:
        raise UsageError(f"{where}: method {method!r} is unknown; known: {', '.join(METHODS)}")
    axes = entry.get("axes")
    if axes is not None and not (
        isinstance(axes, list) and all(type(axis) is int and 0 <= axis < 64 for axis in axes)
    ):
        raise UsageError(f"{where}: axes {axes!r} are no list of axis numbers")
    return Rule(
        name,
        method,
        None if axes is None else tuple(sorted(set(axes))),
        _number(entry, "step", where),
        _count(entry, "keep", where),
        _count(entry, "mantissa_bits", where),
        _number(entry, "weight", where),
    )


def _number(entry: Mapping[str, Any], key: str, where: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if type(value) not in (int, float) or not isfinite(value) or value <= 0:
        raise UsageError(f"{where}: {key} {value!r} is no number above 0")
    return float(value)


def _count(entry: Mapping[str, Any], key: str, where: str) -> int | None:
    value = entry.get(key)
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise UsageError(f"{where}: {key} {value!r} is no whole number above 0")
    return value
