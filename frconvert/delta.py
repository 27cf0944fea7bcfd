"""What of a checkpoint is stored as the difference to another one, its base.

A tensor may be a difference if the base has one of its name, shape and dtype. What must come back bit by bit
may be so only if the base's comes back bit by bit, on every machine: not if that is quantised.

Law: what is decided depends on the values alone.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.coding import difference, lossless, quantize
from frconvert.coding.difference import DIFFERENCE, OWN, has_words, subtract_words
from frconvert.coding.record import Layout, Plan

_TRIAL_WORDS = 1 << 16  # differences are tried with so many
_LEAST_SAVED_BYTES = 16  # for less, a tensor does not leave the chunk of those stored by themselves


def against(checkpoint: Checkpoint, base: Checkpoint | None) -> Checkpoint:
    """The checkpoint, each of its tensors with that of the base to which it may be the difference."""
    others = {entry.name: entry for entry in base or ()}
    return replace(
        checkpoint,
        entries=tuple(
            replace(entry, base=_counterpart(entry, others.get(entry.name))) for entry in checkpoint
        ),
        base=None if base is None else base.sha256,
    )


def _counterpart(entry: TensorEntry, other: TensorEntry | None) -> TensorEntry | None:
    # What is a sequence of coefficients in its source stays one.
    if other is None or entry.read_coefficients is not None:
        return None
    return other if (other.shape, other.dtype) == (entry.shape, entry.dtype) else None


def is_reproducible(entry: TensorEntry) -> bool:
    """Whether a tensor of a `.frq` comes back bit by bit on every machine."""
    layout = entry.encoded_layout
    if not isinstance(layout, Layout) or not layout.is_plain:
        return False
    return layout.relation == OWN or (entry.base is not None and is_reproducible(entry.base))


def are_equal(values: NDArray[np.generic], base: NDArray[np.generic], *, bits: bool) -> bool:
    """Whether two arrays of one dtype are equal, bit by bit or as numbers."""
    return bool(np.array_equal(_raw(values), _raw(base)) if bits else np.array_equal(values, base))


def settled(entry: TensorEntry, plan: Plan) -> Plan:
    """The plan of a tensor that is to be stored exactly: of its difference, if that is shorter."""
    if (
        not (plan.is_plain and plan.relation == OWN and entry.size and has_words(entry.dtype))
        or entry.base is None
        or not is_reproducible(entry.base)
    ):
        return plan
    first = max(0, entry.size - _TRIAL_WORDS) // 2
    values, base = (of.read().reshape(-1)[first : first + _TRIAL_WORDS] for of in (entry, entry.base))
    if plan.mantissa_bits is not None:
        values = quantize.round_mantissa(values, plan.mantissa_bits)
    shorter = len(difference.encode(subtract_words(values, base)))
    is_shorter = shorter + _LEAST_SAVED_BYTES < len(lossless.encode(values, entry.dtype))
    return replace(plan, relation=DIFFERENCE) if is_shorter else plan


def _raw(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
