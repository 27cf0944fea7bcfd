"""Analysis of a whole checkpoint: every tensor's energy, its best axes, and what each quality would cost."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frconvert import allocate
from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.coding import cost
from frconvert.coding.quantize import storable_step
from frconvert.encode import Progress
from frconvert.parallel import ordered_map
from frconvert.spectral import analyze, dct

QUALITIES_DB = (20.0, 30.0, 40.0)  # SQNRs at which `analyze` says what a tensor would cost
SPECTRUM_POINTS = 256


@dataclass(frozen=True, slots=True)
class TensorAnalysis:
    """What the spectral analysis says of one tensor.

    Attributes:
        bits: subset of axes -> estimated bits per weight at `cost.REFERENCE_STEP`.
        compaction: subset of axes -> fraction of the energy in the largest tenth of the coefficients.
        axes: the subset to choose.
        prefix_energy: fraction of the energy in each of `analyze.PREFIXES` of the zigzag order, DCT over all
            axes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bits: dict[tuple[int, ...], float]
    compaction: dict[tuple[int, ...], float]
    axes: tuple[int, ...]
    prefix_energy: tuple[float, ...]

    @property
    def coding_gain_db(self) -> float:
        """What the chosen axes gain over storing weights, in dB of error at equal bits (6.02 dB a bit)."""
        return 20 * float(np.log10(2)) * (self.bits[()] - self.bits[self.axes])


@dataclass(frozen=True, slots=True)
class EntryAnalysis:
    """One weight tensor: what the spectral analysis says, and estimated bytes at each of `QUALITIES_DB`."""

    tensor: TensorAnalysis
    bytes_at: tuple[int, ...]


def analyze_checkpoint(
    checkpoint: Checkpoint, jobs: int = 1, progress: Progress = lambda *_: None
) -> list[EntryAnalysis]:
    """Analyses every finite weight tensor; others (vectors, integers, NaN) are not what the DCT is for."""
    entries = [entry for entry in checkpoint.stored if entry.is_weight]
    total, done, found = sum(entry.size_bytes for entry in entries), 0, []
    for entry, analysis in ordered_map(_analyze, entries, jobs):
        done += entry.size_bytes
        progress("analysing", done, total)
        if analysis is not None:
            found.append(analysis)
    return found


def energy_curve(
    weights: NDArray[np.generic], points: int = SPECTRUM_POINTS
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Kept fractions (log-spaced) and the energy they capture, zigzag order of the DCT over all axes."""
    fractions = np.geomspace(1 / max(weights.size, 2), 1, points)
    return fractions, analyze.prefix_energy(weights, fractions)


def axis_spectra(weights: NDArray[np.generic]) -> list[NDArray[np.floating]]:
    """For each axis the mean energy by frequency, the DCT along it alone, relative to the mean."""
    spectra = []
    for axis in range(weights.ndim):
        energy = np.square(dct.forward(weights, (axis,)).astype(np.float64))
        others = tuple(other for other in range(weights.ndim) if other != axis)
        spectra.append(energy.mean(axis=others) / max(float(energy.mean()), 1e-300))
    return spectra


def analyze_tensor(name: str, dtype: str, weights: NDArray[np.generic]) -> TensorAnalysis:
    """Full analysis of a finite, non-empty tensor of real floats with two or more axes."""
    sample = analyze.crop(weights)
    bits = cost.bits_by_axes(sample, cost.REFERENCE_STEP * analyze.root_mean_square(sample))
    compaction = {
        axes: analyze.energy_in_largest_tenth(dct.forward(sample, axes))
        for axes in analyze.candidate_axes(sample.shape)
    }
    curve = analyze.prefix_energy(weights, np.array(analyze.PREFIXES))
    return TensorAnalysis(
        name,
        weights.shape,
        dtype,
        bits,
        compaction,
        cost.cheapest(bits, sample.size),
        tuple(float(v) for v in curve),
    )


def _analyze(entry: TensorEntry) -> tuple[TensorEntry, EntryAnalysis | None]:
    survey = allocate.survey(entry.read(), entry.dtype)
    if survey is None:
        return entry, None
    costs = tuple(_bytes_at(survey, quality) for quality in QUALITIES_DB)
    return entry, EntryAnalysis(analyze_tensor(entry.name, entry.dtype, entry.read()), costs)


def _bytes_at(survey: allocate.Survey, sqnr_db: float) -> int:
    """Estimated bytes of a tensor at that SQNR."""
    budget = survey.energy / 10 ** (sqnr_db / 10)

    def is_too_coarse(coarseness: float) -> bool:
        return allocate.estimated_error(survey, coarseness * survey.scale) > budget

    coarseness, _ = allocate.bracket(is_too_coarse)
    bits = allocate.estimated_bits(survey, storable_step(coarseness * survey.scale))
    return int(min(bits, survey.exact_bits * survey.count) / 8)
