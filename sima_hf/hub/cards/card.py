"""A model card: a template filled with what is known, no figure without its file, merged with the README that is there."""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCardData, constants

from ...errors import PublishError
from .attention import peer_in, softmax_in_sima
from .block import card_block
from .facts import CardFacts, card_files, find_facts
from .front_matter import METRICS, WRITTEN_METRICS, as_list, merged_data
from .known import Known, gather, is_repo_id
from .readme import Readme, is_generated, is_trainer_text, read_readme, written
from .results import TRAINING
from .usage import pipeline_tag


if TYPE_CHECKING:
    from ..checks import CheckedFolder


_FROM_PROVENANCE = {"base_model": "base_model", "datasets": "hub_dataset"}  # entry of the front matter -> name there


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
        existing: the README that is there, its line endings untouched (read it with `newline=""`). Its author's front matter and
            text stay; the block between the marks `<!-- sima_hf:start -->` and `<!-- sima_hf:end -->` is exchanged, and so are the
            measurements that are from files of the repository. A text that only Transformers wrote is replaced.
        revision: branch of the repository that the card is for; None for the main one.

    Returns:
        The whole text; given back as `existing` it comes out unchanged.

    Raises:
        PublishError: the model is not SimA, a file is broken or about another model, a fact that was given contradicts the README,
            or the README's front matter cannot be read.
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
    if found := softmax_in_sima(checked):
        raise PublishError(
            f"{checked.certificate.model} ran {sum(one.count for one in found)} operations of softmax attention, first "
            f"{found[0].operation} in {found[0].path or 'the model itself'}, so no card says that it is SimA. Swap it first: "
            "sima_hf.patch_model(model)."
        )
    facts = find_facts(checked.path) if facts is None else facts
    card_files(facts)
    readme = read_readme(existing)
    generated = is_generated(readme.own)
    theirs = _authors_data(readme, facts, generated)
    known = gather(checked, facts, theirs)
    name = repo_id.rpartition("/")[2] if repo_id else checked.path.name
    # A name alone is a folder's, or is to get an account's before it.
    place = repo_id if repo_id and "/" in repo_id else None
    # Trainer's text has settings, which must be in a file before it goes.
    if generated and (known.provenance.get("training") or known.trainer or not is_trainer_text(readme.own)):
        readme = replace(readme, before="", block=None, after="")
        theirs.pop("model-index", None)
    ours = _front_matter(checked, known, place, name, revision or "main")
    if theirs.get("base_model") not in (None, "", known.base_model):
        ours.pop("base_model_relation", None)
    data, state = merged_data(theirs, ours, readme.state, place)
    files = [*(one.path for one in known.measured if one.figures), *facts.benchmark]
    state |= {
        "files": [path.name for path in files],
        "front": {name: ours[name] for name, fact in _FROM_PROVENANCE.items() if known.file_of(fact)},
    }
    block = card_block(checked, known, repo_id or checked.path.name, revision, title="" if readme.own else name)
    return WrittenCard(written(readme, data, block, state), known)


def _authors_data(readme: Readme, facts: CardFacts, generated: bool) -> dict[str, Any]:
    """The front matter without what an earlier provenance gave, which says it anew, and without what nobody decided on."""
    data = {name: value for name, value in readme.data.items() if not (generated and getattr(facts, name, None))}
    found = readme.state.get("front", {}) if facts.provenance else {}
    if data.get("base_model") and data["base_model"] == found.get("base_model"):
        del data["base_model"]
        data.pop("base_model_relation", None)
    if found.get("datasets"):
        left = [one for one in as_list(data.pop("datasets", None)) if one not in found["datasets"]]
        data |= {"datasets": left} if left else {}
    return data


def _front_matter(
    checked: "CheckedFolder", known: Known, place: str | None, name: str, revision: str
) -> dict[str, Any]:
    """Our front matter, as the Hub reads it."""
    tag = pipeline_tag(checked.model)
    results = _eval_results(known, tag, place, revision) if tag else []
    changed = bool(known.provenance.get("calibration") or known.provenance.get("distillation") or known.trainings)
    peer = peer_in(checked)
    attention = "sima" if peer is None else peer.name.replace("_", "-")
    tags = [attention, "softmax-free" if checked.certificate.softmax_free else None, "vision", tag]
    data = ModelCardData(
        library_name="transformers",
        license=known.license or None,
        base_model=known.base_model or None,
        base_model_relation="finetune" if known.base_model and changed else None,
        datasets=[known.hub_dataset] if known.hub_dataset else None,
        metrics=list(WRITTEN_METRICS) if results else None,
        pipeline_tag=tag,
        tags=[*filter(None, tags), checked.config.model_type.removeprefix("sima_")],
        model_name=name,
        eval_results=results or None,
    ).to_dict()
    data.pop("model_name", None)
    return data


def _eval_results(known: Known, tag: str, place: str | None, revision: str) -> list[EvalResult]:
    """Accuracies whose data are known; of two files about the same, the first."""
    found: dict[tuple, EvalResult] = {}
    for one in (one for one in known.measured if one.data):
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
