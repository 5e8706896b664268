"""From embeddings, batch by batch, to the files of their parts."""

from pathlib import Path
from typing import Any

import torch

from ..errors import DataError
from ..errors.words import first_few
from .parts import Part, PartFacts, write_part
from .reading import Batch


class PartWriter:
    """Writes each part when its last batch has come; the batches of several parts may come in turn.

    Args:
        folder: for the files.
        run: of the settings.
        features: of the files, see `columns`.
        max_unreadable: images that may be left out.
    """

    def __init__(self, folder: Path, run: str, features: Any, max_unreadable: int):
        self.folder, self.run, self.features, self.max_unreadable = folder, run, features, max_unreadable
        self.unreadable: list[str] = []
        self._waiting: dict[Part, list[tuple[Batch, torch.Tensor]]] = {}

    def add(self, batch: Batch, embeddings: torch.Tensor) -> int:
        """Take a batch.

        Args:
            batch: the images.
            embeddings: `(B, D)` float32.

        Returns:
            How many embeddings were written, if it was the last of its part; else 0.

        Raises:
            DataError: too many images cannot be read, or embeddings are not finite; nothing of the part is written.
            OSError: the file cannot be written.
        """
        self.unreadable += [name for name in batch.unreadable if name]
        check_unreadable(self.unreadable, self.max_unreadable)
        check_finite(batch, embeddings)
        self._waiting.setdefault(batch.part, []).append((batch._replace(pixel_values=torch.empty(0)), embeddings))
        return self._write(batch.part, batch.last) if batch.ends else 0

    def _write(self, part: Part, last: bool) -> int:
        found = self._waiting.pop(part)
        names = [name for batch, _ in found for name in batch.unreadable]
        kept = torch.tensor([not name for name in names])
        rows = {}
        for column in ("index", "path", "label"):
            values = [value for batch, _ in found for value in getattr(batch, column)]
            rows[column] = [value for value, name in zip(values, names, strict=True) if not name]
        rows["shard"] = [part.shard] * int(kept.sum())
        matrix = torch.cat([embeddings for _, embeddings in found])[kept].numpy()
        facts = PartFacts(self.run, part, len(matrix), [name for name in names if name], last)
        write_part(self.folder, facts, self.features, rows, matrix)
        return len(matrix)


def check_unreadable(names: list[str], most: int) -> None:
    """Refuse more unreadable images than may be left out.

    Raises:
        DataError: there are; it names the first few.
    """
    if len(names) > most:
        raise DataError(
            f"{len(names)} images cannot be read, but at most {most} may be left out: {first_few(names)}. Mend or remove them, or "
            "allow more (`max_unreadable`, --max-unreadable), and run the same command again."
        )


def check_finite(batch: Batch, embeddings: torch.Tensor) -> None:
    """Refuse embeddings that are no numbers, those of unreadable images aside.

    Raises:
        DataError: there are such; it names the first image.
    """
    bad = ~embeddings.isfinite().all(dim=1) & torch.tensor([not name for name in batch.unreadable])
    if bad.any():
        place = int(bad.nonzero()[0])
        name = batch.path[place] or f"number {batch.index[place]}"
        raise DataError(
            f"The embeddings must be finite numbers, got others for {int(bad.sum())} of {len(bad)} images, the first of them "
            f"{name}: use --dtype float32 or bfloat16, or another pooling."
        )
