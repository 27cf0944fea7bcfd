"""The public models' torch modules as factories, for `--model public_networks:NAME`."""

from functools import partial
from typing import Any

import shared


def _network(name: str) -> Any:
    return getattr(shared.models(), f"load_{name}")()[1]


lenet5, kerascifar, efflite0, minilm, hed, crepe = (
    partial(_network, name) for name in ("lenet5", "kerascifar", "efflite0", "minilm", "hed", "crepe")
)
