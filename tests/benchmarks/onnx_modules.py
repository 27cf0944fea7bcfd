"""The torch modules that the ONNX benchmarks export, with random weights whose spectra decay.

White noise gains nothing by a transform, so it would be stored without; these weights want one over all axes.

ResNet18 (He et al. 2015), ViT (Dosovitskiy et al. 2020, tiny: 192 wide, 6 layers), UNet (Ronneberger et al.
2015, 16 to 256 channels), an LSTM language model (2 layers of 512, 8,000 words), a DCGAN generator (Radford
et al. 2015).
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dctn, idctn
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.around = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.around = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.path(x) + self.around(x))


def resnet18() -> nn.Module:
    """11.7 million parameters."""
    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    blocks = [Block(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths)]
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


class Attention(nn.Module):
    """Multi-head self-attention as vision transformers write it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = (
            self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        )
        weights = torch.softmax(q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5, -1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, width))


class ViT(nn.Module):
    """3.0 million parameters: patches of 16, images of 224."""

    def __init__(self, width: int = 192, layers: int = 6, heads: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 197, width) * 0.02)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.attention = nn.ModuleList(Attention(width, heads) for _ in range(layers))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for number, (attention, mlp) in enumerate(zip(self.attention, self.mlps, strict=True)):
            x = x + attention(self.norms[2 * number](x))
            x = x + mlp(self.norms[2 * number + 1](x))
        return self.head(self.norm(x)[:, 0])


def _double(inputs: int, outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """1.9 million parameters, with transposed convolutions on the way up."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128, 256)) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.first = _double(3, widths[0])
        self.down = nn.ModuleList(_double(a, b) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in reversed(pairs))
        self.join = nn.ModuleList(_double(b, a) for a, b in reversed(pairs))
        self.last = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.first(x)]
        for down in self.down:
            levels.append(down(torch.max_pool2d(levels[-1], 2)))
        x = levels.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([levels.pop(), up(x)], 1))
        return torch.sigmoid(self.last(x))


class LanguageModel(nn.Module):
    """12.4 million parameters, the word table tied to the output layer."""

    def __init__(self, words: int = 8000, width: int = 512) -> None:
        super().__init__()
        self.table = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, width, 2, batch_first=True)
        self.out = nn.Linear(width, words)
        self.out.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.lstm(self.table(ids))[0])


def dcgan() -> nn.Module:
    """3.6 million parameters: noise of 100 to images of 64."""
    layers: list[nn.Module] = []
    widths = [100, 512, 256, 128, 64]
    for number, (a, b) in enumerate(itertools.pairwise(widths)):
        stride, padding = (2, 1) if number else (1, 0)
        layers += [nn.ConvTranspose2d(a, b, 4, stride, padding, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Tanh())


def _low(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weight with its high frequencies attenuated, scaled to the energy it had."""
    spectrum = dctn(weight, norm="ortho")
    for axis, length in enumerate(weight.shape):
        if length > 1:
            gain = 1 / (1 + 3 * np.arange(length) / length)
            spectrum = spectrum * gain.reshape([-1 if other == axis else 1 for other in range(weight.ndim)])
    low = idctn(spectrum, norm="ortho")
    return np.asarray(low * (weight.std() / low.std()), np.float32)


def modules() -> dict[str, tuple[nn.Module, Tensor]]:
    """Name -> module in evaluation mode, with statistics of some inputs, and an example input."""
    torch.manual_seed(0)
    found: dict[str, tuple[nn.Module, Tensor]] = {
        "ResNet18": (resnet18(), torch.randn(1, 3, 224, 224)),
        "ViT": (ViT(), torch.randn(1, 3, 224, 224)),
        "UNet": (UNet(), torch.randn(1, 3, 128, 128)),
        "LSTM language model": (LanguageModel(), torch.randint(0, 8000, (1, 32))),
        "DCGAN generator": (dcgan(), torch.randn(1, 100, 1, 1)),
    }
    for module, example in found.values():
        for weight in {id(each): each for each in module.parameters() if each.ndim >= 2}.values():
            weight.data = torch.from_numpy(_low(weight.detach().numpy()))
        module.train()
        with torch.no_grad():
            for _ in range(3):
                module(example if example.dtype == torch.int64 else torch.randn(2, *example.shape[1:]))
        module.eval()
    return found
