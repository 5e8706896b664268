"""A model card: a template filled with what is known, no figure without its file, merged with the README that is there."""

import functools
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import jinja2
from huggingface_hub import EvalResult, ModelCardData, constants

from ...errors import PublishError
from .facts import CardFacts, card_files, find_facts
from .front_matter import METRICS, WRITTEN_METRICS, merged_data
from .known import GIVEN, Known, gather, is_repo_id
from .readme import Readme, is_generated, is_trainer_text, read_readme, written
from .results import TRAINING
from .values import card_values, pipeline_tag, softmax_in_sima


if TYPE_CHECKING:
    from ..folder import CheckedFolder


def model_card(
    checked: "CheckedFolder",
    repo_id: str | None,
    facts: CardFacts | None = None,
    existing: str | None = None,
    *,
    revision: str | None = None,
) -> str:
    """Write the README.md of a model, or bring the one that is there up to date.

    Args:
        checked: what `check_folder` found.
        repo_id: where the model will be, "org/name"; None: the card names the folder.
        facts: see `find_facts`, which is asked where they are not given.
        existing: the README that is there, its line endings untouched (read it with `newline=""`). What its author wrote stays:
            front matter wins over what is found, except for measurements, and of the text only the block between the
            marks `<!-- sima_hf:start -->` and `<!-- sima_hf:end -->` is exchanged; without marks it is appended. A text that
            only Transformers wrote is replaced, where the settings in it are known from a file. Measurements that the block shows
            are renewed or go with their file, whatever the repository was called then; others in the model-index stay.
        revision: branch of the repository that the card is for; None for the main one.

    Returns:
        The whole text; given back as `existing` it comes out unchanged.

    Raises:
        PublishError: the model is not SimA, a file is broken, has impossible numbers or is about another model, a fact that was
            given contradicts the README, or the README's front matter cannot be read.
    """
    return write_card(checked, repo_id, facts, existing, revision=revision).text


@dataclass(frozen=True)
class WrittenCard:
    """A card, and what it was written from."""

    text: str
    known: Known


def write_card(
    checked: "CheckedFolder",
    repo_id: str | None,
    facts: CardFacts | None = None,
    existing: str | None = None,
    *,
    revision: str | None = None,
) -> WrittenCard:
    """As `model_card`, with what the card was written from.

    Raises:
        PublishError: as `model_card`.
    """
    facts = find_facts(checked.path) if facts is None else facts
    if found := softmax_in_sima(checked):
        raise PublishError(
            f"{checked.certificate.model} ran {sum(one.count for one in found)} operations of softmax attention, first "
            f"{found[0].operation} in {found[0].path or 'the model itself'}, so no card says that it is SimA. Swap it first: "
            "sima_hf.patch_model(model)."
        )
    card_files(facts)
    there = readme = read_readme(existing)
    if facts.provenance is not None:  # it says anew what it said before
        readme = replace(readme, data=_without_found(readme))
    known = gather(checked, facts, readme)
    name = repo_id.rpartition("/")[2] if repo_id else checked.path.name
    place = (
        repo_id if repo_id and "/" in repo_id else None
    )  # a name alone is a folder's, or is to get an account's before it
    ours = _front(checked, known, place, name, revision)
    if is_generated(readme.own):  # nobody wrote it, so what is given counts
        given = {key for key in GIVEN if getattr(facts, key)}
        readme = replace(readme, data={key: value for key, value in readme.data.items() if key not in given})
    data, state = merged_data(readme, ours, place)
    if _replaceable(there, known):
        there = replace(there, body="")
    values = card_values(checked, known, repo_id or checked.path.name, revision)
    block = re.sub(r"\n{3,}", "\n\n", _template().render(values, title="" if there.own else name))
    files = [*(one.path for one in known.measured if one.figures), *facts.benchmark]
    state |= {"files": [path.name for path in files], "front": _found(known)}
    return WrittenCard(written(there, data, block, state), known)


@functools.cache
def _template() -> jinja2.Template:
    text = Path(__file__).with_name("template.md").read_text(encoding="utf-8")
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(cell=cell, code=code, link=link)
    return environment.from_string(text)


