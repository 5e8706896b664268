"""Training with a teacher: the loss by the letter, what it lowers, what is logged, and that the teacher leaves no trace."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from transformers import HfArgumentParser, ViTConfig, ViTForImageClassification, ViTImageProcessor

import sima_hf
from sima_hf.errors import DataError, TrainingError
from sima_hf.training.arguments import ModelArguments, SimATrainingArguments
from sima_hf.training.distillation.teacher import Teacher
from sima_hf.training.distillation.trainer import DistillationArguments, SimADistillationTrainer, build_teacher


pytestmark = pytest.mark.slow
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
NAMES = ["cat", "dog", "eel", "fox"]
LAYERS = ["vit.layers.0.attention", "vit.layers.1.attention"]


class Noise(torch.utils.data.Dataset):
    """Random images, as workers give them: the training ones by draws, the others by index."""

    def __init__(self, count=24, side=12):
        generator = torch.Generator().manual_seed(5)
        self.pixels = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, draw):
        index = draw if isinstance(draw, int) else draw.index
        sample = {"pixel_values": self.pixels[index], "labels": index % len(NAMES), "unreadable": []}
        return sample if isinstance(draw, int) else {**sample, "seeds": draw.seed}


def vit(labels=tuple(NAMES), **changes):
    torch.manual_seed(0)
    config = {
        "image_size": 12,
        "patch_size": 4,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "initializer_range": 0.3,
        "id2label": dict(enumerate(labels)),
        "label2id": {name: index for index, name in enumerate(labels)},
    }
    return ViTForImageClassification(ViTConfig(**{**config, **changes}))


def swapped(original, **dropout):
    model = sima_hf.patch_model(copy.deepcopy(original))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout.get("p", 0.0)
    return model


def trainer_for(output_dir, model, original=None, train_steps=5, arguments=None, **options):
    torch.manual_seed(1)
    plain = dict.fromkeys(("mixup", "cutmix", "random_erasing", "color_jitter", "warmup_epochs", "cooldown_epochs"), 0)
    args = SimATrainingArguments(
        output_dir=str(output_dir),
        max_steps=train_steps,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        learning_rate=3e-3,
        scale_learning_rate=False,
        lr_scheduler_type="constant",
        rand_augment="none",
        repeated_augmentation=1,
        ema_decay=0.9,
        eval_weights="raw",
        eval_strategy="no",
        save_strategy="steps",
        save_steps=5,
        logging_steps=1,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        **plain,
        **(arguments or {}),
    )
    teacher = Teacher(original, MEAN, STD) if isinstance(original, torch.nn.Module) else original
    return SimADistillationTrainer(
        model, args, MEAN, STD, teacher=teacher, train_dataset=Noise(), eval_dataset=Noise(), **options
    )


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


BOTH = {"distillation_type": "soft", "distillation_tau": 2.0, "attention_weight": 3.0}


def attention_outputs(model, pixels):
    seen = []
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _, args, out: seen.append(out[0])) for name in LAYERS
    ]
    logits = model(pixels).logits
    for handle in handles:
        handle.remove()
    return logits, seen


def test_the_loss_is_the_formula(tmp_path):
    """In float64, written out with torch's softmax alone, for soft targets and a teacher with another normalization."""
    original = vit()
    teacher = Teacher(original, [0.5] * 3, [0.5] * 3)
    trainer = trainer_for(tmp_path, swapped(vit()), teacher, distillation_alpha=0.3, **BOTH)
    pixels, targets = torch.randn(5, 3, 12, 12), torch.rand(5, 4).softmax(-1)
    trainer.model.train()
    with trainer.matching:
        found = trainer.compute_loss(trainer.model, {"pixel_values": pixels, "labels": targets})
    own, goal = copy.deepcopy(trainer.model).double(), copy.deepcopy(original).double()
    logits, outputs = attention_outputs(own, pixels.double())
    mean, std = (torch.tensor(x, dtype=torch.float64)[:, None, None] for x in (MEAN, STD))
    answers, wanted = attention_outputs(goal, 2 * (pixels.double() * std + mean) - 1)
    base = -(targets.double() * logits.softmax(-1).log()).sum(-1).mean()
    p, q = (answers / 2).softmax(-1), (logits / 2).softmax(-1)
    soft = (p * (p / q).log()).sum() * 4 / 20
    attention = [(one - two).square().mean() / two.var(correction=0) for one, two in zip(outputs, wanted, strict=True)]
    expected = 0.7 * base + 0.3 * soft + 3.0 * sum(attention) / 2
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_distilling_a_swapped_model_from_its_original(tmp_path):
    """Loss, answers and attention all come nearer; the record adds up; hooks are gone, the teacher is what it was."""
    original = vit()
    before = copy.deepcopy(original.state_dict())
    trainer = trainer_for(tmp_path, swapped(original), original, 60, distillation_alpha=0.9, **BOTH)
    trainer.train()
    losses, base, soft, attention = (
        logged(trainer, name) for name in ("loss", "base_loss", "distillation_loss", "attention_loss")
    )
    assert len(losses) == len(base) == len(soft) == len(attention) == 60
    for loss, *parts in zip(losses, base, soft, attention, strict=True):
        assert loss == pytest.approx(0.1 * parts[0] + 0.9 * parts[1] + 3.0 * parts[2], rel=1e-5)
    for curve in (losses, soft, attention):
        assert sum(curve[-3:]) < 0.5 * sum(curve[:3])
    assert not any(module._forward_hooks for model in (trainer.model, original) for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
    assert sima_hf.certify(trainer.model, torch.randn(1, 3, 12, 12)).softmax_free


def test_resuming_gives_the_same_losses_to_the_bit(tmp_path):
    """With dropout in the student."""
    whole, resumed = (trainer_for(tmp_path / name, swapped(vit(), p=0.2), vit(), 10, **BOTH) for name in ("a", "b"))
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-5"))
    for name in ("loss", "base_loss", "distillation_loss", "attention_loss"):
        assert len(logged(whole, name)) == 10
        assert logged(resumed, name) == logged(whole, name)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


def test_checkpoints_hold_the_student_alone(tmp_path):
    original = vit()
    student = swapped(original)
    trainer = trainer_for(tmp_path, student, original, **BOTH)
    trainer.train()
    checkpoint = tmp_path / "checkpoint-5"
    for folder in (checkpoint, checkpoint / "ema"):
        assert load_file(folder / "model.safetensors").keys() == student.state_dict().keys()
    parameters = list(student.parameters())
    saved = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    assert sum(len(group["params"]) for group in saved["param_groups"]) == len(parameters)
    largest = max(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    assert largest < 1.5 * (2 * 4 * sum(parameter.numel() for parameter in parameters)) + 2e5
    assert not [path for path in tmp_path.rglob("*") if "teacher" in path.name]
    loaded = sima_hf.patching.classes.SimAViTForImageClassification.from_pretrained(checkpoint)
    assert all(torch.equal(value, student.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_evaluation_measures_the_student_alone(tmp_path):
    original = vit()
    trainer = trainer_for(tmp_path, swapped(original), original, **BOTH)
    trainer.teacher.model.forward = None  # whoever asks the teacher fails
    found = trainer.evaluate()["eval_loss"]
    data = Noise()
    mean, std = (torch.tensor(x, dtype=torch.float64)[:, None, None] for x in (MEAN, STD))
    with torch.no_grad():
        logits = copy.deepcopy(trainer.model).double()((data.pixels.double() / 255 - mean) / std).logits
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(24) % 4)
    assert found == pytest.approx(expected.item(), rel=1e-5)


def test_without_a_teacher_it_is_the_plain_trainer(tmp_path):
    trainer = trainer_for(tmp_path, swapped(vit()), train_steps=2)
    trainer.train()
    assert logged(trainer, "base_loss") == pytest.approx(logged(trainer, "loss"), rel=1e-6)
    assert not logged(trainer, "distillation_loss")
    with pytest.raises(TrainingError, match="needs a teacher"):
        trainer_for(tmp_path, swapped(vit()), distillation_type="hard")
    with pytest.raises(TrainingError, match="no attention that was swapped"):
        trainer_for(tmp_path, vit(), vit(), attention_weight=1.0)


def test_gradient_accumulation_gives_the_mean(tmp_path):
    """Two micro-batches of 4 as one step of 8; attention aside, whose scale is each micro-batch's own."""
    curves = []
    for name, size, times in (("one", 8, 1), ("two", 4, 2)):
        original = vit()
        options = {"distillation_type": "hard"}
        trainer = trainer_for(
            tmp_path / name, swapped(original), original, 3, {"gradient_accumulation_steps": times}, **options
        )
        trainer._train_batch_size = trainer.args.per_device_train_batch_size = size
        trainer.train()
        curves.append([logged(trainer, part) for part in ("loss", "base_loss", "distillation_loss")])
    for one, two in zip(*curves, strict=True):
        assert one == pytest.approx(two, rel=1e-4)


def test_arguments():
    parser = HfArgumentParser(DistillationArguments)
    line = "--distillation_type hard --distillation_alpha 0.1 --attention_weight 2 --teacher_dtype bfloat16"
    (found,) = parser.parse_args_into_dataclasses(line.split())
    assert (found.distillation_type, found.distillation_alpha, found.attention_weight) == ("hard", 0.1, 2.0)
    assert found.needs_teacher
    assert not DistillationArguments().needs_teacher
    for wrong in (
        {"distillation_type": "warm"},
        {"distillation_alpha": 2},
        {"distillation_tau": 0},
        {"attention_weight": -1},
    ):
        with pytest.raises(ValueError, match=f"--{next(iter(wrong))} must"):
            DistillationArguments(**wrong)


def test_who_teaches(tmp_path):
    vit(labels=NAMES[::-1]).save_pretrained(tmp_path)
    processor = ViTImageProcessor(size={"height": 12, "width": 12}, image_mean=MEAN, image_std=STD)
    processor.save_pretrained(tmp_path)
    student, patch = swapped(vit()), ModelArguments(patch=str(tmp_path))

    def build(model=student, model_args=patch, image_size=24, **arguments):
        return build_teacher(DistillationArguments(**arguments), model_args, model, processor, image_size)

    assert build() is None
    own_size = build(distillation_type="soft")
    assert own_size.image_size == (12, 12)
    assert own_size.classes.tolist() == [3, 2, 1, 0]
    matched = build(distillation_type="soft", attention_weight=1.0)
    assert matched.image_size == (24, 24)
    assert matched.model.config.image_size == 24
    named = build(model_args=ModelArguments(), distillation_type="soft", teacher_model_name_or_path=str(tmp_path))
    assert named.classes.tolist() == [3, 2, 1, 0]
    with pytest.raises(ValueError, match="--teacher_model_name_or_path"):
        build(model_args=ModelArguments(), distillation_type="soft")
    others = swapped(vit(labels=["hen", "ibis"]))
    with pytest.raises(DataError, match="'hen', 'ibis'"):
        build(others, distillation_type="soft")
    assert build(others, attention_weight=1.0).classes is None  # attention is taught whatever the classes
    assert build(distillation_type="hard", teacher_labels="order").classes is None
    assert build(distillation_type="hard", teacher_dtype="bfloat16").dtype == torch.bfloat16
