"""A picture of a graph with model-local functions, as netron draws it in headless Chromium.

Needs netron (pip), puppeteer-core (by npm, below ~/.cache/frconvert-benchmarks) and chromium on the path.

    python tests/benchmarks/onnx_picture.py [SOURCE.onnx [PICTURE.png]]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import netron
import onnx
from onnx_models import exported
from onnx_runtimes import HERE, NODE, finish
from PIL import Image, ImageChops
from shared import RESULTS, run


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else dict(exported())["DCGAN generator, dynamo"]
    picture = Path(sys.argv[2]) if len(sys.argv) > 2 else RESULTS / "onnx_functions.png"
    browser = shutil.which("chromium") or sys.exit("no chromium on the path")
    if not (NODE / "node_modules" / "puppeteer-core").is_dir():
        finish(["npm", "install", "--silent", "--prefix", str(NODE), "puppeteer-core"])
    with tempfile.TemporaryDirectory() as folder:
        coded = Path(folder) / "m.idct.onnx"
        run("convert", source, coded, "--snr", "30", "--onnx", "functions")
        model = onnx.load(coded)
        print(f"{len(model.graph.node)} nodes; functions:", *(function.name for function in model.functions))
        host, port = netron.start(str(coded), address=("127.0.0.1", 0), browse=False)
        url = f"http://{host}:{port}/"
        print(
            finish(["node", str(HERE / "onnx_picture.mjs"), str(NODE), browser, url, str(picture)]), "boxes"
        )
        netron.stop()
    crop(picture)
    print(picture)


def crop(path: Path) -> None:
    """Takes the white margins and the tool bars at the edges away."""
    image = Image.open(path).convert("RGB")
    for box in ((0, 0, 60, 40), (0, image.height - 60, image.width, image.height)):
        image.paste("white", box)
    bounds = ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox()
    if bounds:
        image.crop([bounds[0] - 20, bounds[1] - 20, bounds[2] + 20, bounds[3] + 20]).save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
