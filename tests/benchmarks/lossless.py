"""Lossless coding of the public models' float tensors beside other codecs: ratio and speed, on one core.

    python tests/benchmarks/lossless.py [--runs 3] [MODEL ...]

A cell is ratio (encode / decode MB/s of processor time, the median of the runs). Peers and "alone" code each
tensor on its own; the first column codes chunks of tensors as a `.frq` file holds them. Peers that are not
installed (`pip install -e '.[bench]'`) are left out.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import shared

import frconvert
from frconvert.coding import lossless
from frconvert.coding.record import group

SLOW_SECONDS = 4  # what takes longer than this is run once

Codec = tuple[Callable[[np.ndarray], bytes], Callable[[bytes, np.ndarray], np.ndarray]]


def sources() -> dict[str, Callable[[], Path]]:
    """Paths of the models' files, fetched when called."""
    module = shared.models()
    found = {name: lambda name=name: Path(getattr(module, f"load_{name}")()[0]) for name in shared.MODELS}
    found["crepe_full"] = lambda: Path(module.load_crepe("full")[0])
    found["resemblyzer"] = lambda: next(Path(module.get_pip("resemblyzer", "0.1.4")).rglob("pretrained.pt"))
    return found


def ours() -> Codec:
    return (
        lambda values: lossless.encode(values, values.dtype.name),
        lambda payload, like: lossless.decode(payload, like.dtype.name, like.size),
    )


def pcodec(level: int) -> Codec:
    from pcodec import ChunkConfig, standalone

    config = ChunkConfig(compression_level=level)
    return (
        lambda values: standalone.simple_compress(values, config),
        lambda payload, _: standalone.simple_decompress(payload),
    )


def zipnn() -> Codec:
    from zipnn import ZipNN

    codec = ZipNN(input_format="byte", bytearray_dtype="float32", threads=1)
    return (
        lambda values: codec.compress(values.tobytes()),
        lambda payload, like: np.frombuffer(codec.decompress(payload), like.dtype),
    )


def shuffled_zstd(level: int) -> Codec:
    import zstandard

    packer, unpacker = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()

    def decode(payload: bytes, like: np.ndarray) -> np.ndarray:
        planes = np.frombuffer(unpacker.decompress(payload), np.uint8).reshape(like.itemsize, -1)
        return np.ascontiguousarray(planes.T).reshape(-1).view(like.dtype)

    def encode(values: np.ndarray) -> bytes:
        return packer.compress(
            np.ascontiguousarray(values.view(np.uint8).reshape(values.size, -1).T).tobytes()
        )

    return encode, decode


CODECS: dict[str, tuple[str | None, Callable[[], Codec]]] = {
    "frconvert, chunks": (None, ours),
    "frconvert, alone": (None, ours),
    "zipnn": ("zipnn", zipnn),
    "pcodec 8": ("pcodec", lambda: pcodec(8)),
    "pcodec 12": ("pcodec", lambda: pcodec(12)),
    "byteshuffle + zstd-19": ("zstandard", lambda: shuffled_zstd(19)),
}


def in_chunks(tensors: list[np.ndarray]) -> list[np.ndarray]:
    """The sequences that a `.frq` file codes."""
    chunks = group([(tensor.dtype.name, tensor.size) for tensor in tensors])
    return [np.concatenate([tensors[number] for number in chunk]) for chunk in chunks]


def measure(codec: Codec, sequences: list[np.ndarray], runs: int) -> str:
    """One cell; ends the program if a value does not come back."""
    encode, decode = codec
    size = sum(values.nbytes for values in sequences)
    times: tuple[list[float], list[float]] = [], []
    for _ in range(runs):
        began = time.process_time()
        payloads = [encode(values) for values in sequences]
        times[0].append(time.process_time() - began)
        began = time.process_time()
        restored = [decode(*pair) for pair in zip(payloads, sequences, strict=True)]
        times[1].append(time.process_time() - began)
        if times[0][-1] > SLOW_SECONDS:
            break
    for values, back in zip(sequences, restored, strict=True):
        assert back.tobytes() == values.tobytes(), "a codec does not give the values back"
    speeds = [size / 1e6 / statistics.median(seconds) for seconds in times]
    return f"{size / sum(map(len, payloads)):.4f} ({speeds[0]:.0f} / {speeds[1]:.0f})"


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("models", nargs="*")
    arguments = parser.parse_args()
    paths = sources()
    codecs = {
        name: make()
        for name, (package, make) in CODECS.items()
        if package is None or importlib.util.find_spec(package)
    }
    print("| model | MB |" + "".join(f" {name} |" for name in codecs))
    print("|---|---|" + "---|" * len(codecs))
    for name in arguments.models or paths:
        entries = [entry for entry in frconvert.load(paths[name]()).stored if "float" in entry.dtype]
        tensors = [entry.read().reshape(-1) for entry in entries if entry.size]
        print(f"| {name} | {sum(tensor.nbytes for tensor in tensors) / 1e6:.1f} |", end="", flush=True)
        for column, codec in codecs.items():
            sequences = in_chunks(tensors) if column.endswith("chunks") else tensors
            print(f" {measure(codec, sequences, arguments.runs)} |", end="", flush=True)
        print()


if __name__ == "__main__":
    main()
