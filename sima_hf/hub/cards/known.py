"""What a card is written from: the facts that were given, what their files say, and what the README's author says."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ...errors import PublishError
from ...folders.json_files import parse_json
from ...folders.local_paths import data_and_split, shown_place
from ...folders.provenance import read_provenance
from ...folders.weights_hash import weights_hash
from .facts import CardFacts
from .results import EVALUATION, TRAINING, Measured, check_measured, read_measured


if TYPE_CHECKING:
    from ..checks import CheckedFolder


SWAPPED_BY = "sima-hf patch"  # what a provenance has as `made_by` from whoever swapped the softmax
GIVEN = ("license", "base_model")  # facts that are entries of the front matter as well


@dataclass(frozen=True)
class Known:
    """The facts with what the files and the README say: what the card is written from.

    Attributes:
        facts: as they were given.
        provenance: what sima_provenance.json says; {} without one.
        measured: what the results files say, in the order of the facts.
        trainer: settings from trainer_state.json; {} without one.
        license, base_model, dataset: what was given, else what the README's author says, else what was found; "" if nothing.
        hub_dataset: name of the data set on the Hub; "" if it is not known to be there.
    """

    facts: CardFacts
    provenance: dict[str, Any]
    measured: tuple[Measured, ...]
    trainer: dict[str, Any]
    license: str
    base_model: str
    dataset: str
    hub_dataset: str

    def file_of(self, name: str) -> Path | None:
        """sima_provenance.json, if the base model or the data set is from it."""
        value = getattr(self, name)
        return self.facts.provenance if value and value == self.provenance.get(name) else None

    @property
    def trainings(self) -> list[tuple[Mapping[str, Any], Path]]:
        """What is known of the training, each part with its file."""
        found = [(self.trainer, self.facts.training), (self.provenance.get("training"), self.facts.provenance)]
        found += [(one.training, one.path) for one in self.measured]
        return [(settings, file) for settings, file in found if settings]

    @property
    def has_accuracy(self) -> bool:
        """Whether a file says how often the answers are right."""
        return any("accuracy" in one.figures for one in self.measured)

    @property
    def only_swapped(self) -> bool:
        """Whether the provenance knows of a swap and no file of anything after it, so that the answers are noise."""
        later = self.provenance.get("calibration") or self.provenance.get("distillation") or self.trainings
        return self.provenance.get("made_by") == SWAPPED_BY and not later


def gather(checked: "CheckedFolder", facts: CardFacts, theirs: Mapping[str, Any]) -> Known:
    """Read what the facts name, and check it against the model and the README.

    Args:
        checked: the folder.
        facts: what was given or found.
        theirs: the README's front matter, as far as it is its author's.

    Raises:
        PublishError: a file is broken or about another model, or a fact that was given is none or contradicts the README.
    """
    for name in GIVEN:
        given, said = getattr(facts, name), theirs.get(name)
        alike = said if isinstance(said, list) else [said]
        if given and said and given not in alike and given.lower() not in alike:
            raise PublishError(
                f"`{name}` must be what README.md says, {said!r}, got {given!r}. Change the README, or do not give it; what its author "
                "wrote is not overwritten."
            )
    if facts.base_model and not is_repo_id(facts.base_model):
        raise PublishError(
            f"`base_model` must be a name on the Hub, such as facebook/deit-small-patch16-224, got {facts.base_model!r}."
        )
    provenance = read_provenance(facts.provenance) if facts.provenance else {}
    bases = [facts.base_model, theirs.get("base_model"), provenance.get("base_model")]
    dataset = shown_place(facts.dataset) if facts.dataset else provenance.get("dataset", "")
    license_name = (facts.license or "").strip().lower() or theirs.get("license")
    return Known(
        facts=facts,
        provenance=provenance,
        measured=_measured(checked, facts, provenance.get("training", {}), data_and_split(dataset)[0]),
        trainer=_trainer_settings(facts.training) if facts.training else {},
        license=license_name if isinstance(license_name, str) else "",
        base_model=next((one for one in bases if is_repo_id(one)), ""),
        dataset=dataset,
        hub_dataset=_hub_dataset(facts.dataset, provenance.get("hub_dataset")),
    )


def is_repo_id(name: Any) -> bool:
    """Whether this can be the name of a repository on the Hub."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return bool(name)


def _measured(checked: "CheckedFolder", facts: CardFacts, training: Mapping, trained_on: str) -> tuple[Measured, ...]:
    """What the results files say, held against the model, with the name of the data where only the facts have it."""
    found = [read_measured(path) for path in facts.results]
    found_hash = weights_hash(checked.weights) if any(one.weights_sha256 for one in found) else None
    # A run may have evaluated the averaged weights and saved the raw ones, or the other way: its accuracy is then not the model's.
    saved, evaluated = training.get("save_weights", "ema"), training.get("eval_weights", "ema")
    other_weights = training.get("ema_decay") and saved != evaluated.replace("both", "ema")
    for number, one in enumerate(found):
        check_measured(one, checked.model, found_hash)
        if one.kind == TRAINING:
            found[number] = replace(one, data=trained_on or None, figures={} if other_weights else one.figures)
        elif one.kind == EVALUATION and facts.evaluated_on:
            found[number] = replace(one, data=facts.evaluated_on)
    return tuple(found)


def _hub_dataset(given: str | None, found: str | None) -> str:
    """The data set on the Hub, named in full: one word may be anybody's there, and a folder here is none."""
    if given and "/" in given and is_repo_id(given):
        if Path(given).exists():
            raise PublishError(
                f"`dataset` must be a name on the Hub or in words, got {given!r}, which is a folder here as well. For the folder, write "
                f"'./{given}', of which the card shows the last part; for the one on the Hub, run this from another folder."
            )
        return given
    return found if is_repo_id(found) else ""


def _trainer_settings(path: Path) -> dict[str, Any]:
    """What trainer_state.json says of the training."""
    content = parse_json(path)
    try:
        names = ("num_train_epochs", "global_step", "train_batch_size")
        found = {name: content[name] for name in names if content.get(name)}
        rates = [entry["learning_rate"] for entry in content.get("log_history", ()) if "learning_rate" in entry]
        return found | ({"highest_logged_learning_rate": max(rates)} if rates else {})
    except (AttributeError, TypeError) as error:
        raise PublishError(f"{path} is not the state that Trainer saves: {error}. Leave it out.") from error
