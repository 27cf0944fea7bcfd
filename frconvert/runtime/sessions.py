"""onnxruntime sessions on the CPU, with errors of one line and no words of their own on stderr."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frconvert.errors import UnreadableError, UnsupportedError, UsageError, one_line

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession

_MOST_BYTES = 1_900_000_000  # protobuf ends at 2 GiB
_SILENT = 4  # fatal errors only; what matters is raised


def onnxruntime() -> ModuleType:
    """The package.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import onnxruntime as package  # noqa: PLC0415  (an optional dependency)
    except ImportError as error:
        raise UsageError("running an .onnx needs onnxruntime: pip install 'frconvert[runtime]'") from error
    return package  # type: ignore[no-any-return]


class Session:
    """A model ready to run, on one thread unless told otherwise.

    Args:
        path: the `.onnx` file.
        threads: of an operator; 0 for all cores.
        optimized: where onnxruntime shall write the graph that it made of the model.
        outputs: names of values inside the main graph that shall be outputs too, behind the model's own.

    Raises:
        UsageError: onnxruntime is not installed, or the graph has no such value.
        UnreadableError: no such file.
        UnsupportedError: onnxruntime cannot make a session of it.
    """

    def __init__(
        self, path: Path, *, threads: int = 1, optimized: Path | None = None, outputs: Sequence[str] = ()
    ) -> None:
        package = onnxruntime()
        if not path.is_file():
            raise UnreadableError(f"{path}: no such file")
        options = package.SessionOptions()
        options.log_severity_level = _SILENT
        options.intra_op_num_threads = threads
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
            # Whatever is large goes beside the graph, which may not exceed 2 GiB.
            for key, value in (("file_name", "weights.bin"), ("min_size_in_bytes", "1024")):
                options.add_session_config_entry(
                    f"session.optimized_model_external_initializers_{key}", value
                )
        model: str | bytes = str(path)
        if outputs:
            model, folder = _with_outputs(path, outputs), str(path.resolve().parent)
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        self.path = path
        try:
            self._session: InferenceSession = package.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has a class of its own for each status
            raise UnsupportedError(f"{path}: onnxruntime cannot load it: {one_line(error)}") from error
        self.output_names: tuple[str, ...] = tuple(output.name for output in self._session.get_outputs())
        self._run_options = package.RunOptions()
        self._run_options.log_severity_level = _SILENT

    def run(self, feeds: Mapping[str, NDArray[np.generic]], names: Iterable[str] | None = None) -> list[Any]:
        """The outputs, or those of these names: arrays, and lists and dicts of them where ONNX has such.

        Raises:
            UsageError: the model does not run with these inputs.
        """
        try:
            found: list[Any] = self._session.run(
                None if names is None else list(names), dict(feeds), self._run_options
            )
        except Exception as error:  # onnxruntime has a class of its own for each status
            raise UsageError(f"{self.path}: does not run with these inputs: {one_line(error)}") from error
        return found


def optimized_operators(path: Path) -> dict[str, int]:
    """How often each operator is in the graph that onnxruntime runs, after its optimisation.

    Raises:
        FrqError: as for `Session`.
    """
    import onnx  # noqa: PLC0415  (an optional dependency)

    with tempfile.TemporaryDirectory(prefix="frconvert-") as folder:
        optimized = Path(folder) / "optimized.onnx"
        Session(path, optimized=optimized)
        model = onnx.load(optimized, load_external_data=False)
    counts: dict[str, int] = {}
    _count(model.graph, counts)
    return counts


def _count(graph: Any, counts: dict[str, int]) -> None:
    for node in graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
                _count(inner, counts)


def _data_files(model: ModelProto, path: Path) -> set[Path]:
    """The files of external data of the main graph's tensors."""
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    return {path.parent / entry.value for entry in entries if entry.key == "location"}


def _with_outputs(path: Path, names: Sequence[str]) -> bytes:
    import onnx  # noqa: PLC0415  (an optional dependency)

    model = onnx.load(path, load_external_data=False)
    if model.ByteSize() + sum(file.stat().st_size for file in _data_files(model, path)) < _MOST_BYTES:
        # Older versions of onnxruntime (1.20) look for external data in the current folder only.
        onnx.load_external_data_for_model(model, str(path.parent))
    there = {output.name for output in model.graph.output}
    made = {name for node in model.graph.node for name in node.output}
    made |= {value.name for value in (*model.graph.input, *model.graph.initializer)}
    for name in names:
        if name not in made:
            raise UsageError(f"{path}: the graph has no value {name!r}")
        if name not in there:
            there.add(name)
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    data: bytes = model.SerializeToString()
    return data
