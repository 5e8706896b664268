"""What a card is written from: the facts that were given, what their files say, and what the README's author says."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ...errors import PublishError
from ...folders.local_paths import data_and_split, shown_place
from ...folders.provenance import read_provenance
from ...folders.weights_hash import weights_hash
from .facts import CardFacts
from .readme import Readme, is_generated
from .results import EVALUATION, TRAINING, Measured, check_measured, is_number, read_measured


if TYPE_CHECKING:
    from ..folder import CheckedFolder


SWAPPED_BY = "sima-hf patch"  # what a provenance has as `made_by` from whoever swapped the softmax
# Facts that are entries of the front matter as well.
GIVEN = ("license", "base_model")


@dataclass(frozen=True)
class Known:
    """The facts with what the files and the README say: what the card is written from.

    Attributes:
        facts: as they were given.
        provenance: what sima_provenance.json says; {} without one.
        measured: what the files of results say, in the order of the facts.
        trainer: settings from trainer_state.json; {} without one.
        license, base_model, dataset: what was given, else what the README's author says, else what was found; "" if nothing.
        base_file, dataset_file: the file that the base model or the data set was found in.
        hub_dataset: name of the data set on the Hub; "" if it is not known to be there.
    """

    facts: CardFacts
    provenance: dict[str, Any]
    measured: tuple[Measured, ...]
    trainer: dict[str, Any]
    license: str
    base_model: str
    dataset: str
    base_file: Path | None
    dataset_file: Path | None
    hub_dataset: str

    @property
    def trainings(self) -> list[tuple[Mapping[str, Any], Path]]:
        """What is known of the training, each part with its file."""
        found = [(self.trainer, self.facts.training), (self.provenance.get("training"), self.facts.provenance)]
        return [
            *((one, file) for one, file in found if one),
            *((m.training, m.path) for m in self.measured if m.training),
        ]

    @property
    def has_accuracy(self) -> bool:
        """Whether a file says how often the answers are right."""
        return any("accuracy" in one.figures for one in self.measured)

    @property
    def only_swapped(self) -> bool:
        """Whether the provenance knows of a swap and no file of anything after it, so that the answers are noise."""
        later = self.provenance.get("calibration") or self.trainings
        return self.provenance.get("made_by") == SWAPPED_BY and not later


def gather(checked: "CheckedFolder", facts: CardFacts, readme: Readme) -> Known:
    """Read what the facts name, and check it against the model and the README.

    Raises:
        PublishError: a file is broken or about another model, or a fact that was given is none or contradicts the README.
    """
    provenance = read_provenance(facts.provenance) if facts.provenance else {}
    measured = tuple(read_measured(path) for path in facts.results)
    found_hash = weights_hash(checked.weights) if any(one.weights_sha256 for one in measured) else None
    for one in measured:
        check_measured(one, checked.model, found_hash)
    theirs, stock = readme.data, is_generated(readme.own)
    for name in GIVEN:
        given, said = getattr(facts, name), theirs.get(name)
        alike = said if isinstance(said, list) else [said]
        if given and said and not stock and given not in alike and given.lower() not in alike:
            raise PublishError(
                f"README.md says `{name}: {said}`, but {given!r} was given. Change the README, or do not give it; what its author "
                "wrote is not overwritten."
            )
    licence = (facts.license or "").strip().lower()
    if licence and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        raise PublishError(
            f"The licence should be an identifier as the Hub lists them, such as apache-2.0 or mit, got {facts.license!r}."
        )
    if facts.base_model and not is_repo_id(facts.base_model):
        raise PublishError(
            f"The base model should be a name on the Hub, such as facebook/deit-small-patch16-224, got {facts.base_model!r}."
        )
    found = provenance.get("base_model", "")
    said = theirs.get("base_model")
    said = said if isinstance(said, str) and is_repo_id(said) else ""
    base = facts.base_model or said or (found if is_repo_id(found) else "")
    loaded = provenance.get("hub_dataset") or ""
    hub_dataset = facts.dataset if facts.dataset and _on_the_hub(facts.dataset) else loaded
    dataset = shown_place(facts.dataset) if facts.dataset else provenance.get("dataset", "")
    other_weights = _measured_other_weights(provenance.get("training", {}))
    return Known(
        facts,
        provenance,
        tuple(_of_known_data(one, facts, data_and_split(dataset)[0], other_weights) for one in measured),
        _trainer_settings(facts.training),
        licence or (theirs["license"] if isinstance(theirs.get("license"), str) else ""),
        base,
        dataset,
        facts.provenance if base and base == found else None,
        facts.provenance if dataset and dataset == provenance.get("dataset") else None,
        hub_dataset if is_repo_id(hub_dataset) else "",
    )


def _measured_other_weights(training: Mapping[str, Any]) -> bool:
    """Whether a run evaluated the averaged weights and saved the raw ones, or the other way: its accuracy is then not the model's."""
    evaluated, saved = training.get("eval_weights", "ema"), training.get("save_weights", "ema")
    return bool(training.get("ema_decay")) and saved != ("ema" if evaluated == "both" else evaluated)


def _of_known_data(measured: Measured, facts: CardFacts, trained_on: str, other_weights: bool) -> Measured:
    """What a file measured, with the name of the data where it does not say it, and without figures that are not of these weights."""
    if measured.kind == TRAINING:
        return replace(measured, data=trained_on or None, figures={} if other_weights else measured.figures)
    if measured.kind == EVALUATION and facts.evaluated_on:
        return replace(measured, data=facts.evaluated_on)
    return measured


def is_repo_id(text: str) -> bool:
    """Whether a text can be the name of a repository on the Hub."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return bool(text)


def _on_the_hub(dataset: str) -> bool:
    """Whether a data set that was given is one on the Hub: "organization/name". One word may be anybody's there, and is a word here.

    Raises:
        PublishError: there is a folder of that name here, too, so that nobody can tell which is meant.
    """
    if "/" not in dataset or not is_repo_id(dataset):
        return False
    if Path(dataset).exists():
        raise PublishError(
            f"The data set {dataset!r} can be one on the Hub, and a folder here has that name. For the folder, write './{dataset}', "
            "of which the card shows the last part; for the one on the Hub, run this from another folder."
        )
    return True


def _trainer_settings(path: Path | None) -> dict[str, Any]:
    """What trainer_state.json says of the training."""
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = ("num_train_epochs", "global_step", "train_batch_size")
        found = {name: content[name] for name in names if content.get(name)}
        rates = [entry["learning_rate"] for entry in content.get("log_history", ()) if "learning_rate" in entry]
        for name, value in (*found.items(), *(("learning_rate", rate) for rate in rates)):
            if not is_number(value):
                raise ValueError(f"{name} is {value!r}, which is no finite number")
    except (AttributeError, OSError, RecursionError, TypeError, ValueError) as error:
        raise PublishError(
            f"{path} is not the state that Trainer saves: {error}. Leave it out, or save it again."
        ) from error
    return found | ({"highest_logged_learning_rate": max(rates)} if rates else {})
