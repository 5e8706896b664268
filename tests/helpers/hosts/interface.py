"""Tiny models of hosts that reach attention through Transformers' interface, as data; at_hand.py makes them.

CASES: "model_type" or "model_type/variant" -> (fields of a tiny config, names of the classes to try)
INPUTS: (key, class name) or key or model_type -> {argument: spec}; the default is one batch of 32 px images.
A spec is a tuple: ("randn", *shape) ("rand", *shape) ("ids", high, *shape) ("ones", *shape) ("half", *shape: every
second element True) ("int", nested list) ("bool", nested list) ("plain", any value passed as it is).
"""

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
IMAGE = {**SIZES, "image_size": 32, "patch_size": 8}
LABELLED = {**IMAGE, "num_labels": 3}
TEXT = {
    **SIZES,
    "vocab_size": 50,
    "max_position_embeddings": 24,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
BEIT = {**LABELLED, "vocab_size": 20, "use_mask_token": True}
# the tower of composites has no patch size of its own to agree with, except where noted
TWO_TOWERS = {"text_config": TEXT, "vision_config": IMAGE, "projection_dim": 16, "num_labels": 3}

PIXELS = ("randn", 2, 3, 32, 32)
PATCH_MASK = ("half", 2, 16)
SENTENCE = {
    "input_ids": ("int", [[1, 7, 8, 9, 2], [1, 5, 6, 2, 0]]),
    "attention_mask": ("int", [[1] * 5, [1] * 4 + [0]]),
}
CAPTIONED = {"pixel_values": PIXELS, **SENTENCE}

INPUTS = {}

BEIT_CLASSES = ("BeitModel", "BeitForImageClassification", "BeitForMaskedImageModeling", "BeitBackbone")
DATA2VEC_CLASSES = ("Data2VecVisionModel", "Data2VecVisionForImageClassification")
SEGMENTING = {**BEIT, "num_hidden_layers": 4, "auxiliary_channels": 8, "use_relative_position_bias": True}
SWIN_CLASSES = ("SwinModel", "SwinForImageClassification", "SwinForMaskedImageModeling", "SwinBackbone")
CASES = {
    "beit": ({**BEIT, "use_relative_position_bias": True}, BEIT_CLASSES),
    "beit/shared_bias": ({**BEIT, "use_shared_relative_position_bias": True}, BEIT_CLASSES),
    "beit/both_biases": (
        {**BEIT, "use_relative_position_bias": True, "use_shared_relative_position_bias": True},
        ("BeitModel", "BeitForImageClassification"),
    ),
    "beit/absolute": ({**BEIT, "use_absolute_position_embeddings": True}, BEIT_CLASSES),
    "beit/wide": ({**BEIT, "use_relative_position_bias": True}, ("BeitModel",)),
    "beit/segmentation": ({**SEGMENTING, "out_indices": [1, 2, 3, 4]}, ("BeitForSemanticSegmentation",)),
    "beit/fpn": ({**SEGMENTING, "out_indices": [1, 2, 3, 4], "add_fpn": True}, ("BeitBackbone",)),
    "data2vec-vision": ({**BEIT, "use_relative_position_bias": True}, DATA2VEC_CLASSES),
    "data2vec-vision/shared_bias": ({**BEIT, "use_shared_relative_position_bias": True}, DATA2VEC_CLASSES),
    "data2vec-vision/absolute": ({**BEIT, "use_absolute_position_embeddings": True}, DATA2VEC_CLASSES),
    "data2vec-vision/segmentation": (
        {**SEGMENTING, "out_indices": [0, 1, 2, 3]},
        ("Data2VecVisionForSemanticSegmentation",),
    ),
    "swin": ({**SWIN, "num_labels": 3, "encoder_stride": 8}, SWIN_CLASSES),
    "swin/padded": ({**SWIN, "num_labels": 3, "encoder_stride": 8}, ("SwinModel", "SwinBackbone")),
    "swin/absolute": (
        {**SWIN, "num_labels": 3, "use_absolute_embeddings": True, "qkv_bias": False},
        ("SwinModel", "SwinForImageClassification"),
    ),
    "donut-swin": ({**SWIN, "num_labels": 3}, ("DonutSwinModel", "DonutSwinForImageClassification")),
    "donut-swin/padded": (SWIN, ("DonutSwinModel",)),
}
INPUTS |= {
    "beit/wide": {"pixel_values": ("randn", 2, 3, 32, 48)},
    ("beit", "BeitForMaskedImageModeling"): {"pixel_values": PIXELS, "bool_masked_pos": PATCH_MASK},
    # stages of 10 x 11 then 5 x 6 tokens, neither a multiple of the window of 4
    "swin/padded": {"pixel_values": ("randn", 2, 3, 40, 44)},
    "donut-swin/padded": {"pixel_values": ("randn", 2, 3, 40, 44)},
    ("swin", "SwinForMaskedImageModeling"): {"pixel_values": PIXELS, "bool_masked_pos": ("half", 2, 64)},
}

# towers of two-tower and generative models
CLIP = ("clip", "CLIP"), ("metaclip_2", "MetaClip2")
SIGLIP2 = {**SIZES, "patch_size": 8, "num_patches": 16}
CASES |= {
    "siglip_vision_model": (IMAGE, ("SiglipVisionModel",)),
    "siglip_vision_model/no_head": ({**IMAGE, "vision_use_head": False}, ("SiglipVisionModel",)),
    "siglip": (
        {"text_config": TEXT, "vision_config": IMAGE, "num_labels": 3},
        ("SiglipModel", "SiglipForImageClassification"),
    ),
    "siglip2_vision_model": (SIGLIP2, ("Siglip2VisionModel",)),
    "siglip2_vision_model/no_head": ({**SIGLIP2, "vision_use_head": False}, ("Siglip2VisionModel",)),
    "siglip2": (
        {"text_config": TEXT, "vision_config": SIGLIP2, "num_labels": 3},
        ("Siglip2Model", "Siglip2ForImageClassification"),
    ),
    "aimv2_vision_model": (IMAGE, ("Aimv2VisionModel",)),
    "aimv2_vision_model/no_head": ({**IMAGE, "use_head": False, "qkv_bias": True}, ("Aimv2VisionModel",)),
    "aimv2_vision_model/native": ({**IMAGE, "is_native": True}, ("Aimv2VisionModel",)),
    "aimv2": ({"text_config": TEXT, "vision_config": IMAGE, "projection_dim": 16}, ("Aimv2Model",)),
    **{
        f"{kind}_vision_model": (
            {**IMAGE, "projection_dim": 16},
            (f"{name}VisionModel", f"{name}VisionModelWithProjection"),
        )
        for kind, name in CLIP
    },
    **{kind: (TWO_TOWERS, (f"{name}Model", f"{name}ForImageClassification")) for kind, name in CLIP},
    "radio": (
        {**IMAGE, "mlp_ratio": 2.0, "max_img_size": 64, "num_cls_tokens": 2, "num_registers": 2},
        ("RadioModel",),
    ),
    "mlcd_vision_model": (IMAGE, ("MLCDVisionModel",)),
    "pixtral": (IMAGE, ("PixtralVisionModel",)),
    "clipseg_vision_model": (IMAGE, ("CLIPSegVisionModel",)),
    "owlvit_vision_model": (IMAGE, ("OwlViTVisionModel",)),
    "owlv2_vision_model": (IMAGE, ("Owlv2VisionModel",)),
    "xclip_vision_model": ({**IMAGE, "num_frames": 2}, ("XCLIPVisionModel",)),
    "blip_2_vision_model": ({**IMAGE, "initializer_range": 0.02}, ("Blip2VisionModel",)),
    "blip_2_vision_model/no_qkv_bias": (
        {**IMAGE, "initializer_range": 0.02, "qkv_bias": False},
        ("Blip2VisionModel",),
    ),
    "instructblip_vision_model": ({**IMAGE, "initializer_range": 0.02}, ("InstructBlipVisionModel",)),
    "git_vision_model": (IMAGE, ("GitVisionModel",)),
}
NAFLEX = {  # 4 x 4 patches; 3 x 5 patches and one of padding
    "pixel_values": ("randn", 2, 16, 192),
    "pixel_attention_mask": ("int", [[1] * 16, [1] * 15 + [0]]),
    "spatial_shapes": ("int", [[4, 4], [3, 5]]),
}
INPUTS |= {
    ("siglip", "SiglipModel"): CAPTIONED,
    ("siglip2", "Siglip2Model"): {**NAFLEX, **SENTENCE},
    "siglip2": NAFLEX,
    "siglip2_vision_model": NAFLEX,
    "aimv2": CAPTIONED,
    ("clip", "CLIPModel"): CAPTIONED,
    ("metaclip_2", "MetaClip2Model"): CAPTIONED,
    "pixtral": {"pixel_values": PIXELS, "image_sizes": ("plain", [(32, 32), (16, 24)])},
    "xclip_vision_model": {"pixel_values": ("randn", 4, 3, 32, 32)},
}

# backbones and pose, detection, segmentation towers
EOMT = {
    **LABELLED,
    "num_hidden_layers": 4,
    "num_blocks": 2,
    "num_queries": 5,
    "num_upscale_blocks": 1,
    "num_register_tokens": 2,
}
HIERA_DET = {
    "hidden_size": 8,
    "image_size": [64, 64],
    "blocks_per_stage": [1, 2, 2, 1],
    "embed_dim_per_stage": [8, 16, 32, 64],
    "num_attention_heads_per_stage": [1, 2, 4, 8],
    "window_size_per_stage": [8, 4, 3, 2],  # 3 does not divide the 4 tokens of its stage
    "global_attention_blocks": [4],
    "window_positional_embedding_background_size": [4, 4],
    "mlp_ratio": 2.0,
}
VITPOSE = {**SIZES, "image_size": [32, 24], "patch_size": [8, 8], "mlp_ratio": 2}
SAPIENS2 = {
    **LABELLED,
    "num_hidden_layers": 3,
    "num_key_value_attention_heads": 2,  # grouped in the layer between the first and the last
    "num_first_full_attention_layers": 1,
    "num_last_full_attention_layers": 1,
    "num_register_tokens": 2,
}
VJEPA2 = {
    **SIZES,
    "patch_size": 8,
    "crop_size": 16,
    "frames_per_clip": 4,
    "mlp_ratio": 2.0,
    "num_pooler_layers": 1,
    "pred_hidden_size": 24,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 1,
    "pred_num_mask_tokens": 2,
    "num_labels": 3,
}
VIDEOPRISM = {
    **SIZES,
    "image_size": 16,
    "num_frames": 4,
    "tubelet_size": [1, 8, 8],
    "num_spatial_layers": 2,
    "num_temporal_layers": 2,
    "num_auxiliary_layers": 1,
    "num_labels": 3,
}
CASES |= {
    "vitpose_backbone": (VITPOSE, ("VitPoseBackbone",)),
    "vitpose_backbone/experts": ({**VITPOSE, "num_experts": 2, "part_features": 8}, ("VitPoseBackbone",)),
    "vitpose": (
        {"backbone_config": {"model_type": "vitpose_backbone", **VITPOSE}, "num_labels": 4, "scale_factor": 2},
        ("VitPoseForPoseEstimation",),
    ),
    "vitpose/classic": (
        {
            "backbone_config": {"model_type": "vitpose_backbone", **VITPOSE},
            "num_labels": 4,
            "use_simple_decoder": False,
        },
        ("VitPoseForPoseEstimation",),
    ),
    "lw_detr_vit": (
        {**IMAGE, "pretrain_image_size": 32, "num_windows": 4, "window_block_indices": [0], "out_indices": [1, 2]},
        ("LwDetrViTBackbone",),
    ),
    "rf_detr_dinov2": (
        {**IMAGE, "num_hidden_layers": 3, "num_windows": 2, "mlp_ratio": 2, "out_indices": [1, 3]},
        ("RfDetrDinov2Backbone",),
    ),
    "sapiens2": (SAPIENS2, ("Sapiens2Model", "Sapiens2Backbone")),
    "sapiens2/head": (
        {
            **SAPIENS2,
            "head_config": {
                "model_type": "sapiens2_head",
                "upsample_out_channels": [8],
                "conv_out_channels": [8],
            },
        },
        ("Sapiens2ForSemanticSegmentation", "Sapiens2ForPoseEstimation", "Sapiens2ForNormalEstimation"),
    ),
    "tipsv2_vision_model": ({**IMAGE, "mlp_ratio": 2}, ("Tipsv2VisionModel", "Tipsv2VisionBackbone")),
    "sam3_vit_model": (  # 8 x 8 tokens, windows of 3 with padding in the first layer, all tokens in the second
        {
            **SIZES,
            "image_size": 32,
            "patch_size": 4,
            "pretrain_image_size": 16,
            "window_size": 3,
            "global_attn_indexes": [1],
        },
        ("Sam3ViTModel",),
    ),
    "vjepa2": (VJEPA2, ("VJEPA2Model", "VJEPA2ForVideoClassification")),
    "vjepa2/encoder_only": (VJEPA2, ("VJEPA2Model",)),
    "videoprism_vision_model": (
        VIDEOPRISM,
        ("VideoPrismVisionModel", "VideoPrismVideoModel", "VideoPrismForVideoClassification"),
    ),
    "eomt": (EOMT, ("EomtForUniversalSegmentation",)),
    "eomt_dinov3": (EOMT, ("EomtDinov3ForUniversalSegmentation",)),
    "sam2_hiera_det_model": (HIERA_DET, ("Sam2HieraDetModel",)),
    "sam2_vision_model": (
        {
            "backbone_config": {"model_type": "sam2_hiera_det_model", **HIERA_DET},
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 16,
        },
        ("Sam2VisionModel",),
    ),
}
CLIP_OF_FRAMES = {"pixel_values_videos": ("randn", 2, 4, 3, 16, 16)}
INPUTS |= {
    "vitpose_backbone": {"pixel_values": ("randn", 2, 3, 32, 24)},
    "vitpose_backbone/experts": {"pixel_values": ("randn", 2, 3, 32, 24), "dataset_index": ("int", [0, 1])},
    "vitpose": {"pixel_values": ("randn", 2, 3, 32, 24)},
    "vjepa2": CLIP_OF_FRAMES,
    "vjepa2/encoder_only": {**CLIP_OF_FRAMES, "skip_predictor": ("plain", True)},
    "videoprism_vision_model": CLIP_OF_FRAMES,
    "sam2_hiera_det_model": {"pixel_values": ("randn", 2, 3, 64, 64)},
    "sam2_vision_model": {"pixel_values": ("randn", 2, 3, 64, 64)},
}

# towers of generative models
QWEN = {
    "depth": 2,
    "hidden_size": 32,
    "num_heads": 4,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
HALF_PADDED = [[[True] * 4] * 4, [[True, True, True, False]] * 3 + [[False] * 4]]
IDEFICS = {"pixel_values": PIXELS, "patch_attention_mask": ("bool", HALF_PADDED)}
CASES |= {
    "internvl_vision": ({**IMAGE, "image_size": [32, 32], "patch_size": [8, 8]}, ("InternVLVisionModel",)),
    "internvl_vision/qk_norm": (
        {**IMAGE, "image_size": [32, 32], "patch_size": [8, 8], "use_qk_norm": True, "attention_bias": True},
        ("InternVLVisionModel",),
    ),
    "janus_vision_model": ({**IMAGE, "projection_dim": 16, "mlp_ratio": 2.0}, ("JanusVisionModel",)),
    "janus_vision_model/qk_norm": (  # more than one head raises in Transformers 5.23
        {**IMAGE, "projection_dim": 16, "mlp_ratio": 2.0, "use_qk_norm": True, "num_attention_heads": 1},
        ("JanusVisionModel",),
    ),
    "idefics2_vision": (IMAGE, ("Idefics2VisionTransformer",)),
    "idefics3_vision": (IMAGE, ("Idefics3VisionTransformer",)),
    "smolvlm_vision": (IMAGE, ("SmolVLMVisionTransformer",)),
    "ovis2_vision": ({**IMAGE, "vocab_size": 20, "hidden_stride": 2}, ("Ovis2VisionModel",)),
    "llama4_vision_model": (
        {
            **IMAGE,
            "vision_output_dim": 16,
            "projector_input_dim": 16,
            "projector_output_dim": 16,
            "intermediate_size": 128,
        },
        ("Llama4VisionModel",),
    ),
    "mllama_vision_model": (
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 4,
            "intermediate_size": 48,
            "image_size": 32,
            "patch_size": 8,
            "max_num_tiles": 2,
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
            "intermediate_layers_indices": [0, 1],
            "vision_output_dim": 96,
        },
        ("MllamaVisionModel",),
    ),
    "kosmos_2_vision_model": (IMAGE, ("Kosmos2VisionModel",)),
    "qwen2_vl_vision": (
        {**QWEN, "embed_dim": 32, "hidden_size": 16, "mlp_ratio": 2},
        ("Qwen2VisionTransformerPretrainedModel",),
    ),
    "qwen2_5_vl_vision": (  # the first layer in windows of 4 x 4 patches, the second over the whole image
        {**QWEN, "intermediate_size": 48, "out_hidden_size": 16, "window_size": 16, "fullatt_block_indexes": [1]},
        ("Qwen2_5_VisionTransformerPretrainedModel",),
    ),
    "qwen3_vl_vision": (
        {
            **QWEN,
            "intermediate_size": 48,
            "out_hidden_size": 16,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        ("Qwen3VLVisionModel",),
    ),
    "glm4v_vision": (
        {**QWEN, "image_size": 16, "intermediate_size": 48, "out_hidden_size": 16},
        ("Glm4vVisionModel",),
    ),
    "gemma4_vision": (
        {**SIZES, "num_key_value_heads": 4, "head_dim": 8, "patch_size": 8, "position_embedding_size": 8},
        ("Gemma4VisionModel",),
    ),
    "gemma4_vision/grouped": (
        {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "patch_size": 8, "position_embedding_size": 8},
        ("Gemma4VisionModel",),
    ),
    "phi4_multimodal_vision": ({**IMAGE, "crop_size": 32}, ("Phi4MultimodalVisionModel",)),
}
# two images of 8 x 8 and 4 x 6 patches in one sequence, 3 channels x 2 frames x 4 x 4 pixels each
PACKED = {"hidden_states": ("randn", 88, 96), "grid_thw": ("int", [[1, 8, 8], [1, 4, 6]])}
SIX_BY_SIX = [[x, y] for y in range(6) for x in range(6)]
INPUTS |= {
    "idefics2_vision": IDEFICS,
    "idefics3_vision": IDEFICS,
    "smolvlm_vision": IDEFICS,
    "phi4_multimodal_vision": IDEFICS,
    "mllama_vision_model": {
        "pixel_values": ("randn", 2, 1, 2, 3, 32, 32),
        "aspect_ratio_ids": ("int", [[2], [1]]),
        "aspect_ratio_mask": ("int", [[[1, 1]], [[1, 0]]]),
    },
    "qwen2_vl_vision": PACKED,
    "qwen2_5_vl_vision": PACKED,
    "qwen3_vl_vision": PACKED,
    "glm4v_vision": PACKED,
    "gemma4_vision": {
        "pixel_values": ("rand", 2, 36, 192),
        "pixel_position_ids": ("int", [SIX_BY_SIX, SIX_BY_SIX[:18] + [[-1, -1]] * 18]),
    },
}
