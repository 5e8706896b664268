"""How far the answers of saved models are apart, on digits that no test calibrates with."""

import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import AutoModelForImageClassification
from transformers.models.auto.image_processing_auto import AutoImageProcessor


def logits(folder):
    """What the model in a folder says of digits that no test calibrates with."""
    processor = AutoImageProcessor.from_pretrained(folder)
    digits = load_digits().images[500:600] * (255 / 16)
    images = [Image.fromarray(pixels.round().astype("uint8")).convert("RGB") for pixels in digits]
    model = AutoModelForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        return model(**processor(images, return_tensors="pt")).logits


def distance(folder, softmax):
    """Share of the softmax model's logits that another does not explain."""
    goal = logits(softmax)
    return float((logits(folder) - goal).square().sum() / goal.square().sum())
