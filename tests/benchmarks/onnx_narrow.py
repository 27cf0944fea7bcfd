"""Models whose weights are float16 or bfloat16: export, agreement and reading back, as a table.

The models of `onnx_models.py`, with weights cast to a narrow type. They are cast back to float32 by a node
before they are used, or, "throughout", the whole model computes in float16. Columns: bytes of the decoded
dense model and of the one with coefficients, the worst |b - a| / |a| of an output, and whether the decoded
weights of `.idct.onnx` are those of the `.frq` made of it, bit by bit.

    python tests/benchmarks/onnx_narrow.py [--results] [--target snr DB] [NAME ...]
"""

from __future__ import annotations

import tempfile
from fnmatch import fnmatchcase
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx_models import calibration, sources
from shared import Page, arguments_of, run

from frconvert.compare_outputs import compare_outputs
from frconvert.errors import FrqError
from frconvert.importers import load

KINDS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float16 throughout": np.float16}


def main() -> None:
    arguments = arguments_of(__doc__, ("--target", {"nargs": 2, "default": ["snr", "30"]}))
    target = [f"--{arguments.target[0]}", arguments.target[1]]
    with Page("onnx_narrow", keep=arguments.results) as page, tempfile.TemporaryDirectory() as folder:
        page.say(f"# Narrow floats, {' '.join(arguments.target)}")
        row = page.table("model", "weights", "bytes: dense", ".idct.onnx", "error", "reads back")
        for label, path in sources():
            if arguments.models and not any(fnmatchcase(label, glob) for glob in arguments.models):
                continue
            for kind in KINDS:
                try:
                    row(label, kind, *cells(path, Path(folder), kind, target))
                except FrqError as error:
                    row(label, kind, "", "", str(error)[-150:].replace("|", "/"), "")
        page.say()


def cells(path: Path, folder: Path, kind: str, target: list[str]) -> list[object]:
    """What is told of a model."""
    names = ("n.onnx", "n.idct.onnx", "n.dense.onnx", "n.frq")
    source, coded, dense, packed = (folder / name for name in names)
    onnx.save(narrow(onnx.load(path), kind), source)
    run("convert", source, coded, *target, "--overwrite")
    run("convert", coded, dense, "--overwrite")
    run("convert", coded, packed, "--overwrite")
    first, second = load(dense), load(packed)
    same = all(entry.read().tobytes() == second[entry.name].read().tobytes() for entry in first)
    data = calibration(path, folder) if kind != "float16 throughout" else None
    found = compare_outputs(dense, coded, data)
    sizes = [f"{file.stat().st_size:,}" for file in (dense, coded)]
    return [*sizes, f"{found.worst:.1e}", "yes" if same else "no"]


def narrow(model: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """The model with narrow weights."""
    graph, dtype = model.graph, KINDS[kind]
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    whole = kind.endswith("throughout")
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and (whole or len(tensor.dims) > 1):
            values, name = numpy_helper.to_array(tensor).astype(dtype), tensor.name
            if not whole:
                casts.append(helper.make_node("Cast", [f"{name}.narrow"], [name], to=TensorProto.FLOAT))
                name += ".narrow"
            tensor.CopyFrom(numpy_helper.from_array(values, name))
    if whole:
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                value.type.tensor_type.elem_type = code
        del graph.value_info[:]
        for node in graph.node:
            for item in node.attribute:
                if item.t.data_type == TensorProto.FLOAT:
                    item.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item.t).astype(dtype)))
                elif node.op_type == "Cast" and item.name == "to" and item.i == TensorProto.FLOAT:
                    item.i = code
    else:
        nodes = [*casts, *graph.node]
        spare = onnx.GraphProto()
        spare.node.extend(nodes)
        del graph.node[:]
        graph.node.extend(spare.node)
    return model


if __name__ == "__main__":
    main()
