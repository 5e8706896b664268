"""Tiny models of the plain ViTs, as data, in the format of interface.py."""

from tests.helpers.hosts.interface import SIZES


IMAGE = {**SIZES, "image_size": 32, "patch_size": 8, "num_labels": 3}
VIDEO = {**SIZES, "image_size": 16, "num_frames": 4, "num_labels": 3}
DECODER = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 24,
}

# model_type -> (fields of a tiny config, classes that the test tries)
CASES = {
    "vit": (IMAGE, ("ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling")),
    "deit": (IMAGE, ("DeiTModel", "DeiTForImageClassification", "DeiTForImageClassificationWithTeacher")),
    "dinov2": (IMAGE, ("Dinov2Model", "Dinov2ForImageClassification", "Dinov2Backbone")),
    "dinov2_with_registers": (
        IMAGE,
        ("Dinov2WithRegistersModel", "Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersBackbone"),
    ),
    "ijepa": (IMAGE, ("IJepaModel", "IJepaForImageClassification")),
    "vit_msn": (IMAGE, ("ViTMSNModel", "ViTMSNForImageClassification")),
    "yolos": ({**IMAGE, "image_size": [32, 32], "num_detection_tokens": 5}, ("YolosModel", "YolosForObjectDetection")),
    "videomae": (
        {**VIDEO, **DECODER, "patch_size": 8, "tubelet_size": 2},
        ("VideoMAEModel", "VideoMAEForVideoClassification", "VideoMAEForPreTraining"),
    ),
    "vivit": ({**VIDEO, "tubelet_size": [2, 8, 8]}, ("VivitModel", "VivitForVideoClassification")),
}
CASES |= {
    "vit_mae": ({**IMAGE, **DECODER, "num_labels": 2}, ("ViTMAEModel", "ViTMAEForPreTraining")),
    "dinov3_vit": (IMAGE, ("DINOv3ViTModel",)),
    "pixio": (IMAGE, ("PixioModel",)),
    "segformer": (
        {
            "hidden_sizes": [8, 16],
            "num_encoder_blocks": 2,
            "depths": [1, 1],
            "sr_ratios": [2, 1],
            "num_attention_heads": [1, 2],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "mlp_ratios": [2, 2],
            "decoder_hidden_size": 16,
            "num_labels": 3,
        },
        ("SegformerModel", "SegformerForImageClassification", "SegformerForSemanticSegmentation"),
    ),
    "dpt": (
        {
            **IMAGE,
            "num_hidden_layers": 4,
            "is_hybrid": False,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [8, 8, 8, 8],
            "fusion_hidden_size": 8,
        },
        ("DPTModel", "DPTForDepthEstimation"),
    ),
    **{
        f"{family}_vision_model": ({**IMAGE, "projection_dim": 16}, (f"{name}VisionModel",))
        for family, name in {
            "clip": "CLIP",
            "metaclip_2": "MetaClip2",
            "altclip": "AltCLIP",
            "chinese_clip": "ChineseCLIP",
        }.items()
    },
}
VIDEO_CLIP = {"pixel_values": ("randn", 2, 4, 3, 16, 16)}
INPUTS = {
    "videomae": VIDEO_CLIP,
    ("videomae", "VideoMAEForPreTraining"): {**VIDEO_CLIP, "bool_masked_pos": ("half", 2, 8)},
    "vivit": VIDEO_CLIP,
    # which patches are masked; drawn anew each time where it is not given
    "vit_mae": {"pixel_values": ("randn", 2, 3, 32, 32), "noise": ("rand", 2, 16)},
}
