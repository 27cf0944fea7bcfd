"""Encodes and decodes one model in this fresh process, and prints processor seconds as JSON.

python speed_point.py SOURCE SQNR_DB MODEL.frq
"""

import json
import sys
import time

import frconvert


def main() -> None:
    """As NNCodec's script does: once, nothing warmed up; reading and writing files included."""
    source, sqnr_db, packed = sys.argv[1], float(sys.argv[2]), sys.argv[3]
    began = time.process_time()
    summary = frconvert.convert(source, packed, snr=sqnr_db, importance="mse", overwrite=True)
    encoded = time.process_time()
    frconvert.load(packed).numpy()
    decoded = time.process_time()
    figures = {
        "bytes": summary.destination_bytes,
        "sqnr_db": summary.sqnr_db,
        "encode_s": encoded - began,
        "decode_s": decoded - encoded,
        "source_bytes": summary.source_bytes,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
