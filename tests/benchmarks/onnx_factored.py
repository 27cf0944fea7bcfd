"""Linear layers computed without their weights: multiplications, and latency beside the dense model.

    python tests/benchmarks/onnx_factored.py [--results] [NAME ...]

Three models of linear layers are exported from torch and stored at some fractions of their coefficients,
once with `--onnx-factored auto` and once with `never`. The ratio of latencies is the median over runs in
alternation with the decoded dense model, and of that the median over some pairs of sessions, as where a
session's weights lie in memory makes some per cent. Multiplications are those of the layers' weights by one
row.
"""

import base64
import itertools
import json
import tempfile
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from statistics import median

import onnx
import torch
from onnx_modules import ViT
from shared import Page, arguments_of, load_average, run
from torch import nn

import frconvert
from frconvert.compare_outputs import compare_outputs
from frconvert.idct.types import KEY

PAIRS = 3  # of sessions
FRACTIONS = ("0.005", "0.01", "0.02", "0.05")


def modules() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """Name -> module and example input."""
    torch.manual_seed(0)
    widths = [784, 2048, 2048, 2048, 10]
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    encoder = nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
    return {
        "MLP, 3 x 2048": (nn.Sequential(*layers[:-1]), torch.randn(16, 784)),
        "ViT, 192 wide": (ViT(), torch.randn(1, 3, 224, 224)),
        "encoder, 4 x 512": (nn.TransformerEncoder(encoder, 4), torch.randn(1, 64, 512)),
    }


def products(path: Path) -> tuple[int, int, int]:
    """How many layers are factored, and the multiplications of a row with their weights and without."""
    model = onnx.load(path)
    notes = json.loads(next(item.value for item in model.metadata_props if item.key == KEY))
    shapes = {item.name: tuple(item.dims) for item in onnx.load(optimised(path)).graph.initializer}
    count = dense = thin = 0
    for note in notes["tensors"]:
        for text in note.get("products", []):
            node = onnx.NodeProto.FromString(base64.b64decode(text))
            count += 1
            dense += prod(note["shape"])
            thin += _thin(model, node.output[0], shapes)
    return count, dense, thin


def _thin(model: onnx.ModelProto, output: str, shapes: dict[str, tuple[int, ...]]) -> int:
    by_output = {node.output[0]: node for node in model.graph.node}
    last = by_output[output]
    if last.op_type == "Add":
        last = by_output[last.input[0]]
    first = by_output[last.input[0]]
    return sum(prod(shapes[name]) for name in (first.input[1], last.input[1]))


def optimised(path: Path) -> Path:
    """The graph with only its constants folded, so that all weights still have their names."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path.with_suffix(".folded.onnx"))
    options.log_severity_level = 3
    skipped = ["MatMulAddFusion", "MatmulTransposeFusion"]
    onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"], disabled_optimizers=skipped)
    return Path(options.optimized_model_filepath)


def main() -> None:
    """Prints a Markdown table."""
    arguments = arguments_of(__doc__)
    with Page("onnx_factored", keep=arguments.results) as page, tempfile.TemporaryDirectory() as name:
        page.say("# Linear layers without their weights")
        page.say(f"Load of the machine at the beginning: {load_average()}.")
        row = page.table(
            "model", "kept", "layers factored", "multiplications a row: dense, factored",
            "latency of dense: auto", "never", "error: auto", "never",
        )  # fmt: skip
        folder = Path(name)
        for label, (module, example) in modules().items():
            if arguments.models and not any(fnmatchcase(label, glob) for glob in arguments.models):
                continue
            source = folder / "source.onnx"
            frconvert.export_onnx(module.eval(), (example,), source, onnx="dense", overwrite=True)
            for fraction in FRACTIONS:
                found = {}
                for factored in ("auto", "never"):
                    coded, dense = folder / f"{factored}.idct.onnx", folder / "dense.onnx"
                    options = ("--keep", fraction, "--onnx-factored", factored, "--overwrite")
                    run("convert", source, coded, *options)
                    run("convert", coded, dense, "--overwrite")
                    found[factored] = [compare_outputs(dense, coded) for _ in range(PAIRS)]
                count, whole, thin = products(folder / "auto.idct.onnx")
                row(
                    label, fraction, count, f"{whole:,}, {thin:,}",
                    *(f"{median(one.latency_ratio for one in pairs):.3f}" for pairs in found.values()),
                    *(f"{pairs[0].worst:.1e}" for pairs in found.values()),
                )  # fmt: skip
        page.say()


if __name__ == "__main__":
    main()
