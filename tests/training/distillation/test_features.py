"""What is compared of student and teacher, and the distance, against float64 written out."""

import copy

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Backbone,
    Dinov2Config,
    Dinov2Model,
    DPTConfig,
    DPTForDepthEstimation,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTForImageClassification,
)

from sima_hf.errors import TrainingError
from sima_hf.training.distillation.features import SMALLEST_SHARE, FeatureMatching


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
IMAGES = {"image_size": 32, "patch_size": 8}


def vit():
    return ViTForImageClassification(ViTConfig(**SMALL, **IMAGES, num_labels=5)).eval()


def pixels(count=6, side=32):
    return {"pixel_values": torch.randn(count, 3, side, side)}


def matched(teacher, **changes):
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    matching = FeatureMatching(student, teacher, **changes)
    with matching:
        matching.measure([pixels(), pixels(3)])
    return matching


def test_the_distance_of_a_classifier_is_its_definition_in_float64():
    teacher = vit().double()
    torch.manual_seed(3)
    batches = [{"pixel_values": torch.randn(n, 3, 32, 32, dtype=torch.float64)} for n in (6, 3)]
    student = copy.deepcopy(teacher)
    torch.nn.init.normal_(student.vit.layernorm.bias)
    matching = FeatureMatching(student, teacher, class_tokens=1)
    with matching:
        matching.measure(batches)
        output = student(**batches[0])
        loss = matching.loss(output, matching.answers(batches[0]))

    def read(model, batch):
        hidden = model.vit(**batch).last_hidden_state
        return {"logits": model(**batch).logits[:, None], "class": hidden[:, :1], "patches": hidden[:, 1:]}

    wanted, own = read(teacher, batches[0]), read(student, batches[0])
    every = [read(teacher, batch) for batch in batches]
    terms = []
    for name, goal in wanted.items():
        rows = torch.cat([one[name].flatten(0, 1) for one in every])
        variance = rows.var(dim=0, correction=0)
        variance = torch.maximum(variance, SMALLEST_SHARE * variance.mean())
        terms.append(((own[name] - goal).square() / variance).mean())
    torch.testing.assert_close(loss, torch.stack(terms).mean(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("teacher", "names"),
    [
        (vit, {"logits", "last_hidden_state (class)", "last_hidden_state"}),
        (lambda: Dinov2Model(Dinov2Config(**SMALL, **IMAGES)), {"pooler_output", "last_hidden_state (class)", "last_hidden_state"}),
        (
            lambda: Dinov2Backbone(Dinov2Config(**SMALL, **IMAGES, out_features=["stage1", "stage2"])),
            {"feature_maps.0", "feature_maps.1"},
        ),
        (
            lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**SMALL, **IMAGES, projection_dim=8)),
            {"image_embeds", "last_hidden_state (class)", "last_hidden_state"},
        ),
        (
            lambda: SwinModel(SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4)),
            {"pooler_output", "last_hidden_state (class)", "last_hidden_state"},
        ),
    ],
    ids=["classifier", "model", "backbone", "tower", "windows"],
)  # fmt: skip
def test_what_is_read_is_matched(teacher, names):
    matching = matched(teacher().eval(), class_tokens=1)
    inputs = pixels(2)
    with matching:
        answers = matching.answers(inputs)
        parts = matching.parts(matching.student(**inputs))
        assert set(answers) == set(parts) == names
        assert all(part.dim() == 3 and len(part) == 2 for part in parts.values())
        assert matching.distances(parts, answers).shape == matching.cosines(parts, answers).shape == (2,)


def test_a_map_of_depths_has_one_channel():
    sizes = {**SMALL, "num_hidden_layers": 4}
    config = DPTConfig(
        **sizes,
        **IMAGES,
        is_hybrid=False,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
    )
    matching = matched(DPTForDepthEstimation(config).eval())
    with matching:
        assert matching.answers(pixels(2))["predicted_depth"].shape[-1] == 1


def test_equal_models_are_at_zero_and_the_best_constant_at_one():
    teacher = vit()
    matching = FeatureMatching(copy.deepcopy(teacher), teacher, class_tokens=1)
    inputs = pixels(40)
    with matching:
        matching.measure([inputs])
        answers = matching.answers(inputs)
        parts = matching.parts(matching.student(**inputs))
        assert matching.distances(parts, answers).abs().max() < 1e-9
        assert (matching.cosines(parts, answers) - 1).abs().max() < 1e-5
        constant = {name: part.mean(dim=(0, 1), keepdim=True).expand_as(part) for name, part in answers.items()}
        distance = float(matching.distances(constant, answers).mean())
    assert 0.7 < distance <= 1 + 1e-5  # channels that hardly vary count for less


def test_the_gradient_reaches_every_layer_and_not_the_teacher():
    matching = matched(vit(), class_tokens=1)
    with matching:
        inputs = pixels(2)
        matching.loss(matching.student(**inputs), matching.answers(inputs)).backward()
    assert all(one.grad is not None for one in matching.student.parameters())
    assert all(one.grad is None for one in matching.teacher.parameters())


def test_an_inner_layer_is_matched_where_larger_models_read_it():
    matching = matched(Dinov2Model(Dinov2Config(**SMALL, **IMAGES)).eval(), class_tokens=1, hidden_layer=-2)
    inputs = pixels(2)
    with matching:
        answers = matching.answers(inputs)
    expected = matching.teacher(**inputs, output_hidden_states=True).hidden_states[-2]
    assert set(answers) == {"last_hidden_state (class)", "last_hidden_state"}
    torch.testing.assert_close(answers["last_hidden_state"], expected[:, 1:])


def test_hooks_are_gone_in_the_end():
    matching = matched(vit())
    assert not matching.student.vit._forward_hooks
    assert not matching.teacher.vit._forward_hooks


def test_other_outputs_are_refused_by_name():
    matching = matched(vit(), class_tokens=1)
    with matching:
        answers = matching.answers(pixels(2))
        with pytest.raises(TrainingError, match="logits"):
            matching.loss({"last_hidden_state": answers["last_hidden_state"]}, answers)
        with pytest.raises(TrainingError, match=r"\(2, 16, 16\)"):
            matching.loss(matching.student(**pixels(2, 32)), {**answers, "last_hidden_state": answers["logits"]})


def test_no_images_and_values_that_are_not_finite_are_refused():
    teacher = vit()
    with pytest.raises(TrainingError, match="none"):
        FeatureMatching(copy.deepcopy(teacher), teacher).measure([])
    with torch.no_grad():
        teacher.classifier.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="logits must be finite"):
        FeatureMatching(copy.deepcopy(teacher), teacher).measure([pixels(2)])
