"""Tiny models of larger models with a vision tower. The same format as interface.py."""

from tests.helpers.hosts.interface import CAPTIONED, IMAGE, PIXELS, SENTENCE, SIZES, SWIN, TEXT
from tests.helpers.hosts.own import SAM_TOWER


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
CASES = {
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
INPUTS = {
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
