"""How many images a second `sima-hf embed` embeds, softmax against SimA, and how long a million would take.

    python benchmarks/embedding_speed.py --output_dir benchmarks/results --page docs/embedding.md

DeiT-S with random weights, and the same weights with SimA, over JPEGs of ImageNet's shape, as `measure_training_speed.py` has
them, at several resolutions. Each measurement is a run of `embed_images` into a new folder, and its rate the one in
`embedding.json`: reading, decoding, resizing, the model and the files, all in. The models take turns.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch
from measure_training_speed import processor_seconds
from training_speed_loading import write_images
from transformers import DeiTConfig, DeiTModel
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil

import sima_hf
from sima_hf.bench.tables import markdown, replace_between
from sima_hf.embedding import EmbeddingOptions, embed_images
from sima_hf.machine.description import device_name, versions


RESULTS = "embedding_cpu.json"
CONTESTANTS = ("softmax", "SimA")
# Pixels -> (images, images of a batch).
SIZES = {224: (32, 8), 512: (16, 4), 1024: (4, 2)}
ROUNDS = 3
MILLION = 1_000_000
PROCESSES = 64  # of the plan


def main(arguments: list[str] | None = None) -> None:
    """Measure, write the file, and bring the page up to date."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="whose block `embedding` is replaced")
    args = parser.parse_args(arguments)
    path = args.output_dir / RESULTS
    path.write_text(json.dumps(measured(), indent=1) + "\n", encoding="utf-8")
    if args.page:
        replace_between(args.page, "embedding", block(path))


def measured(sizes: dict[int, tuple[int, int]] = SIZES, rounds: int = ROUNDS, **config: int) -> dict:
    """Rates of all contestants at all sizes, with medians, and the conditions."""
    rows, before = [], processor_seconds()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        image_bytes = write_images(root, max(images for images, _ in sizes.values()))
        save_models(root, **config)
        for pixels, (images, batch_size) in sizes.items():
            folder = first_images(root, images)
            rates = {contestant: [] for contestant in CONTESTANTS}
            for turn in range(rounds):
                for contestant in CONTESTANTS:
                    options = EmbeddingOptions(
                        str(folder),
                        root / f"features-{pixels}-{turn}-{contestant}",
                        str(root / contestant),
                        image_size=pixels,
                        batch_size=batch_size,
                        device="cpu",
                        progress=False,
                    )
                    rates[contestant].append(embed_images(options)["images_per_second"])
            rows += [
                {
                    "contestant": contestant,
                    "pixels": pixels,
                    "images": images,
                    "batch_size": batch_size,
                    "images_per_second": statistics.median(found),
                    "rates": found,
                }
                for contestant, found in rates.items()
            ]
    everything, busy, own = (after - first for after, first in zip(processor_seconds(), before, strict=True))
    return {
        "model": "DeiT-S, random weights, class token",
        "rows": rows,
        "rounds": rounds,
        "image_bytes": image_bytes,
        "image_pixels": "500 x 375",
        "num_workers": 0,
        "processes": 1,
        "dtype": "float32",
        "device": device_name("cpu"),
        "taken_by_others": round(max(0.0, busy - own) / everything, 3) if everything else None,
        "versions": versions(),
    }


def save_models(root: Path, **config: int) -> None:
    """Folders of the two models, one with the weights of the other."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536} | config
    model = DeiTModel(DeiTConfig(**sizes), add_pooling_layer=False)
    for contestant in CONTESTANTS:
        if contestant == "SimA":
            sima_hf.patch_model(model)
        model.save_pretrained(root / contestant)
        DeiTImageProcessorPil().save_pretrained(root / contestant)


def first_images(root: Path, count: int) -> Path:
    """A folder with the first of the JPEGs."""
    folder = root / f"first-{count}"
    folder.mkdir()
    for path in sorted((root / "folder").glob("*/*.jpg"), key=lambda path: path.name)[:count]:
        (folder / path.name).hardlink_to(path)
    return folder


def block(path: Path) -> str:
    """The table of a results file, and the plan of a million images that follows from it."""
    results = json.loads(path.read_text(encoding="utf-8"))
    rate = {(row["pixels"], row["contestant"]): row["images_per_second"] for row in results["rows"]}
    cells = []
    for pixels in sorted({pixels for pixels, _ in rate}):
        softmax, sima = (rate[pixels, contestant] for contestant in CONTESTANTS)
        days = (f"{days_of_a_million(one):,.1f}" for one in (softmax, sima))
        cells.append([pixels, f"{softmax:.2f}", f"{sima:.2f}", f"{sima / softmax:.2f}", *days])
    header = ["pixels", "softmax, images/s", "SimA, images/s", "times faster", "a million, days: softmax", "SimA"]
    largest = max(pixels for pixels, _ in rate)
    softmax, sima = (24 * days_of_a_million(rate[largest, one]) / PROCESSES for one in CONTESTANTS)
    return markdown(header, cells, left=0) + (
        f"\n\n{results['model']}, one process, reading, decoding and writing included; medians of {results['rounds']} runs in turn on "
        f"{results['device']}{_others(results['taken_by_others'])}, {results['dtype']}, torch {results['versions']['torch']}, transformers {results['versions']['transformers']}; "
        f"JPEGs of {results['image_pixels']} pixels, in memory: [{path.name}]({path.as_posix()}).\n\n"
        f"A plan of a million images at {largest:,} pixels on such processors: {rate[largest, 'SimA']:.2f} images a second and process make "
        f"{days_of_a_million(rate[largest, 'SimA']):,.1f} days of one process, so {sima:,.1f} hours of {PROCESSES} processes with SimA and "
        f"{softmax:,.1f} with softmax, if all have a core to themselves and the disk keeps up: that is arithmetic, not a measurement."
    )


def _others(share: float | None) -> str:
    return "" if share is None else f" (other processes taking {100 * share:.1f} % of the processors)"


def days_of_a_million(images_per_second: float) -> float:
    """Days in which one process embeds a million images."""
    return MILLION / images_per_second / 86400


if __name__ == "__main__":
    main()
