"""A model card from what a run measured; every number in it comes from the folder's results.json."""

import json
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData


TEMPLATE = """---
{card_data}
---

# {name}

An image classifier without softmax: every attention is [SimA](https://arxiv.org/abs/2206.08898), in which queries and keys
are L1-normalized over the tokens and three matrices are multiplied in the cheaper order.

| | |
|---|---|
| data | {data}: {train_images} images trained on, {validation_images} to choose the checkpoint, {test_images} held out |
| accuracy on the held-out images | {accuracy:.2%} |
| parameters | {parameters:,} |
| resolution | {image_size} px |
| training | {epochs:g} epochs, batch {batch_size}, AdamW at {learning_rate:g}, seed {seed}: {train_seconds:.0f} s on {device}, {threads} threads |

![training curves, confusion matrix, predictions and class attention](report.png)

## How to use it

```python
import sima_hf  # pip install sima-hf
from transformers import pipeline

classifier = pipeline("image-classification", model="{name}")
print(classifier("image.png"))
```

Made by `examples/quickstart.py` with sima_hf {sima_hf}, transformers {transformers} and torch {torch}; all figures are in
`results.json`.

## Citation

```bibtex
@inproceedings{{koohpayegani2024sima,
  title     = {{SimA: Simple Softmax-free Attention for Vision Transformers}},
  author    = {{Koohpayegani, Soroush Abbasi and Pirsiavash, Hamed}},
  booktitle = {{IEEE/CVF Winter Conference on Applications of Computer Vision (WACV)}},
  year      = {{2024}}
}}
```
"""


def write_model_card(folder: str | Path) -> Path:
    """Write README.md into a folder that holds a model and its results.json."""
    folder = Path(folder)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    name = folder.resolve().name
    card_data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["sima", "softmax-free", "vision"],
        metrics=["accuracy"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=results["data"],
                dataset_name=results["data"],
                dataset_split="held out",
                metric_type="accuracy",
                metric_value=results["accuracy"],
            )
        ],
    )
    text = TEMPLATE.format(card_data=card_data.to_yaml(), name=name, **results)
    path = folder / "README.md"
    ModelCard(text, ignore_metadata_errors=False).save(path)
    return path
