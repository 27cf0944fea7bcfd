"""The same graphs with coefficients in many runtimes, beside the decoded dense models, as tables.

onnxruntime (oldest to be had for this Python, oldest supported, newest), OpenVINO, onnxruntime-web under Node
and in a page of headless Chromium, onnx.reference; and onnx's checker and shape inference. Each runtime runs
the decoded dense model and the one with coefficients on the same input: the error is |b - a| / |a| of the
worst output. Other runtimes live in environments below ~/.cache/frconvert-benchmarks, made at the first run
by pip and npm; Chromium is expected on the path (Debian: apt-get install chromium).

    python tests/benchmarks/onnx_runtimes.py [--results] [--target snr DB] [--mode idct|functions] [NAME ...]
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import venv
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx_models import CACHE, calibration, sources
from shared import Page, arguments_of, run

import frconvert
from frconvert.calibration import random_batches, read
from frconvert.compare_outputs import compare_values
from frconvert.runtime.graph_inputs import read_inputs

HERE = Path(__file__).parent
ENVIRONMENTS = CACHE.parent / "venvs"
NODE = CACHE.parent / "node"
# The name of an environment: what pip installs into it. "" is this one.
PACKAGES = {
    "ort-1.15.0": ["onnxruntime==1.15.0", "numpy<2"],
    "ort-1.20.0": ["onnxruntime==1.20.0"],
    "openvino": ["openvino"],
}
PAPER_UNET = "UNet of the paper, 759 numbers"
MODELS = (
    PAPER_UNET,
    "ResNet18, TorchScript", "ViT, dynamo", "UNet, dynamo", "LSTM language model, TorchScript",
    "DCGAN generator, dynamo", "silero-vad*", "PP-OCR detector*", "speech embedding*", "MTCNN O", "layout*",
)  # fmt: skip
_SHOWN = 150  # characters of an error
SECONDS = 600  # for one model in one runtime

Feeds = dict[str, np.ndarray]
Found = dict[str, Any]  # version, open, run: seconds, outputs


def main() -> None:
    arguments = arguments_of(
        __doc__,
        ("--target", {"nargs": 2, "default": ["snr", "30"], "help": "such as keep 0.05"}),
        ("--mode", {"choices": ("idct", "functions"), "default": "idct"}),
    )
    globs = arguments.models or MODELS
    target = [f"--{arguments.target[0]}", arguments.target[1]]
    name = "_".join(["onnx_runtimes", *arguments.target, arguments.mode])
    runtimes: dict[str, Callable[[Path, Feeds, Path], Found]] = {
        "onnxruntime, oldest": lambda *job: python("ort-1.15.0", "onnxruntime", *job),
        "onnxruntime, oldest supported": lambda *job: python("ort-1.20.0", "onnxruntime", *job),
        "onnxruntime, newest": lambda *job: python("", "onnxruntime", *job),
        "OpenVINO": lambda *job: python("openvino", "openvino", *job),
        "onnxruntime-web, Node": node,
        "onnxruntime-web, Chromium": page_in_chromium,
        "onnx.reference": lambda *job: python("", "reference", *job),
    }
    with Page(name, keep=arguments.results) as page, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        page.say(f"# Runtimes, {' '.join(arguments.target)}, mode {arguments.mode}")
        page.say(
            "Error of the graph with coefficients against the decoded dense model in the same runtime; "
            "seconds to open both and to run both once."
        )
        row = page.table("model", "runtime", "version", "error", "open: dense, coded", "run: dense, coded")
        for label, coded, dense, feeds in pairs(globs, target, arguments.mode, folder):
            row(label, "checker, full; shape inference", onnx.__version__, check(coded), "", "")
            for runtime, work in runtimes.items():
                row(label, runtime, *cells(work, dense, coded, feeds, folder))
        page.say()


def pairs(
    globs: Sequence[str], target: list[str], mode: str, folder: Path
) -> Iterator[tuple[str, Path, Path, Feeds]]:
    """Label, graph with coefficients, decoded dense model, and inputs of each model that is wanted."""
    coded, dense = folder / "m.idct.onnx", folder / "m.onnx"
    if any(fnmatchcase(PAPER_UNET, glob) for glob in globs):
        import torch
        from onnx_unet import picture, published

        pixels = picture(0)[..., 100:164, 100:164]
        network = published(folder)
        frconvert.export_onnx(
            network, (torch.from_numpy(pixels),), coded, onnx=mode, weights=folder / "unet.frq"
        )
        run("convert", coded, dense)
        yield PAPER_UNET, coded, dense, {read_inputs(coded)[0].name: np.ascontiguousarray(pixels)}
    for label, path in sources():
        if any(fnmatchcase(label, glob) for glob in globs):
            run("convert", path, coded, *target, "--onnx", mode, "--overwrite")
            run("convert", coded, dense, "--overwrite")
            inputs = read_inputs(dense)
            data = calibration(path, folder)
            yield label, coded, dense, next(iter(read(data, inputs) if data else random_batches(inputs, 1)))


def cells(
    work: Callable[[Path, Feeds, Path], Found], dense: Path, coded: Path, feeds: Feeds, folder: Path
) -> list[str]:
    """Version, error and times of one runtime, or what went wrong."""
    try:
        first = work(dense, feeds, folder)
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        return ["", f"the dense model fails: {shorten(error)}", "", ""]
    try:
        second = work(coded, feeds, folder)
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        return [first["version"], f"fails: {shorten(error)}", "", ""]
    errors = [
        compare_values("", a, b).relative_error
        for a, b in zip(first["outputs"], second["outputs"], strict=True)
    ]
    return [
        first["version"],
        f"{max(errors):.1e}",
        *(f"{first[what]:.2f}, {second[what]:.2f}" for what in ("open", "run")),
    ]


def check(path: Path) -> str:
    """Whether onnx's checker passes the model, and shape inference knows every float value."""
    model = onnx.load(path)
    try:
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return f"fails: {shorten(error)}"
    return f"passes; {len(inferred.graph.value_info)} values inferred"


