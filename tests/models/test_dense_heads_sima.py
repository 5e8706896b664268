"""A SimA backbone under Transformers' heads for dense tasks, by config alone: a step of training, saved, loaded, in `pipeline`."""

import pytest
import torch
import transformers
from PIL import Image
from transformers import pipeline

from sima_hf import SimABackbone, SimAConfig, certify


FINE, COARSE = [4, 8, 16, 32], [8, 16, 32]
SIZE = (64, 96)
DETR = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "num_queries": 5,
    "use_timm_backbone": False,
}
RT_DETR = {
    "d_model": 16,
    "encoder_hidden_dim": 16,
    "encoder_in_channels": [32] * 3,
    "encoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_in_channels": [16] * 3,
    "decoder_ffn_dim": 16,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "num_queries": 5,
    "num_denoising": 4,
    "hidden_expansion": 1.0,
}
MASKS = {
    "mask_labels": [torch.arange(2 * 64 * 96).view(2, *SIZE) % 2.0] * 2,
    "class_labels": [torch.tensor([0, 1])] * 2,
}
SEMANTIC = {"labels": torch.arange(2 * 64 * 96).view(2, *SIZE) % 3}
BOXES = {
    "labels": [
        {"class_labels": torch.tensor([0, 1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.3, 0.3, 0.2, 0.4]])},
        {"class_labels": torch.tensor([2]), "boxes": torch.tensor([[0.5, 0.4, 0.3, 0.2]])},
    ]
}
NECK = {"neck_hidden_sizes": [16] * 4, "fusion_hidden_size": 16}


def backbone(**kwargs):
    return SimAConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, **kwargs)


def tokens():
    return backbone(out_indices=[1, 2, 3, 4], reshape_hidden_states=False)


# Head -> class, fields of its config, what it learns from, and whether softmax is left in the head.
HEADS = {
    "upernet": (
        "UperNetForSemanticSegmentation",
        lambda: {
            "backbone_config": backbone(pyramid_strides=FINE),
            "hidden_size": 16,
            "auxiliary_in_channels": 32,
            "auxiliary_channels": 8,
        },
        SEMANTIC,
        False,
    ),
    "maskformer": (
        "MaskFormerForInstanceSegmentation",
        lambda: {
            "backbone_config": backbone(pyramid_strides=FINE),
            "fpn_feature_size": 32,
            "mask_feature_size": 32,
            "decoder_config": transformers.DetrConfig(**DETR, backbone_config=backbone()),
        },
        MASKS,
        True,
    ),
    "mask2former": (
        "Mask2FormerForUniversalSegmentation",
        lambda: {
            "backbone_config": backbone(pyramid_strides=FINE),
            **dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim"), 32),
            **dict.fromkeys(("encoder_feedforward_dim", "dim_feedforward"), 16),
            "encoder_layers": 1,
            "decoder_layers": 2,
            "num_attention_heads": 2,
            "num_queries": 5,
            "train_num_points": 32,
        },
        MASKS,
        True,
    ),
    "detr": ("DetrForObjectDetection", lambda: {**DETR, "backbone_config": backbone()}, BOXES, True),
    "conditional_detr": (
        "ConditionalDetrForObjectDetection",
        lambda: {**DETR, "backbone_config": backbone()},
        BOXES,
        True,
    ),
    "deformable_detr": (
        "DeformableDetrForObjectDetection",
        lambda: {**DETR, "num_feature_levels": 3, "backbone_config": backbone(pyramid_strides=COARSE)},
        BOXES,
        True,
    ),
    "rt_detr": (
        "RTDetrForObjectDetection",
        lambda: {**RT_DETR, "backbone_config": backbone(pyramid_strides=COARSE)},
        BOXES,
        True,
    ),
    "d_fine": (
        "DFineForObjectDetection",
        lambda: {**RT_DETR, "backbone_config": backbone(pyramid_strides=COARSE)},
        BOXES,
        True,
    ),
    "dpt": ("DPTForDepthEstimation", lambda: {**NECK, "backbone_config": tokens()}, None, False),
    "depth_anything": (
        "DepthAnythingForDepthEstimation",
        lambda: {**NECK, "backbone_config": tokens(), "reassemble_hidden_size": 32, "patch_size": 16},
        None,
        False,
    ),
    "vitmatte": (
        "VitMatteForImageMatting",
        lambda: {
            "backbone_config": backbone(num_channels=4),
            "hidden_size": 32,
            "convstream_hidden_sizes": [8, 8, 8],
            "fusion_hidden_sizes": [16, 16, 8, 8],
        },
        None,
        False,
    ),
}


