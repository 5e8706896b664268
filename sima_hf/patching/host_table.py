"""The rows of the table of hosts, as data. What the fields mean is said in hosts.py."""

IMAGE = "Image classification"
TOWER = "Vision towers and backbones"
DENSE = "Detection, segmentation, depth"
VIDEO = "Video"
LARGER = "Larger models with a tower of their own"

_SWIN = {"SwinAttention": "positions.Swin"}
_BEIT = {"BeitRelativePositionBias": "positions.KeptApart"}
_HEAD = {"MultiheadAttention": "pooling.MultiHead"}
# Exchanged beside an attention that goes through the interface.
_BESIDE = (
    "positions.KeptApart",
    "positions.Swin",
    "projections.OnesAllowed",
    "pooling.MultiHead",
    "pooling.Aimv2Pooling",
    "pooling.VJepa2Pooling",
    "pooling.VideoPrismPooling",
)
_SCALE = ("exp", "the scale of each head is the exp of a parameter, not of the tokens")
_PLAIN = "plain ViT"
_POOLED = "in the pooling head, where one query asks, keys alone are normalised"
_PACKED = "rotary positions, applied before the attention; images packed, each attended by itself"


def _row(model_type: str, config: str, task: str, summary: str, **fields) -> dict:
    places = fields.get("modules", {}).values()
    fields.setdefault(
        "reached", "own code" if any(place and place not in _BESIDE for place in places) else "interface"
    )
    return {"model_type": model_type, "config": f"{config}Config", "task": task, "summary": summary, **fields}


def _larger(model_type: str, config: str, summary: str, *towers: str) -> dict:
    return _row(model_type, config, LARGER, summary, reached="tower", towers=towers or ("vision_config",))


