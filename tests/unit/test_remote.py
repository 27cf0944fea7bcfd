"""`.frq` files behind HTTP and S3 servers that run on this machine, and what is transferred of them."""

import contextlib
import io
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import frconvert
from frconvert.container.reader import open_reader
from frconvert.errors import FrqError, UnreadableError, UsageError

EDGE_BYTES = 1 << 14  # the reader takes as much from the end at once
DTYPES = ("float32", "float64", "int32", "int64", "uint16", "float16")


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files` by ranges, and remembers how many bytes of bodies it sent."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(is_head=True)

    def do_GET(self):
        self.answer(is_head=False)

    def answer(self, *, is_head):
        content = self.server.files.get(self.path)
        if content is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, last, status = 0, len(content) - 1, 200
        if "Range" in self.headers and self.server.has_ranges:
            first, last = (int(text) for text in self.headers["Range"].removeprefix("bytes=").split("-"))
            last, status = min(last, len(content) - 1), 206
        self.send_response(status)
        self.send_header("Content-Length", str(last - first + 1))
        if self.server.has_ranges:
            self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        if not is_head:
            self.server.sent.append(last - first + 1)
            self.wfile.write(content[first : last + 1])

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.sent, server.has_ranges = {}, [], True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return {f"{dtype}.w": (rng.standard_normal(40_000) * 9000).astype(dtype) for dtype in DTYPES}


@pytest.fixture(scope="module")
def content(arrays, tmp_path_factory):
    """An archive with a chunk for each of the arrays and an attachment."""
    from conftest import make_checkpoint

    path = tmp_path_factory.mktemp("remote") / "m.frq"
    noise = np.random.default_rng(1).bytes(50_000)
    frconvert.save(make_checkpoint(arrays, {}, {"noise": noise}), path, lossless=True)
    return path.read_bytes()


@pytest.fixture
def url(server, content):
    server.files["/m.frq"] = content
    server.has_ranges = True
    server.sent.clear()
    return f"http://127.0.0.1:{server.server_port}/m.frq"


def test_one_tensor_of_a_file_behind_http_costs_its_chunk_and_the_indices(url, server, arrays, content):
    checkpoint = frconvert.load(url, names=["int64.w"])
    assert [entry.name for entry in checkpoint] == ["int64.w"]
    indices = sum(server.sent)
    assert indices < EDGE_BYTES + 500
    assert len(server.sent) == 2
    assert np.array_equal(checkpoint.numpy()["int64.w"], arrays["int64.w"])
    assert len(server.sent) == 3
    assert server.sent[2] <= arrays["int64.w"].nbytes
    assert sum(server.sent) < len(content) / 3


def test_everything_of_a_file_behind_http_comes_back(url, arrays, tmp_path):
    summary = frconvert.convert(url, tmp_path / "m.npz")
    assert summary.source_bytes == sum(array.nbytes for array in arrays.values())
    values = frconvert.load(tmp_path / "m.npz").numpy()
    assert all(np.array_equal(values[name], array) for name, array in arrays.items())


def test_a_small_file_takes_one_request(server, tmp_path, checkpoint_of):
    frconvert.save(checkpoint_of({"a": np.arange(5.0)}), tmp_path / "s.frq", lossless=True)
    server.files["/s.frq"] = (tmp_path / "s.frq").read_bytes()
    server.sent.clear()
    values = frconvert.load(f"http://127.0.0.1:{server.server_port}/s.frq").numpy()
    assert values["a"].tolist() == [0, 1, 2, 3, 4]
    assert server.sent == [len(server.files["/s.frq"])]


def test_inspect_of_a_url_reads_the_indices_only(url, server, run):
    status, out, err = run("inspect", url, "--json")
    assert (status, err) == (0, "")
    assert len(json.loads(out)["tensors"]) == len(DTYPES)
    assert sum(server.sent) < EDGE_BYTES + 500


def test_extract_of_a_url_tells_how_little_it_read(url, server, run, tmp_path, arrays):
    status, out, err = run("extract", url, "float16.*", "-o", tmp_path / "part.npz", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["read_bytes"] == sum(server.sent)
    assert np.array_equal(np.load(tmp_path / "part.npz")["float16.w"], arrays["float16.w"])


def test_verify_of_a_url_transfers_it_once(url, server, run, content):
    status, out, _ = run("verify", url)
    assert status == 0
    assert "all intact" in out
    assert sum(server.sent) <= 1.1 * len(content)
    server.files["/m.frq"] = content[:-20_000]
    assert run("verify", url)[0] == 1


def test_a_damaged_file_behind_http_is_salvaged(url, server, run, content, tmp_path):
    server.files["/m.frq"] = content[: len(content) // 2]
    status, _, err = run("convert", "--salvage", url, tmp_path / "out.npz")
    assert status == 1
    lost = err.count("is lost")
    assert 0 < len(frconvert.load(tmp_path / "out.npz")) == len(DTYPES) + 1 - lost


def test_what_a_server_refuses_is_one_line(url, server, fails, tmp_path, content):
    base = url.removesuffix("/m.frq")
    assert "no such file" in fails(3, "inspect", f"{base}/missing.frq")
    fails(3, "convert", f"{base}/missing.frq", tmp_path / "x.npz")
    server.files["/other"] = b"PK\3\4" + bytes(300)
    assert "not a .frq file" in fails(3, "inspect", f"{base}/other")
    fails(2, "convert", f"{base}/m.frq", tmp_path / "x.npz", "--from", "npz")
    assert "does not match" in fails(3, "extract", corrupted(server, content, base), "float32.w")
    fails(3, "inspect", "http://127.0.0.1:9/x.frq")
    assert "not known" in fails(3, "inspect", "nosuchprotocol://x/y.frq")
    assert list(tmp_path.iterdir()) == []


def corrupted(server, content, base):
    frame = open_reader(io.BytesIO(content)).contents.frames[0]
    server.files["/bad.frq"] = content[: frame.offset] + b"\xff\xfe" + content[frame.offset + 2 :]
    return f"{base}/bad.frq"


def test_a_server_without_ranges_is_refused_or_read_whole_but_never_wrong(url, server, arrays):
    server.has_ranges = False
    with contextlib.suppress(UnreadableError):
        values = frconvert.load(url).numpy()
        assert all(np.array_equal(values[name], array) for name, array in arrays.items())


def test_a_local_file_loads_nothing_of_the_network(content, tmp_path):
    (tmp_path / "m.frq").write_bytes(content)
    code = (
        "import sys; from frconvert.cli import main\n"
        "try: main()\n"
        "finally: print([m for m in ('fsspec', 'aiohttp', 's3fs', 'ssl', 'socket') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, "inspect", str(tmp_path / "m.frq")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


def test_without_fsspec_a_url_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UsageError, match=r"pip install 'frconvert\[remote\]'"):
        frconvert.load("http://127.0.0.1:9/x.frq")


@pytest.fixture(scope="module")
def bucket(content):
    """An S3-compatible server of this machine with the archive in a bucket."""
    pytest.importorskip("s3fs")
    from moto.server import ThreadedMotoServer

    patch = pytest.MonkeyPatch()
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "testing")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="models")
    client.put_object(Bucket="models", Key="a/m.frq", Body=content)
    client.close()
    yield "s3://models/a/m.frq"
    server.stop()
    patch.undo()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_file_in_s3_is_read_by_ranges(bucket, arrays, content, run, tmp_path):
    assert np.array_equal(frconvert.load(bucket)["uint16.w"].read(), arrays["uint16.w"])
    status, out, _ = run("extract", bucket, "uint16.w", "-o", tmp_path / "x.npz", "--json")
    assert status == 0
    assert json.loads(out)["read_bytes"] < len(content) / 4
    with pytest.raises(FrqError):
        frconvert.load(bucket + ".missing")
