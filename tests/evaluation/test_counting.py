"""`evaluate_model` against counting by hand: every image once, with the right pixels, on one process and on two."""

import logging
import math
import multiprocessing
import os
import socket

import pytest
import torch
from torch import nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    LevitConfig,
    LevitForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

import sima_hf
from sima_hf.data.images import collate
from sima_hf.errors import DataError
from sima_hf.evaluation.counting import evaluate_model
from sima_hf.evaluation.top_k_accuracy import TopKAccuracy


CLASSES = 7
TINY = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_labels": CLASSES,
}


class Planted(nn.Module):
    """Its logits are the first row of the first channel of what it is shown."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.shown, self.modes = [], []

    def forward(self, pixel_values):
        self.shown.append(pixel_values)
        self.modes.append((self.training, torch.is_grad_enabled()))
        return pixel_values[:, 0, 0, :CLASSES] * self.scale


def planted_images(count, seed=0):
    """Logits with ties as images `(3, 1, 7)` that are already normalized, and labels some of which are -100."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-4, 5, (count, CLASSES), generator=generator) / 2
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    labels[torch.rand(count, generator=generator) < 0.1] = -100
    return logits[:, None, None].expand(-1, 3, 1, -1), labels


def batches_of(images, labels, size):
    return [
        {"pixel_values": pixels, "labels": truth}
        for pixels, truth in zip(images.split(size), labels.split(size), strict=True)
    ]


def counted_by_hand(images, labels):
    confusion = [[0] * CLASSES for _ in range(CLASSES)]
    of_class, five, losses = [0] * CLASSES, [0] * CLASSES, []
    for row, label in zip(images[:, 0, 0].double().tolist(), labels.tolist(), strict=True):
        if label == -100:
            continue
        of_class[label] += 1
        losses.append(math.log(sum(math.exp(value) for value in row)) - row[label])
        if any(map(math.isnan, row)):
            continue
        order = sorted(range(CLASSES), key=lambda index: (-row[index], index))
        confusion[label][order[0]] += 1
        five[label] += label in order[:5]
    return confusion, of_class, five, sum(losses) / len(losses)


@pytest.mark.parametrize("size", [1, 10, 64, 103])
def test_every_image_is_counted_as_by_hand(size):
    images, labels = planted_images(103)
    found = evaluate_model(Planted(), batches_of(images, labels, size), progress=False)
    confusion, of_class, five, loss = counted_by_hand(images, labels)
    assert found.confusion.tolist() == confusion
    assert found.class_images.tolist() == of_class
    assert found.class_top_5.tolist() == five
    assert found.loss == pytest.approx(loss, rel=1e-6)
    right = sum(confusion[index][index] for index in range(CLASSES))
    assert found.num_images == sum(of_class) == 103 - found.left_out
    assert found.left_out == (labels == -100).sum() > 0
    assert found.accuracy == right / sum(of_class)
    assert 0 < found.accuracy < found.top_5_accuracy == sum(five) / sum(of_class) < 1
    assert found.images_per_second == found.num_images / found.seconds


def test_the_loss_does_not_depend_on_the_batches():
    images, labels = planted_images(103)
    losses = {evaluate_model(Planted(), batches_of(images, labels, size), progress=False).loss for size in (1, 7, 64)}
    assert len(losses) == 1


def test_classes_are_listed_worst_first():
    images, labels = planted_images(103)
    labels[labels == 3] = 4
    found = evaluate_model(Planted(), batches_of(images, labels, 20), progress=False)
    rows = found.per_class([f"class {index}" for index in range(CLASSES)])
    assert [row["label"] for row in rows if row["label"] == "class 3"] == []
    assert len(rows) == CLASSES - 1
    assert [row["accuracy"] for row in rows] == sorted(row["accuracy"] for row in rows)
    assert sum(row["correct"] for row in rows) / sum(row["images"] for row in rows) == found.accuracy
    one = next(row for row in rows if row["label"] == "class 5")
    assert (one["correct"], one["images"]) == (found.confusion[5, 5], (labels == 5).sum())


