"""scikit-learn's digits, and the loop that trains a small model on them: what the measuring scripts of this folder share.

Everything random comes from generators with seeds, so a script gives the same numbers however many processes it takes.
"""

from collections.abc import Callable

import torch
import transformers
from sklearn.datasets import load_digits
from transformers import PreTrainedModel


TEST_IMAGES, HELD_OUT_IMAGES = 500, 250


class Digits:
    """Images `(B, 1, 8, 8)` in -1..1, labels, and which of them are for training and for measuring.

    Args:
        choose: measure on held-out training images, each also in four shifted copies, in place of the test images.
        size: pixels per side that a model gets; other than 8 they are interpolated.
    """

    def __init__(self, choose: bool, size: int = 8):
        self.size = size
        bunch = load_digits()
        images = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 8 - 1
        labels = torch.tensor(bunch.target)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        images, labels = images[order], labels[order]
        last = len(images) - TEST_IMAGES
        first = last - HELD_OUT_IMAGES if choose else last
        self.train, self.train_labels = images[:first], labels[:first]
        self.test, self.test_labels = images[first:], labels[first:]
        if choose:
            generator = torch.Generator().manual_seed(2)
            self.test = torch.cat([images[first:last], *(shifted(images[first:last], generator) for _ in range(4))])
            self.test_labels = labels[first:last].repeat(5)

    def sized(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, 1, 8, 8)` as the model gets it: `(B, 1, size, size)`."""
        return enlarged(images, self.size)


def enlarged(images: torch.Tensor, size: int) -> torch.Tensor:
    """`(B, C, S, S)` to `(B, C, size, size)`, bilinear; the very same tensor where that is its size."""
    if images.shape[-1] == size:
        return images
    return torch.nn.functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Every image `(B, 1, S, S)` moved by at most one pixel each way."""
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), value=-1.0)
    rows, columns = torch.randint(0, 3, (2, len(images), 1), generator=generator)
    window = torch.arange(images.shape[-1])
    index = torch.arange(len(images))[:, None, None]
    return padded[index, 0, (rows + window)[:, :, None], (columns + window)[:, None]][:, None]


def accuracy(model: PreTrainedModel, data: Digits) -> float:
    """Share of right answers on the images to be measured."""
    model.eval()
    with torch.no_grad():
        return (model(data.sized(data.test)).logits.argmax(-1) == data.test_labels).double().mean().item()


def batches_of_epoch(data: Digits, size: int, generator: torch.Generator):
    """All training images once, in random order, shifted at random, as `(images, labels)` of `size` images each."""
    order = torch.randperm(len(data.train), generator=generator)
    images = data.sized(shifted(data.train[order], generator))
    return list(zip(images.split(size), data.train_labels[order].split(size), strict=True))


def train(
    model: PreTrainedModel,
    data: Digits,
    seed: int,
    recipe: dict,
    after_epoch: Callable[[int], None] | None = None,
) -> PreTrainedModel:
    """Train with AdamW, one cycle of the learning rate and label smoothing; the same model in evaluation mode.

    Args:
        model: an image classifier of Transformers.
        data: the images.
        seed: of their order and shifts.
        recipe: epochs, batch_size, learning_rate, weight_decay, label_smoothing; fused for AdamW's quicker form, which rounds
            differently.
        after_epoch: called with the number of epochs done, from 1; may switch the model to evaluation.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        recipe["learning_rate"],
        weight_decay=recipe["weight_decay"],
        fused=recipe.get("fused", False),
    )
    steps = recipe["epochs"] * -(-len(data.train) // recipe["batch_size"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe["learning_rate"], steps, pct_start=0.1)
    entropy = torch.nn.CrossEntropyLoss(label_smoothing=recipe["label_smoothing"])
    for epoch in range(1, recipe["epochs"] + 1):
        model.train()
        for images, labels in batches_of_epoch(data, recipe["batch_size"], generator):
            entropy(model(images).logits, labels).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if after_epoch:
            after_epoch(epoch)
    return model.eval()


def begin_process() -> None:
    """One thread for each process: on models this small more only wait for each other."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
