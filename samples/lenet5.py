"""LeNet5 for MNIST, as in the Frequency Regularization paper: 431,080 parameters in c1, c2, f1 and f2."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
WEIGHTS_FILE = HERE / "lenet5.pt"
DIGITS_FILE = HERE / "digits.npz"

# Mean and standard deviation of MNIST's training pixels divided by 255.
PIXEL_MEAN, PIXEL_STD = 0.1307, 0.3081


class LeNet5(nn.Module):
    """Two convolutions, each followed by 2x2 max-pooling, then two linear layers with one ReLU between."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(1, 20, 5)
        self.c2 = nn.Conv2d(20, 50, 5)
        self.f1 = nn.Linear(800, 500)
        self.f2 = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, 10] of normalised digits [n, 1, 28, 28]."""
        x = functional.max_pool2d(self.c1(x), 2)
        x = functional.max_pool2d(self.c2(x), 2)
        return self.f2(functional.relu(self.f1(x.flatten(1))))


def normalise(images: NDArray[np.uint8]) -> Tensor:
    """The network's input, float32 [n, 1, 28, 28], of digits as MNIST stores them, uint8 [n, 28, 28]."""
    return (torch.from_numpy(images)[:, None].float() / 255 - PIXEL_MEAN) / PIXEL_STD


def load_model(path: Path = WEIGHTS_FILE) -> LeNet5:
    """The network with the weights of a `.pt` state dict; nothing in the file is executed."""
    model = LeNet5()
    model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return model.eval()


def load_digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The first 1,000 digits of MNIST's test set: images [1000, 28, 28] and labels [1000]."""
    with np.load(DIGITS_FILE) as digits:
        return digits["images"], digits["labels"]


@torch.inference_mode()
def accuracy(model: LeNet5, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> float:
    """Fraction of the digits that the model names correctly."""
    model.eval()
    batches = normalise(images).split(1000)
    predicted = torch.cat([model(batch).argmax(1) for batch in batches]).numpy()
    return float((predicted == labels).mean())