ROWS = (
    _row("vit", "ViT", IMAGE, _PLAIN),
    _row("deit", "DeiT", IMAGE, "plain ViT with a distillation token, with and without teacher head"),
    _row(
        "beit",
        "Beit",
        IMAGE,
        "plain ViT; relative positions of each layer or shared",
        position_bias="add",
        modules=_BEIT,
    ),
    _row(
        "data2vec-vision",
        "Data2VecVision",
        IMAGE,
        "relative positions of each layer or shared",
        position_bias="add",
        modules={
            "Data2VecVisionSelfAttention": "positions.Data2Vec",
            "Data2VecVisionSdpaSelfAttention": "positions.Data2Vec",
        },
        class_table=("DATA2VEC_VISION_SELF_ATTENTION_CLASSES", "eager"),
    ),
    _row("dinov2", "Dinov2", IMAGE, "plain ViT with LayerScale; model, classifier, backbone"),
    _row("dinov2_with_registers", "Dinov2WithRegisters", IMAGE, "DINOv2 with register tokens"),
    _row("ijepa", "IJepa", IMAGE, "plain ViT without a class token"),
    _row("vit_msn", "ViTMSN", IMAGE, _PLAIN),
    _row("segformer", "Segformer", IMAGE, "spatial reduction: fewer keys than queries; classifier and segmentation"),
    _row("swin", "Swin", IMAGE, "shifted windows, relative positions", position_bias="add", modules=_SWIN),
    _row(
        "swinv2",
        "Swinv2",
        IMAGE,
        "shifted windows; SimA's norms in place of the cosine's, scale and bias of each head stay",
        position_bias="add",
        modules={"Swinv2SelfAttention": "positions.CosineWindows"},
        left={"Swinv2SelfAttention": _SCALE},
    ),
    _row(
        "donut-swin",
        "DonutSwin",
        IMAGE,
        "shifted windows, relative positions",
        position_bias="add",
        modules={"DonutSwinSelfAttention": "positions.Windows"},
    ),
    _row(
        "cvt",
        "Cvt",
        IMAGE,
        "convolutional projections; fewer keys than queries",
        modules={"CvtSelfAttention": "projections.Cvt"},
    ),
    _row(
        "pvt",
        "Pvt",
        IMAGE,
        "spatial reduction: fewer keys than queries",
        modules={"PvtEfficientSelfAttention": "projections.PvtReduced"},
    ),
    _row(
        "pvt_v2",
        "PvtV2",
        IMAGE,
        "spatial reduction by convolution or pooling; classifier, backbone",
        modules={"PvtV2SelfAttention": "projections.PvtV2Reduced"},
    ),
    _row(
        "hiera",
        "Hiera",
        IMAGE,
        "mask units; queries pooled between stages",
        modules={"HieraMaskUnitAttention": "projections.Hiera"},
    ),
    _row(
        "levit",
        "Levit",
        IMAGE,
        "bias by distance, wide values; both heads",
        position_bias="add",
        modules={"LevitAttention": "positions.Levit", "LevitAttentionSubsample": "positions.LevitSubsample"},
    ),
    _row(
        "mobilevit",
        "MobileViT",
        IMAGE,
        "unfolded patches; classifier and segmentation",
        modules={"MobileViTSelfAttention": "projections.Bare"},
    ),
    # towers and backbones
    _row("clip_vision_model", "CLIPVision", TOWER, "plain ViT, the tower of CLIP and of many others"),
    _row("metaclip_2_vision_model", "MetaClip2Vision", TOWER, _PLAIN),
    _row("altclip_vision_model", "AltCLIPVision", TOWER, _PLAIN),
    _row("chinese_clip_vision_model", "ChineseCLIPVision", TOWER, _PLAIN),
    _row("clipseg_vision_model", "CLIPSegVision", TOWER, _PLAIN),
    _row("siglip_vision_model", "SiglipVision", TOWER, f"plain ViT; {_POOLED}", modules=_HEAD),
    _row(
        "siglip2_vision_model",
        "Siglip2Vision",
        TOWER,
        f"any aspect ratio, padding masked; {_POOLED}",
        modules=_HEAD,
    ),
    _row(
        "aimv2_vision_model",
        "Aimv2Vision",
        TOWER,
        f"plain ViT; {_POOLED}",
        modules={"Aimv2AttentionPoolingHead": "pooling.Aimv2Pooling"},
    ),
    _row("vit_mae", "ViTMAE", TOWER, "plain ViT; encoder, and decoder of the pre-training model"),
    _row("dinov3_vit", "DINOv3ViT", TOWER, "rotary positions, applied before the attention; register tokens"),
    _row("pixio", "Pixio", TOWER, "plain ViT with eight class tokens"),
    _row("radio", "Radio", TOWER, "plain ViT with several class and register tokens"),
    _row("mlcd_vision_model", "MLCDVision", TOWER, "rotary positions, applied before the attention"),
    _row("pixtral", "PixtralVision", TOWER, "rotary positions; images packed in one sequence, kept apart by a mask"),
    _row("vitpose_backbone", "VitPoseBackbone", TOWER, _PLAIN),
    _row("lw_detr_vit", "LwDetrViT", TOWER, "windows folded into the batch, and global blocks"),
    _row("rf_detr_dinov2", "RfDetrDinov2", TOWER, "DINOv2 with windows folded into the batch"),
    _row("sapiens2", "Sapiens2", TOWER, "rotary positions; fewer key than query heads in the middle layers"),
    _row("tipsv2_vision_model", "Tipsv2Vision", TOWER, _PLAIN),
    _row(
        "sam_vision_model",
        "SamVision",
        TOWER,
        "windows; positions decomposed by axis",
        position_bias="add",
        modules={"SamVisionAttention": "positions.Decomposed", "SamVisionSdpaAttention": "positions.Decomposed"},
        class_table=("SAM_VISION_ATTENTION_CLASSES", "eager"),
    ),
    _row(
        "sam_hq_vision_model",
        "SamHQVision",
        TOWER,
        "windows; positions decomposed by axis",
        position_bias="add",
        modules={"SamHQVisionAttention": "positions.Decomposed", "SamHQVisionSdpaAttention": "positions.Decomposed"},
        class_table=("SAM_HQ_VISION_ATTENTION_CLASSES", "eager"),
    ),
    _row(
        "sam2_hiera_det_model",
        "Sam2HieraDet",
        TOWER,
        "windows; queries pooled between stages",
        left={"Sam2MultiScaleAttention": ("softmax", "the host computes softmax weights there that it never uses")},
    ),
    _row("sam3_vit_model", "Sam3ViT", TOWER, "rotary positions, windows"),
    _row(
        "vitdet",
        "VitDet",
        TOWER,
        "windows; positions decomposed by axis",
        position_bias="add",
        modules={"VitDetAttention": "positions.VitDetDecomposed"},
    ),
    _row(
        "maskformer-swin",
        "MaskFormerSwin",
        TOWER,
        "shifted windows, relative positions",
        position_bias="add",
        modules={"MaskFormerSwinSelfAttention": "positions.Windows"},
    ),
    _row("owlvit_vision_model", "OwlViTVision", TOWER, _PLAIN),
    _row("owlv2_vision_model", "Owlv2Vision", TOWER, _PLAIN),
    _row("xclip_vision_model", "XCLIPVision", TOWER, "plain ViT; messages between frames"),
    _row(
        "blip_vision_model",
        "BlipVision",
        TOWER,
        _PLAIN,
        modules={"BlipAttention": "projections.BlipFused"},
    ),
    _row("blip_2_vision_model", "Blip2Vision", TOWER, _PLAIN),
    _row("instructblip_vision_model", "InstructBlipVision", TOWER, _PLAIN),
    _row("git_vision_model", "GitVision", TOWER, _PLAIN),
    _row(
        "flava_image_model",
        "FlavaImage",
        TOWER,
        _PLAIN,
        modules={"FlavaSelfAttention": "projections.Separate"},
    ),
    _row(
        "groupvit_vision_model",
        "GroupViTVision",
        TOWER,
        "group tokens; from themselves and from groups to image tokens",
        modules={"GroupViTAttention": "projections.GroupVit"},
        left={"GroupViTAssignAttention": ("softmax", "it assigns tokens to groups, which is no attention")},
    ),
    _row(
        "bridgetower_vision_model",
        "BridgeTowerVision",
        TOWER,
        "plain ViT on torch's multi-head attention",
        reached="own code",
        modules=_HEAD,
    ),
    _row("internvl_vision", "InternVLVision", TOWER, _PLAIN),
    _row("janus_vision_model", "JanusVision", TOWER, _PLAIN),
    _row("idefics2_vision", "Idefics2Vision", TOWER, "any aspect ratio, padding masked"),
    _row("idefics3_vision", "Idefics3Vision", TOWER, "any aspect ratio, padding masked"),
    _row("smolvlm_vision", "SmolVLMVision", TOWER, "any aspect ratio, padding masked"),
    _row(
        "ovis2_vision",
        "Ovis2Vision",
        TOWER,
        _PLAIN,
        left={"Ovis2VisionModel": ("softmax", "it chooses among visual words, which is no attention")},
    ),
    _row("llama4_vision_model", "Llama4Vision", TOWER, "rotary positions, applied before the attention"),
    _row("mllama_vision_model", "MllamaVision", TOWER, "tiles; padding masked"),
    _row("kosmos_2_vision_model", "Kosmos2Vision", TOWER, _PLAIN),
    _row("qwen2_vl_vision", "Qwen2VLVision", TOWER, _PACKED),
    _row("qwen2_5_vl_vision", "Qwen2_5_VLVision", TOWER, f"{_PACKED}; windows"),
    _row("qwen3_vl_vision", "Qwen3VLVision", TOWER, _PACKED),
    _row("glm4v_vision", "Glm4vVision", TOWER, _PACKED),
    _row("gemma4_vision", "Gemma4Vision", TOWER, "rotary positions, padding masked"),
    _row(
        "phi4_multimodal_vision",
        "Phi4MultimodalVision",
        TOWER,
        f"any aspect ratio, padding masked; {_POOLED}",
        modules=_HEAD,
    ),
    _row(
        "got_ocr2_vision",
        "GotOcr2Vision",
        TOWER,
        "windows; positions decomposed by axis",
        position_bias="add",
        modules={"GotOcr2VisionAttention": "positions.Decomposed"},
    ),
    _row(
        "vilt",
        "Vilt",
        TOWER,
        "text and image tokens in one sequence, padding masked",
        modules={"ViltSelfAttention": "projections.Separate"},
    ),
    _row(
        "mgp-str",
        "Mgpstr",
        TOWER,
        "plain ViT; text recognition",
        modules={"MgpstrAttention": "projections.MgpstrFused", "MgpstrEncoder": "projections.MgpstrEncoder"},
        left={"MgpstrA3Module": ("softmax", "it chooses tokens for each character, which is not q k^T")},
    ),
    # detection, segmentation, depth
    _row("yolos", "Yolos", DENSE, "plain ViT with detection tokens"),
    _row(
        "dpt",
        "DPT",
        DENSE,
        "plain ViT under a depth or segmentation head; also on a backbone, whose attention is swapped",
    ),
    _row(
        "glpn",
        "GLPN",
        DENSE,
        "spatial reduction: fewer keys than queries",
        modules={"GLPNEfficientSelfAttention": "projections.GlpnReduced"},
    ),
    _row(
        "seggpt",
        "SegGpt",
        DENSE,
        "positions decomposed by axis",
        position_bias="add",
        modules={"SegGptAttention": "positions.SegGptDecomposed"},
    ),
    _row(
        "swin2sr",
        "Swin2SR",
        DENSE,
        "super-resolution; windows as in Swin v2",
        position_bias="add",
        modules={"Swin2SRSelfAttention": "positions.CosineWindows"},
        left={"Swin2SRSelfAttention": _SCALE},
    ),
    _row(
        "eomt",
        "Eomt",
        DENSE,
        "DINOv2 with query tokens; masks that the model predicts are honoured",
        modules={"EomtAttention": "projections.OnesAllowed"},
    ),
    _row(
        "eomt_dinov3",
        "EomtDinov3",
        DENSE,
        "DINOv3 with query tokens; masks that the model predicts are honoured",
        modules={"EomtDinov3Attention": "projections.OnesAllowed"},
    ),
    _row(
        "detr",
        "Detr",
        DENSE,
        "self-attention of the encoder alone; padding masked",
        modules={"DetrSelfAttention": None},
        within="encoder",
    ),
    _row(
        "rt_detr",
        "RTDetr",
        DENSE,
        "self-attention of the encoder alone",
        modules={"RTDetrSelfAttention": None},
        within="encoder",
    ),
    # video
    _row("videomae", "VideoMAE", VIDEO, "joint space-time tokens"),
    _row("vivit", "Vivit", VIDEO, "joint tubelet tokens"),
    _row(
        "timesformer",
        "Timesformer",
        VIDEO,
        "time and space in turn",
        modules={"TimesformerSelfAttention": "projections.Fused"},
    ),
    _row(
        "vjepa2",
        "VJEPA2",
        VIDEO,
        f"rotary positions, applied before the attention; {_POOLED}",
        modules={"VJEPA2PoolerCrossAttention": "pooling.VJepa2Pooling"},
    ),
    _row(
        "videoprism_vision_model",
        "VideoPrismVision",
        VIDEO,
        f"space, then time, no soft cap; {_POOLED}",
        modules={"VideoPrismMultiheadAttentionPoolingHead": "pooling.VideoPrismPooling"},
    ),
    # larger models whose config builds its tower from a class of its own
    _larger("clip", "CLIP", "the vision tower; the causal text side stays"),
    _larger("metaclip_2", "MetaClip2", "the vision tower; the causal text side stays"),
    _larger("altclip", "AltCLIP", "the vision tower; the text side stays"),
    _larger("chinese_clip", "ChineseCLIP", "the vision tower; the text side stays"),
    _larger(
        "clipseg", "CLIPSeg", "the vision tower and the decoder, which is built like it; the causal text side stays"
    ),
    _larger("siglip", "Siglip", "the vision tower; the text side stays"),
    _larger("siglip2", "Siglip2", "the vision tower; the text side stays"),
    _larger("aimv2", "Aimv2", "the vision tower; the causal text side stays"),
    _larger("owlvit", "OwlViT", "the vision tower; the causal text side stays"),
    _larger("owlv2", "Owlv2", "the vision tower; the causal text side stays"),
    _larger("xclip", "XCLIP", "the vision tower and the integration over frames; the text side stays"),
    _larger("blip", "Blip", "the vision tower; the text side stays"),
    _larger("blip-2", "Blip2", "the vision tower; Q-Former and language model stay"),
    _larger("git", "Git", "the vision tower; the language model stays"),
    _larger("flava", "Flava", "the image tower; text and multimodal side stay", "image_config"),
    _larger("groupvit", "GroupViT", "the vision tower; the causal text side stays"),
    _larger("bridgetower", "BridgeTower", "the vision tower; text and cross-modal side stay"),
    _larger("sam", "Sam", "the image encoder; the mask decoder stays"),
    _larger("sam_hq", "SamHQ", "the image encoder; the mask decoder stays"),
    _larger("got_ocr2", "GotOcr2", "the image encoder; the language model stays"),
)

