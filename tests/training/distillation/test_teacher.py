"""The teacher sees what its own image processor would have made, answers in the student's classes, and stays what it was."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    ConvNextImageProcessor,
    DeiTImageProcessor,
    EfficientNetImageProcessor,
    LevitImageProcessor,
    MobileViTImageProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from sima_hf import SimAImageProcessor
from sima_hf.data.processors import measure_processor
from sima_hf.errors import DataError
from sima_hf.training.distillation.teacher import Teacher, class_indices


STUDENT = {"student_mean": [0.485, 0.456, 0.406], "student_std": [0.229, 0.224, 0.225]}
NAMES = ["cat", "dog", "eel", "fox", "gnu"]


def vit(labels=tuple(NAMES), side=12, **changes):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(
        image_size=side,
        patch_size=4,
        initializer_range=0.3,
        id2label=dict(enumerate(labels)),
        label2id={name: index for index, name in enumerate(labels)},
        **{**sizes, **changes},
    )
    return ViTForImageClassification(config)


def picture(side=12, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def as_student(image):
    """What the student gets, `(1,3,H,W)` float32, from its formula."""
    mean, std = (np.array(STUDENT[f"student_{name}"]) for name in ("mean", "std"))
    pixels = (np.asarray(image) / 255 - mean) / std
    return torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32)


PROCESSORS = {
    "vit": (ViTImageProcessor, {}),
    "deit": (DeiTImageProcessor, {}),
    "sima": (SimAImageProcessor, {}),
    "clip": (CLIPImageProcessor, {}),
    "levit": (LevitImageProcessor, {}),
    "convnext": (ConvNextImageProcessor, {}),
    "mobilevit, blue first": (MobileViTImageProcessor, {}),
    "efficientnet, normalized twice": (EfficientNetImageProcessor, {}),
    "efficientnet, offset": (EfficientNetImageProcessor, {"rescale_offset": True, "rescale_factor": 1 / 127.5}),
    "no rescaling": (ViTImageProcessor, {"do_rescale": False}),
    "no normalization": (ViTImageProcessor, {"do_normalize": False}),
}


@pytest.mark.parametrize("case", PROCESSORS)
def test_it_sees_what_its_own_processor_makes(case):
    cls, options = PROCESSORS[case]
    processor = cls(**options)
    mean, std, size, flipped = measure_processor(processor)
    image = picture(size[0])
    teacher = Teacher(vit(), mean, std, size, flip_channels=flipped, **STUDENT)
    found = teacher.view(as_student(image))
    # The picture has its size already, so that resampling of bytes, which rounds, has no part in the comparison.
    expected = processor(image, return_tensors="pt", do_resize=False, do_center_crop=False)["pixel_values"]
    assert found.shape == expected.shape
    scale = expected.abs().max().clamp_min(1)  # 255 without rescaling, 2 or 3 else
    assert ((found - expected).abs().max() / scale).item() < 1e-5
    assert flipped == ("blue" in case)


def test_the_same_normalization_changes_no_bit():
    pixels = torch.randn(2, 3, 224, 224)
    for processor in (SimAImageProcessor(), LevitImageProcessor()):
        mean, std, size, _ = measure_processor(processor)
        assert torch.equal(Teacher(vit(), mean, std, size, **STUDENT).view(pixels), pixels)
    assert torch.equal(Teacher(vit(), [0.5] * 3, [0.5] * 3).view(pixels), pixels)


def test_renormalization_is_exact_also_for_noise():
    pixels = 100 * torch.randn(2, 3, 7, 5)
    mean, std = [0.1, 0.5, 0.7], [0.3, 1.0, 0.01]
    found = Teacher(vit(), mean, std, **STUDENT).view(pixels)
    mine, yours = (
        [torch.tensor(x, dtype=torch.float64)[:, None, None] for x in pair] for pair in ((mean, std), STUDENT.values())
    )
    expected = (pixels.double() * yours[1] + yours[0] - mine[0]) / mine[1]
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("size", [(9, 9), (30, 17)])
def test_another_size_is_bicubic_as_pillow_has_it(size):
    pixels = torch.randn(1, 3, 20, 20)
    found = Teacher(vit(), [0.5] * 3, [0.5] * 3, size).view(pixels)
    channels = [Image.fromarray(channel.numpy()).resize(size[::-1], Image.Resampling.BICUBIC) for channel in pixels[0]]
    expected = torch.tensor(np.stack([np.asarray(channel) for channel in channels]))[None]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_logits_come_in_the_students_order():
    order = [3, 0, 4, 2, 1]
    model, pixels = vit(), torch.randn(2, 3, 12, 12)
    own = Teacher(model, [0.5] * 3, [0.5] * 3)(pixels)
    for labels in ([NAMES[i] for i in order], [f" {NAMES[i].upper()}" for i in order]):
        found = Teacher(model, [0.5] * 3, [0.5] * 3, student_labels=labels)(pixels)
        assert torch.equal(found, own[:, order])
    part = Teacher(model, [0.5] * 3, [0.5] * 3, student_labels=["fox", "cat"])(pixels)
    assert torch.equal(part, own[:, [3, 0]])
    foreign = ["Katze", "Hund", "Aal", "Fuchs", "Gnu"]
    by_order = Teacher(model, [0.5] * 3, [0.5] * 3, student_labels=foreign, match_labels="order")(pixels)
    assert torch.equal(by_order, own)


def test_names_of_classes():
    assert class_indices(NAMES, NAMES) is None
    assert class_indices(["crane", "crane"], ["crane", "crane"]) is None  # as ImageNet's list has it
    assert class_indices(["b", "B"], ["x", "B", "b"]).tolist() == [2, 1]
    assert class_indices(["Caf\u00e9", "sea_lion"], ["Sea lion", "Cafe\u0301"]).tolist() == [1, 0]
    with pytest.raises(
        DataError, match=r"2 of the student's 3 classes are not among the teacher's 5: 'gnat', 'hen'.*by order"
    ):
        class_indices(["cat", "gnat", "hen"], NAMES)
    with pytest.raises(DataError, match=r"have no name in common: .*'LABEL_2' and 6 more.*by order"):
        class_indices([f"LABEL_{index}" for index in range(9)], NAMES)
    with pytest.raises(DataError, match=r"Several classes have the same name, .* 'crane'.*by order"):
        class_indices(["crane", "dog"], ["dog", "crane", "crane"])
    with pytest.raises(DataError, match="the student has 2 and the teacher 5"):
        class_indices(["a", "b"], NAMES, "order")
    with pytest.raises(ValueError, match="'name' or 'order'"):
        class_indices(NAMES, NAMES, "guess")


def test_it_is_frozen_and_part_of_nothing():
    model = vit(hidden_dropout_prob=0.5).train()
    teacher = Teacher(model, [0.5] * 3, [0.5] * 3)
    pixels = torch.randn(2, 3, 12, 12, requires_grad=True)
    assert torch.equal(teacher(pixels), teacher(pixels))
    assert not teacher(pixels).requires_grad
    assert not any(parameter.requires_grad for parameter in model.parameters())
    student = vit()
    before = list(student.state_dict())
    student.teacher = teacher
    assert list(student.state_dict()) == before
    assert len(list(student.modules())) == len(list(vit().modules()))
    student.train()
    assert not model.training


def test_precision():
    pixels = torch.randn(2, 3, 12, 12)
    exact = Teacher(vit(), [0.5] * 3, [0.5] * 3)(pixels)
    half = Teacher(vit(), [0.5] * 3, [0.5] * 3, dtype=torch.bfloat16)(pixels)
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    torch.testing.assert_close(half, exact, rtol=0.05, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Teacher(vit(), [0.5] * 3, [0.5] * 3)(pixels), half)
        assert torch.equal(Teacher(vit(), [0.5] * 3, [0.5] * 3, dtype=torch.float32)(pixels), exact)
    stored = Teacher(vit().bfloat16(), [0.5] * 3, [0.5] * 3)(pixels)
    torch.testing.assert_close(stored, exact, rtol=0.1, atol=0.1)


def test_from_a_folder(tmp_path):
    vit(labels=NAMES[::-1], side=16).save_pretrained(tmp_path)
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    processor.save_pretrained(tmp_path)
    student_processor = SimAImageProcessor.for_image_size(16)
    teacher = Teacher.from_pretrained(str(tmp_path), student_processor, vit().config)
    image = picture(16)
    found = teacher(as_student(image))
    own = vit(labels=NAMES[::-1], side=16).eval()
    with torch.no_grad():
        expected = own(**processor(image, return_tensors="pt")).logits.flip(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert teacher.image_size == (16, 16)
    larger = Teacher.from_pretrained(str(tmp_path), student_processor, vit().config, image_size=24)
    assert larger.model.config.image_size == 24
    assert larger(torch.randn(2, 3, 24, 24)).shape == (2, 5)
    with pytest.raises(DataError, match="'hen'"):
        Teacher.from_pretrained(str(tmp_path), student_processor, vit(labels=["hen", "cat"]).config)
    unmatched = Teacher.from_pretrained(
        str(tmp_path), student_processor, vit(labels=["hen", "cat"]).config, match_labels=None
    )
    assert unmatched(torch.randn(2, 3, 16, 16)).shape == (2, 5)


def test_statistics_must_belong_together():
    with pytest.raises(ValueError, match="one number for each channel"):
        Teacher(vit(), [0.5], [0.5], **STUDENT)
    with pytest.raises(ValueError, match="above 0"):
        Teacher(vit(), [0.5] * 3, [0.5, 0.0, 0.5])
