"""The embeddings of a collection, from the options to the finished folder: the core of `sima-hf embed`."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..errors import DataError
from ..errors.words import first_few
from ..folders.local_paths import shown_place
from ..machine.description import device_name, versions
from ..machine.devices import check_device
from ..machine.processes import make_accelerator
from ..machine.waiting import done_by_all, main_process_first
from .collection import ImageCollection, open_collection
from .loaded import prepare_encoder
from .parts import Part, PartFacts, columns, finished_parts, remove_leftovers
from .reading import Reading, batches_of, shards_of
from .record import open_folder, run_of, write_card, write_record
from .writing import PartWriter, check_unreadable


@dataclass(frozen=True)
class EmbeddingOptions:
    """What to embed, with which model, and where to.

    Attributes:
        images: as `open_collection` takes them: a folder, shards, a data set, "digits".
        output_dir: folder for the embeddings; a run that was interrupted goes on there.
        model_name_or_path: model folder, training checkpoint, or Hub name.
        pooling: a name in `sima_hf.embedding.pooling.POOLINGS`.
        weights: "ema" or "raw" of a training checkpoint; None: raw.
        split, config_name: of a data set.
        streaming: read shards as they come.
        image_column, label_column: where the usual names do not tell.
        max_unreadable: images that are left out because they cannot be read; with more of them the run ends.
        images_per_file: how many the files hold; what a kill costs, at most, of each process.
        image_size: resolution in pixels; None: the model's own.
        crop_pct: share of the shorter side that is seen; None: the model's own way.
        batch_size: images per device at a time.
        num_workers: processes that decode images, per device.
        device: "cpu", "cuda", ...; None: the best there is.
        dtype: a key of `DTYPES`, of the model's parameters; embeddings are float32.
        backend: who computes SimA attention, see `sima_hf.ops.backend_report()`; "auto" leaves the choice.
        revision, trust_remote_code: of the model, as `from_pretrained`.
        overwrite: replace the embeddings of other settings in `output_dir`.
        progress: show a bar, on the main process only.
    """

    images: Any
    output_dir: str | Path
    model_name_or_path: str
    pooling: str = "auto"
    weights: str | None = None
    split: str = "train"
    config_name: str | None = None
    streaming: bool = False
    image_column: str | None = None
    label_column: str | None = None
    max_unreadable: int = 20
    images_per_file: int = 4096
    image_size: int | None = None
    crop_pct: float | None = None
    batch_size: int = 64
    num_workers: int = 0
    device: str | None = None
    dtype: str = "float32"
    backend: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    overwrite: bool = False
    progress: bool = True


def embed_images(options: EmbeddingOptions) -> dict[str, Any] | None:
    """Embed a collection. Several processes of `accelerate launch` or torchrun share the files, on one disk.

    Written into the folder: `part-*.parquet` with `index`, `path`, `label` if there is one and `embedding`, each whole or not
    there; `embedding.json`, the record; and a README by which `datasets.load_dataset` finds the files. Which images are in
    a file, and in a batch, follows from the options, not from the number of processes: a run that was killed goes on, with as
    many processes as it likes, to the same bytes, on the same kind of device and with the same number of threads.

    Args:
        options: what to embed.

    Returns:
        The record; None on all processes but the main one.

    Raises:
        ValueError: an option out of its range; DataError and CheckpointError are such, and say what is wrong with data or model:
            no images, too many that cannot be read, a folder with embeddings of other settings.
        UnsupportedModelError: the model yields no such features.
        MissingDependencyError: a package for this data or for several processes is not installed.
        OSError: files that cannot be read or written.
    """
    for name in ("batch_size", "images_per_file"):
        if getattr(options, name) < 1:
            raise ValueError(f"`{name}` must be positive, got {getattr(options, name)}.")
    check_device(options.device)
    folder = Path(options.output_dir).expanduser()
    accelerator = make_accelerator(options.device)
    main = accelerator is None or accelerator.is_main_process
    process, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    with main_process_first() if accelerator else contextlib.nullcontext({}) as told:
        loaded = prepare_encoder(options, accelerator, options.crop_pct)
        collection = _open(options, folder)
        settings = loaded.settings | _settings_of(collection, options)
        run = run_of(settings)
        if main:
            record = open_folder(folder, settings, options.overwrite)
            remove_leftovers(folder)
            told["finished"] = finished_parts(folder, run)
        finished = told["finished"]
    reading = Reading(
        options.batch_size, options.images_per_file, loaded.view, options.num_workers, loaded.device.type == "cuda"
    )
    features = columns(loaded.encoder.size, collection.label, collection.streams)
    total = _images_left(collection, options, finished)

    def embed() -> tuple[int, float, str]:
        start, made = time.perf_counter(), 0
        shown = main and options.progress
        share = None if total is None else -(-total // processes)
        with tqdm(total=share, desc="embedding", unit="image", disable=not shown) as bar:
            writing = PartWriter(folder, run, features, options.max_unreadable)
            for batch in batches_of(collection, reading, finished, process, processes):
                made += writing.add(batch, loaded.embed(batch.pixel_values))
                bar.update(len(batch.index))
        return made, time.perf_counter() - start, device_name(str(loaded.device))

    made, seconds, devices = zip(*done_by_all(embed), strict=True)
    if not main:
        return None
    session = {
        "images": sum(made),
        "seconds": max(seconds),
        "processes": processes,
        "num_workers": options.num_workers,
        "device": " and ".join(sorted(set(devices))),
        "versions": versions(),
    }
    return _close(folder, record, session, finished_parts(folder, run), loaded.encoder.size, collection, options)


def _open(options: EmbeddingOptions, folder: Path) -> ImageCollection:
    """The collection; the output must lie elsewhere."""
    if isinstance(options.images, (str, Path)) and Path(options.images).is_dir():
        images = Path(options.images).resolve()
        if images in (folder.resolve(), *folder.resolve().parents):
            raise DataError(f"The output must be outside the folder of images {options.images}, got {folder}.")
    return open_collection(
        options.images,
        options.split,
        options.config_name,
        options.streaming,
        options.image_column,
        options.label_column,
    )


def _settings_of(collection: ImageCollection, options: EmbeddingOptions) -> dict[str, Any]:
    """What a file's content follows from, besides the encoder's settings."""
    return {
        "data": shown_place(collection.source, here=True),
        "split": options.split,
        "images": collection.num_images,
        "fingerprint": collection.fingerprint,
        "columns": [options.image_column, options.label_column],
        "streaming": collection.streams,
        "shards": shards_of(collection) if collection.streams else None,
        "images_per_file": options.images_per_file,
    }


def _images_left(
    collection: ImageCollection, options: EmbeddingOptions, finished: dict[Part, PartFacts]
) -> int | None:
    if collection.num_images is None:
        return None
    done = sum(facts.rows + len(facts.unreadable) for facts in finished.values())
    return collection.num_images - done


def _close(
    folder: Path,
    record: dict[str, Any],
    session: dict[str, Any],
    found: dict[Part, PartFacts],
    size: int,
    collection: ImageCollection,
    options: EmbeddingOptions,
) -> dict[str, Any]:
    """Finish the record, the README and the run, where all files are there and not too much was left out."""
    images = sum(facts.rows for facts in found.values())
    names = [name for facts in found.values() for name in facts.unreadable]
    if collection.num_images is not None and images + len(names) != collection.num_images:
        raise DataError(
            f"{folder} holds {images + len(names)} of {collection.num_images} images after the run; all processes must write to "
            "one disk that this one sees, too. Run the same command again for the rest."
        )
    if not images:
        raise DataError(f"{collection.source} holds no image that can be read: {first_few(names) or 'none came'}.")
    if session["images"]:
        session["images_per_second"] = session["images"] / session["seconds"]
        record["sessions"] = [*record["sessions"], session]
    check_unreadable(names, options.max_unreadable)
    last = record["sessions"][-1] if record["sessions"] else session
    record |= {
        "complete": True,
        "num_images": images,
        "size": size,
        "files": len(found),
        "unreadable": names,
        "images_per_second": last.get("images_per_second"),
    }
    write_card(folder, record)
    write_record(folder, record)
    return record
