"""Is data loading what the training step waits for? Images per second of loading, augmenting and training, in turn.

    python benchmarks/measure_training_speed.py --output_dir benchmarks/results --readme README.md
    python benchmarks/measure_training_speed.py --device cuda --output_dir benchmarks/results       # bfloat16, compiled

The images are JPEGs of ImageNet's shape, 500 x 375 pixels and about 110 kB, in a folder that is removed in the end. They are
in the cache of the system when they are read: what is measured is the processor, not the disk. Loading and augmenting are
measured while nothing else runs; the last two rows are training with and without a loader at the same time.
"""

import argparse
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from tqdm.auto import tqdm
from training_speed_loading import Contestant, Sample, bytes_batch, folder_images, loading, streaming, write_images
from training_speed_steps import TrainingStep, augmenting, training, training_on_bytes
from training_speed_table import Row, markdown_table, summed_up, update_readme

from sima_hf.bench.attention import conditions
from sima_hf.bench.tables import write_csv


MODELS = ("sima_small_12_p16", "sima-deit-small", "deit-small")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# What is sensible on each kind of device; every one is an argument.
DEFAULTS = {
    "cpu": {
        "batch_size": 8,
        "images": 256,
        "num_workers": [0, 1, 2],
        "batches": 16,
        "dtype": "float32",
        "compile": False,
        "steps": 1,
        "fed_steps": 2,
        "augment_calls": 1,
    },
    "cuda": {
        "batch_size": 128,
        "images": 2048,
        "num_workers": [1, 8],
        "batches": 8,
        "dtype": "bfloat16",
        "compile": True,
        "steps": 20,
        "fed_steps": 20,
        "augment_calls": 10,
    },
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, with the defaults of its device."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", choices=list(DEFAULTS), default="cpu")
    parser.add_argument(
        "--models", nargs="+", default=list(MODELS), help="names in examples/configs; without sima-: softmax"
    )
    parser.add_argument(
        "--model_overrides", default="", help="config fields to set in all of them, e.g. hidden_size=96"
    )
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, help="of loading and training")
    parser.add_argument("--augment_batch_size", type=int, default=64)
    parser.add_argument("--augment_calls", type=int, help="batches in one measurement of augmenting")
    parser.add_argument("--images", type=int, help="JPEG files")
    parser.add_argument("--num_workers", type=int, nargs="+", help="of loading; training gets the most of them")
    parser.add_argument("--batches", type=int, help="in one measurement of loading, of each worker")
    parser.add_argument("--repeats", type=int, nargs="+", default=[1, 3], help="views of each image that is decoded")
    parser.add_argument("--dtype", choices=list(DTYPES), help="of the steps, through autocast")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="the steps, through torch.compile")
    parser.add_argument("--steps", type=int, help="in one measurement of training on a ready batch")
    parser.add_argument("--fed_steps", type=int, help="in one measurement of training with and without a loader")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each")
    parser.add_argument("--output_dir", type=Path, default=Path("benchmarks/results"), help="folder for the CSV")
    parser.add_argument("--readme", type=Path, help="README whose table is to be brought up to date as well")
    parser.add_argument("--from_results", action="store_true", help="measure nothing: the table from the CSV there is")
    given = parser.parse_args(arguments)
    for name, value in DEFAULTS[given.device].items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    if given.rounds < 2:
        parser.error(f"--rounds must be 2 or more, for there to be quartiles, got {given.rounds}.")
    if given.device == "cuda" and not given.from_results and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU that torch can use, and there is none here; leave it out.")
    return given


def contestants_of(args: argparse.Namespace, folder: Path) -> Iterator[Contestant]:
    """Everything that is measured, in the order of the table."""
    wait: Callable[[], None] = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    images = folder_images(folder, args.image_size)
    most = max(args.num_workers)
    for repeats in args.repeats:
        for workers in args.num_workers:
            yield loading(images, args.batch_size, workers, repeats, args.batches)
        yield streaming(folder, args.image_size, args.batch_size, most, repeats, args.batches)
    yield from augmenting(bytes_batch(images, args.augment_batch_size), args.device, args.augment_calls, wait)
    about = (args.model_overrides, args.image_size, args.batch_size, DTYPES[args.dtype], args.compile, args.device)
    steps = [TrainingStep(name, *about) for name in args.models]
    batch = bytes_batch(images, args.batch_size)
    for step in steps:
        yield training(step, batch, args.steps, wait)
    yield from training_on_bytes(steps[0], images, args.batch_size, most, args.fed_steps, wait)


def measure(args: argparse.Namespace) -> list[Row]:
    """All rows; every round has an order of its own."""
    with tempfile.TemporaryDirectory() as folder:
        size = write_images(Path(folder), args.images)
        contestants = list(tqdm(contestants_of(args, Path(folder)), desc="getting ready", unit="row"))
        samples: list[list[Sample]] = [[] for _ in contestants]
        order, shuffle = list(range(len(contestants))), random.Random(0).shuffle
        before = processor_seconds()
        with tqdm(total=args.rounds * len(order), desc="measuring", unit="row") as bar:
            for number in range(args.rounds):
                shuffle(order)
                for place in order:
                    bar.set_postfix_str(contestants[place].about["what"])
                    samples[place].append(contestants[place].measure(number))
                    bar.update()
        everything, busy, own = (after - start for after, start in zip(processor_seconds(), before, strict=True))
    about = conditions(args.device)
    settings = {
        **about,
        "device": args.device,
        "device_name": about["device"],
        "image_size": args.image_size,
        "dtype": args.dtype,
        "compiled": args.compile,
        "images": args.images,
        "image_bytes": round(size),
        "taken_by_others": round(max(0.0, busy - own) / everything, 3) if everything else None,
        **{name: version(name) for name in ("transformers", "pillow", "kornia")},
    }
    return summed_up(contestants, samples, settings)


def processor_seconds() -> tuple[float, float, float]:
    """Seconds of all processors since the start: all, those in which one was busy, and what this process and its children took.

    Zeros where the system does not say (Linux does).
    """
    path = Path("/proc/stat")
    if not path.is_file():
        return 0.0, 0.0, 0.0
    # user, nice, system, idle, waiting for disks, interrupts (two kinds), taken by the host of a virtual machine
    ticks = [int(word) for word in path.read_text().split("\n", 1)[0].split()[1:9]]
    second = os.sysconf("SC_CLK_TCK")
    return sum(ticks) / second, (sum(ticks) - ticks[3] - ticks[4]) / second, sum(os.times()[:4])


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    path = args.output_dir / f"training_speed_{args.device}.csv"
    if not args.from_results:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        write_csv(measure(args), path)
    print(markdown_table(path))
    if args.readme:
        update_readme(args.readme, path)


if __name__ == "__main__":
    main()
