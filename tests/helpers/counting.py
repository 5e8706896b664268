"""Top-1 and top-5 accuracy counted by hand, and logits with ties to count."""

import torch


def counted_by_hand(logits, labels) -> dict:
    """Python numbers only: the place of the true class is how many classes are before it."""
    first = among_five = images = 0
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        if label == -100:
            continue
        images += 1
        if any(value != value for value in row):
            continue
        before = sum(value > row[label] or (value == row[label] and c < label) for c, value in enumerate(row))
        first += before == 0
        among_five += before < 5
    return {"accuracy": first / images, "top_5_accuracy": among_five / images, "num_images": images}


def tied_logits(count, classes, dtype=torch.float32, seed=0):
    """Logits with many ties, and labels a few of which are -100."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-4, 5, (count, classes), generator=generator).to(dtype) / 2
    labels = torch.randint(0, classes, (count,), generator=generator)
    labels[torch.rand(count, generator=generator) < 0.1] = -100
    return logits, labels
