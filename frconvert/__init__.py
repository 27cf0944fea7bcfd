"""Post-training compressor and format converter for neural-network weights.

    checkpoint = frconvert.load("model.pt")            # lazy
    frconvert.save(checkpoint, "model.frq", snr=30)    # -> Summary
    weights = frconvert.load("model.frq").numpy()      # dict of arrays
    frconvert.convert("model.onnx", "model.frq", ratio=8)

Everything here is loaded when it is first used, so that importing the package costs nothing.
"""

from typing import TYPE_CHECKING, Any

from frconvert.version import __version__ as __version__

if TYPE_CHECKING:
    from frconvert.api import convert, load, save
    from frconvert.checkpoint import Checkpoint, TensorEntry
    from frconvert.errors import FrqError
    from frconvert.finetune import distill, regularize
    from frconvert.summary import Summary
    from frconvert.torch_onnx import export_onnx

__all__ = [
    "Checkpoint",
    "FrqError",
    "Summary",
    "TensorEntry",
    "convert",
    "distill",
    "export_onnx",
    "load",
    "regularize",
    "save",
]

_HOMES = {
    "Checkpoint": "checkpoint",
    "TensorEntry": "checkpoint",
    "FrqError": "errors",
    "Summary": "summary",
    "convert": "api",
    "distill": "finetune",
    "export_onnx": "torch_onnx",
    "load": "api",
    "regularize": "finetune",
    "save": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'frconvert' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"frconvert.{_HOMES[name]}"), name)
