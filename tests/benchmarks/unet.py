"""The paper's published UNet through `.frq`: bytes, and Dice over its 16 test images.

    python tests/benchmarks/unet.py [--targets "--lossless,,--size 1000"] [--images 16] [--regularize STEPS]

The network is the usual UNet with ConvTranspose2d up-sampling, no biases, and normalisation by the statistics
of the batch. Its weights come from `.frq` by way of safetensors; `--lossless` gives the published model.
`--regularize` trains the published model further by the paper's rule, so many steps on a 16th of the last
twelve images each, with its own outputs as the goal; `--images 4` then judges by others.
"""

import argparse
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import shared
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

PAPER = shared.SHARED / "paper"


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions with normalisation and ReLU."""
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        normalise = nn.BatchNorm2d(outputs, affine=False, track_running_stats=False)
        layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), normalise, nn.ReLU()]
    return nn.Sequential(*layers)


class Named(nn.Module):
    """A container that gives its children the names of the checkpoint."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class UNet(nn.Module):
    """Images [n, 3, h, w] in 0..1 to logits [n, 2, h, w]."""

    def __init__(self) -> None:
        super().__init__()
        self.inc = Named(double_conv=block(3, 64))
        for number, width in enumerate((64, 128, 256, 512), 1):
            down = nn.Sequential(nn.MaxPool2d(2), Named(double_conv=block(width, 2 * width)))
            self.add_module(f"down{number}", Named(maxpool_conv=down))
        for number, width in enumerate((1024, 512, 256, 128), 1):
            up = nn.ConvTranspose2d(width, width // 2, 2, 2, bias=False)
            self.add_module(f"up{number}", Named(up=up, conv=Named(double_conv=block(width, width // 2))))
        self.outc = Named(conv=nn.Conv2d(64, 2, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inc.double_conv(x)
        skips = [x]
        for number in range(1, 5):
            pool, conv = getattr(self, f"down{number}").maxpool_conv
            x = conv.double_conv(pool(x))
            skips.append(x)
        skips.pop()
        for number in range(1, 5):
            up = getattr(self, f"up{number}")
            x, skip = up.up(x), skips.pop()
            tall, wide = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
            x = functional.pad(x, [wide // 2, wide - wide // 2, tall // 2, tall - tall // 2])
            x = up.conv.double_conv(torch.cat([skip, x], 1))
        return self.outc.conv(x)


def dice(network: UNet, images: int) -> float:
    """Mean Dice over the first images."""
    scores = []
    for number in range(images):
        picture = Image.open(PAPER / f"carvana16/input/in{number:04}.png").convert("RGB")
        truth = np.asarray(Image.open(PAPER / f"carvana16/mask/gt{number:04}.png").convert("L")) > 0
        pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            mask = network(pixels).argmax(1)[0].numpy() == 1
        scores.append(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    return float(np.mean(scores))


def small_images() -> list[tuple[torch.Tensor]]:
    """The last twelve images, a quarter as wide and high."""
    found = []
    for number in range(4, 16):
        picture = Image.open(PAPER / f"carvana16/input/in{number:04}.png").convert("RGB").reduce(4)
        found.append((torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255,))
    return found


def regularized(network: UNet, steps: int, packed: Path) -> tuple[int, float]:
    """Trains a copy by the paper's rule, one image a step; bytes of the file, and seconds."""
    import frconvert

    images, began = small_images(), time.monotonic()
    summary = frconvert.regularize(
        network, [images[step % len(images)] for step in range(steps)], packed,
        keep=0.0, schedule=lambda _: 0.0, distillation=1.0, epochs=1, learning_rate=0.003, temperature=1.0,
        overwrite=True,
    )  # fmt: skip
    return summary.destination_bytes, time.monotonic() - began


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", default="--lossless,,--size 1000,--snr 20")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--regularize", type=int, default=0, metavar="STEPS")
    arguments = parser.parse_args()
    print("| target | bytes | SQNR dB | numbers identical | mean Dice | seconds |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(PAPER / "unet_fr.tar.xz") as archive:
            archive.extractall(folder, filter="data")
        source = Path(folder) / "unet_fr.pt"
        published = torch.load(source, weights_only=True)
        for target in arguments.targets.split(","):
            packed, dense = Path(folder) / "unet.frq", Path(folder) / "unet.safetensors"
            figures, seconds = shared.run(
                "convert", source, packed, "--from", "frereg", "--overwrite", *target.split()
            )
            network = UNet()
            network.load_state_dict(restored(packed, dense))
            print(
                f"| {target or '(none)'} | {figures['destination_bytes']:,} "
                f"| {figures['sqnr_db'] or 'exact'} "
                f"| {identical(packed, published)} | {dice(network, arguments.images):.5f} | {seconds:.1f} |",
                flush=True,
            )
        if arguments.regularize:
            network.load_state_dict(restored(source, Path(folder) / "published.safetensors"))
            size, seconds = regularized(network, arguments.regularize, packed)
            network.load_state_dict(restored(packed, dense))
            score = dice(network, arguments.images)
            print(
                f"| regularize, {arguments.regularize} steps | {size:,} | | | {score:.5f} | {seconds:.1f} |"
            )


def restored(source: Path, dense: Path) -> dict[str, torch.Tensor]:
    """The weights in a `.frq` or in the published file."""
    options = ("--from", "frereg") if source.suffix == ".pt" else ()
    shared.run("convert", source, dense, *options, "--overwrite")
    return load_file(dense)


def identical(packed: Path, published: dict[str, torch.Tensor]) -> str:
    """How many of the published numbers the archive holds exactly, and how many there are."""
    import frconvert

    same = total = 0
    for entry in frconvert.load(packed):
        coefficients = published[entry.name].to_dense().reshape(-1).numpy()
        stored = entry.read_encoded()  # the coefficients themselves, before the inverse transform
        from frconvert.spectral import zigzag

        places = zigzag.prefix(entry.shape, stored.layout.keep)
        values = stored.values * (stored.layout.step or 1)
        total += np.count_nonzero(coefficients)
        same += np.count_nonzero((values == coefficients[places]) & (coefficients[places] != 0))
    return f"{same} of {total}"


if __name__ == "__main__":
    main()