# Models that keep their class when their tower is swapped, because their config finds the tower by its type. Any model that does
# so can be patched; these are tried by the tests.
COMPOSITES = {
    "llava": "the vision tower; the causal language model stays",
    "vision-encoder-decoder": "the encoder; the causal decoder stays",
    "upernet": "the backbone (Swin)",
    "dpt": "the backbone (DINOv2)",
    "depth_anything": "the backbone (DINOv2)",
    "zoedepth": "the backbone (BEiT)",
    "mask2former": "the backbone (Swin); the decoder's masked cross-attention stays",
    "vitmatte": "the backbone (ViTDet)",
    "vitpose": "the backbone (ViTPose)",
    "maskformer": "the backbone (Swin as MaskFormer has it); the decoder stays",
    "sam2_vision_model": "the image encoder (Hiera), also within SAM 2",
    "vision-text-dual-encoder": "the vision tower; the text side stays",
}

# Why these cannot be swapped at all; what is in none of the tables may come.
REFUSED = {
    "mobilevitv2": "its attention is a softmax over the tokens of one channel, not q k^T",
    "swiftformer": "its attention is additive, not q k^T",
    "perceiver": "its latents attend to up to 50,176 inputs, whose norms would couple every pixel",
    "florence2": "its vision tower attends over channels, not tokens",
    "florence_vision": "it attends over channels, not tokens",
    "dinat": "it attends to neighbourhoods by a CUDA operation of its own",
    "imagegpt": "it is a causal decoder",
    "clip_text_model": "it is a causal text tower",
    "sima": "it is SimA by itself; `attn_implementation` and `attention_gain` of its config choose among what there is",
}
