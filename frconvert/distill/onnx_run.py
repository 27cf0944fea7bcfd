"""Running an ONNX graph piece by piece, beside itself with other weights.

The graph is cut before every node that uses a tensor of interest. A piece is a graph of its own, whose inputs
are what the pieces before it left and the tensors of interest; each is run for all batches, once with the
original's tensors and once with refined ones, before the next begins. What no later piece needs is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frconvert.calibration import Batches, InputSpec
from frconvert.checkpoint import Checkpoint
from frconvert.distill import onnx_constants
from frconvert.distill.layers import (
    CONVOLUTION,
    LINEAR,
    LOOKUP,
    TRANSPOSED,
    TRANSPOSED_CONVOLUTION,
    Norm,
    Use,
)
from frconvert.errors import UsageError, one_line
from frconvert.exporters.onnx import match, open_skeleton

if TYPE_CHECKING:
    import onnx

Values = dict[str, NDArray[Any]]

_MOST_SAMPLES = 64  # that `outputs` runs


@dataclass(frozen=True, slots=True)
class _Found:
    """A node that uses tensors of interest: how, its number, and the input (a `Norm`'s output) to look at."""

    use: Use | Norm
    node: int
    looked_at: str


def runner_of(checkpoint: Checkpoint, read: Callable[..., Batches]) -> OnnxRunner:
    """Runs the model that a checkpoint carries.

    Args:
        checkpoint: of an ONNX model.
        read: gives calibration data for the model's inputs.

    Raises:
        UsageError: onnx or onnxruntime is not installed, or the model does not run.
    """
    try:
        import onnx  # noqa: F401, PLC0415
        import onnxruntime  # noqa: F401, PLC0415
    except ImportError as error:
        raise UsageError("--calib of an .onnx needs onnxruntime: pip install 'frconvert[runtime]'") from error
    model = open_skeleton(checkpoint)
    match(model, checkpoint)  # or it is damaged
    onnx_constants.settle(model, checkpoint)
    return OnnxRunner(model, checkpoint, list(read(_inputs(model))))


def inputs_of(checkpoint: Checkpoint) -> list[InputSpec]:
    """What the model that a checkpoint carries takes."""
    return _inputs(open_skeleton(checkpoint))


def _inputs(model: onnx.ModelProto) -> list[InputSpec]:
    known = {tensor.name for tensor in model.graph.initializer}
    return [_specification(item) for item in model.graph.input if item.name not in known]


def _specification(item: onnx.ValueInfoProto) -> InputSpec:
    from onnx import helper  # noqa: PLC0415

    kind = item.type.tensor_type
    shape = tuple(map(_length, kind.shape.dim))
    return InputSpec(item.name, shape, np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name)


def _length(axis: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if axis.HasField("dim_value"):
        return axis.dim_value if axis.dim_value >= 0 else None  # Paddle's exporter writes -1
    return axis.dim_param if axis.dim_param not in ("", "?") else None


class OnnxRunner:
    """Runs an ONNX model over batches; see `closed_form.Runner`."""

    def __init__(
        self, model: onnx.ModelProto, checkpoint: Checkpoint, batches: Sequence[Mapping[str, NDArray[Any]]]
    ) -> None:
        self._model, self._checkpoint, self._batches = model, checkpoint, batches
        self.batches = len(batches)
        self._nodes = list(model.graph.node)
        self._tensors = {entry.name: entry for entry in checkpoint}
        self._found = list(_uses(self._nodes, checkpoint))
        if not self._found:
            raise UsageError("the graph has no layer whose weights are tensors of the main graph")
        self.uses = tuple(found.use for found in self._found)
        self._interesting = {
            name
            for use in self.uses
            for name in ((use.scale, use.shift) if isinstance(use, Norm) else (use.weight, use.bias))
            if name is not None
        }
        self._outputs = [item.name for item in model.graph.output]

    def walk(self, changed: Values | None) -> Iterator[Iterable[tuple[Any, Any]]]:
        """See `closed_form.Runner`."""
        count = 1 if changed is None else 2
        states = [[dict(batch) for _ in range(count)] for batch in self._batches]
        begin = 0
        for found in self._found:
            is_norm = isinstance(found.use, Norm)
            end = found.node + 1 if is_norm else found.node
            looked_at = {found.looked_at, self._nodes[found.node].input[0]} if is_norm else {found.looked_at}
            run = self._piece(begin, end, looked_at)
            for own in states:
                for number, state in enumerate(own):
                    run(state, changed if number and changed else {})
            begin = end
            yield [(own[0][found.looked_at], own[-1][found.looked_at]) for own in states]
            if is_norm and changed is not None:
                # The node has run with the original's scale and shift; once more with those decided now.
                again = self._piece(found.node, end, set())
                for own in states:
                    again(own[-1], changed)

    def outputs(self, changed: Values) -> list[NDArray[Any]]:
        """See `closed_form.Runner`."""
        run = self._piece(0, len(self._nodes), set())
        results, samples = [], 0
        for batch in self._batches:
            state = dict(batch)
            run(state, changed)
            results += [state[name] for name in self._outputs]
            samples += len(next(iter(batch.values())))
            if samples >= _MOST_SAMPLES:
                break
        return results

    def _piece(self, begin: int, end: int, also: set[str]) -> Callable[[dict[str, Any], Values], None]:
        """A function that runs the nodes begin..end on a state, which gets what later nodes need."""
        nodes = self._nodes[begin:end]
        if not nodes:
            return lambda _state, _changed: None
        made = {name for node in nodes for name in node.output if name}
        needed = [name for name in dict.fromkeys(_consumed(nodes)) if name and name not in made]
        later = set(_consumed(self._nodes[end:])) | set(self._outputs) | also
        kept = [
            name for name in dict.fromkeys(name for node in nodes for name in node.output) if name in later
        ]
        if not kept:
            return lambda _state, _changed: None
        fed, model = self._cut(nodes, needed, kept)
        session: Any = None

        def run(state: dict[str, Any], changed: Values) -> None:
            nonlocal session
            feeds = {name: self._value(name, state, changed) for name in fed}
            try:
                if session is None:
                    session = _session(model, feeds)
                results = session.run(kept, feeds)
            except Exception as error:  # onnxruntime's classes are many
                raise UsageError(f"a part of the model does not run: {one_line(error)}") from error
            state.update(zip(kept, results, strict=True))
            for name in [name for name in state if name not in later]:
                del state[name]

        return run

    def _value(self, name: str, state: Mapping[str, Any], changed: Values) -> NDArray[Any]:
        if name not in self._interesting:
            return state[name]  # type: ignore[no-any-return]
        own = self._tensors[name].read()
        return changed[name].astype(own.dtype, copy=False) if name in changed else own

    def _cut(
        self, nodes: Sequence[onnx.NodeProto], needed: Sequence[str], kept: Sequence[str]
    ) -> tuple[list[str], onnx.ModelProto]:
        """A model of these nodes alone, still without inputs, and the names of those that it is to have."""
        from onnx import ModelProto, helper, numpy_helper  # noqa: PLC0415

        model = ModelProto()
        model.CopyFrom(self._model)
        graph = model.graph
        del graph.node[:], graph.input[:], graph.output[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(nodes)
        initializers = {tensor.name: tensor for tensor in self._model.graph.initializer}
        fed = []
        for name in needed:
            if name in self._interesting or name not in initializers:
                fed.append(name)
            elif name in self._tensors:
                graph.initializer.append(numpy_helper.from_array(self._tensors[name].read(), name))
            else:
                graph.initializer.append(initializers[name])
        graph.output.extend(helper.make_empty_tensor_value_info(name) for name in kept)
        return fed, model


def _session(model: onnx.ModelProto, feeds: Values) -> Any:
    """A session of a model that is given inputs like these."""
    import onnxruntime  # noqa: PLC0415
    from onnx import helper  # noqa: PLC0415

    model.graph.input.extend(
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
        for name, value in feeds.items()
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _consumed(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Names that nodes take, those inside their subgraphs included."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            for graph in [attribute.g, *attribute.graphs]:
                yield from _consumed(graph.node)
                yield from (item.name for item in graph.output)


def _uses(nodes: list[onnx.NodeProto], checkpoint: Checkpoint) -> Iterator[_Found]:
    """The nodes whose weights are tensors of the main graph, each tensor's first use."""
    tensors = {entry.name: entry for entry in checkpoint.stored}
    readers: dict[str, list[int]] = {}
    for number, node in enumerate(nodes):
        for name in node.input:
            readers.setdefault(name, []).append(number)
    for number, node in enumerate(nodes):
        found = _use(node, number, nodes, readers, tensors)
        if found is not None:
            yield found


def _use(  # noqa: PLR0911  (one return for each kind of node)
    node: onnx.NodeProto,
    number: int,
    nodes: list[onnx.NodeProto],
    readers: dict[str, list[int]],
    tensors: Mapping[str, Any],
) -> _Found | None:
    from onnx import helper  # noqa: PLC0415

    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    names = list(node.input)

    def rank(place: int) -> int:
        entry = tensors.get(names[place]) if place < len(names) else None
        return len(entry.shape) if entry is not None else 0

    if node.op_type == "MatMul" and rank(1) == 2:
        return _Found(
            Use(names[1], TRANSPOSED, _bias_behind(node, nodes, readers, tensors)), number, names[0]
        )
    if node.op_type == "Gemm" and rank(1) == 2 and not given.get("transA", 0):
        if given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
            return None
        kind = LINEAR if given.get("transB", 0) else TRANSPOSED
        return _Found(Use(names[1], kind, names[2] if rank(2) == 1 else None), number, names[0])
    if node.op_type in ("Conv", "ConvTranspose") and rank(1) >= 3:
        kernel = tensors[names[1]].shape[2:]
        pads = _pads(given, len(kernel))
        if pads is None:
            return None
        ones = (1,) * len(kernel)
        stride, dilation = tuple(given.get("strides", ones)), tuple(given.get("dilations", ones))
        kind = CONVOLUTION if node.op_type == "Conv" else TRANSPOSED_CONVOLUTION
        if kind == TRANSPOSED_CONVOLUTION:
            extra = tuple(given.get("output_padding", (0,) * len(kernel)))
            pads = tuple((low, high - e) for (low, high), e in zip(pads, extra, strict=True))
        bias = names[2] if rank(2) == 1 else None
        return _Found(
            Use(names[1], kind, bias, given.get("group", 1), stride, pads, dilation), number, names[0]
        )
    if node.op_type == "Gather" and rank(0) == 2 and not given.get("axis", 0):
        return _Found(Use(names[0], LOOKUP), number, names[1])
    if node.op_type == "BatchNormalization" and rank(1) == rank(2) == 1:
        return _Found(Norm(names[1], names[2], 1), number, node.output[0])
    if node.op_type == "LayerNormalization" and rank(1) == rank(2) == 1:
        return _Found(Norm(names[1], names[2], -1), number, node.output[0])
    return None


def _bias_behind(
    node: onnx.NodeProto,
    nodes: list[onnx.NodeProto],
    readers: dict[str, list[int]],
    tensors: Mapping[str, Any],
) -> str | None:
    """The vector that the only reader of a product adds to it."""
    following = readers.get(node.output[0], [])
    if len(following) != 1 or nodes[following[0]].op_type != "Add":
        return None
    other = [name for name in nodes[following[0]].input if name != node.output[0]]
    fits = len(other) == 1 and other[0] in tensors and len(readers[other[0]]) == 1
    return other[0] if fits and len(tensors[other[0]].shape) == 1 else None


def _pads(given: Mapping[str, Any], rank: int) -> tuple[tuple[int, int], ...] | None:
    """Paddings of a convolution; None where they depend on the input's size."""
    automatic = given.get("auto_pad", b"NOTSET")
    if automatic not in (b"NOTSET", b"VALID") or "output_shape" in given:
        return None
    flat = list(given.get("pads", [0] * 2 * rank)) if automatic == b"NOTSET" else [0] * 2 * rank
    return tuple(zip(flat[:rank], flat[rank:], strict=True))
