"""What the command line prints: tables for people, the same facts as plain data for scripts."""

from math import inf, prod
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from frconvert.container import BASE_NAME

if TYPE_CHECKING:  # each command loads what it needs
    from frconvert.analysis import EntryAnalysis
    from frconvert.checkpoint import Checkpoint
    from frconvert.compare import Comparison
    from frconvert.compare_outputs import RunComparison
    from frconvert.container.reader import Reader


def inspect_json(reader: "Reader") -> dict[str, Any]:
    """Everything the index of a `.frq` says."""
    head, frames = reader.head, reader.contents.frames
    chunks, rest = frames[: len(head.groups)], frames[len(head.groups) :]
    return {
        "file_bytes": reader.size_bytes,
        "sha256": reader.sha256.hex(),
        "base": head.base and {"sha256": head.base.hex(), "name": head.metadata.get(BASE_NAME)},
        "metadata": head.metadata,
        "attachments": [
            {"name": name, "bytes": size, "stored": frame.length if frame else None}
            for (name, size), frame in zip(head.attachments.items(), rest, strict=True)
        ],
        "chunks": [
            {
                "offset": frame.offset if frame else None,
                "bytes": frame.length if frame else None,
                "kind": group.kind,
                "tensors": reader.chunk_names(number),
            }
            for number, (group, frame) in enumerate(zip(head.groups, chunks, strict=True))
        ],
        "tensors": [
            {
                "name": name,
                "shape": list(layout.shape),
                "dtype": layout.dtype,
                "relation": layout.relation,
                "stored": layout.stored,
                "axes": list(layout.axes),
                "keep": layout.keep,
                "step": layout.step,
                "tied_to": head.ties.get(name),
                "chunk": reader.chunk_of(name),
            }
            for name, layout in zip(head.names, head.layouts, strict=True)
        ],
    }  # fmt: skip


def print_inspection(reader: "Reader") -> None:
    """Header line, then a row a tensor."""
    facts = inspect_json(reader)
    console = _console()
    parameters = 0
    table = Table("tensor", "shape", "dtype", "stored as", "axes", "keep", "step", "chunk", box=None)
    for tensor in facts["tensors"]:
        parameters += 0 if tensor["tied_to"] else prod(tensor["shape"])
        stored = {"own": tensor["stored"], "equal": "equal to the base's"}.get(
            tensor["relation"], f"difference, {tensor['stored']}"
        )
        stored = f"= {tensor['tied_to']}" if tensor["tied_to"] else stored
        table.add_row(
            tensor["name"], _shape(tensor["shape"]), tensor["dtype"], stored, _axes(tensor["axes"]),
            "all" if tensor["keep"] is None else str(tensor["keep"]),
            "" if tensor["step"] is None else f"{tensor['step']:.4g}",
            "" if tensor["chunk"] is None else str(tensor["chunk"]),
        )  # fmt: skip
    console.print(
        f"{reader.name}: .frq 1, {facts['file_bytes']:,} bytes, {len(facts['tensors'])} tensors, "
        f"{parameters:,} parameters, {len(facts['chunks'])} chunks"
    )
    console.print(f"SHA-256 {facts['sha256']}")
    if facts["base"]:
        console.print(f"base {facts['base']['name'] or 'of unknown name'}, SHA-256 {facts['base']['sha256']}")
    for item in facts["attachments"]:
        console.print(f"attachment {item['name']}: {item['bytes']:,} bytes, {item['stored']:,} stored")
    for key, value in facts["metadata"].items():
        console.print(f"{key}: {value}")
    console.print(table)


def analysis_json(checkpoint: "Checkpoint", found: "list[EntryAnalysis]") -> dict[str, Any]:
    """Per tensor all subsets of axes with estimated bits and compaction, energies of prefixes, costs."""
    from frconvert.analysis import QUALITIES_DB  # noqa: PLC0415
    from frconvert.coding.cost import REFERENCE_STEP  # noqa: PLC0415
    from frconvert.spectral.analyze import PREFIXES  # noqa: PLC0415

    return {
        "format": checkpoint.format,
        "tensors": len(checkpoint),
        "source_bytes": checkpoint.tensor_bytes,
        "reference_step": REFERENCE_STEP,
        "weights": [
            {
                "name": item.tensor.name,
                "shape": list(item.tensor.shape),
                "dtype": item.tensor.dtype,
                "axes": list(item.tensor.axes),
                "coding_gain_db": round(item.tensor.coding_gain_db, 3),
                "subsets": [
                    {
                        "axes": list(axes),
                        "bits": round(bits, 4),
                        "energy_in_largest_tenth": round(item.tensor.compaction[axes], 4),
                    }
                    for axes, bits in item.tensor.bits.items()
                ],
                "prefix_energy": {
                    f"{part:g}": round(energy, 6)
                    for part, energy in zip(PREFIXES, item.tensor.prefix_energy, strict=True)
                },
                "estimated_bytes": {
                    f"{quality:g} dB": size for quality, size in zip(QUALITIES_DB, item.bytes_at, strict=True)
                },
            }
            for item in found
        ],
    }  # fmt: skip


