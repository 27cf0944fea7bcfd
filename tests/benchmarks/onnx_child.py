"""Runs one model in one runtime, in whatever environment that lives; used by `onnx_runtimes.py`.

    python onnx_child.py onnxruntime|openvino|reference MODEL.onnx FEEDS.npz RESULT.npz

Imports nothing of frconvert. Prints the runtime's version, and the seconds to open the model and to run it.
"""

import json
import sys
import time

import numpy as np


def main(runtime, model, feeds, result):
    with np.load(feeds) as arrays:
        feed = {str(name): arrays[f"arr_{number}"] for number, name in enumerate(arrays["names"])}
    began = time.perf_counter()
    if runtime == "onnxruntime":
        import onnxruntime as package

        options = package.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = package.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        run = lambda: session.run(None, feed)  # noqa: E731
    elif runtime == "openvino":
        import openvino as package

        compiled = package.Core().compile_model(
            model, "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        )
        run = lambda: [compiled(feed)[output] for output in compiled.outputs]  # noqa: E731
    else:
        import onnx as package
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(model)
        run = lambda: evaluator.run(None, feed)  # noqa: E731
    opened = time.perf_counter()
    outputs = run()
    done = time.perf_counter()
    np.savez(result, *outputs)
    version = package.__version__.split("-")[0]
    print(json.dumps({"version": version, "open": opened - began, "run": done - opened}))


if __name__ == "__main__":
    main(*sys.argv[1:])
