"""One point of NNCodec, and the weights it decodes to; runs in that codec's own environment.

    python nncodec_point.py WEIGHTS.npz QP DECODED.npz

Prints one JSON object: bytes, bits_per_weight, sqnr_db (in total over the tensors with two or more axes) and
sqnr_db_per_tensor_min with the name of that tensor. Dependent quantisation is on. The folder of `nnc_shim`
must be on PYTHONPATH.
"""

import json
import sys
import tempfile

import nnc_shim  # noqa: F401  (before nncodec)
import numpy as np
from nncodec.nn import decode, encode


def main() -> None:
    """Encodes, decodes, compares."""
    with np.load(sys.argv[1]) as archive:
        weights = {name: archive[name] for name in archive.files}
    with tempfile.TemporaryDirectory() as scratch:
        settings = {
            "qp": int(sys.argv[2]),
            "use_dq": True,
            "verbose": False,
            "results": scratch,
            "model": "peer",
        }
        stream = encode({name: values.copy() for name, values in weights.items()}, args=settings)
        decoded = {name: np.asarray(values) for name, values in decode(bytearray(stream)).items()}
    energy, error = {}, {}
    for name, values in weights.items():
        decoded[name] = decoded[name].reshape(values.shape).astype(np.float32)
        if values.ndim >= 2:
            energy[name] = float(np.square(values, dtype=np.float64).sum())
            error[name] = float(np.square(values - decoded[name], dtype=np.float64).sum())
    np.savez(sys.argv[3], **decoded)
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
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
