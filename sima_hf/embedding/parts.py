"""The files of a collection's embeddings: parquet, each whole or not there, each a fixed run of images."""

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError
from ..folders.atomic_files import write_whole


_FACTS = b"sima_hf"  # entry of a parquet file's metadata


class Part(NamedTuple):
    """Some images that follow one another, in a file of their own.

    Attributes:
        number: images `[number * S, (number + 1) * S)` of the collection or, streamed, of the shard.
        shard: of the stream; None of a collection that is not streamed.
    """

    number: int
    shard: int | None = None

    @property
    def file_name(self) -> str:
        """Sorted by name, files are in the order of the images."""
        return (
            f"part-{self.number:05d}.parquet"
            if self.shard is None
            else f"part-{self.shard:05d}-{self.number:05d}.parquet"
        )


class PartFacts(NamedTuple):
    """What a file says of itself.

    Attributes:
        run: of the settings that it was made with.
        part: number and shard.
        rows: embeddings in it.
        unreadable: names of the images that have none.
        last: whether it is the last of its shard.
    """

    run: str
    part: Part
    rows: int
    unreadable: list[str]
    last: bool


def columns(size: int, label: Any = None, streams: bool = False):
    """The columns of a file, as `datasets` reads them: `index`, `path`, perhaps `shard` and `label`, `embedding` float32.

    Args:
        size: of an embedding.
        label: type of the labels, of `datasets`; None without.
        streams: `index` counts from the beginning of a `shard`.
    """
    from datasets import Features, List, Value

    shard = {"shard": Value("int32")} if streams else {}
    labels = {} if label is None else {"label": label}
    fixed = {"index": Value("int64"), "path": Value("string")}
    return Features({**shard, **fixed, **labels, "embedding": List(Value("float32"), length=size)})


def write_part(folder: Path, facts: PartFacts, features: Any, rows: dict[str, list], embeddings: Any) -> Path:
    """Write a file, whole or not at all; the same content gives the same bytes.

    Args:
        folder: that holds the files.
        facts: what it is to say of itself.
        features: of `columns`.
        rows: all columns but the embeddings.
        embeddings: float32 array `(rows, size)`.

    Raises:
        OSError: it cannot be written.
    """
    import pyarrow
    from pyarrow import parquet

    schema = features.arrow_schema
    size = features["embedding"].length
    arrays = [
        pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(embeddings.reshape(-1), pyarrow.float32()), size)
        if name == "embedding"
        else pyarrow.array(rows[name], schema.field(name).type)
        for name in schema.names
    ]
    said = facts._asdict() | {"part": list(facts.part)}
    schema = schema.with_metadata({**schema.metadata, _FACTS: json.dumps(said, ensure_ascii=False)})
    file = io.BytesIO()
    with parquet.ParquetWriter(file, schema) as writer:
        if facts.rows:  # an empty group of rows is nothing that `datasets` could read
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
    return write_whole(folder / facts.part.file_name, file.getvalue())


def read_facts(path: Path) -> PartFacts | None:
    """What a file says of itself; None if it is no such file, or damaged.

    Args:
        path: the file.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        said = json.loads(parquet.read_schema(path).metadata[_FACTS])
        return PartFacts(**{**said, "part": Part(*said["part"])})
    except (pyarrow.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None


def finished_parts(folder: Path, run: str) -> dict[Part, PartFacts]:
    """The files of a run that are there.

    Args:
        folder: that holds them.
        run: of the settings.

    Raises:
        DataError: one is of other settings.
    """
    found = {}
    for path in sorted(folder.glob("part-*.parquet")):
        facts = read_facts(path)
        if facts is None:
            continue  # damaged: it is made anew
        if facts.run != run:
            raise DataError(
                f"{path} holds embeddings that were made with other settings; move it away, or name another folder."
            )
        found[facts.part] = facts
    return found


def remove_leftovers(folder: Path) -> None:
    """Remove the hidden files that a killed process was writing."""
    for path in folder.glob(".part-*.parquet-*"):
        path.unlink(missing_ok=True)
