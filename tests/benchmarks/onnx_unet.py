"""The paper's published UNet as ONNX with coefficients: bytes, and its masks beside those of the torch model.

    python tests/benchmarks/onnx_unet.py [--images 16] [--exporters dynamo,legacy] [--modes idct,functions]

759 published numbers become the coefficients of the graph as they are. Masks are those of stock onnxruntime.
"""

import argparse
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import shared
import torch
from PIL import Image
from unet import PAPER, UNet

import frconvert


def published(folder: Path) -> UNet:
    """The network with its weights, which also go into a `.frq` beside."""
    with tarfile.open(PAPER / "unet_fr.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    frconvert.convert(folder / "unet_fr.pt", folder / "unet.frq", format="frereg", lossless=True)
    weights = frconvert.load(folder / "unet.frq").numpy()
    network = UNet()
    network.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
    return network.eval()


def picture(number: int) -> np.ndarray:
    """One image as the network takes it."""
    image = Image.open(PAPER / f"carvana16/input/in{number:04}.png").convert("RGB")
    return np.asarray(image).transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--exporters", default="dynamo,legacy")
    parser.add_argument("--modes", default="idct,functions")
    parser.add_argument("--results", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, shared.Page("onnx_unet", keep=arguments.results) as page:
        folder = Path(name)
        network = published(folder)
        pictures = [picture(number) for number in range(arguments.images)]
        with torch.no_grad():
            masks = [network(torch.from_numpy(pixels)).argmax(1).numpy() for pixels in pictures]
        row = page.table(
            "exporter", "mode", "bytes", "session s", "identical pixels, least of an image", "in all"
        )
        for exporter in arguments.exporters.split(","):
            for mode in arguments.modes.split(","):
                path = folder / f"{exporter}.{mode}.onnx"
                frconvert.export_onnx(
                    network, (torch.from_numpy(pictures[0]),), path,
                    onnx=mode, exporter=exporter, weights=folder / "unet.frq",
                )  # fmt: skip
                began = time.monotonic()
                session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
                seconds = time.monotonic() - began
                feed = session.get_inputs()[0].name
                same = [
                    float((session.run(None, {feed: pixels})[0].argmax(1) == mask).mean())
                    for pixels, mask in zip(pictures, masks, strict=True)
                ]
                size = path.stat().st_size
                row(exporter, mode, f"{size:,}", f"{seconds:.2f}", f"{min(same):.6f}", f"{np.mean(same):.6f}")


if __name__ == "__main__":
    main()
