"""Bytes and accuracy of LeNet5 files: python samples/score_lenet5.py [--data FOLDER] [FILE.frq ...]

Without --data, a folder with MNIST's idx files (see `train_lenet5.py`), the first 1,000 test digits are read,
which are in `digits.npz`; else all 10,000.
"""

import argparse
from pathlib import Path

import torch
from lenet5 import HERE, LeNet5, accuracy, load_digits
from train_lenet5 import read_idx

import frconvert


def main() -> None:
    """A line for each file; without any, for those beside this script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("files", nargs="*", type=Path)
    arguments = parser.parse_args()
    if arguments.data is None:
        images, labels = load_digits()
    else:
        images = read_idx(arguments.data, "t10k-images-idx3-ubyte")
        labels = read_idx(arguments.data, "t10k-labels-idx1-ubyte")
    for path in arguments.files or [HERE / "lenet5.pt", *sorted(HERE.glob("*.frq"))]:
        model = LeNet5()
        weights = frconvert.load(path).numpy()
        model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
        share = accuracy(model, images, labels)
        print(f"{path.name}: {path.stat().st_size:,} bytes, {share:.4f} of {len(labels):,} digits")


if __name__ == "__main__":
    main()
