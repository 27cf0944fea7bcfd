"""Calibration data: what `--calib DATA` means, and random inputs where there is none.

`read` gives batches that can be gone through again and again, each a dict from input name to array, made one
at a time: no more than a batch is in memory. DATA is one of

- `samples.npz`: an array for each input, by its name (or `arr_0`, `arr_1`, ... by position; or by any name if
  model and file have one each). Arrays of other names are left aside.
- `samples.npy`: the array of the only input.
- a folder of images, in all its subfolders, for a model with one image input; see `calibration/images.py`.
- a folder of `.npz` or `.npy` files: one after the other, in the order of their paths, each as if alone.
- `module:function`: `function()`, imported with the current folder on Python's path, returns or yields whole
  batches: dicts by input name, tuples by position, or the array of the only input. It is called anew for each
  pass. This is your own code, and runs as such; nothing else here executes anything, pickles are refused.

An array with as many axes as its input has its samples along the first one. It is cut into batches of as
many samples as the input's first axis says, leaving a rest aside, or of `batch` where that axis is free. An
array with one axis more is a row of whole inputs, one a batch (the states of an LSTM, say); one with an axis
less is a single sample. A 0-d array for a 0-d input serves in all batches.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frconvert.calibration.inputs import InputSpec, random_batches
from frconvert.errors import UnreadableError, UsageError, one_line

__all__ = ["Batch", "Batches", "InputSpec", "random_batches", "read"]

Batch = dict[str, NDArray[np.generic]]

_FUNCTION = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")


@dataclass(frozen=True, slots=True)
class Batches:
    """Batches that are made anew on every pass; `source` is what the user called them."""

    source: str
    make: Callable[[], Iterator[Batch]]

    def __iter__(self) -> Iterator[Batch]:
        """Goes through all batches once.

        Raises:
            UnreadableError: there is none.
        """
        empty = True
        for batch in self.make():
            empty = False
            yield batch
        if empty:
            raise UnreadableError(f"{self.source}: has no complete batch of samples")


def read(source: str, inputs: Sequence[InputSpec] | None = None, *, batch: int = 8) -> Batches:
    """Opens calibration data.

    Args:
        source: DATA, as above.
        inputs: what the model takes, by which names, shapes and types are checked and batches cut; arrays are
            cast to its types. None if that is not known: then arrays of files need their samples along the
            first axis, and what comes without a name is called "0", "1", ... by position.
        batch: samples a batch, where the model leaves it free.

    Raises:
        UnreadableError: no such file, nothing in it, damaged, pickled.
        UsageError: the data do not fit the inputs, or the function is not there.
        FrqError: any of these also when batches are drawn.
    """
    path, _, options = source.partition("?")
    if not Path(path).exists() or Path(source).exists():
        path, options = source, ""
    try:
        if Path(path).is_dir():
            return _folder(source, Path(path), options, inputs, batch)
        if Path(path).is_file():
            from frconvert.calibration import arrays  # noqa: PLC0415

            arrays.check(Path(path))
            return Batches(source, lambda: arrays.batches(Path(path), inputs, batch))
    except OSError as error:
        raise UnreadableError(f"{source}: {error.strerror or one_line(error)}") from error
    if _FUNCTION.fullmatch(source):
        from frconvert.calibration import functions  # noqa: PLC0415

        function = functions.find(source)
        return Batches(source, lambda: functions.batches(source, function, inputs))
    raise UnreadableError(
        f"{source}: no such file; calibration data are .npz, .npy, a folder of images or of such files, or "
        "module:function"
    )


def _folder(
    source: str, folder: Path, options: str, inputs: Sequence[InputSpec] | None, batch: int
) -> Batches:
    from frconvert.calibration import arrays, images  # noqa: PLC0415

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    pictures = [path for path in files if path.suffix.lower() in images.SUFFIXES]
    stored = [path for path in files if path.suffix.lower() in arrays.SUFFIXES]
    if pictures and stored:
        raise UsageError(f"{source}: has both images and arrays; put them into folders of their own")
    if pictures:
        make = images.maker(source, pictures, options, inputs, batch)
        return Batches(source, make)
    if not stored:
        raise UnreadableError(f"{source}: has no image and no .npy or .npz file")
    if options:
        raise UsageError(f"{source}: options behind a ? are for images only")
    for path in stored:
        arrays.check(path)
    return Batches(source, lambda: (each for path in stored for each in arrays.batches(path, inputs, batch)))
