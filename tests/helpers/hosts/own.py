"""Tiny models of hosts that compute attention in code of their own. The same format as interface.py."""

from tests.helpers.hosts.interface import CAPTIONED, IMAGE, LABELLED, PIXELS, SIZES, SWIN, TEXT


INPUTS = {}

SWINV2 = {**SWIN, "num_labels": 3, "encoder_stride": 8, "pretrained_window_sizes": [0, 0]}
PYRAMID = {
    "image_size": 32,
    "num_encoder_blocks": 2,
    "depths": [2, 1],
    "hidden_sizes": [16, 32],
    "num_attention_heads": [2, 4],
    "mlp_ratios": [2, 2],
    "strides": [4, 2],
    "num_labels": 3,
}
PVT_V2 = {**PYRAMID, "patch_sizes": [7, 3], "sr_ratios": [2, 1]}
PVT_V2_CLASSES = ("PvtV2Model", "PvtV2ForImageClassification", "PvtV2Backbone")
CASES = {
    "cvt": (
        {
            "embed_dim": [16, 32],
            "num_heads": [2, 4],
            "depth": [1, 2],
            "patch_sizes": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [2, 1],
            "mlp_ratio": [2.0, 2.0],
            "attention_drop_rate": [0.0, 0.0],
            "drop_rate": [0.0, 0.0],
            "drop_path_rate": [0.0, 0.1],
            "qkv_bias": [True, True],
            "cls_token": [False, True],
            "qkv_projection_method": ["dw_bn", "dw_bn"],
            "kernel_qkv": [3, 3],
            "padding_kv": [1, 1],
            "stride_kv": [2, 2],
            "padding_q": [1, 1],
            "stride_q": [1, 1],
            "num_labels": 3,
        },
        ("CvtModel", "CvtForImageClassification"),
    ),
    "swinv2": (
        SWINV2,
        ("Swinv2Model", "Swinv2ForImageClassification", "Swinv2ForMaskedImageModeling", "Swinv2Backbone"),
    ),
    "swinv2/padded": (SWINV2, ("Swinv2Model", "Swinv2Backbone")),
    "swinv2/pretrained_windows": ({**SWINV2, "pretrained_window_sizes": [8, 4], "qkv_bias": False}, ("Swinv2Model",)),
    "pvt": (
        {**PYRAMID, "patch_sizes": [4, 2], "sequence_reduction_ratios": [2, 1]},
        ("PvtModel", "PvtForImageClassification"),
    ),
    "pvt_v2": (PVT_V2, PVT_V2_CLASSES),
    "pvt_v2/linear": ({**PVT_V2, "linear_attention": True}, PVT_V2_CLASSES),
    "hiera": (
        {
            "embed_dim": 16,
            "image_size": [32, 32],
            "depths": [1, 2, 1],
            "num_heads": [1, 2, 4],
            "mlp_ratio": 2.0,
            "num_query_pool": 2,
            "masked_unit_size": [4, 4],
            "masked_unit_attention": [True, True, False],
            "decoder_hidden_size": 16,
            "decoder_depth": 1,
            "decoder_num_heads": 2,
            "num_labels": 3,
        },
        ("HieraModel", "HieraForImageClassification", "HieraBackbone", "HieraForPreTraining"),
    ),
    "levit": (
        {
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
            "num_labels": 3,
        },
        ("LevitModel", "LevitForImageClassification", "LevitForImageClassificationWithTeacher"),
    ),
    "mobilevit": (
        {
            "image_size": 64,
            "hidden_sizes": [16, 16, 24],
            "neck_hidden_sizes": [4, 4, 8, 8, 8, 8, 16],
            "num_attention_heads": 4,
            "aspp_out_channels": 8,
            "initializer_range": 0.5,
            "num_labels": 3,
        },
        ("MobileViTModel", "MobileViTForImageClassification", "MobileViTForSemanticSegmentation"),
    ),
    "glpn": (
        {
            "num_encoder_blocks": 4,
            "depths": [1, 1, 1, 1],
            "sr_ratios": [4, 2, 2, 1],
            "hidden_sizes": [8, 16, 16, 32],
            "num_attention_heads": [1, 2, 2, 4],
            "mlp_ratios": [2, 2, 2, 2],
            "decoder_hidden_size": 8,
        },
        ("GLPNModel", "GLPNForDepthEstimation"),
    ),
    "maskformer-swin": (SWIN, ("MaskFormerSwinModel", "MaskFormerSwinBackbone")),
    "maskformer-swin/padded": (SWIN, ("MaskFormerSwinModel", "MaskFormerSwinBackbone")),
}
NOISE = {"pixel_values": PIXELS, "noise": ("rand", 2, 4)}
INPUTS |= {
    ("swinv2", "Swinv2ForMaskedImageModeling"): {"pixel_values": PIXELS, "bool_masked_pos": ("half", 2, 64)},
    # stages of 10 x 11 then 5 x 6 tokens, neither a multiple of the window of 4
    "swinv2/padded": {"pixel_values": ("randn", 2, 3, 40, 44)},
    "maskformer-swin/padded": {"pixel_values": ("randn", 2, 3, 40, 44)},
    ("hiera", "HieraForPreTraining"): NOISE,
    "levit": {"pixel_values": ("randn", 2, 3, 64, 64)},
    "mobilevit": {"pixel_values": ("randn", 2, 3, 64, 64)},
    "glpn": {"pixel_values": ("randn", 2, 3, 64, 64)},
}

