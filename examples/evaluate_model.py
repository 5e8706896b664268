"""Evaluate an image classifier: native SimA, swapped, or with softmax; at any resolution, on one device or many.

    python examples/evaluate_model.py --model_name_or_path demo                                  # on scikit-learn's digits
    python examples/evaluate_model.py --model_name_or_path out/checkpoint-500 --weights ema --validation_dir imagenet/val
    python examples/evaluate_model.py --model_name_or_path org/sima-deit-small --dataset imagenet-1k --image_size 384 --eval_crop_pct 1.0
    accelerate launch --num_processes 8 examples/evaluate_model.py --model_name_or_path out --data_files "val/*.parquet" --output_dir eval

Prints a table and the classes that it knows worst; with --output_dir, leaves all of it in evaluation.json, and the confusion
matrix in confusion.png. `sima-hf evaluate` is the same for one process.
"""

import argparse
import sys
from pathlib import Path

import transformers

from sima_hf.errors import SimAError
from sima_hf.evaluation.classifiers import WEIGHTS
from sima_hf.evaluation.report import report_text, write_report
from sima_hf.evaluation.run import DTYPES, EvaluationOptions, run_evaluation
from sima_hf.folders.atomic_folder import try_writing


def parser() -> argparse.ArgumentParser:
    """The options, named as the fields of `EvaluationOptions`; a hyphen is as good as an underscore in a name."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])

    def add(name: str, **options) -> None:
        """As all scripts here spell it, and as `sima-hf evaluate` does."""
        parser.add_argument(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), **options)

    add("model_name_or_path", required=True, help="model folder, training checkpoint, or Hub name")
    add("weights", choices=WEIGHTS, help="of a training checkpoint: averaged or raw; default: raw")
    add("dataset", help="data set on the Hub; 'digits', the default, is scikit-learn's")
    add("config_name", help="configuration of that data set")
    add("train_dir", help="folder of training images by class; what is held out of it is evaluated")
    add("validation_dir", help="folder with one sub-folder of images per class, all evaluated")
    add("data_files", nargs="+", help="parquet files or WebDataset shards, all evaluated")
    add("image_column", help="where the usual names do not tell")
    add("label_column", help="where the usual names do not tell")
    add("held_out", type=float, default=0.2, help="share held out, where there is no validation split")
    add("labels_by_index", action="store_true", help="match classes by index, whatever their names")
    add("image_size", type=int, help="resolution in pixels; default: the model's own")
    add("eval_crop_pct", type=float, help="0.875, or 1.0 for the full crop; default: the model's own way")
    add("batch_size", type=int, default=64, help="images per device at a time")
    add("num_workers", type=int, default=0, help="processes that decode images, per device")
    add("device", help="cpu, cuda, cuda:1, mps; default: the best there is")
    add("dtype", choices=list(DTYPES), default="float32", help="of the model's parameters")
    add("backend", default="auto", help="who computes SimA attention: cpu, triton, eager, reference")
    add("revision", help="branch, tag or commit on the Hub")
    add("trust_remote_code", action="store_true", help="run code that comes with a Hub model")
    add("output_dir", type=Path, help="folder for evaluation.json and confusion.png")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run with the arguments given, or those of the process; a mistake ends it with a sentence."""
    options = parser().parse_args(arguments)
    try:
        run(options)
    except (SimAError, ValueError, OSError) as error:
        sys.exit(f"evaluate_model: {error}")
    except KeyboardInterrupt:
        sys.exit("\nevaluate_model: interrupted.")


def run(options: argparse.Namespace) -> dict:
    """The whole way; returns what is also written to evaluation.json, nothing on processes that are not the main one."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.output_dir:
        try_writing(options.output_dir)  # better now than after the evaluation
    found = run_evaluation(EvaluationOptions(**vars(options)))
    if found is None:
        return {}
    print(report_text(found.report))
    if options.output_dir:
        path, picture = write_report(found, options.output_dir)
        print(f"  {path}\n  {picture}\n")
    return found.report


if __name__ == "__main__":
    main()
