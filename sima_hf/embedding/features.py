"""The embeddings of a labeled split in memory, on every process: what k-NN and linear probes are made of."""

from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from ..errors import DataError
from ..machine.waiting import done_by_all
from .collection import ImageCollection
from .loaded import LoadedEncoder
from .reading import Reading, batches_of
from .writing import check_finite


@dataclass(frozen=True)
class Features:
    """Embeddings of labeled images, in their order, without those that cannot be read.

    Attributes:
        embeddings: `(N, D)`, float32, on the CPU.
        labels: `(N,)`, int64.
        unreadable: names of the images that are left out.
    """

    embeddings: torch.Tensor
    labels: torch.Tensor
    unreadable: list[str]


def features_of(
    loaded: LoadedEncoder,
    data: Any,
    batch_size: int,
    num_workers: int = 0,
    process: int = 0,
    processes: int = 1,
    progress: bool = True,
    called: str = "embedding",
) -> Features:
    """Embed a split; the processes share its batches, which are the same whatever their number.

    Args:
        loaded: the encoder.
        data: `datasets.Dataset` with columns `image` (not decoded) and `label`.
        batch_size: images of a batch.
        num_workers: processes that decode.
        process, processes: which of how many this is.
        progress: show a bar, on the main process only.
        called: what stands before the bar.

    Raises:
        DataError: no image can be read, or embeddings that are not finite.
    """
    collection = ImageCollection(data, "The data", len(data), data.features["label"], None, "")
    # Parts of one batch each, so that the processes take turns.
    reading = Reading(batch_size, batch_size, loaded.view, num_workers, loaded.device.type == "cuda")

    def embed() -> list[tuple]:
        found = []
        shown = progress and process == 0
        with tqdm(total=-(-len(data) // processes), desc=called, unit="image", disable=not shown, leave=False) as bar:
            for batch in batches_of(collection, reading, {}, process, processes):
                embeddings = loaded.embed(batch.pixel_values)
                check_finite(batch, embeddings)
                kept = [not name for name in batch.unreadable]
                labels = [label for label, keep in zip(batch.label, kept, strict=True) if keep]
                found.append(
                    (batch.part, embeddings[kept].numpy(), labels, [name for name in batch.unreadable if name])
                )
                bar.update(len(kept))
        return found

    parts = sorted((one for found in done_by_all(embed) for one in found), key=lambda one: one[0].number)
    embeddings = torch.cat([torch.from_numpy(one[1]) for one in parts])
    names = [name for one in parts for name in one[3]]
    if not len(embeddings):
        raise DataError(f"None of the {len(data)} images can be read: {names[0]}.")
    return Features(embeddings, torch.tensor([label for one in parts for label in one[2]]), names)