def print_analysis(checkpoint: "Checkpoint", found: "list[EntryAnalysis]") -> None:
    """A row a weight tensor, then what the whole would cost."""
    from frconvert.analysis import QUALITIES_DB  # noqa: PLC0415

    console = _console()
    table = Table(
        "tensor", "shape", "dtype", "axes", "gain dB", "energy in first 1 %", "10 %",
        *(f"{q:g} dB" for q in QUALITIES_DB), box=None,
    )  # fmt: skip
    for item in found:
        tensor = item.tensor
        table.add_row(
            tensor.name, _shape(tensor.shape), tensor.dtype, _axes(tensor.axes),
            f"{tensor.coding_gain_db:.2f}", *(f"{energy:.3f}" for energy in tensor.prefix_energy[1:3]),
            *(f"{size:,}" for size in item.bytes_at),
        )  # fmt: skip
    console.print(table)
    weights = sum(entry.size_bytes for entry in checkpoint.stored if entry.is_weight)
    rest = checkpoint.tensor_bytes - weights
    console.print(
        f"{len(found)} weight tensors, {weights:,} bytes; "
        f"{len(checkpoint.stored) - len(found)} other tensors, {rest:,} bytes"
    )
    for number, quality in enumerate(QUALITIES_DB if found else ()):
        # Vectors are rounded to about half of their bits.
        total = sum(item.bytes_at[number] for item in found) + rest // 2
        part = checkpoint.tensor_bytes / max(total, 1)
        console.print(f"--snr {quality:g}: about {total:,} bytes, 1/{part:.1f}")
    console.print(
        "axes: transformed axes of the cheapest basis; gain: what they save, at equal bits; energy: in the "
        "lowest frequencies of the DCT over all axes; the last columns: estimated bytes at that SQNR."
    )


def print_comparison(result: "Comparison", first: str, second: str) -> None:
    """A row a tensor, then the total and what does not match."""
    console = _console()
    table = Table("tensor", "shape", "dtype", "SQNR dB", "max error", box=None)
    for tensor in result.tensors:
        dtype = tensor.dtypes[0] if tensor.dtypes[0] == tensor.dtypes[1] else " -> ".join(tensor.dtypes)
        table.add_row(
            tensor.name, _shape(tensor.shape), dtype,
            "identical" if tensor.error == 0 else f"{tensor.sqnr_db:.2f}", f"{tensor.max_error:.4g}",
        )  # fmt: skip
    console.print(table)
    for names, where in ((result.only_first, f"only in {first}"), (result.only_second, f"only in {second}"),
                         (result.other_shape, "of another shape")):  # fmt: skip
        if names:
            shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
            console.print(f"{len(names)} tensors {where}: {shown}")
    if not result.tensors:
        console.print("no tensor in common")
    elif all(tensor.error == 0 for tensor in result.tensors):
        console.print(f"{len(result.tensors)} tensors in common, identical")
    else:
        total = "weights identical" if result.sqnr_db == inf else f"total SQNR {result.sqnr_db:.2f} dB"
        console.print(f"{len(result.tensors)} tensors, {total}, max error {result.max_error:.4g}")


def print_run_comparison(run: "RunComparison") -> None:
    """A row an output, then what running and opening both cost."""
    console = _console()
    table = Table("output", "relative error", "max error", "max value", box=None)
    for output in run.outputs:
        error = "identical" if output.identical else f"{output.relative_error:.3g}"
        table.add_row(output.name, error, f"{output.max_error:.3g}", f"{output.max_value:.3g}")
    console.print(table)
    batches = f"{run.batches} {'random ' * run.random}batch{'es' * (run.batches != 1)}"
    first, second = run.costs
    console.print(f"{batches}; second / first:")
    for what, (one, other), ratio in (
        ("latency, ms", [1e3 * seconds for seconds in run.latency_seconds], run.latency_ratio),
        ("session, ms", (1e3 * first.session_seconds, 1e3 * second.session_seconds), None),
        ("memory, MB", (first.memory_bytes / 1e6, second.memory_bytes / 1e6), None),
    ):
        share = ratio or (other / one if one else inf)
        console.print(f"  {what}: {other:.2f} / {one:.2f} = {share:.3f}")
    more = ", ".join(f"{count:+d} {name}" for name, count in run.more_operators.items())
    console.print(f"  nodes once optimised: {second.nodes} / {first.nodes}{more and f' ({more})'}")


def _console() -> Console:
    """Plain text, as wide as it takes: nothing is cut; a terminal wraps what is too long for it."""
    return Console(highlight=False, markup=False, soft_wrap=True, width=10_000)


def _shape(shape: Any) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _axes(axes: Any) -> str:
    return ",".join(map(str, axes)) or "-"
