"""Points of NNCodec, and the weights they decode to; runs in that codec's own environment.

    python nncodec_point.py WEIGHTS.npz DECODED.npz

For each line of standard input, a qp, writes DECODED.npz and then one line: "point" and a JSON object of
bytes, bits_per_weight, sqnr_db (in total over the tensors with two or more axes), and sqnr_db_per_tensor_min
with the name of that tensor. Dependent quantisation is on. The folder of `nnc_shim` must be on PYTHONPATH.
"""

import json
import sys
import tempfile

import nnc_shim  # noqa: F401  (before nncodec)
import numpy as np
from nncodec.nn import decode, encode


def point(weights: dict[str, np.ndarray], qp: int) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """Encodes, decodes, compares: figures and decoded weights."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = {"qp": qp, "use_dq": True, "verbose": False, "results": scratch, "model": "peer"}
        stream = encode({name: values.copy() for name, values in weights.items()}, args=settings)
        decoded = {name: np.asarray(values) for name, values in decode(bytearray(stream)).items()}
    energy, error = {}, {}
    for name, values in weights.items():
        decoded[name] = decoded[name].reshape(values.shape).astype(np.float32)
        if values.ndim >= 2:
            energy[name] = float(np.square(values, dtype=np.float64).sum())
            error[name] = float(np.square(values - decoded[name], dtype=np.float64).sum())
    sqnr = {
        name: 10 * np.log10(energy[name] / error[name]) for name in energy if energy[name] and error[name]
    }
    worst = min(sqnr, key=sqnr.__getitem__)
    figures = {
        "bytes": len(stream),
        "bits_per_weight": 8 * len(stream) / sum(values.size for values in weights.values()),
        "sqnr_db": 10 * np.log10(sum(energy.values()) / sum(error.values())),
        "sqnr_db_per_tensor_min": sqnr[worst],
        "worst": worst,
    }
    return figures, decoded


def main() -> None:
    """Answers until standard input ends; the imports take longer than many a point."""
    with np.load(sys.argv[1]) as archive:
        weights = {name: archive[name] for name in archive.files}
    for line in sys.stdin:
        figures, decoded = point(weights, int(line))
        np.savez(sys.argv[2], **decoded)
        print("point", json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
