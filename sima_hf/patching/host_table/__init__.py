"""The table of hosts, as data: which of Transformers' models can be swapped, where their attention is, and why others are refused.

Most hosts compute all attention through Transformers' AttentionInterface: for those a row is a name and a sentence. Adding one
is adding a row; tests/patching/test_hosts.py then tries it. Nothing of Transformers is imported here.
"""

from .row import Host
from .rows import ROWS


__all__ = ["COMPOSITES", "HOSTS", "REFUSED", "WITHOUT_ATTENTION", "Host"]

HOSTS = {host.model_type: host for host in ROWS}

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

# Models that a host may hold without a row of their own: they have no attention.
WITHOUT_ATTENTION = ("bit", "resnet", "convnext", "convnextv2", "regnet", "hgnet_v2", "focalnet", "rt_detr_resnet")

# Why these cannot be swapped at all; what is in none of the tables may come.
REFUSED = {
    "mobilevitv2": "its attention is a softmax over the tokens of one channel, not q k^T",
    "swiftformer": "its attention is additive, not q k^T",
    "perceiver": "its latents attend to up to 50,176 inputs, whose norms would couple every pixel",
    "florence2": "its vision tower attends over channels, not tokens",
    "florence_vision": "it attends over channels, not tokens",
    "dinat": "it attends to neighborhoods by a CUDA operation of its own",
    "imagegpt": "it is a causal decoder",
    "clip_text_model": "it is a causal text tower",
    "sima": "it is SimA by itself; `attn_implementation` and `attention_gain` of its config choose among what there is",
}
