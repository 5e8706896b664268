"""A model card from the facts at hand: no figure without its file, nothing guessed, and an existing README merged."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, constants

from ...errors import PublishError
from ...folders.provenance import read_provenance
from .attention import attention_section, softmax_in_sima
from .facts import CardFacts, card_files, find_facts
from .figures import METRIC_NAMES
from .known import GIVEN, Known, gather, is_repo_id
from .limits import limits_section
from .markdown import cell, code, link
from .merge import WRITTEN_METRICS, Readme, around_block, front_matter, merged_body, merged_data, read_readme
from .model_index import EarlierCard
from .origin import origin_section
from .results import EVALUATION, RESULT_FILES, TRAINING
from .sections import (
    CITATION,
    accuracy_sentence,
    made_from,
    model_section,
    results_section,
    speed_section,
    summary,
    trained_on,
    versions_section,
    warning,
)
from .speed import speed_table
from .stock import is_push_to_hub_text, is_stock, is_trainer_text
from .usage import loading_text, pipeline_tag


if TYPE_CHECKING:
    from ..folder import CheckedFolder


NOTE = "<!-- Written by sima_hf from the files named in it, and written anew with them: what you add belongs outside of the marks. -->"


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
    """As `model_card`, for those who have more to say about what it was written from."""
    facts = find_facts(checked.path) if facts is None else facts
    _check_sima(checked)
    card_files(facts)
    readme = read_readme(existing)
    said = _without_older_origin(readme, facts)
    known = gather(checked, facts, said)
    name = repo_id.rpartition("/")[2] if repo_id else checked.path.name
    ours = _front(checked, known, repo_id, name, revision)
    read = frozenset(quote(path.name) for path in facts.results)
    earlier = EarlierCard(readme.block, _place(repo_id), read | set(RESULT_FILES), read)
    theirs = said.data
    if is_stock(readme.body):  # nobody wrote it, so what is given counts
        theirs = {key: value for key, value in theirs.items() if not getattr(facts, key, None) or key not in GIVEN}
    data = merged_data(theirs, ours, earlier)
    if _replaceable(readme, known):
        readme = Readme(readme.data, readme.front, "", readme.newline)
    title = "" if around_block(readme) else f"# {cell(name)}\n\n"
    block = f"{NOTE}\n\n{title}{_text(checked, known, repo_id or checked.path.name, revision)}"
    front = front_matter(readme, data).replace("\n", readme.newline)
    body = merged_body(readme, block)
    text = f"---{readme.newline}{front}{readme.newline}---{readme.newline}{body}"
    _check_card(text)
    return WrittenCard(text, known)


def _check_sima(checked: "CheckedFolder") -> None:
    """A card says how many softmax operations were counted; one that would have to say more than 0 is not written."""
    found = softmax_in_sima(checked.model, checked.certificate, checked.description)
    if found:
        raise PublishError(
            f"{checked.certificate.model} ran {sum(one.count for one in found)} operations of softmax attention, first "
            f"{found[0].operation} in {found[0].path or 'the model itself'}, so no card says that it is SimA. Swap it first: "
            "sima_hf.patch_model(model)."
        )


def _replaceable(readme: Readme, known: Known) -> bool:
    """Whether nothing is lost with the text: Trainer's has settings, which must be in a file."""
    if is_push_to_hub_text(readme.body):
        return True
    return is_trainer_text(readme.body) and bool(known.provenance.get("training") or known.trainer)


def _without_older_origin(readme: Readme, facts: CardFacts) -> Readme:
    """The README without base model and training data that an earlier card took from a provenance that now says otherwise.

    What the front matter says counts as its author's. This is known to be ours by the words in the block that name the file.
    """
    if facts.provenance is None or not readme.has_block:
        return readme
    provenance, file = read_provenance(facts.provenance), link(facts.provenance)
    data, base = dict(readme.data), readme.data.get("base_model")
    if base and base != provenance.get("base_model") and f"{made_from(base)} ({file})" in readme.body:
        data.pop("base_model")
        data.pop("base_model_relation", None)
    listed = data.get("datasets")
    if isinstance(listed, list) and provenance.get("training"):
        kept = [
            one
            for one in listed
            if one in (provenance.get("hub_dataset"), provenance.get("dataset"))
            or f"{trained_on(one)}{file}" not in readme.body
        ]
        data = {**data, "datasets": kept} if kept else {name: data[name] for name in data if name != "datasets"}
    return replace(readme, data=data)


