"""The analyzer's picture: energy against kept fraction, and the spectra of the largest tensors."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from frconvert.analysis import axis_spectra, energy_curve
from frconvert.checkpoint import Checkpoint, TensorEntry
from frconvert.errors import UsageError
from frconvert.files import check_destination, replacing
from frconvert.spectral.analyze import all_finite

_CURVES = 60  # more lines than this cannot be told apart
_LABELLED = 8
_SPECTRA = 4


def check_plot(path: str, *, overwrite: bool) -> None:
    """Says at once what would keep `save_plot` from writing.

    Raises:
        UsageError: matplotlib is not installed or does not know the suffix, or the file may not be replaced.
    """
    if not importlib.util.find_spec("matplotlib"):
        raise UsageError("--plot needs matplotlib: pip install 'frconvert[plot]'")
    from matplotlib.backend_bases import FigureCanvasBase  # noqa: PLC0415  (an optional extra, slow to import)

    known = FigureCanvasBase.get_supported_filetypes()
    if Path(path).suffix[1:].lower() not in known:
        raise UsageError(f"{path}: unknown suffix for a plot; it ends in {', '.join('.' + k for k in known)}")
    check_destination(Path(path), overwrite=overwrite)


def save_plot(checkpoint: Checkpoint, path: str, source: str) -> None:
    """Draws the picture of a checkpoint's weight tensors and puts it at `path`, whole or not at all."""
    figure = draw(checkpoint, Path(source).name)
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, dpi=110)


def draw(checkpoint: Checkpoint, title: str) -> Any:
    """The picture as a matplotlib figure.

    Raises:
        UsageError: there is nothing to draw.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415

    entries = sorted((e for e in checkpoint.stored if e.is_weight), key=lambda e: (-e.size, e.name))
    drawable = [e for e in entries[:_CURVES] if all_finite(e.read())]
    if not drawable:
        raise UsageError(f"{title}: no float tensor with two or more axes to draw")
    largest = drawable[:_SPECTRA]
    figure = Figure(figsize=(12, 4.2 + 2.6 * ((len(largest) + 1) // 2)), layout="constrained")
    rows = (len(largest) + 1) // 2
    grid = figure.add_gridspec(1 + rows, 2, height_ratios=[1.6] + [1.0] * rows)
    energy = figure.add_subplot(grid[0, :])
    for number, entry in enumerate(drawable):
        fractions, captured = energy_curve(entry.read())
        if number < _LABELLED:
            energy.plot(fractions, captured, linewidth=1.6, label=entry.name)
        else:
            energy.plot(fractions, captured, linewidth=0.7, alpha=0.4)
    noise = np.geomspace(1e-4, 1, 200)
    energy.plot(noise, noise, color="black", linestyle=":", linewidth=1, label="white noise")
    energy.set(
        xscale="log", xlim=(1e-4, 1), ylim=(0, 1.02),
        xlabel="fraction of coefficients kept (zigzag order, DCT over all axes)", ylabel="fraction of energy",
        title=f"{title}: energy captured by the lowest frequencies",
    )  # fmt: skip
    energy.grid(alpha=0.3)
    energy.legend(fontsize=8, loc="upper left")
    for number, entry in enumerate(largest):
        _draw_spectra(figure.add_subplot(grid[1 + number // 2, number % 2]), entry)
    return figure


def _draw_spectra(axes: Any, entry: TensorEntry) -> None:
    for axis, spectrum in enumerate(axis_spectra(entry.read())):
        if spectrum.size > 1:
            frequency = np.arange(spectrum.size) / (spectrum.size - 1)
            level = 10 * np.log10(np.maximum(spectrum, 1e-6))
            axes.plot(frequency, level, linewidth=1, marker="o" if spectrum.size < 12 else None, markersize=3,
                      label=f"axis {axis} ({spectrum.size})")  # fmt: skip
    axes.set(xlabel="frequency along the axis (0 to highest)", ylabel="energy, dB")
    axes.set_title(f"{entry.name}  {list(entry.shape)}", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