def make(head):
    """The model of a head with fresh weights, and what it learns from."""
    name, config, targets, _ = HEADS[head]
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    return cls(cls.config_class(**config(), num_labels=3)), targets


def first_output(model, images):
    """Logits, or the depth or mask that is predicted: what the head says of the images."""
    with torch.no_grad():
        outputs = model.eval()(images)
    return next(value for name, value in outputs.items() if isinstance(value, torch.Tensor) and name != "loss")


@pytest.mark.parametrize("head", HEADS)
def test_trains_saves_and_loads(head, tmp_path):
    """A step moves the attention of every block; the folder brings the same model back, SimA as it was."""
    model, targets = make(head)
    images = torch.randn(2, 4 if head == "vitmatte" else 3, *SIZE)
    before = {
        name: one.detach().clone() for name, one in model.named_parameters() if ".attention.v_proj.weight" in name
    }
    assert len(before) >= 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    outputs = model.train()(images, **(targets or {}))
    loss = outputs.loss if targets else (first_tensor(outputs) * torch.randn(SIZE)).sum()
    loss.backward()
    optimizer.step()
    after = dict(model.named_parameters())
    assert all(not torch.equal(after[name], value) for name, value in before.items())
    model.eval().save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert any(type(module) is SimABackbone for module in again.modules())
    saved = model.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in again.state_dict().items())
    torch.testing.assert_close(first_output(again, images), first_output(model, images), rtol=1e-4, atol=1e-4)
    assert certify(again, images).softmax_free is not HEADS[head][3]


def first_tensor(outputs):
    """Depth `(B,H,W)` or alpha `(B,1,H,W)`, which come without a loss."""
    return next(value for value in outputs.values() if isinstance(value, torch.Tensor))


# Head -> image processor: the task and what it says of an image.
PIPELINES = {
    "upernet": ("SegformerImageProcessorPil", "image-segmentation"),
    "maskformer": ("MaskFormerImageProcessorPil", "image-segmentation"),
    "mask2former": ("Mask2FormerImageProcessorPil", "image-segmentation"),
    "detr": ("DetrImageProcessorPil", "object-detection"),
    "rt_detr": ("RTDetrImageProcessorPil", "object-detection"),
    "deformable_detr": ("DeformableDetrImageProcessorPil", "object-detection"),
    "dpt": ("DPTImageProcessorPil", "depth-estimation"),
}


@pytest.mark.parametrize("head", PIPELINES)
def test_pipeline(head, tmp_path):
    """From the folder alone, an image of an odd size comes back as masks, boxes or depth of that size."""
    processor, task = PIPELINES[head]
    make(head)[0].save_pretrained(tmp_path)
    detects = task == "object-detection" and head != "rt_detr"
    size = {"shortest_edge": 64, "longest_edge": 96} if detects else {"height": 64, "width": 96}
    getattr(transformers, processor)(size=size).save_pretrained(tmp_path)
    pipe = pipeline(task, model=str(tmp_path), device="cpu")
    image = Image.radial_gradient("L").resize((131, 77)).convert("RGB")
    if task == "depth-estimation":
        assert pipe(image)["depth"].size == image.size
    elif task == "image-segmentation":
        found = pipe(image, subtask="semantic")
        assert {entry["label"] for entry in found} <= {"LABEL_0", "LABEL_1", "LABEL_2"}
        assert found
        assert all(entry["mask"].size == image.size for entry in found)
    else:
        found = pipe(image, threshold=0.0)
        assert found
        assert all(set(entry["box"]) == {"xmin", "ymin", "xmax", "ymax"} for entry in found)
