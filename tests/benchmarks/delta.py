"""Bytes of a fine-tuned checkpoint: an archive of its own against the difference to an archive of its base.

    python tests/benchmarks/delta.py

Two pairs of checkpoints are trained here, in some minutes on one core: a pretrained ResNet-20 that goes on
with CIFAR-10 (one epoch of 10,000 images is the base, a second one the fine-tuned checkpoint), and the
sample's LeNet5 before and after some epochs of digits that lie on their side.
At a given SQNR of the restored fine-tuned weights three files are made: one by itself, one against a lossless
base, one against a base at that same SQNR. The ResNet needs the CIFAR images beside this project; without
them only the LeNet5 is shown.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import shared
import torch
from torch import Tensor, nn
from torch.nn import functional

import frconvert

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "samples"))
import lenet5

TARGETS = {"30 dB": {"snr": 30}, "36 dB": {"snr": 36}, "lossless": {"lossless": True}}


class Block(nn.Module):
    """Two convolutions beside a shortcut, which pads channels where their number grows."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more))
        return functional.relu(x + y)


class ResNet20(nn.Module):
    """He et al.'s network for CIFAR-10; 0.27 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for number, (inputs, width) in enumerate(((16, 16), (16, 32), (32, 64)), 1):
            blocks = [Block(inputs, width, 1 + (number > 1)), Block(width, width, 1), Block(width, width, 1)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(functional.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def train(model: nn.Module, inputs: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One epoch."""
    model.train()
    for batch in torch.randperm(len(inputs)).split(64):
        loss = functional.cross_entropy(model(inputs[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.inference_mode()
def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Fraction of right answers."""
    model.eval()
    found = torch.cat([model(batch).argmax(1) for batch in inputs.split(500)])
    return float((found == labels).float().mean())


def digits(epochs: int) -> Iterator[tuple[nn.Module, float]]:
    """The sample's LeNet5, and the same after some epochs of digits on their side."""
    images, labels = lenet5.load_digits()
    inputs = torch.rot90(lenet5.normalise(images), 1, (2, 3)).contiguous()
    targets = torch.from_numpy(labels).long()
    model = lenet5.load_model()
    yield model, accuracy(model, inputs, targets)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(epochs):
        train(model, inputs, targets, optimizer)
    yield model, accuracy(model, inputs, targets)


def cifar(folder: Path) -> Iterator[tuple[nn.Module, float]]:
    """A pretrained ResNet-20 after one epoch on 10,000 images, and after two."""
    shared.models()
    from datasets import cifar10

    def split(name: str, count: int) -> tuple[Tensor, Tensor]:
        images, labels = cifar10(name)
        pixels = torch.from_numpy(images[:count]).permute(0, 3, 1, 2).float() / 255
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        return (pixels - mean[:, None, None]) / deviation[:, None, None], torch.from_numpy(labels[:count])

    state = torch.load(folder / "resnet20-12fca82f.th", map_location="cpu", weights_only=True)["state_dict"]
    model = ResNet20()
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    inputs, labels = split("train", 10_000)
    test = split("test", 2_000)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=1e-4)
    for _ in range(2):
        train(model, inputs, labels, optimizer)
        yield model, accuracy(model, *test)


def rows(name: str, checkpoints: Iterator[tuple[nn.Module, float]]) -> Iterator[str]:
    """A row of the table for each target."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        for step in ("base", "tuned"):
            model, score = next(checkpoints)
            torch.save(model.state_dict(), folder / f"{step}.pt")
            print(f"{name}, {step}: accuracy {score:.4f}", file=sys.stderr)
        before, after = (frconvert.load(folder / f"{step}.pt") for step in ("base", "tuned"))
        weights = [(before[e.name].read(), e.read()) for e in after if e.is_weight]
        moved = sum(float(np.square(b - a).sum()) for a, b in weights)
        moved /= sum(float(np.square(b).sum()) for _, b in weights)
        exact = folder / "exact.frq"
        frconvert.save(before, exact, lossless=True)
        for target, options in TARGETS.items():
            base, alone, delta = (folder / f"{target} {kind}.frq" for kind in ("base", "alone", "delta"))
            base_bytes = frconvert.save(before, base, **options).destination_bytes
            found = [frconvert.save(after, alone, **options)]
            for other in (exact, base):
                began = time.monotonic()
                found.append(frconvert.save(after, delta, base=other, overwrite=True, **options))
                print(f"{name}, {target}: delta made in {time.monotonic() - began:.1f} s", file=sys.stderr)
                check(after, frconvert.load(delta, base=other), found[-1].sqnr_db)
            sizes = [summary.destination_bytes for summary in found]
            quality = " / ".join(
                "exact" if np.isinf(summary.sqnr_db) else f"{summary.sqnr_db:.2f}" for summary in found
            )
            yield (
                f"| {name} | {10 * np.log10(moved):.1f} dB | {target} | {base_bytes:,} | {sizes[0]:,} "
                f"| {sizes[1]:,} (1/{sizes[0] / sizes[1]:.2f}) | {sizes[2]:,} (1/{sizes[0] / sizes[2]:.2f}) "
                f"| {quality} |"
            )


def check(source: frconvert.Checkpoint, restored: frconvert.Checkpoint, sqnr_db: float) -> None:
    """What the file gives is what was said of it."""
    from frconvert.compare import compare

    found = compare(source, restored)
    assert found.matches
    assert found.sqnr_db == sqnr_db or abs(found.sqnr_db - sqnr_db) < 0.01


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=3, help="of the LeNet5's fine-tuning")
    epochs = parser.parse_args().epochs
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pairs = {"LeNet5, digits on their side": digits(epochs)}
    if (shared.SHARED / "data" / "resnet20-12fca82f.th").is_file():
        pairs["ResNet-20, CIFAR-10"] = cifar(shared.SHARED / "data")
    heads = ("pair", "change of the weights", "target", "base, bytes", "by itself", "delta to lossless base",
             "delta to that base", "SQNR dB")  # fmt: skip
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for name, checkpoints in pairs.items():
        for row in rows(name, checkpoints):
            print(row, flush=True)


if __name__ == "__main__":
    main()
