"""What the loopback Hub reads in a model card's front matter: which cards it refuses, and what it says about a model.

The checks are those of the Hub that a card can fail without looking wrong: broken YAML, a license or a task that does
not exist, a `model-index` whose parts are missing. They are written from the Hub's documentation of model cards, and
the structure of `model-index` is read by huggingface_hub's own reader.
"""

import re

import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results


FRONT_MATTER = re.compile(r"^\s*---[\r\n]+(.*?)[\r\n]+---(?:[\r\n]|$)", re.DOTALL)
# Some of the ids that the Hub's documentation lists; "other" wants `license_name` and `license_link`.
LICENSES = {"apache-2.0", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "gpl-3.0", "mit", "other", "unknown"}
TASKS = {
    "depth-estimation", "feature-extraction", "image-classification", "image-feature-extraction", "image-segmentation",
    "image-text-to-text", "image-to-text", "mask-generation", "object-detection", "other", "text-classification",
    "video-classification", "visual-question-answering", "zero-shot-image-classification",
}  # fmt: skip
LISTS_OR_WORDS = ("tags", "datasets", "base_model", "metrics", "language", "license")


def front_matter(card: str) -> dict:
    """A card's metadata; {} if it has none. ValueError, with a sentence, if it is no YAML mapping."""
    match = FRONT_MATTER.match(card)
    try:
        metadata = yaml.safe_load(match.group(1)) if match else {}
    except yaml.YAMLError as error:
        raise ValueError(f"YAML front matter cannot be read: {error}") from error
    if metadata is not None and not isinstance(metadata, dict):
        raise ValueError("YAML front matter must be a mapping of names to values.")
    return metadata or {}


def _words(value) -> list:
    return value if isinstance(value, list) else [value]


def problems(card: str) -> tuple[list[str], list[str]]:
    """Why the Hub would refuse a card, and what it would warn of."""
    try:
        metadata = front_matter(card)
    except ValueError as error:
        return [str(error)], []
    if not metadata:
        return [], ["empty or missing yaml metadata in repo card"]
    errors, warnings = [], []
    for name in LISTS_OR_WORDS:
        if name in metadata and not all(isinstance(word, str) and word for word in _words(metadata[name])):
            errors.append(f'"{name}" must be a string or a list of strings')
    unknown = [word for word in _words(metadata.get("license", "other")) if word not in LICENSES]
    if unknown:
        errors.append(f'"license" must be one of [{", ".join(sorted(LICENSES))}], not {unknown[0]!r}')
    if metadata.get("license") == "other" and not metadata.get("license_name"):
        warnings.append('"license: other" wants "license_name" and "license_link"')
    if metadata.get("pipeline_tag", "other") not in TASKS:
        warnings.append(f'"pipeline_tag" {metadata["pipeline_tag"]!r} is not in the official list')
    for name in ("base_model", "datasets"):
        for word in _words(metadata.get(name, [])):
            if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(word)):
                errors.append(f'"{name}" with value {word!r} is not valid: use the id of a repository on the Hub')
    try:
        for model in metadata.get("model-index") or []:
            model_index_to_eval_results([model])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        errors.append(f'"model-index" is not valid: {error!r}')
    return errors, warnings


def facts(card: str, config: dict, names: list[str]) -> dict:
    """What the Hub says of a model, read from its card, its config.json and its files' names.

    `pipeline_tag` comes from the card alone: the Hub also guesses it from architectures that it knows, and those of
    this project it does not know.
    """
    try:
        metadata = front_matter(card)
    except ValueError:
        metadata = {}
    library = metadata.get("library_name") or ("transformers" if config.get("model_type") else None)
    tags = [library, config.get("model_type"), metadata.get("pipeline_tag"), *_words(metadata.get("tags", []))]
    tags += ["safetensors"] if any(name.endswith(".safetensors") for name in names) else []
    tags += ["custom_code"] if config.get("auto_map") else []
    tags += [f"license:{word}" for word in _words(metadata.get("license", []))]
    return {
        "cardData": metadata,
        "library_name": library,
        "pipeline_tag": metadata.get("pipeline_tag"),
        "tags": list(dict.fromkeys(tag for tag in tags if tag)),
        "model-index": metadata.get("model-index"),
        "config": {name: config[name] for name in ("architectures", "model_type", "auto_map") if name in config},
    }
