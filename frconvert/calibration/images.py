"""Batches of images, in the form that a model's only input asks for.

Layout: an input of four axes is [batch, height, width, channels] if its last axis is 1, 3 or 4 long and its
second is not, and [batch, channels, height, width] otherwise. Three axes are the same without the batch.
Channels: 1 is grey, 3 (or free) RGB, 4 RGBA. Size: where height and width are fixed, the image is scaled to
cover them, keeping its proportions, and its middle is cut out; where they are free, images keep their sizes
and come one at a time. Values: 0 to 255 for integers; for floats 0 to 1, and where the folder is given as
`FOLDER?mean=0.485,0.456,0.406&std=0.229,0.224,0.225` then (value - mean) / std, one figure for all channels
or one each. Whatever else a model wants is a matter for `module:function`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from frconvert.calibration.inputs import InputSpec, conform
from frconvert.errors import UnreadableError, UsageError, one_line

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_FREE = InputSpec("0", (None, 3, None, None), "float32")  # where the model's inputs are not known


@dataclass(frozen=True, slots=True)
class _Form:
    """What becomes of each image.

    Attributes:
        mode: pillow's name of its channels.
        size: width and height; None to keep its own.
        channels_last: whether the channels are the last axis.
        dtype: of the values; floats are `(value / 255 - mean) / std`.
        mean, std: one figure, or one for each channel.
    """

    mode: str
    size: tuple[int, int] | None
    channels_last: bool
    dtype: np.dtype[np.generic]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]


def maker(
    source: str, paths: Sequence[Path], options: str, inputs: Sequence[InputSpec] | None, batch: int
) -> Callable[[], Iterator[dict[str, NDArray[np.generic]]]]:
    """What makes the batches, anew on each call.

    Args:
        source: the folder as the user gave it, for messages.
        paths: its images.
        options: what stands behind the "?".
        inputs: of the model; None if not known, which asks for [batch, 3, height, width] in 0 to 1.
        batch: images a batch where the model leaves it free.

    Raises:
        UsageError: the model has other inputs than one image, an option is wrong, or pillow is missing.
        UnreadableError: when batches are drawn: no image.
    """
    try:
        import PIL.Image  # noqa: F401, PLC0415  (an optional dependency)
    except ImportError as error:
        raise UsageError("reading images needs pillow: pip install 'frconvert[runtime]'") from error
    if inputs is None:
        inputs = [_FREE]
    if len(inputs) != 1:
        raise UsageError(
            f"{source}: a folder of images serves models with one input; this one has {len(inputs)}; "
            "give .npz files or module:function"
        )
    spec = inputs[0]
    form = _form(source, spec, options)
    if len(spec.shape) == 3 or form.size is None:
        batch = 1
    elif isinstance(spec.shape[0], int):
        batch = max(spec.shape[0], 1)

    def make() -> Iterator[dict[str, NDArray[np.generic]]]:
        for start in range(0, len(paths), batch):
            some = paths[start : start + batch]
            if len(some) < batch and isinstance(spec.shape[0], int):
                return
            images = [_image(path, form) for path in some]
            array = images[0] if len(spec.shape) == 3 else np.stack(images)
            yield {spec.name: conform(array, spec, str(some[0]))}

    return make


def _form(source: str, spec: InputSpec, options: str) -> _Form:
    axes = spec.shape[-3:]
    dtype = np.dtype(spec.dtype)
    channels_last = len(axes) == 3 and axes[2] in _MODES and axes[0] not in _MODES
    count = 3
    if len(axes) == 3:
        length = axes[2] if channels_last else axes[0]
        count = length if isinstance(length, int) else 3
    if len(spec.shape) not in (3, 4) or count not in _MODES or dtype.kind not in "uif":
        raise UsageError(f"{source}: images do not fit the model's input {spec}")
    height, width = axes[:2] if channels_last else axes[1:]
    size = (width, height) if isinstance(height, int) and isinstance(width, int) else None
    figures = {"mean": np.zeros(1, np.float32), "std": np.ones(1, np.float32)}
    for key, text in parse_qsl(options, keep_blank_values=True):
        try:
            values = np.array([float(part) for part in text.split(",")], np.float32)
        except ValueError:
            values = np.zeros(0, np.float32)
        fits = values.size in (1, count) and np.isfinite(values).all() and (key != "std" or values.all())
        if key not in figures or not fits:
            raise UsageError(
                f"{source}: {key}={text}: images take mean= and std=, one figure or {count}, std not 0"
            )
        figures[key] = values
    if options and dtype.kind != "f":
        raise UsageError(f"{source}: mean and std are for float inputs; the model's is {spec}")
    return _Form(_MODES[count], size, channels_last, dtype, figures["mean"], figures["std"])


def _image(path: Path, form: _Form) -> NDArray[np.generic]:
    from PIL import Image, ImageOps  # noqa: PLC0415

    try:
        with Image.open(path) as file:
            image: Any = ImageOps.exif_transpose(file).convert(form.mode)
        if form.size is not None and image.size != form.size:
            image = ImageOps.fit(image, form.size, Image.Resampling.BILINEAR)
    except Exception as error:  # pillow raises many kinds for broken files, and refuses bombs
        raise UnreadableError(f"{path}: no image that can be read: {one_line(error)}") from error
    values: NDArray[Any] = np.asarray(image).reshape(image.height, image.width, -1)
    if form.dtype.kind == "f":
        values = (values.astype(np.float32) / 255 - form.mean) / form.std
    return values if form.channels_last else np.ascontiguousarray(values.transpose(2, 0, 1))
