"""`--max-drop 0.01` on public models: the drop on data that the search did not see, evaluations, bytes.

    python tests/benchmarks/max_drop.py [--drop 0.01] [--results] [MODEL ...]

The search sees one half of the data of the metric, the table's last column is of the other half. Of CREPE's
tones each has as many.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import shared
import torch

import frconvert
from frconvert import quality
from frconvert.checkpoint import Checkpoint

MODELS = ("lenet5", "kerascifar", "crepe")
TONES = 2000
Score = Callable[[Any], float]


def halves(name: str) -> tuple[Score, Score]:
    """The metric of a network on one half of its data and on the other."""
    import datasets

    module = shared.models()
    if name == "crepe":
        return (
            lambda network: module.eval_crepe(network, n=TONES, seed=1)["raw_pitch_acc_50c"],
            lambda network: module.eval_crepe(network, n=TONES, seed=0)["raw_pitch_acc_50c"],
        )
    if name == "lenet5":
        _, _, pixels, labels = datasets.mnist()
        inputs = torch.from_numpy(pixels)[:, None].float() / 255
    else:
        pixels, labels = datasets.cifar_test()
        inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    order = np.random.RandomState(0).permutation(len(labels))

    def score(chosen: np.ndarray) -> Score:
        def correct(network: Any) -> float:
            with torch.no_grad():
                found = torch.cat([network(inputs[part]).argmax(1) for part in np.array_split(chosen, 20)])
            return float((found.numpy() == labels[chosen]).mean())

        return correct

    return score(order[: len(order) // 2]), score(order[len(order) // 2 :])


def cells(name: str, drop: float) -> tuple[str, ...]:
    """The row of one model."""
    module = shared.models()
    original = Path(getattr(module, f"load_{name}")()[0])
    searched, unseen = halves(name)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def network(checkpoint: Checkpoint) -> Any:
            restored = folder / f"restored{original.suffix}"
            frconvert.save(checkpoint, restored, overwrite=True)
            with shared.replaced(module, original, restored, folder):
                return getattr(module, f"load_{name}")()[1]

        checkpoint = frconvert.load(original)
        found = quality.convert(
            checkpoint, folder / "a.frq", lambda restored: searched(network(restored)), drop
        )
        before = unseen(network(checkpoint))
        after = unseen(network(frconvert.load(folder / "a.frq")))
    passed = min((point for point in found.curve if point.passed), key=lambda point: point.size_bytes)
    return (
        name,
        f"{found.summary.destination_bytes:,}",
        str(len(found.curve)),
        f"{found.original:.4f}, {passed.metric:.4f}",
        f"{before:.4f}, {after:.4f}",
        f"{before - after:.4f}",
    )


def main() -> None:
    """Prints a Markdown table."""
    arguments = shared.arguments_of(__doc__, ("--drop", {"type": float, "default": 0.01}))
    torch.set_num_threads(1)
    with shared.Page("max_drop", keep=arguments.results) as page:
        page.say(f"## The smallest file that loses at most {arguments.drop:g}")
        row = page.table(
            "model", "bytes", "evaluations", "before, after (searched)", "before, after (unseen)", "drop"
        )
        for name in arguments.models or MODELS:
            row(*cells(name, arguments.drop))


if __name__ == "__main__":
    main()
