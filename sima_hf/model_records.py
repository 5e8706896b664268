"""The files beside a model that describe it, and describe nothing any more once another model is in its folder."""

import csv
from pathlib import Path


PROVENANCE = "sima_provenance.json"
MANIFEST = "checkpoint_manifest.json"  # seals a training checkpoint
# How a model is fed and asked: its processors, its tokenizer, its settings of generation.
MODEL_SETTINGS = (
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
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
    "chat_template.jinja",
    "chat_template.json",
)
# Where it comes from, what was measured of it, and how it was trained.
RECORDS = (
    PROVENANCE,
    "evaluation.json",
    "confusion.png",
    "results.json",
    "*_results.json",
    "trainer_state.json",
    "history.json",
    "curves.png",
)
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


def is_benchmark(path: Path) -> bool:
    """Whether a CSV has the columns of `sima-hf bench model`."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return set(next(csv.reader(file), ())) >= _BENCHMARK
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def is_record(path: Path) -> bool:
    """Whether a file describes the model that it lies beside: one of `RECORDS`, or a CSV of `sima-hf bench model`."""
    return any(path.match(pattern) for pattern in RECORDS) or (path.suffix == ".csv" and is_benchmark(path))