def _front(
    checked: "CheckedFolder", known: Known, repo_id: str | None, name: str, revision: str | None
) -> dict[str, Any]:
    """Our front matter, as the Hub reads it."""
    tag = pipeline_tag(checked.model)
    results = _eval_results(known, tag, repo_id, revision or "main")
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


def _place(repo_id: str | None) -> str | None:
    """The repository, if it is known: a name alone is a folder's, or is still to get an account's before it."""
    return repo_id if repo_id and "/" in repo_id else None


def _eval_results(known: Known, tag: str | None, repo_id: str | None, revision: str) -> list[EvalResult]:
    """Accuracies whose data are known; of two files about the same, the first."""
    found: dict[tuple, EvalResult] = {}
    place = _place(repo_id)
    for one in known.measured:
        data = (known.facts.evaluated_on if one.kind == EVALUATION else None) or one.data
        data = data or (known.dataset_name if one.kind == TRAINING else None)
        if not data or not tag:
            continue
        split = one.split or ("validation" if one.kind == TRAINING else None)
        kind = data if is_repo_id(data) else re.sub(r"[^a-z0-9]+", "-", data.lower()).strip("-") or "data"
        for metric, title in METRIC_NAMES.items():
            if metric in one.figures:
                branch = f"{constants.ENDPOINT}/{place}/blob/{quote(revision, safe='')}"
                url = f"{branch}/{quote(one.path.name)}" if place else None
                found.setdefault(
                    (kind, split, metric),
                    EvalResult(
                        task_type=tag,
                        dataset_type=kind,
                        dataset_name=data,
                        dataset_split=split,
                        metric_type="accuracy",
                        metric_name=title,
                        metric_value=one.figures[metric],
                        source_name=one.path.name if place else None,
                        source_url=url,
                    ),
                )
    return list(found.values())


def _text(checked: "CheckedFolder", known: Known, name: str, revision: str | None) -> str:
    """The sections that there are facts for."""
    model, description = checked.model, checked.description
    provenance, file = known.provenance, known.facts.provenance
    calibration = provenance.get("calibration")
    versions = [("saved", _saved_by(model.config), "config.json")]
    made = f"made by {code(provenance['made_by'])}" if provenance.get("made_by") else "made"
    versions += [(made, provenance.get("versions", {}), file.name)] if file else []
    versions += [("measured", one.versions, one.path.name) for one in known.measured]
    evaluated = [
        replace(one, data=known.facts.evaluated_on) if known.facts.evaluated_on and one.kind == EVALUATION else one
        for one in known.measured
    ]
    sections = [
        warning(file, known.has_accuracy) if known.only_swapped else "",
        summary(model, description, checked.certificate, pipeline_tag(model), known.base_model, known.base_file),
        accuracy_sentence(evaluated, known.dataset_name),
        "## How to load it\n\n" + loading_text(checked.path, model, name, revision),
        attention_section(model, checked.certificate, description, checked.weights, name),
        model_section(checked.path, model, checked.weights, known.license, (known.dataset, known.dataset_file)),
        limits_section(
            model, (known.dataset, known.dataset_file), known.base_model, bool(description.swapped), evaluated
        ),
        results_section(evaluated, known.dataset_name),
        speed_section(
            speed_table(path, (name, checked.path.name, str(checked.path))) for path in known.facts.benchmark
        ),
        origin_section((calibration, file) if calibration else None, known.trainings),
        versions_section(versions),
        f"## Citation\n\n{CITATION}",
    ]
    return "\n\n".join(section for section in sections if section)


def _saved_by(config: Any) -> Mapping[str, str]:
    version = getattr(config, "transformers_version", None)
    return {"transformers": str(version)} if version else {}


def _check_card(text: str) -> None:
    """Let huggingface_hub read the card, as it does before it uploads one."""
    try:
        ModelCard(text)
    except (AttributeError, ValueError, TypeError, yaml.YAMLError) as error:
        of_index = isinstance(error, AttributeError) or re.search("model_index|eval_results", str(error))
        what = "its model-index or remove it" if of_index else "it"
        raise PublishError(
            f"The front matter of README.md is not what the Hub takes: {error}. Mend {what}."
        ) from error