def test_what_is_not_a_number_is_wrong_and_said(caplog):
    images, labels = planted_images(60)
    images = images.clone()
    images[5:8, :, :, 2] = torch.nan
    labels[5:8] = torch.tensor([2, 0, -100])
    with caplog.at_level(logging.WARNING):
        found = evaluate_model(Planted(), batches_of(images, labels, 16), progress=False)
    confusion, of_class, five, _ = counted_by_hand(images, labels)
    assert (found.confusion.tolist(), found.class_images.tolist()) == (confusion, of_class)
    assert found.class_top_5.tolist() == five
    assert found.no_answer == 2
    assert math.isnan(found.loss)
    assert f"2 of {found.num_images} images" in caplog.text


def test_bytes_are_normalised_in_evaluation_mode_without_gradients_and_the_mode_comes_back():
    pixels = torch.randint(0, 256, (5, 3, 4, 8), dtype=torch.uint8)
    model = Planted().train()
    mean, std = [0.2, 0.3, 0.4], [0.5, 0.6, 0.7]
    batch = {"pixel_values": pixels, "labels": torch.zeros(5, dtype=torch.int64)}
    evaluate_model(model, [batch], mean=mean, std=std, progress=False)
    for channel in range(3):
        expected = (pixels[:, channel].double() / 255 - mean[channel]) / std[channel]
        assert torch.allclose(model.shown[0][:, channel].double(), expected, atol=1e-6)
    assert model.modes == [(False, False)]
    assert model.training
    with pytest.raises(DataError, match="give the `mean` and `std`"):
        evaluate_model(model, [batch], progress=False)
    assert model.training
    assert torch.is_grad_enabled()


def test_labels_are_taken_to_the_models_classes():
    images, labels = planted_images(80)
    labels[labels > 2] = -100
    classes = [4, 0, 6]
    mapped = torch.tensor([-100 if label == -100 else classes[label] for label in labels])
    found = evaluate_model(Planted(), batches_of(images, labels, 32), classes=classes, progress=False)
    assert found.confusion.tolist() == counted_by_hand(images, mapped)[0]
    with pytest.raises(DataError, match="from 0 to 1, or -100"):
        evaluate_model(Planted(), batches_of(images, labels, 32), classes=[4, 0], progress=False)
    with pytest.raises(DataError, match="from 0 to 6, or -100 to be left out, got 0 to 7"):
        evaluate_model(Planted(), batches_of(images[:2], torch.tensor([0, 7]), 32), progress=False)


def test_nothing_to_evaluate_on_is_said():
    for batches in ([], [{"pixel_values": torch.zeros(2, 3, 1, 7), "labels": torch.tensor([-100, -100])}]):
        with pytest.raises(DataError, match="no image with a label"):
            evaluate_model(Planted(), batches, progress=False)


def test_unreadable_images_are_named_and_left_out():
    samples = [{"pixel_values": torch.zeros(3, 1, 7), "labels": 0, "unreadable": []} for _ in range(5)]
    samples[3] = {"pixel_values": torch.zeros(3, 1, 7), "labels": -100, "unreadable": ["cut.png (truncated)"]}
    found = evaluate_model(Planted(), [collate(samples[:3]), collate(samples[3:])], progress=False)
    assert (found.num_images, found.left_out, found.unreadable) == (4, 1, ("cut.png (truncated)",))
    assert found.accuracy == 1.0  # all logits are equal, and the lower class comes first


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("size", [32, 48])
def test_fixed_position_embeddings_are_stretched_to_another_resolution(size, patched):
    model = ViTForImageClassification(ViTConfig(**TINY, initializer_range=0.5)).eval()
    if patched:
        model = sima_hf.patch_model(model)
    images = torch.randn(20, 3, size, size)
    with torch.no_grad():
        logits = model(images, interpolate_pos_encoding=size != 32).logits
    labels = logits.argsort(-1, descending=True)[:, 1]
    labels[:13] = logits.argmax(-1)[:13]
    found = evaluate_model(model, batches_of(images, labels, 8), progress=False)
    assert (found.accuracy, found.top_5_accuracy) == (13 / 20, 1.0)
    expected = nn.functional.cross_entropy(logits.double(), labels).item()
    assert found.loss == pytest.approx(expected, rel=1e-5)


