"""Exported files on their runtimes: opened with a number of threads, and run once in a process whose memory is measured.

That process is this file alone, without sima_hf and torch, as on the device that a file is for:
`python runtimes.py RUNTIME FILE PIXELS THREADS OPTIONS`.
"""

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy


def run_onnxruntime(file: Path, threads: int, options: dict) -> Callable[[dict], numpy.ndarray]:
    """The first output of an ONNX file, on the CPU."""
    session = _session(file, threads)
    first = session.get_outputs()[0].name
    return lambda inputs: session.run([first], inputs)[0]


def run_openvino(file: Path, threads: int, options: dict) -> Callable[[dict], numpy.ndarray]:
    """The first output of OpenVINO's XML, on the CPU."""
    compiled = _compiled(file, threads, options)
    return lambda inputs: compiled(inputs)[0]


def nodes_of_onnxruntime(file: Path, threads: int, options: dict) -> Counter:
    """What ONNX Runtime computes for a file after its own optimizations: how many nodes of each type."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder, "optimized.onnx")
        _session(file, threads, optimized)
        graph = onnx.load(optimized, load_external_data=False).graph
    return Counter(node.op_type for node in graph.node)


def nodes_of_openvino(file: Path, threads: int, options: dict) -> Counter:
    """The same of OpenVINO, whose fused pieces are named Subgraph."""
    operations = _compiled(file, threads, options).get_runtime_model().get_ops()
    return Counter(str(one.get_rt_info()["layerType"].astype(str)) for one in operations)


# Package -> the first output of a file for inputs by name, and the types of the nodes that are computed for it.
RUNTIMES = {
    "onnxruntime": (run_onnxruntime, nodes_of_onnxruntime),
    "openvino": (run_openvino, nodes_of_openvino),
}


def peak_kib() -> int | None:
    """The most KiB that this process ever held; None where Linux's /proc is not there."""
    # Not getrusage: its maximum begins with what the parent process held.
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


def _session(file: Path, threads: int, optimized: Path | None = None):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Its threads would wait in a loop for the next run, and take processors from the contestant whose turn it is.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _compiled(file: Path, threads: int, options: dict):
    import openvino

    options = {**options, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    return openvino.Core().compile_model(str(file), "CPU", options)


def main(runtime: str, file: str, pixels: str, threads: str, options: str) -> None:
    """Run a file once on an image of ones, and print the most KiB that this process held."""
    run = RUNTIMES[runtime][0](Path(file), int(threads), json.loads(options))
    run({"pixel_values": numpy.ones((1, 3, int(pixels), int(pixels)), numpy.float32)})
    print(peak_kib())


if __name__ == "__main__":
    main(*sys.argv[1:])