# plain stacks, windowed or in time
SAM_TOWER = {  # 8 x 8 tokens; windows of 3 with padding in the first layer, all tokens in the second
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 4,
    "output_channels": 16,
    "window_size": 3,
    "global_attn_indexes": [1],
    "initializer_range": 0.02,
}
SAM_PARTS = {
    "vision_config": {**SAM_TOWER, "mlp_dim": 48, "num_pos_feats": 8},
    "prompt_encoder_config": {"hidden_size": 16, "image_size": 32, "patch_size": 4, "mask_input_channels": 4},
}
SAM_DECODER = {
    "hidden_size": 16,
    "mlp_dim": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "iou_head_depth": 2,
    "iou_head_hidden_dim": 16,
}
TIMESFORMER = {**SIZES, "image_size": 16, "patch_size": 8, "num_frames": 4, "num_labels": 3}
TIMESFORMER_CLASSES = ("TimesformerModel", "TimesformerForVideoClassification")
SWIN2SR = {
    "image_size": 16,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 2],
    "window_size": 4,
    "upsampler": "pixelshuffledirect",
}
VITDET = {**SIZES, "image_size": 32, "pretrain_image_size": 16, "patch_size": 4, "mlp_ratio": 2}
FLAVA = {
    "image_config": {**IMAGE, "vocab_size": 20},
    "text_config": TEXT,
    "multimodal_config": SIZES,
    "hidden_size": 32,
    "projection_dim": 16,
    "init_codebook": False,
}
VILT = {**LABELLED, "vocab_size": 50, "max_position_embeddings": 24, "pad_token_id": 0, "num_images": 1}
BLIP_TEXT = {**TEXT, "encoder_hidden_size": 32, "projection_dim": 16, "sep_token_id": 3}
GROUPVIT_TOWER = {
    **SIZES,
    "num_hidden_layers": 3,
    "depths": [1, 1, 1],
    "num_group_tokens": [8, 4, 0],
    "num_output_groups": [8, 4, 4],
    "image_size": 32,
    "patch_size": 8,
}
BRIDGE_TOWER = {"hidden_size": 128, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8}  # 64 wide heads, always
CASES |= {
    "blip_vision_model": ({**IMAGE, "initializer_range": 0.02}, ("BlipVisionModel",)),
    "blip": (
        {
            "text_config": BLIP_TEXT,
            "vision_config": {**IMAGE, "initializer_range": 0.02},
            "projection_dim": 16,
            "image_text_hidden_size": 16,
        },
        ("BlipModel", "BlipForImageTextRetrieval", "BlipForConditionalGeneration"),
    ),
    "flava_image_model": ({**IMAGE, "vocab_size": 20}, ("FlavaImageModel",)),
    "flava_multimodal_model": (SIZES, ("FlavaMultimodalModel",)),
    "flava": (FLAVA, ("FlavaModel",)),
    "groupvit_vision_model": (GROUPVIT_TOWER, ("GroupViTVisionModel",)),
    "groupvit": (
        {
            "text_config": TEXT,
            "vision_config": GROUPVIT_TOWER,
            "projection_dim": 16,
            "projection_intermediate_dim": 24,
        },
        ("GroupViTModel",),
    ),
    "sam_vision_model": ({**SAM_TOWER, "mlp_dim": 48, "num_pos_feats": 8}, ("SamVisionModel",)),
    "sam_vision_model/plain": (
        {**SAM_TOWER, "mlp_dim": 48, "num_pos_feats": 8, "use_rel_pos": False, "qkv_bias": False},
        ("SamVisionModel",),
    ),
    "sam": ({**SAM_PARTS, "mask_decoder_config": SAM_DECODER}, ("SamModel",)),
    "sam_hq_vision_model": ({**SAM_TOWER, "mlp_dim": 48, "num_pos_feats": 8}, ("SamHQVisionModel",)),
    "sam_hq": ({**SAM_PARTS, "mask_decoder_config": {**SAM_DECODER, "vit_dim": 32}}, ("SamHQModel",)),
    "got_ocr2_vision": ({**SAM_TOWER, "mlp_dim": 48}, ("GotOcr2VisionEncoder",)),
    "seggpt": (
        {
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "mlp_dim": 48,
            "image_size": [32, 16],
            "patch_size": 4,
            "pretrain_image_size": 16,
            "decoder_hidden_size": 8,
            "merge_index": 1,
            "intermediate_hidden_state_indices": [1, 3],
        },
        ("SegGptModel", "SegGptForImageSegmentation"),
    ),
    "swin2sr": (SWIN2SR, ("Swin2SRModel", "Swin2SRForImageSuperResolution")),
    "swin2sr/wide": (SWIN2SR, ("Swin2SRForImageSuperResolution",)),
    "swin2sr/pixelshuffle": ({**SWIN2SR, "upsampler": "pixelshuffle"}, ("Swin2SRForImageSuperResolution",)),
    "timesformer": (TIMESFORMER, TIMESFORMER_CLASSES),
    "timesformer/joint": ({**TIMESFORMER, "attention_type": "joint_space_time"}, TIMESFORMER_CLASSES),
    "timesformer/space": ({**TIMESFORMER, "attention_type": "space_only"}, TIMESFORMER_CLASSES),
    "vilt": (VILT, ("ViltModel", "ViltForQuestionAnswering", "ViltForMaskedLM", "ViltForImageAndTextRetrieval")),
    "vilt/all_patches": (VILT, ("ViltModel",)),
    "vitdet": (VITDET, ("VitDetModel", "VitDetBackbone")),
    "vitdet/windows": (
        {
            **VITDET,
            "window_size": 3,
            "window_block_indices": [0],
            "residual_block_indices": [1],
            "use_relative_position_embeddings": True,
        },
        ("VitDetModel", "VitDetBackbone"),
    ),
    "mgp-str": (
        {
            **SIZES,
            "image_size": [16, 32],
            "mlp_ratio": 2.0,
            "max_token_length": 5,
            "num_character_labels": 10,
            "num_bpe_labels": 12,
            "num_wordpiece_labels": 14,
        },
        ("MgpstrModel", "MgpstrForSceneTextRecognition"),
    ),
    "bridgetower_vision_model": (BRIDGE_TOWER, ("BridgeTowerVisionModel",)),
    "bridgetower": (
        {
            "vision_config": BRIDGE_TOWER,
            "text_config": {**TEXT, "hidden_size": 128},
            "hidden_size": 128,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
        },
        ("BridgeTowerModel", "BridgeTowerForImageAndTextRetrieval"),
    ),
}
PROMPTED = {
    "pixel_values": PIXELS,
    "input_points": ("float", [[[[8.0, 9.0], [20.0, 4.0]]], [[[1.0, 2.0], [30.0, 30.0]]]]),
}
VIDEO = {"pixel_values": ("randn", 2, 4, 3, 16, 16)}
WITH_MASK = {**CAPTIONED, "pixel_mask": ("ones", 2, 32, 32)}
NARROW = [[[1] * 32] * 32, [[1] * 24 + [0] * 8] * 32]  # the second image has a last column of padding patches
INPUTS |= {
    "blip": CAPTIONED,
    "flava_multimodal_model": {"hidden_states": ("randn", 2, 9, 32)},
    "flava": {**CAPTIONED, "bool_masked_pos": ("half", 2, 16)},
    "groupvit": CAPTIONED,
    "sam": PROMPTED,
    "sam_hq": PROMPTED,
    "seggpt": dict.fromkeys(("pixel_values", "prompt_pixel_values", "prompt_masks"), ("randn", 2, 3, 16, 16)),
    "swin2sr": {"pixel_values": ("rand", 2, 3, 16, 16)},
    "swin2sr/wide": {"pixel_values": ("rand", 2, 3, 12, 20)},
    "timesformer": VIDEO,
    "vilt": {**CAPTIONED, "pixel_mask": ("int", NARROW)},
    "vilt/all_patches": WITH_MASK,
    "bridgetower": WITH_MASK,
    "bridgetower_vision_model": {"image": PIXELS},
    "mgp-str": {"pixel_values": ("randn", 2, 3, 16, 32)},
}