def test_a_model_that_cannot_take_the_resolution_says_so():
    small = {"hidden_sizes": [32, 32, 32], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1], "key_dim": [8, 8, 8]}
    model = LevitForImageClassification(LevitConfig(image_size=64, **small, num_labels=CLASSES))
    images, labels = torch.randn(2, 3, 96, 96), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(DataError, match="made for images of 64 x 64 pixels, cannot take 96 x 96"):
        evaluate_model(model, batches_of(images, labels, 2), progress=False)
    assert evaluate_model(model, batches_of(images[:, :, :64, :64], labels, 2), progress=False).num_images == 2


def test_two_heads_count_as_their_mean():
    model = DeiTForImageClassificationWithTeacher(DeiTConfig(**TINY, initializer_range=0.5)).eval()
    images = torch.randn(16, 3, 32, 32)
    with torch.no_grad():
        outputs = model(images)
    labels = ((outputs.cls_logits + outputs.distillation_logits) / 2).argmax(-1)
    assert evaluate_model(model, batches_of(images, labels, 16), progress=False).accuracy == 1.0


def test_mixed_precision_computes_in_half_and_counts_in_full():
    model = ViTForImageClassification(ViTConfig(**TINY, initializer_range=0.5)).eval()
    images = torch.randn(16, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model(images).logits
    assert logits.dtype == torch.bfloat16
    labels = torch.randint(0, CLASSES, (16,))
    found = evaluate_model(model, batches_of(images, labels, 16), autocast=torch.bfloat16, progress=False)
    assert found.loss == pytest.approx(nn.functional.cross_entropy(logits.double(), labels).item(), rel=1e-6)
    assert found.accuracy == (logits.argmax(-1) == labels).double().mean()


class Samples(torch.utils.data.Dataset):
    """Planted images one by one; the third cannot be read."""

    def __init__(self, count):
        self.images, self.labels = planted_images(count, seed=count)
        self.labels[2] = -100

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {
            "pixel_values": self.images[index],
            "labels": int(self.labels[index]),
            "unreadable": ["third.png"] if index == 2 else [],
        }


def _one_of_two(rank, port, counts, queue):
    """A process of a distributed evaluation on the CPU: the result of each data set, and what the metric finds."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)  # what other tests in this process left
    GradientState._reset_state()
    accelerator = Accelerator(cpu=True)
    found = [accelerator.num_processes]
    for count in counts:
        loader = torch.utils.data.DataLoader(Samples(count), batch_size=8, collate_fn=collate)
        loader = accelerator.prepare_data_loader(loader, device_placement=False)
        result = evaluate_model(Planted(), loader, accelerator=accelerator, progress=False)
        metric = TopKAccuracy()
        for batch in loader:
            gathered = accelerator.gather_for_metrics((batch["pixel_values"][:, 0, 0], batch["labels"]))
            metric.add_batch(predictions=gathered[0], references=gathered[1])
        numbers = (result.confusion.tolist(), result.class_images.tolist(), result.class_top_5.tolist(), result.loss)
        found.append((*numbers, result.left_out, result.unreadable, metric.compute()))
    queue.put((rank, found))
    queue.close()
    queue.join_thread()
    torch.distributed.destroy_process_group()


def test_two_processes_count_each_image_once():
    """Also where the last batch is shorter, belongs to one of them alone, or there are fewer images than processes fill."""
    counts = (37, 45, 32, 5, 40)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_one_of_two, args=(rank, port, counts, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert found[0] == found[1]  # all processes have the whole result
    assert found[0][0] == 2
    for count, numbers in zip(counts, found[0][1:], strict=True):
        samples = Samples(count)
        alone = evaluate_model(Planted(), [collate([samples[index] for index in range(count)])], progress=False)
        assert numbers[:3] == counted_by_hand(samples.images, samples.labels)[:3]
        assert numbers[3] == alone.loss
        assert numbers[4] == (samples.labels == -100).sum()
        assert numbers[5] == ("third.png",)
        assert numbers[6] == {
            "accuracy": alone.accuracy,
            "top_5_accuracy": alone.top_5_accuracy,
            "num_images": alone.num_images,
        }


def test_the_bar_is_shown_on_request_only(capfd):
    images, labels = planted_images(10)
    evaluate_model(Planted(), batches_of(images, labels, 5), progress=False)
    assert capfd.readouterr().err == ""
    evaluate_model(Planted(), batches_of(images, labels, 5))
    assert "evaluating" in capfd.readouterr().err
