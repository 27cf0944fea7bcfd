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
from frconvert.errors import FrqError, UnsupportedError
from frconvert.importers import load
from frconvert.runtime.sessions import Session

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
                    row(label, kind, "", "", shorten(error), "")
        page.say()


def shorten(error: Exception) -> str:
    """A line without the paths of this machine."""
    text = " ".join(str(error).split()).replace("|", "/")
    head, _, cause = text.partition("Error: ")
    return f"{head.split(':')[0]}: {cause}" if cause else text


def cells(path: Path, folder: Path, kind: str, target: list[str]) -> list[object]:
    """What is told of a model."""
    names = ("n.onnx", "n.idct.onnx", "n.dense.onnx", "n.frq")
    source, coded, dense, packed = (folder / name for name in names)
    onnx.save(narrow(onnx.load(path), kind), source)
    try:
        Session(source)
    except UnsupportedError as error:
        raise UnsupportedError(f"the source does not load: {error}") from None
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
    """The model with narrow weights; those in branches and bodies stay as they are."""
    if kind.endswith("throughout"):
        return _throughout(model, KINDS[kind])
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        if _narrow(tensor, KINDS[kind]):
            casts.append(_cast(tensor.name))
            tensor.name += ".narrow"
    nodes = list(casts)
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Constant" and _narrow(node.attribute[0].t, KINDS[kind]):
            nodes.append(_cast(node.output[0]))
            node.output[0] += ".narrow"
    if len(nodes) == len(graph.node):
        raise UnsupportedError("no weight of the main graph became narrow")
    spare = onnx.GraphProto()
    spare.node.extend(nodes)
    del graph.node[:]
    graph.node.extend(spare.node)
    return model


def _narrow(tensor: TensorProto, dtype: type, least: int = 2) -> bool:
    """Makes a tensor of at least so many axes narrow, and says whether it did."""
    if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < least:
        return False
    values = numpy_helper.to_array(tensor).astype(dtype)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return True


def _cast(name: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [f"{name}.narrow"], [name], to=TensorProto.FLOAT)


def _throughout(model: onnx.ModelProto, dtype: type) -> onnx.ModelProto:
    graph, code = model.graph, helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for tensor in graph.initializer:
        _narrow(tensor, dtype, 0)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = code
    del graph.value_info[:]
    for node in graph.node:
        for item in node.attribute:
            _narrow(item.t, dtype, 0)
            if node.op_type == "Cast" and item.name == "to" and item.i == TensorProto.FLOAT:
                item.i = code
    return model


if __name__ == "__main__":
    main()