def python(environment: str, runtime: str, model: Path, feeds: Feeds, folder: Path) -> Found:
    """Runs the model in a Python process of an environment."""
    program = sys.executable
    if environment:
        home = ENVIRONMENTS / environment
        program = str(home / "bin" / "python")
        if not (home / "ready").is_file():
            venv.create(home, with_pip=True, clear=True)
            finish([program, "-m", "pip", "install", "-q", *PACKAGES[environment]])
            (home / "ready").touch()
    stored, result = folder / "feeds.npz", folder / "result.npz"
    np.savez(stored, *feeds.values(), names=np.array(list(feeds)))
    done = finish([program, str(HERE / "onnx_child.py"), runtime, str(model), str(stored), str(result)])
    with np.load(result) as arrays:
        outputs = [arrays[f"arr_{number}"] for number in range(len(arrays.files))]
    return {**json.loads(done.splitlines()[-1]), "outputs": outputs}


def node(model: Path, feeds: Feeds, folder: Path) -> Found:
    """Runs the model under Node."""
    install_web()
    job = folder / "job.json"
    job.write_text(web_job(model, feeds))
    return web_result(json.loads(finish(["node", str(HERE / "onnx_child.mjs"), str(NODE), str(job)])))


def page_in_chromium(model: Path, feeds: Feeds, _folder: Path) -> Found:
    """Runs the model in a page of headless Chromium, which hands in the result by itself."""
    install_web()
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        raise RuntimeError("no chromium on the path")
    answers: list[dict[str, Any]] = []
    arrived = threading.Event()
    files = {
        "/": (HERE / "onnx_page.html", "text/html"),
        "/onnx_child.mjs": (HERE / "onnx_child.mjs", "text/javascript"),
    }
    for path in (NODE / "node_modules" / "onnxruntime-web" / "dist").iterdir():
        kind = "application/wasm" if path.suffix == ".wasm" else "text/javascript"
        files[f"/dist/{path.name}"] = (path, kind)
    job = web_job(model, feeds).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, kind = files.get(self.path, (None, "application/json"))
            data = job if self.path == "/job.json" else path.read_bytes() if path else None
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(data or b"")

        def do_POST(self) -> None:
            answers.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            arrived.set()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        window = subprocess.Popen(
            [browser, *options, f"http://127.0.0.1:{server.server_port}/"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            if not arrived.wait(SECONDS):
                raise RuntimeError(f"no answer of the page in {SECONDS} s")
        finally:
            window.terminate()
            window.wait(30)
            server.shutdown()
            server.server_close()
    return web_result(answers[0])


def install_web() -> None:
    """onnxruntime-web, by npm, once."""
    if not (NODE / "node_modules" / "onnxruntime-web").is_dir():
        NODE.mkdir(parents=True, exist_ok=True)
        finish(["npm", "install", "--silent", "--prefix", str(NODE), "onnxruntime-web"])


def web_job(model: Path, feeds: Feeds) -> str:
    """Model and inputs for `onnx_child.mjs`."""
    tensors = {
        name: {
            "type": array.dtype.name,
            "dims": array.shape,
            "data": base64.b64encode(array.tobytes()).decode(),
        }
        for name, array in feeds.items()
    }
    return json.dumps({"model": base64.b64encode(model.read_bytes()).decode(), "feeds": tensors})


def web_result(found: dict[str, Any]) -> Found:
    """What came back, with arrays for outputs."""
    if "error" in found:
        raise RuntimeError(found["error"])
    found["outputs"] = [
        np.frombuffer(base64.b64decode(each["data"]), each["type"]).reshape(each["dims"])
        for each in found["outputs"]
    ]
    if "agent" in found:
        found["version"] += f" in {found['agent'].split('(KHTML, like Gecko) ')[-1]}"
    return found


def finish(command: list[str]) -> str:
    """What the command prints; RuntimeError with the last line on stderr if it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or f"status {done.returncode}").splitlines()[-1])
    return done.stdout


def shorten(error: Exception) -> str:
    """One short line without what would break a table."""
    text = " ".join(str(error).split()).replace("|", "/")
    return text if len(text) <= _SHOWN else f"... {text[-_SHOWN:]}"  # the cause is last


if __name__ == "__main__":
    sys.exit(main())
