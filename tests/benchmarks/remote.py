"""Reads one tensor out of a large archive behind an HTTP server on this machine: bytes and seconds.

    python tests/benchmarks/remote.py [--megabytes 1000]

Prints a Markdown table. The archive holds noise, 2 MB a tensor; the server counts what it sends.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from frconvert.coding.record import Plan, encode_chunk, make_record
from frconvert.container.head import Group, Head
from frconvert.container.writer import Writer

MAIN = "import sys; from frconvert.cli import main; main()"
TENSOR_BYTES = 2_000_000


class Server(ThreadingHTTPServer):
    """Serves one file by ranges."""

    def __init__(self, path: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.path, self.size = path, path.stat().st_size
        self.sent: list[int] = []


class Handler(BaseHTTPRequestHandler):
    """Answers HEAD, and GET with a range."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        """Size and ranges."""
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.size))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def do_GET(self) -> None:
        """A range."""
        first, last = (int(text) for text in self.headers["Range"].removeprefix("bytes=").split("-"))
        with self.server.path.open("rb") as file:
            file.seek(first)
            data = file.read(last + 1 - first)
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Range", f"bytes {first}-{first + len(data) - 1}/{self.server.size}")
        self.end_headers()
        self.server.sent.append(len(data))
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def make_archive(path: Path, count: int) -> None:
    """`count` tensors of noise, each in a chunk of its own."""
    rng = np.random.default_rng(0)
    record = make_record(np.zeros(TENSOR_BYTES, np.uint8), "uint8", Plan())
    names = tuple(f"layers.{number}.weight" for number in range(count))
    head = Head(names, (record.layout,) * count, {}, (Group("uint8", 1),) * count, {}, {})
    with path.open("wb") as file:
        writer = Writer(file, head, {})
        for _ in names:
            noise = rng.integers(0, 256, TENSOR_BYTES, np.uint8)
            writer.add_chunk(encode_chunk([make_record(noise, "uint8", Plan())]))
        writer.finish()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    arguments = parser.parse_args()
    count = max(1, arguments.megabytes * 1_000_000 // TENSOR_BYTES)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        make_archive(folder / "m.frq", count)
        with Server(folder / "m.frq") as server:
            threading.Thread(target=server.serve_forever).start()
            url = f"http://127.0.0.1:{server.server_port}/m.frq"
            print("| command | archive, bytes | requests | bytes sent | seconds |\n|---|---|---|---|---|")
            tensor = f"layers.{count // 2}.weight"
            for words in (["inspect", url], ["extract", url, tensor, "-o", str(folder / "x.npz")]):
                server.sent.clear()
                began = time.monotonic()
                subprocess.run([sys.executable, "-c", MAIN, *words], check=True, stdout=subprocess.DEVNULL)
                seconds = time.monotonic() - began
                print(f"| {words[0]} | {server.size:,} | {len(server.sent)} | {sum(server.sent):,} "
                      f"| {seconds:.2f} |", flush=True)  # fmt: skip
            server.shutdown()


if __name__ == "__main__":
    main()
