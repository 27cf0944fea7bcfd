"""An ONNX graph as what is fine-tuned: its module, and its tensors between the module's names and its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from frconvert import importers
from frconvert.calibration import InputSpec
from frconvert.checkpoint import ONNX_SKELETON, Checkpoint, TensorEntry
from frconvert.distill import onnx_run
from frconvert.distill.losses import LOGITS, VALUES
from frconvert.distill.tuned import Tuned
from frconvert.dtypes import numpy_dtype
from frconvert.errors import UsageError
from frconvert.torch_graph import GraphModule, module_of

Metric = Callable[[nn.Module], float]


@dataclass(frozen=True, slots=True)
class Source:
    """A graph to fine-tune.

    Attributes:
        checkpoint: that it came with.
        made: the module that computes it.
    """

    checkpoint: Checkpoint
    made: GraphModule

    @property
    def outputs(self) -> str:
        """LOGITS if all outputs are made by a softmax along the last axis, else VALUES."""
        return LOGITS if self.made.ends_in_softmax else VALUES

    @property
    def inputs(self) -> list[InputSpec]:
        """What the graph takes."""
        return onnx_run.inputs_of(self.checkpoint)

    def module(self, outputs: str) -> GraphModule:
        """The module; for LOGITS without a softmax at its end, as what goes into it is compared."""
        self.made.without_softmax = outputs == LOGITS
        return self.made

    def judged_by(self, metric: Metric) -> Metric:
        """The metric, of modules that compute all of the graph."""

        def judge(module: nn.Module) -> float:
            module.without_softmax = False
            return metric(module)

        return judge

    def as_trained(self) -> Checkpoint:
        """The checkpoint with the module's names, and float32 for narrower types: never the smaller file."""
        paths = {name: path for path, name in self.made.names.items()}

        def held(entry: TensorEntry) -> TensorEntry:
            dtype = "float64" if entry.dtype == "float64" else "float32"

            def read() -> NDArray[np.generic]:
                return entry.read().astype(dtype)

            return replace(entry, name=paths[entry.name], dtype=dtype, read=read)

        entries = (held(entry) if entry.name in paths else entry for entry in self.checkpoint)
        return replace(self.checkpoint, entries=tuple(entries))

    def named(self, tuned: Mapping[str, Tuned]) -> dict[str, Tuned]:
        """What training left, by the checkpoint's names and in its types."""
        found = {}
        for path, item in tuned.items():
            name = self.made.names[path]
            if item.values is None:
                found[name] = item
            else:
                values = item.dense().astype(numpy_dtype(self.checkpoint[name].dtype))
                found[name] = replace(item, values=values)
        return found


def open_graph(source: Checkpoint | str | Path) -> Source:
    """The graph in a file or a checkpoint.

    Raises:
        UsageError: it has no graph.
        UnsupportedError: the graph has an operator, or something else, that fine-tuning does not know.
        FrqError: what the importer found wrong.
    """
    checkpoint = source if isinstance(source, Checkpoint) else importers.load(source)
    if ONNX_SKELETON not in checkpoint.attachments:
        raise UsageError(
            f"a {checkpoint.format} file does not say how the model runs; fine-tuning needs an ONNX "
            "graph, or the torch module (--model module:factory)"
        )
    return Source(checkpoint, module_of(checkpoint))
