"""The files beside a model that describe it, and describe nothing any more once another model is in its folder."""

import csv
import fnmatch
import json
from pathlib import Path


PROVENANCE = "sima_provenance.json"
MANIFEST = "checkpoint_manifest.json"  # seals a training checkpoint
# How a model is fed and asked: its processors, its settings of generation, its tokenizer.
MODEL_SETTINGS = (
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
)
# What else the classes of Transformers name in `vocab_files_names`; beside a tokenizer's settings only, for some could be anybody's.
_VOCABULARIES = (
    "tokenizer.*.json",  # for a range of versions
    "tokenizer.model.*",
    "vocab-src.json",
    "vocab-tgt.json",
    "target_vocab.json",
    "entity_vocab.json",
    "dict.txt",
    "bpe.codes",
    "byte_maps.json",
    "emoji.json",
    "normalizer.json",
    "word_shape.json",
    "word_pronunciation.json",
    "prophetnet.tokenizer",
    "*.tiktoken",
    "tiktoken.model",
    "spm.model",
    "spm_char.model",
    "sentencepiece.model",
    "source.spm",
    "target.spm",
)
_TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATES = "additional_chat_templates"  # folder of a tokenizer's further templates, *.jinja
# Where it comes from, what was measured of it, and how it was trained; by the names that this package and Trainer write.
RECORDS = (
    PROVENANCE,
    "evaluation.json",
    "confusion.png",
    "all_results.json",
    "train_results.json",
    "eval_results.json",
    "test_results.json",
    "predict_results.json",
    "trainer_state.json",
    "curves.png",
)
# A name that many programs use, and what examples/quickstart.py always writes there.
_RESULTS, _MEASURED = "results.json", {"accuracy", "data", "test_images", "parameters"}
# Columns that `sima-hf bench model` always writes and a card needs.
_BENCHMARK = {
    "model",
    "contestant",
    "mode",
    "batch",
    "pixels",
    "median_ms",
    "baseline",
    "ratio_to_baseline",
    "device",
}


def model_settings(folder: Path) -> list[Path]:
    """The files of a folder that say how its model is fed and asked, by name, and a tokenizer's further chat templates."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    told = any(path.name == _TOKENIZER_CONFIG for path in files)
    patterns = (*MODEL_SETTINGS, *(_VOCABULARIES if told else ()))
    found = [path for path in files if any(fnmatch.fnmatchcase(path.name.lower(), one) for one in patterns)]
    return [*found, *sorted((folder / CHAT_TEMPLATES).glob("*.jinja"))]


def is_benchmark(path: Path) -> bool:
    """Whether a CSV has the columns of `sima-hf bench model`."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return set(next(csv.reader(file), ())) >= _BENCHMARK
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def is_record(path: Path) -> bool:
    """Whether a file describes the model that it lies beside: one of `RECORDS`, quickstart's results, or `sima-hf bench model`'s CSV."""
    if path.name == _RESULTS:
        return _is_quickstarts(path)
    return path.name in RECORDS or (path.suffix == ".csv" and is_benchmark(path))


def _is_quickstarts(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError):
        return False
    return isinstance(content, dict) and set(content) >= _MEASURED