def cell(value: Any) -> str:
    """A value as one cell of a Markdown table, whatever signs are in it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = " ".join(f"{value:.6g}".split() if isinstance(value, float) else str(value).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def link(path: Path) -> str:
    """A file that is published beside the card, whatever signs are in its name."""
    shown = re.sub(r"([][])", r"\\\1", cell(path.name))
    return f"[{shown}]({quote(path.name)})"


def code(value: Any) -> str:
    """A value as code in a line of text or in a cell."""
    text = " ".join(str(value).split()).replace("<!--", "<! --").replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return f"{'`' * (longest + 1)} {text} {'`' * (longest + 1)}" if longest else f"`{text}`"


def _replaceable(readme: Readme, known: Known) -> bool:
    """Whether nothing is lost with the text: Trainer's has settings, which must be in a file."""
    told = bool(known.provenance.get("training") or known.trainer)
    return is_generated(readme.own) and (told or not is_trainer_text(readme.own))


def _found(known: Known) -> dict[str, Any]:
    """Entries of the front matter that the provenance gives."""
    found = {"base_model": known.base_model} if known.file_of("base_model") else {}
    loaded = known.provenance.get("hub_dataset")
    return found | ({"datasets": [loaded]} if loaded and loaded == known.hub_dataset else {})


def _without_found(readme: Readme) -> dict[str, Any]:
    """The front matter without what an earlier provenance gave."""
    data, found = dict(readme.data), readme.state.get("front", {})
    if data.get("base_model") and data["base_model"] == found.get("base_model"):
        data.pop("base_model")
        data.pop("base_model_relation", None)
    if isinstance(data.get("datasets"), list) and isinstance(found.get("datasets"), list):
        data["datasets"] = [one for one in data["datasets"] if one not in found["datasets"]]
        if not data["datasets"]:
            data.pop("datasets")
    return data


def _front(
    checked: "CheckedFolder", known: Known, place: str | None, name: str, revision: str | None
) -> dict[str, Any]:
    """Our front matter, as the Hub reads it."""
    tag = pipeline_tag(checked.model)
    results = _eval_results(known, tag, place, revision or "main")
    changed = bool(known.provenance.get("calibration") or known.trainings)
    tags = ["sima", *(["softmax-free"] if checked.certificate.softmax_free else []), "vision", *([tag] if tag else [])]
    data = ModelCardData(
        library_name="transformers",
        license=known.license or None,
        base_model=known.base_model or None,
        datasets=[known.hub_dataset] if known.hub_dataset else None,
        metrics=list(WRITTEN_METRICS) if results else None,
        pipeline_tag=tag,
        tags=[*tags, checked.config.model_type.removeprefix("sima_")],
        model_name=name,
        eval_results=results or None,
        **({"base_model_relation": "finetune"} if known.base_model and changed else {}),
    ).to_dict()
    data.pop("model_name", None)
    return data


def _eval_results(known: Known, tag: str | None, place: str | None, revision: str) -> list[EvalResult]:
    """Accuracies whose data are known; of two files about the same, the first."""
    found: dict[tuple, EvalResult] = {}
    for one in known.measured:
        if not one.data or not tag:
            continue
        split = "validation" if one.kind == TRAINING else one.split
        kind = one.data if is_repo_id(one.data) else re.sub(r"[^a-z0-9]+", "-", one.data.lower()).strip("-") or "data"
        url = f"{constants.ENDPOINT}/{place}/blob/{quote(revision, safe='')}/{quote(one.path.name)}" if place else None
        for metric in (metric for metric in METRICS if metric in one.figures):
            result = EvalResult(
                task_type=tag,
                dataset_type=kind,
                dataset_name=one.data,
                dataset_split=split,
                metric_type="accuracy",
                metric_name=METRICS[metric],
                metric_value=one.figures[metric],
                source_name=one.path.name if place else None,
                source_url=url,
            )
            found.setdefault((kind, split, metric), result)
    return list(found.values())
