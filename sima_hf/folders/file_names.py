"""Which file of a model's folder is what, by its name."""

import csv
import fnmatch
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


CONFIG = "config.json"
PROVENANCE = "sima_provenance.json"
MANIFEST = "checkpoint_manifest.json"  # seals a training checkpoint
EXPORT = "sima_export.json"  # describes an exported model, and lists its files
# Names that `from_pretrained` finds by itself: weights in one file or in shards, variants of them, an adapter.
WEIGHT_FILES = (
    "model.safetensors",
    "model.*.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "model.safetensors.index.*.json",
    "pytorch_model.bin",
    "pytorch_model.*.bin",
    "pytorch_model-*-of-*.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin.index.*.json",
)
ADAPTER_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "adapter_model-*-of-*.safetensors",
    "adapter_model.safetensors.index.json",
)
# Processors, settings of generation, tokenizer.
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
# What else tokenizers of Transformers name in `vocab_files_names`; counted only beside a tokenizer_config.json.
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
CHAT_TEMPLATES = "additional_chat_templates"  # folder of a tokenizer's further templates, *.jinja
# Origin, results and training state, by the names that this package and Trainer write.
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


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file name fits one of some patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def code_places(auto_map: Any) -> Iterator[str]:
    """The places of code, "file.Class" or "org/name--file.Class", in an `auto_map`, however they are nested."""
    if isinstance(auto_map, str):
        yield auto_map
    elif isinstance(auto_map, (Mapping, list, tuple)):
        for one in auto_map.values() if isinstance(auto_map, Mapping) else auto_map:
            yield from code_places(one)


def model_settings(folder: Path) -> list[Path]:
    """The processors, settings of generation and tokenizer files of a folder, and a tokenizer's further chat templates."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    with_tokenizer = (folder / "tokenizer_config.json").is_file()
    patterns = (*MODEL_SETTINGS, *(_VOCABULARIES if with_tokenizer else ()))
    found = [path for path in files if matches(path.name.lower(), patterns)]
    return [*found, *sorted((folder / CHAT_TEMPLATES).glob("*.jinja"))]


def is_benchmark(path: Path) -> bool:
    """Whether a CSV has the columns of `sima-hf bench model`."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return set(next(csv.reader(file), ())) >= _BENCHMARK
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def is_record(path: Path) -> bool:
    """Whether a file describes the model beside it: one of `RECORDS`, quickstart's results, or a CSV of `sima-hf bench model`."""
    if path.name == _RESULTS:
        return set(json_or_nothing(path)) >= _MEASURED
    return path.name in RECORDS or (path.suffix == ".csv" and is_benchmark(path))


def json_or_nothing(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; {} where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
