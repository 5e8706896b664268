"""What int8 costs: accuracy of ONNX files in float and in int8 on digits and Fashion-MNIST, and the error of SimA in whole numbers.

Trains six small models unless they are kept from before. Ranges come from training images without labels; no test image chose
anything.

python benchmarks/int8_accuracy.py --output_dir benchmarks/results --page docs/export.md        # or: make int8
"""

import argparse
import json
import math
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import numpy as np
import onnxruntime
import torch
from digits_training import begin_process
from int8_models import FASHION_TRAINED, KINDS, NATIVE, RECIPES, VIT, Images, trained
from integer_sima import best_shift, float_sima, integer_sima, quantized, sums, width, widths
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import sima_hf
from sima_hf.bench.tables import markdown, replace_between
from sima_hf.exporting import quantize
from sima_hf.exporting.calibration_pixels import MOST
from sima_hf.machine.description import device_name, git_revision


TITLES = {"digits": "digits", "fashion": "Fashion-MNIST"}
TOKENS = (16, 64, 196, 784, 1024, 4096)
HEAD_DIM, DRAWS = 64, 8
STATIC_TOKENS = 196  # whose shift is tried at all other numbers of tokens


def answers(folder: Path, images: torch.Tensor, sized) -> np.ndarray:
    """The classes that a file on ONNX Runtime gives, one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "model.onnx", options)
    parts = (sized(part).numpy() for part in images.split(100))
    return np.concatenate([session.run(["logits"], {"pixel_values": part})[0].argmax(1) for part in parts])


def measure(task: str, kind: str, kept: Path) -> dict:
    """One model as exported in float and in int8."""
    model, data = trained(task, kind, kept), Images(task, kind)
    labels = data.test_labels.numpy()
    seen = data.sized(data.train[:MOST])
    with tempfile.TemporaryDirectory() as folder:
        sima_hf.export(model, Path(folder, "float"))
        made = sima_hf.export(model, Path(folder, "int8"), quantize="int8", calibration_images=seen)
        with mock.patch.object(quantize, "over_a_norm", return_value=([], [])):  # products over a norm in int8 too
            everything = {"quantize": "int8", "calibration_images": seen, "min_agreement": 0.0}
            sima_hf.export(model, Path(folder, "every_product"), **everything)
        names = ("float", "int8", "every_product")
        found = {name: answers(Path(folder, name), data.test, data.sized) for name in names}
        size = {name: sum(one.stat().st_size for one in Path(folder, name).glob("model.onnx*")) for name in found}
    row = {
        "task": task,
        "model": kind,
        "test_images": len(labels),
        **{name: float((one == labels).mean()) for name, one in found.items()},
        "same_answers": float((found["float"] == found["int8"]).mean()),
        "softmax_in_attention": made.certificate.count,
        "bytes": size,
        "quantization": made.quantization.to_dict(),
    }
    if kind == "ViT with SimA":
        row |= {f"integer_{bits}": integer_accuracy(model, data, bits) for bits in (8, 16)}
    return row


@torch.no_grad()
def integer_accuracy(model, data: Images, bits: int) -> float:
    """Accuracy with attention in whole numbers and all else in float; one shift for each head of a layer, of 32 training images."""
    shifts: dict = {}

    def attention(module, query, key, value, *_, **__):
        arrays = [x.double().numpy() for x in (query, key, value)]
        if module not in shifts:
            shifts[module] = best_shift(*arrays, bits, spare=1).min(axis=0, keepdims=True)
        output = integer_sima(*arrays, bits, shifts[module] + np.zeros((len(query), 1, 1, 1), np.int64))
        gain = query.shape[-2] if getattr(module.config, "attention_gain", "none") == "tokens" else 1
        return torch.from_numpy(output * gain).to(value.dtype).transpose(1, 2).contiguous(), None

    name = model.config._attn_implementation
    before = ALL_ATTENTION_FUNCTIONS[name]
    ALL_ATTENTION_FUNCTIONS.register(name, attention)
    try:
        model(data.sized(data.train[:32]))
        if not shifts:
            raise RuntimeError("The model does not call the attention that was registered.")
        found = [model(data.sized(part)).logits.argmax(-1) for part in data.test.split(100)]
    finally:
        ALL_ATTENTION_FUNCTIONS.register(name, before)
    return float((torch.cat(found) == data.test_labels).double().mean())


def drawn(tokens: int, seed: int) -> list[np.ndarray]:
    """Queries, keys and values `(tokens, HEAD_DIM)` whose channels differ in size and mean, as those of trained models do."""
    random = np.random.default_rng([tokens, seed])
    return [
        (random.standard_normal((tokens, HEAD_DIM)) + random.standard_normal(HEAD_DIM))
        * np.exp(0.5 * random.standard_normal(HEAD_DIM))
        for _ in range(3)
    ]


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Length of the error over that of what is expected."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def integer_row(tokens: int) -> dict:
    """Errors against float64 at a number of tokens, the mean of some draws, and the widths that the sums took."""
    rows = []
    for seed in range(DRAWS):
        inputs, other = drawn(tokens, seed), drawn(STATIC_TOKENS, seed)
        expected = float_sima(*inputs)
        rounded = [integers * scale for integers, scale in map(quantized, inputs)]
        query_norm, key_norm, products = sums(*(quantized(x)[0] for x in inputs))
        row = {
            "inputs_alone": relative(float_sima(*rounded), expected),
            "norm_bits": width(max(query_norm.max(), key_norm.max()), signed=False),
            "key_value_bits": width(np.abs(products).max()),
        }
        for bits in (8, 16):
            shift = best_shift(*inputs, bits)
            static = best_shift(*other, bits)
            scaled = static + round(math.log2(tokens / STATIC_TOKENS))
            row |= {
                f"shift_{bits}": int(shift.max()),
                f"matrix_{bits}": relative(integer_sima(*inputs, bits), expected),
                f"matrix_{bits}_static": relative(integer_sima(*inputs, bits, static), expected),
                f"matrix_{bits}_static_by_tokens": relative(integer_sima(*inputs, bits, scaled - 1), expected),
            }
        rows.append(row)
    found = {name: max if name.endswith("bits") else np.mean for name in rows[0]}
    return {
        "tokens": tokens,
        "bound": widths(tokens, HEAD_DIM),
        **{name: float(pick([row[name] for row in rows])) for name, pick in found.items()},
    }


def accuracy_table(results: dict) -> str:
    """Accuracy in percent, float beside int8."""
    header = [
        "",
        "model",
        "float",
        "int8",
        "points",
        "same answers",
        "int8 in every product",
        "attention in whole numbers: 16, 8 bits",
    ]
    rows = []
    for row in results["rows"]:
        whole = f"{100 * row['integer_16']:.1f}, {100 * row['integer_8']:.1f}" if "integer_16" in row else ""
        points = 100 * (row["int8"] - row["float"])
        cells = [f"{100 * row[name]:.1f}" for name in ("float", "int8")]
        rows.append(
            [
                TITLES[row["task"]],
                row["model"],
                *cells,
                f"{points:+.1f}",
                f"{100 * row['same_answers']:.1f}",
                f"{100 * row['every_product']:.1f}",
                whole,
            ]
        )
    images = {row["task"]: row["test_images"] for row in results["rows"]}
    tested = ", ".join(f"{count:,} of {TITLES[task]}" for task, count in images.items())
    return (
        markdown(header, rows, left=2)
        + f"\n\nPercent of test images ({tested}), one seed, on ONNX Runtime. Ranges from {results['calibration_images']} training "
        f"images. Small models, trained for minutes (Fashion-MNIST: {results['fashion_trained']:,} images, "
        f"{results['recipes']['fashion']['epochs']} epochs). {_conditions(results)}; "
        "[int8_accuracy.json](benchmarks/results/int8_accuracy.json), made by `make int8`."
    )


def integer_table(results: dict) -> str:
    """Widths and errors by tokens."""
    header = [
        "tokens",
        "bits of a norm: bound, seen",
        "of k^T v",
        "inputs in int8 alone",
        "matrix in 16 bits",
        "in 8 bits",
    ]
    header += [f"{bits} bits, shift of {STATIC_TOKENS} tokens" for bits in (16, 8)]
    header += ["16 bits, that shift moved by log2 of the tokens"]
    rows = []
    for row in results["integer"]:
        bits = [f"{row['bound'][name]}, {row[f'{name}_bits']:.0f}" for name in ("norm", "key_value")]
        names = ("inputs_alone", "matrix_16", "matrix_8", "matrix_16_static", "matrix_8_static")
        names += ("matrix_16_static_by_tokens",)
        rows.append([f"{row['tokens']:,}", *bits, *(f"{100 * row[name]:.2g} %" for name in names)])
    worst = [max(row[f"matrix_{bits}"] / row["inputs_alone"] for row in results["integer"]) for bits in (16, 8)]
    return (
        markdown(header, rows)
        + f"\n\nError of the output against SimA in float64, its length over that of the output; heads of {HEAD_DIM}, random queries, "
        f"keys and values whose channels differ in size and mean, mean of {DRAWS} draws. With the best shift the matrix makes the error of inputs in int8 alone at most {worst[0]:.2f} times as "
        f"large in 16 bits, {worst[1]:.1f} times in 8 bits. {_conditions(results)}."
    )


def _conditions(results: dict) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    return f"{results['device']}, {versions}"


def update_page(page: Path, results: dict) -> None:
    """Replace what stands between the marks of the page.

    Raises:
        ValueError: the marks are not there.
    """
    replace_between(page, "int8", accuracy_table(results))
    replace_between(page, "integers", integer_table(results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path("benchmarks/results"), help="folder for the JSON")
    parser.add_argument("--page", type=Path, help="page whose tables are to be brought up to date as well")
    parser.add_argument(
        "--kept", type=Path, default=Path("build/int8"), help="folder of trained models, read or written"
    )
    arguments = parser.parse_args()
    begin_process()
    start, rows = time.perf_counter(), []
    for task in TITLES:
        for kind in KINDS:
            rows.append(measure(task, kind, arguments.kept))
            print(f"{task}, {kind}: {100 * rows[-1]['float']:.1f} % in float, {100 * rows[-1]['int8']:.1f} % in int8")
    results = {
        "command": "make int8",
        "device": device_name("cpu"),
        "revision": git_revision(),
        "python": platform.python_version(),
        "versions": {
            name: version(name) for name in ("sima_hf", "torch", "transformers", "onnx", "onnxruntime", "numpy")
        },
        "seed": 0,
        "calibration_images": rows[0]["quantization"]["calibration_images"],
        "fashion_trained": FASHION_TRAINED,
        "recipes": RECIPES,
        "models": {"vit": VIT, "native": NATIVE},
        "seconds": time.perf_counter() - start,
        "rows": rows,
        "integer": [integer_row(tokens) for tokens in TOKENS],
    }
    path = arguments.output_dir / "int8_accuracy.json"
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if arguments.page:
        update_page(arguments.page, results)
    print(f"{path}: {results['seconds']:.0f} s")


if __name__ == "__main__":
    main()
