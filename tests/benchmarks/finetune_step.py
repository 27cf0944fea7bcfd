"""What one training step costs as coefficients, beside the same step on dense weights.

    python tests/benchmarks/finetune_step.py [--results]

Both steps are a forward and a backward pass with a task loss and a step of Adam; that on coefficients also
transforms, rounds, and counts bits. Each is measured in a process of its own: processor seconds, the least of
five rounds, and the largest memory above that of the loaded program.
"""

import json
import subprocess
import sys
import time
from typing import Any

import shared
import torch
from torch import nn
from torch.nn import functional

from frconvert.distill.coefficients import Basis
from frconvert.distill.run import _Loop
from frconvert.distill.settings import Settings
from frconvert.summary import peak_rss_bytes

STEPS, ROUNDS = 4, 5


def lenet5() -> tuple[nn.Module, torch.Tensor, dict[str, Basis]]:
    """The paper's LeNet5, 250 digits."""
    layers = [nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten()]
    module = nn.Sequential(*layers, nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))
    return module, torch.randn(250, 1, 28, 28), {"5.weight": Basis((2, 3), (500, 50, 4, 4))}


def resnet() -> tuple[nn.Module, torch.Tensor, dict[str, Basis]]:
    """Eight convolutions of 64 and 128 channels, 32 pictures of 32 x 32, DCT over all axes."""
    widths = (3, 64, 64, 64, 64, 128, 128, 128, 128)
    layers: list[nn.Module] = []
    for number in range(8):
        stride = 2 if number == 4 else 1
        layers += [nn.Conv2d(widths[number], widths[number + 1], 3, stride, 1), nn.ReLU()]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    bases = {f"{2 * number}.weight": Basis((0, 1, 2, 3)) for number in range(8)}
    return module, torch.randn(32, 3, 32, 32), bases


def encoder() -> tuple[nn.Module, torch.Tensor, dict[str, Basis]]:
    """Two transformer blocks of width 384 and a linear layer, 16 sequences of 32, DCT over the input axes."""
    block = nn.TransformerEncoderLayer(384, 12, 1536, dropout=0.0, batch_first=True)
    module = nn.Sequential(nn.TransformerEncoder(block, 2, enable_nested_tensor=False), nn.Linear(384, 10))
    names = [name for name, value in module.named_parameters() if value.ndim == 2]
    return module, torch.randn(16, 32, 384), {name: Basis((1,)) for name in names}


def loss_of(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy along the last axis."""
    return functional.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), target)


def child(name: str, kind: str) -> None:
    """Measures one of both steps and prints it."""
    torch.set_num_threads(1)
    module, inputs, bases = {"lenet5": lenet5, "resnet": resnet, "encoder": encoder}[name]()
    target = torch.zeros(module(inputs).reshape(-1, 10).shape[0], dtype=torch.long)
    before = peak_rss_bytes()
    if kind == "dense":
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-4)

        def step() -> None:
            loss_of(module(inputs), target).backward()
            optimizer.step()
            optimizer.zero_grad()

    else:
        settings = Settings(rate=0.01, distill_weight=0.0, task_weight=1.0, bases=bases, noise=0.0)
        loop = _Loop(module, [], settings, None, loss_of, None, None, {})
        count = 0

        def step() -> None:
            nonlocal count
            loop._step((inputs, target), 0, count, {}, {})
            count += 1

    seconds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(STEPS):
            step()
        seconds.append((time.process_time() - began) / STEPS)
    print(json.dumps({"seconds": min(seconds), "bytes": peak_rss_bytes() - before}))


def main() -> None:
    """Prints a Markdown table."""
    if len(sys.argv) == 3 and sys.argv[2] in ("dense", "coefficients"):
        child(sys.argv[1], sys.argv[2])
        return
    arguments = shared.arguments_of(__doc__)
    with shared.Page("finetune_step", keep=arguments.results) as page:
        page.say("## One training step on coefficients, beside one on dense weights")
        row = page.table(
            "network", "dense", "coefficients", "time", "memory, dense", "coefficients", "memory"
        )
        for name in arguments.models or ("lenet5", "resnet", "encoder"):
            found: dict[str, Any] = {}
            for kind in ("dense", "coefficients"):
                command = [sys.executable, __file__, name, kind]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[kind] = json.loads(done.stdout)
            dense, ours = found["dense"], found["coefficients"]
            row(
                name, f"{1000 * dense['seconds']:.0f} ms", f"{1000 * ours['seconds']:.0f} ms",
                f"{ours['seconds'] / dense['seconds']:.2f}x", f"{dense['bytes'] / 1e6:.0f} MB",
                f"{ours['bytes'] / 1e6:.0f} MB", f"{ours['bytes'] / dense['bytes']:.2f}x",
            )  # fmt: skip


if __name__ == "__main__":
    main()
