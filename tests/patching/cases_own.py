"""Tiny models of hosts that compute attention in code of their own, then of larger models with a vision tower.

The same format as cases_interface.py.
"""

from cases_interface import CAPTIONED, IMAGE, LABELLED, PIXELS, SENTENCE, SIZES, SWIN, TEXT


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

# composites: a tower inside a bigger model
LLAMA = {"model_type": "llama", **TEXT, "num_key_value_heads": 2, "max_position_embeddings": 64}
LLAVA = {"text_config": LLAMA, "image_token_index": 40, "image_seq_length": 16}
LLAVA_CLASSES = ("LlavaModel", "LlavaForConditionalGeneration")
SWIN_4 = {**SWIN, "image_size": 64, "embed_dim": 8, "depths": [2, 2, 1, 1], "num_heads": [1, 2, 2, 4]}
FOUR_STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN_BACKBONE = {"model_type": "swin", **SWIN_4, "out_features": FOUR_STAGES}
PLAIN_4 = {**IMAGE, "num_hidden_layers": 4, "out_features": FOUR_STAGES, "reshape_hidden_states": False}
DINOV2_BACKBONE = {"model_type": "dinov2", **PLAIN_4}
BEIT_BACKBONE = {"model_type": "beit", **PLAIN_4, "use_relative_position_bias": True}
NECK = {"neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8}
DETR_SIZES = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "num_queries": 5,
    "num_labels": 3,
}
RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 12, 16],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": FOUR_STAGES,
}
DETR = {**DETR_SIZES, "use_timm_backbone": False, "backbone_config": RESNET}
ROBERTA_LIKE = {**TEXT, "type_vocab_size": 1}
BERT = {"model_type": "bert", **TEXT}
CASES |= {
    "llava": ({**LLAVA, "vision_config": {"model_type": "clip_vision_model", **IMAGE}}, LLAVA_CLASSES),
    "llava/siglip": (
        {
            **LLAVA,
            "vision_config": {"model_type": "siglip_vision_model", **IMAGE, "vision_use_head": False},
            "vision_feature_select_strategy": "full",
            "vision_feature_layer": -1,
        },
        LLAVA_CLASSES,
    ),
    "llava/pixtral": (
        {
            **LLAVA,
            "vision_config": {"model_type": "pixtral", **IMAGE},
            "vision_feature_select_strategy": "full",
            "vision_feature_layer": -1,
        },
        ("LlavaForConditionalGeneration",),
    ),
    "upernet": (
        {
            "backbone_config": SWIN_BACKBONE,
            "hidden_size": 8,
            "auxiliary_channels": 8,
            "auxiliary_in_channels": 32,
            "num_labels": 3,
        },
        ("UperNetForSemanticSegmentation",),
    ),
    "upernet/beit": (
        {
            "backbone_config": {
                "model_type": "beit",
                **IMAGE,
                "num_hidden_layers": 4,
                "out_indices": [1, 2, 3, 4],
                "use_relative_position_bias": True,
                "add_fpn": True,
            },
            "hidden_size": 8,
            "auxiliary_channels": 8,
            "auxiliary_in_channels": 32,
            "num_labels": 3,
        },
        ("UperNetForSemanticSegmentation",),
    ),
    "dpt/dinov2": ({**NECK, "backbone_config": DINOV2_BACKBONE, "num_labels": 3}, ("DPTForDepthEstimation",)),
    "dpt/beit": ({**NECK, "backbone_config": BEIT_BACKBONE}, ("DPTForDepthEstimation",)),
    "depth_anything": (
        {
            **NECK,
            "backbone_config": DINOV2_BACKBONE,
            "patch_size": 8,
            "reassemble_hidden_size": 32,
            "head_hidden_size": 8,
        },
        ("DepthAnythingForDepthEstimation",),
    ),
    "zoedepth": (
        {
            **NECK,
            "backbone_config": BEIT_BACKBONE,
            "initializer_range": 0.5,
            "num_relative_features": 8,
            "bottleneck_features": 8,
            "bin_embedding_dim": 8,
            "num_attractors": [4, 2, 1, 1],
            "bin_configurations": [{"n_bins": 4, "min_depth": 0.001, "max_depth": 10.0}],
        },
        ("ZoeDepthForDepthEstimation",),
    ),
    "mask2former": (
        {
            "backbone_config": SWIN_BACKBONE,
            "feature_size": 32,  # group norms of 32 groups
            "mask_feature_size": 32,
            "hidden_dim": 32,
            "encoder_feedforward_dim": 24,
            "dim_feedforward": 24,
            "encoder_layers": 1,
            "decoder_layers": 3,
            "num_attention_heads": 2,
            "num_queries": 5,
            "num_labels": 3,
        },
        ("Mask2FormerModel", "Mask2FormerForUniversalSegmentation"),
    ),
    "maskformer": (
        {
            "backbone_config": SWIN_BACKBONE,
            "decoder_config": {"model_type": "detr", **DETR_SIZES},
            "fpn_feature_size": 32,  # group norms of 32 groups
            "mask_feature_size": 32,
            "num_labels": 3,
        },
        ("MaskFormerModel", "MaskFormerForInstanceSegmentation"),
    ),
    "vitmatte": (
        {
            "backbone_config": {
                "model_type": "vitdet",
                **SIZES,
                "image_size": 64,
                "pretrain_image_size": 32,
                "patch_size": 16,
                "num_channels": 4,
                "mlp_ratio": 2,
                "window_size": 3,
                "window_block_indices": [0],
                "residual_block_indices": [1],
                "use_relative_position_embeddings": True,
                "out_features": ["stage2"],
                "initializer_range": 0.3,
            },
            "initializer_range": 0.3,
            "hidden_size": 32,
            "convstream_hidden_sizes": [4, 8, 8],
            "fusion_hidden_sizes": [16, 8, 8, 4],
        },
        ("VitMatteForImageMatting",),
    ),
    "detr": (DETR, ("DetrModel", "DetrForObjectDetection")),
    "detr/segmentation": (
        {
            **DETR,
            "d_model": 128,
            "encoder_attention_heads": 8,
            "decoder_attention_heads": 8,
        },  # group norms of 8 groups
        ("DetrForSegmentation",),
    ),
    "conditional_detr": (DETR, ("ConditionalDetrModel", "ConditionalDetrForObjectDetection")),
    "table-transformer": (DETR, ("TableTransformerModel", "TableTransformerForObjectDetection")),
    "dab-detr": (
        {**{key: value for key, value in DETR.items() if key != "d_model"}, "hidden_size": 16},
        ("DabDetrModel", "DabDetrForObjectDetection"),
    ),
    "rt_detr": (
        {
            **DETR_SIZES,
            "backbone_config": {
                **RESNET,
                "model_type": "rt_detr_resnet",
                "out_features": ["stage2", "stage3", "stage4"],
            },
            "encoder_hidden_dim": 16,
            "encoder_in_channels": [8, 12, 16],
            "decoder_in_channels": [16, 16, 16],
            "num_denoising": 0,
        },
        ("RTDetrModel", "RTDetrForObjectDetection"),
    ),
    "altclip": (
        {
            "text_config": {**ROBERTA_LIKE, "project_dim": 16},
            "vision_config": {**IMAGE, "projection_dim": 16},
            "projection_dim": 16,
        },
        ("AltCLIPModel",),
    ),
    "chinese_clip": ({"text_config": TEXT, "vision_config": IMAGE, "projection_dim": 16}, ("ChineseCLIPModel",)),
    "clipseg": (
        {
            "text_config": TEXT,
            "vision_config": IMAGE,
            "projection_dim": 16,
            "extract_layers": [0, 1],
            "reduce_dim": 16,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 24,
        },
        ("CLIPSegModel", "CLIPSegForImageSegmentation"),
    ),
    "owlvit": (
        {"text_config": TEXT, "vision_config": IMAGE, "projection_dim": 32},
        ("OwlViTModel", "OwlViTForObjectDetection"),
    ),
    "owlv2": (
        {"text_config": TEXT, "vision_config": IMAGE, "projection_dim": 32},
        ("Owlv2Model", "Owlv2ForObjectDetection"),
    ),
    "xclip": (
        {
            "text_config": TEXT,
            "vision_config": {
                **IMAGE,
                "num_frames": 2,
                "mit_hidden_size": 16,
                "mit_intermediate_size": 24,
                "mit_num_attention_heads": 2,
            },
            "projection_dim": 16,
            "prompt_num_attention_heads": 2,
        },
        ("XCLIPModel",),
    ),
    "git": ({**TEXT, "vision_config": IMAGE}, ("GitModel", "GitForCausalLM")),
    "blip-2": (
        {
            "vision_config": {**IMAGE, "initializer_range": 0.02},
            "qformer_config": {**TEXT, "encoder_hidden_size": 32, "use_qformer_text_input": True},
            "text_config": {
                "model_type": "opt",
                "vocab_size": 50,
                "hidden_size": 32,
                "word_embed_proj_dim": 32,
                "ffn_dim": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "max_position_embeddings": 64,
                "pad_token_id": 0,
            },
            "num_query_tokens": 4,
            "image_text_hidden_size": 16,
            "image_token_index": 40,
        },
        ("Blip2VisionModelWithProjection", "Blip2ForImageTextRetrieval"),
    ),
    "vision-encoder-decoder": (
        {
            "encoder": {"model_type": "vit", **IMAGE},
            "decoder": {**BERT, "is_decoder": True, "add_cross_attention": True},
        },
        ("VisionEncoderDecoderModel",),
    ),
    "vision-encoder-decoder/donut": (
        {
            "encoder": {"model_type": "donut-swin", **SWIN},
            "decoder": {**BERT, "is_decoder": True, "add_cross_attention": True},
        },
        ("VisionEncoderDecoderModel",),
    ),
    "vision-text-dual-encoder": (
        {"vision_config": {"model_type": "vit", **IMAGE}, "text_config": BERT, "projection_dim": 16},
        ("VisionTextDualEncoderModel",),
    ),
    "vision-text-dual-encoder/clip": (
        {"vision_config": {"model_type": "clip_vision_model", **IMAGE}, "text_config": BERT, "projection_dim": 16},
        ("VisionTextDualEncoderModel",),
    ),
}
CASES["got_ocr2"] = (
    {"vision_config": {**SAM_TOWER, "image_size": 64, "mlp_dim": 48}, "text_config": LLAMA, "image_token_index": 40},
    ("GotOcr2Model", "GotOcr2ForConditionalGeneration"),
)
CASES["blip-2/generation"] = (
    {**CASES["blip-2"][0], "qformer_config": {**TEXT, "encoder_hidden_size": 32}},
    ("Blip2Model", "Blip2ForConditionalGeneration"),
)
PICTURE_64 = {"pixel_values": ("randn", 2, 3, 64, 64)}
TALK = {"pixel_values": PIXELS, "input_ids": ("int", [[1] + [40] * 16 + [7, 8], [1, 5] + [40] * 16 + [6]])}
DECODED = {"pixel_values": PIXELS, "decoder_input_ids": ("int", [[1, 7, 8, 9], [1, 5, 6, 2]])}
ONE_QUERY_EACH = {**SENTENCE, "pixel_values": PIXELS}
INPUTS |= {
    "llava": TALK,
    "got_ocr2": {
        "pixel_values": ("randn", 1, 3, 64, 64),
        "input_ids": ("int", [[1] + [40] * 16 + [7, 8]]),
    },
    "llava/pixtral": {**TALK, "image_sizes": ("int", [[32, 32], [32, 32]])},
    "upernet": PICTURE_64,
    "upernet/beit": {"pixel_values": PIXELS},
    "mask2former": PICTURE_64,
    "maskformer": PICTURE_64,
    "vitmatte": {"pixel_values": ("randn", 2, 4, 64, 64)},
    **dict.fromkeys(("detr", "conditional_detr", "table-transformer", "dab-detr", "rt_detr"), PICTURE_64),
    **dict.fromkeys(("altclip", "chinese_clip", "clipseg", "git", "vision-text-dual-encoder"), CAPTIONED),
    "owlvit": ONE_QUERY_EACH,
    "owlv2": ONE_QUERY_EACH,
    "xclip": {**SENTENCE, "pixel_values": ("randn", 2, 2, 3, 32, 32)},
    ("blip-2", "Blip2VisionModelWithProjection"): {"pixel_values": PIXELS},
    ("blip-2", "Blip2ForImageTextRetrieval"): CAPTIONED,
    "blip-2/generation": {
        "pixel_values": PIXELS,
        "input_ids": ("int", [[40] * 4 + [1, 7, 8, 9, 2], [40] * 4 + [1, 5, 6, 7, 2]]),
    },
    "vision-encoder-decoder": DECODED,
}
