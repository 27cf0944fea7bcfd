"""Checkpoints of the paper's own code (package frereg): state dicts of coefficients, not of weights.

Each float tensor with two or more axes holds coefficients of the orthonormal DCT over all its axes, zero
outside a prefix of the zigzag order, saved as a sparse tensor. Nothing in such a file says so, hence this
importer is never chosen by content.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.importers import pytorch
from frconvert.spectral import dct, zigzag


def load(path: Path) -> Checkpoint:
    """Opens a PyTorch file whose weights are coefficients; the entries give weights, and the prefix."""
    checkpoint = pytorch.load(path)
    entries = tuple(_from_coefficients(entry) if entry.is_weight else entry for entry in checkpoint.entries)
    return replace(checkpoint, entries=entries, format="frereg")


def _from_coefficients(entry: TensorEntry) -> TensorEntry:
    return replace(entry, read=partial(_read_weights, entry), read_coefficients=partial(_read_prefix, entry))


def _read_weights(entry: TensorEntry) -> NDArray[np.generic]:
    coefficients = entry.read()
    axes = tuple(range(coefficients.ndim))
    values = coefficients.astype(dct.working_dtype(coefficients.dtype))
    return dct.inverse(values, axes).astype(coefficients.dtype, copy=False)


def _read_prefix(entry: TensorEntry) -> NDArray[np.generic]:
    """The coefficients up to the last non-zero one in zigzag order."""
    flat = entry.read().reshape(-1)
    flat = flat.astype(dct.working_dtype(flat.dtype), copy=False)
    nonzero = np.flatnonzero(flat)
    if not nonzero.size:
        return flat[:1]
    sums = np.sum(np.unravel_index(nonzero, entry.shape), axis=0)
    last = nonzero[np.lexsort((nonzero, sums))[-1]]
    rank = zigzag.rank(entry.shape, int(last))
    return flat[zigzag.prefix(entry.shape, rank + 1)]
