"""A model card from the facts at hand: no figure without its file, nothing guessed, and an existing README merged."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCardData, constants

from ...errors import PublishError
from .attention import attention_section, softmax_in_sima
from .facts import CardFacts, card_files, find_facts
from .front_matter import METRICS, WRITTEN_METRICS, merged_data
from .known import GIVEN, Known, gather, is_repo_id
from .limits import limits_section
from .markdown import cell, code
from .origin import origin_section
from .readme import Readme, is_generated, is_trainer_text, read_readme, written
from .results import EVALUATION, TRAINING
from .sections import (
    CITATION,
    accuracy_sentence,
    model_section,
    results_section,
    speed_section,
    summary,
    versions_section,
    warning,
)
from .speed import speed_table
from .usage import loading_text, pipeline_tag


if TYPE_CHECKING:
    from ..folder import CheckedFolder


NOTE = "<!-- Written by sima_hf from the files named in it, and written anew with them: what you add belongs outside of the marks. -->"


NOTE = "<!-- Written by sima_hf from the files it names, and rewritten from them: put your own text outside of the two marks. -->"


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
    there = readme = read_readme(existing)
    if facts.provenance is not None:  # it says anew what it said before
        readme = replace(readme, data=_without_found(readme))
    known = gather(checked, facts, readme)
    name = repo_id.rpartition("/")[2] if repo_id else checked.path.name
    ours = _front(checked, known, repo_id, name, revision)
    if is_generated(readme.own):  # nobody wrote it, so what is given counts
        given = {key for key in GIVEN if getattr(facts, key)}
        readme = replace(readme, data={key: value for key, value in readme.data.items() if key not in given})
    data, state = merged_data(readme, ours, _place(repo_id))
    if _replaceable(there, known):
        there = replace(there, body="")
    title = "" if there.own else f"# {cell(name)}\n\n"
    block = f"{NOTE}\n\n{title}{_text(checked, known, repo_id or checked.path.name, revision)}"
    files = [*(one.path for one in known.measured if one.figures), *facts.benchmark]
    state |= {"files": [path.name for path in files], "front": _found(known)}
    return WrittenCard(written(there, data, block, state), known)


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
    told = bool(known.provenance.get("training") or known.trainer)
    return is_generated(readme.own) and (told or not is_trainer_text(readme.own))


def _found(known: Known) -> dict[str, Any]:
    """Entries of the front matter that the provenance gives."""
    found = {"base_model": known.base_model} if known.base_file else {}
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
        for metric, title in METRICS.items():
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
