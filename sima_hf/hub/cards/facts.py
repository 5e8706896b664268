"""The facts that a model card is written from, and the files they stand in."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import PublishError
from ...folders.file_names import is_benchmark
from ...folders.json_files import parse_json
from ...folders.local_paths import stays_in
from ...folders.provenance import PROVENANCE, read_provenance
from .results import RESULT_FILES, kind_of


TRAINER_STATE = "trainer_state.json"


@dataclass(frozen=True)
class CardFacts:
    """What is known of a model besides what its folder's config and weights say. What is not known stays None or empty.

    Attributes:
        license: identifier as the Hub lists them, such as "apache-2.0".
        base_model: name on the Hub of the model that this one was made from.
        dataset: what it was trained on: "organization/name" of a data set on the Hub, which the card links, or plain words.
        evaluated_on: what the evaluation measured on, where its file names a folder only.
        results: files that hold what was measured: evaluation.json, all_results.json. A folder stands for those in it.
        benchmark: CSVs of `sima-hf bench model`.
        training: trainer_state.json, for the training settings that no provenance has.
        provenance: sima_provenance.json.

    A single path may be given where several can be; names of files as text, too.
    """

    license: str | None = None
    base_model: str | None = None
    dataset: str | None = None
    evaluated_on: str | None = None
    results: tuple[Path, ...] = ()
    benchmark: tuple[Path, ...] = ()
    training: Path | None = None
    provenance: Path | None = None

    def __post_init__(self):
        for name in ("results", "benchmark"):
            value = getattr(self, name) or ()
            paths = [value] if isinstance(value, (str, Path)) else value
            object.__setattr__(self, name, tuple(map(Path, paths)))
        for name in ("training", "provenance"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else Path(value))


def find_facts(folder: str | Path, **given: Any) -> CardFacts:
    """Look for the files that say something about a model in its own folder.

    Args:
        folder: the model's.
        given: fields of `CardFacts`, which are taken as they are in place of what would be found; None is not given.

    Returns:
        The facts. Files that only look alike, such as a results.json of something else, are passed over, and so are links that
        lead out of the folder.

    Raises:
        PublishError: a file that was given does not exist, or one that was found is not JSON.
        TypeError: there is no such field.
    """
    folder = Path(folder)
    explicit = CardFacts(**{name: value for name, value in given.items() if value not in (None, ())})
    for path in (*explicit.results, *explicit.benchmark, explicit.training, explicit.provenance):
        if path is not None and not path.exists():
            raise PublishError(f"There is no file {path} to write the model card from.")
    provenance = explicit.provenance or _in(folder, PROVENANCE)
    told = explicit.training or (provenance and read_provenance(provenance).get("training"))
    benchmarks = (_in(folder, path.name) for path in sorted(folder.glob("*.csv")))
    results = tuple(path for one in explicit.results or [folder] for path in _results_at(one))
    if explicit.results and not results:
        raise PublishError(
            f"`results` must be a file, or a folder with {', '.join(RESULT_FILES)}, got {given['results']}."
        )
    return replace(
        explicit,
        results=results,
        benchmark=explicit.benchmark or tuple(path for path in benchmarks if path and is_benchmark(path)),
        training=explicit.training if told else _in(folder, TRAINER_STATE),
        provenance=provenance,
    )


def card_files(facts: CardFacts) -> tuple[Path, ...]:
    """The files that a card written from these facts names for its figures; they are to be published with it.

    Raises:
        PublishError: two of them have the same name, so that only one could be.
    """
    by_name: dict[str, Path] = {}
    for path in filter(None, (*facts.results, *facts.benchmark, facts.training, facts.provenance)):
        other = by_name.setdefault(path.name, path)
        if other.resolve() != path.resolve():
            raise PublishError(
                f"{other} and {path} would both be published as {path.name}, beside each other. Rename one of them."
            )
    return tuple(by_name.values())


def _results_at(path: Path) -> list[Path]:
    """The file that was given, or the results in the folder that was."""
    if not path.is_dir():
        return [path]
    found = (_in(path, name) for name in RESULT_FILES)
    return [one for one in found if one and kind_of(parse_json(one))]


def _in(folder: Path, name: str) -> Path | None:
    """A file of a folder; None if there is none, or a link that leads out."""
    path = folder / name
    return path if path.is_file() and stays_in(path, folder) else None
