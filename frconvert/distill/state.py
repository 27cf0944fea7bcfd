"""The state of a run in a file, written whole or not at all, read without executing anything."""

from pathlib import Path
from typing import Any

import torch

from frconvert.errors import UnreadableError, one_line
from frconvert.files import replacing

_VERSION = 2


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Replaces the file in one move: whoever is killed leaves the old state or the new one."""
    with replacing(path) as temporary:
        torch.save({"version": _VERSION, **state}, temporary)


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` wrote.

    Raises:
        UnreadableError: it is no such file, or damaged.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its parts raise
        raise UnreadableError(f"{path}: cannot be read as the state of a run: {one_line(error)}") from error
    if not isinstance(state, dict) or state.pop("version", None) != _VERSION:
        raise UnreadableError(f"{path}: is not the state of a run of this version")
    return state
