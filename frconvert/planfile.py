"""Writes a plan file, see `rules`: what was decided for each tensor."""

import glob
from math import isfinite
from pathlib import Path
from typing import Any

from frconvert.encode import Outcome
from frconvert.files import replacing


def write_plan(path: str | Path, outcome: Outcome) -> None:
    """Writes what was decided, a rule for each stored tensor."""
    import tomli_w  # noqa: PLC0415  (only where a plan is written)

    entries = []
    for result in outcome.results:
        plan, size = result.plan, result.entry.size
        entry: dict[str, Any] = {"name": glob.escape(result.entry.name), "method": result.method}
        if plan.step is not None:
            entry |= {"axes": list(plan.axes), "step": plan.step}
            entry |= {"keep": plan.keep} if plan.keep is not None else {}
        if plan.mantissa_bits is not None:
            entry["mantissa_bits"] = plan.mantissa_bits
        entry["bits_per_weight"] = round(8 * result.size_bytes / size, 4) if size else 0.0
        if isfinite(result.sqnr_db):
            entry["sqnr_db"] = round(result.sqnr_db, 3)
        entries.append(entry)
    with replacing(Path(path)) as temporary:
        temporary.write_text(tomli_w.dumps({"tensor": entries}), encoding="utf-8")
