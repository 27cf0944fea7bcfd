"""Refining against outputs, in closed form, without training: metric and output error against bytes.

    python tests/benchmarks/calibrated.py [--bits 1,1.5,2] [--results] [MODEL ...]

Each model is converted to so many bits a weight without data and with `--calib`; the samples are disjoint
from those of the metric (`calibration_data.py`). Bytes are those of whole files; behind the metric of the
restored model is, in brackets, how far its outputs are from the original's on the metric's inputs (SQNR, dB).
With `--results` each row is kept as it comes, and the rows of models that are not named stay as they are.
NNCodec is given at the coarsest of its usual points that loses at most one percent of the metric (for HED,
which has no labels, at the point where edge maps are that near to the original's as at qp -20).
"""

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import peers
import public_networks
import shared
import torch
from scores import Watched, scorer

import frconvert
from frconvert.distill.torch_model import match

LADDERS = {
    "lenet5": "0.265",
    "kerascifar": "1.15,1.6",
    "crepe": "0.79",
    "minilm": "1.612",
    "efflite0": "3.1",
    "hed": "1",
}
HEADING = "## Closed form against no data, at equal size"
COLUMNS = (
    "model", "metric of the original", "how", "bytes", "metric (dB)",
    "NNCodec: bytes", "NNCodec: metric (dB)", "bytes / NNCodec's", "s",
)  # fmt: skip
PEER_QP = {"lenet5": -16, "kerascifar": -24, "crepe": -12, "minilm": -20, "efflite0": -28, "hed": -20}


def source_of(name: str, folder: Path) -> Path:
    """The model's own file where that is one of PyTorch's, else its state dict."""
    path, network = getattr(shared.models(), f"load_{name}")()
    if Path(path).suffix in (".pt", ".pth", ".safetensors"):
        return Path(path)
    torch.save(network.state_dict(), folder / f"{name}.pt")
    return folder / f"{name}.pt"


def with_values(name: str, source: Path, values: dict[str, np.ndarray]) -> torch.nn.Module:
    """The network with these values of its tensors."""
    network = getattr(public_networks, name)()
    names = match(network, frconvert.load(source))
    with torch.no_grad():
        for own, tensor in network.state_dict(keep_vars=True).items():
            known = names.get(own, own)
            if known in values:
                tensor.copy_(torch.from_numpy(np.array(values[known])))
    return network


def measure(name: str, ladder: list[float], row: Any) -> None:
    """The rows of one model."""
    teacher = Watched(getattr(public_networks, name)())
    score = scorer(name, teacher)
    before = score(teacher)
    main = next(iter(before))

    def cell(values: dict[str, np.ndarray]) -> str:
        watched = Watched(with_values(name, source, values), teacher)
        return f"{score(watched)[main]:.4f} ({watched.sqnr_db:.1f})"

    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        source, packed = source_of(name, folder), folder / "model.frq"
        theirs = ["", ""]
        if peers.is_there():
            weights = peers.write_weights(source, folder / "weights.npz")
            codec = stack.enter_context(peers.nncodec(weights, folder / "decoded.npz"))
            point = codec(PEER_QP[name])
            with np.load(folder / "decoded.npz") as decoded:
                theirs = [f"{point['bytes']:,}", cell({each: decoded[each] for each in decoded.files})]
        for bits in ladder:
            for calib in (None, f"calibration_data:{name}"):
                began = time.monotonic()
                summary = frconvert.convert(
                    source, packed, bits=bits, overwrite=True,
                    calib=calib, model=calib and f"public_networks:{name}",
                )  # fmt: skip
                seconds = time.monotonic() - began
                size = summary.destination_bytes
                relative = f"{size / point['bytes']:.3f}" if peers.is_there() else ""
                how = "closed form" if calib else "no data"
                after = cell(frconvert.load(packed).numpy())
                row(
                    name,
                    f"{main} {before[main]:.4f}",
                    how,
                    f"{size:,}",
                    after,
                    *theirs,
                    relative,
                    f"{seconds:.0f}",
                )


def replace_rows(path: Path, name: str, rows: list[str]) -> None:
    """The rows of one model in the page's first table, where that model's were, or behind the others."""
    lines = path.read_text().splitlines()
    begin = lines.index(shared.row_of(*COLUMNS))
    end = next((number for number in range(begin, len(lines)) if not lines[number]), len(lines))
    own = [number for number in range(begin, end) if lines[number].startswith(f"| {name} |")]
    place = own[0] if own else end
    rest = [line for number, line in enumerate(lines) if number not in own]
    path.write_text("\n".join(rest[:place] + rows + rest[place:]) + "\n")


def main() -> None:
    """Prints a Markdown table."""
    arguments = shared.arguments_of(__doc__, ("--bits", {"default": ""}))
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))  # for module:function
    path = shared.RESULTS / "calibrated.md"
    if arguments.results and not path.exists():
        path.write_text(
            "\n".join([HEADING, "", shared.row_of(*COLUMNS), shared.row_of(*["---"] * len(COLUMNS)), ""])
        )
    print(shared.row_of(*COLUMNS))
    for name in arguments.models or shared.MODELS:
        rows: list[str] = []

        def row(*cells: object, name: str = name, rows: list[str] = rows) -> None:
            rows.append(shared.row_of(*cells))
            print(rows[-1], flush=True)
            if arguments.results:
                replace_rows(path, name, rows)

        ladder = arguments.bits or LADDERS[name]
        measure(name, [float(bits) for bits in ladder.split(",")], row)


if __name__ == "__main__":
    main()
