"""The table of hosts: which of Transformers' models can be swapped, and why others are refused.

A host that belongs here computes all its attention through Transformers' AttentionInterface, from q k^T, without a bias on
the logits. Adding one is adding a row; tests/patching/test_hosts.py then tries it.
"""

import difflib
from dataclasses import dataclass

from ..errors import UnsupportedModelError


@dataclass(frozen=True)
class Host:
    """One `model_type` of Transformers and what its attention is."""

    model_type: str
    config: str
    summary: str


HOSTS = {
    host.model_type: host
    for host in (
        Host("vit", "ViTConfig", "plain ViT"),
        Host("deit", "DeiTConfig", "plain ViT with a distillation token, with and without teacher head"),
        Host("dinov2", "Dinov2Config", "plain ViT with LayerScale; model, classifier, backbone"),
        Host("dinov2_with_registers", "Dinov2WithRegistersConfig", "DINOv2 with register tokens"),
        Host("ijepa", "IJepaConfig", "plain ViT without a class token"),
        Host("vit_msn", "ViTMSNConfig", "plain ViT"),
        Host("yolos", "YolosConfig", "plain ViT with detection tokens"),
        Host("videomae", "VideoMAEConfig", "joint space-time tokens"),
        Host("vivit", "VivitConfig", "joint tubelet tokens"),
        Host("vit_mae", "ViTMAEConfig", "plain ViT; encoder, and decoder of the pre-training model"),
        Host("dinov3_vit", "DINOv3ViTConfig", "rotary positions, applied before the attention; register tokens"),
        Host("pixio", "PixioConfig", "plain ViT with eight class tokens"),
        Host(
            "segformer", "SegformerConfig", "spatial reduction: fewer keys than queries; classifier and segmentation"
        ),
        Host("dpt", "DPTConfig", "plain ViT under a depth or segmentation head; not the hybrid with a backbone"),
        Host("clip_vision_model", "CLIPVisionConfig", "vision tower of CLIP by itself"),
        Host("metaclip_2_vision_model", "MetaClip2VisionConfig", "vision tower of MetaCLIP 2 by itself"),
        Host("altclip_vision_model", "AltCLIPVisionConfig", "vision tower of AltCLIP by itself"),
        Host("chinese_clip_vision_model", "ChineseCLIPVisionConfig", "vision tower of Chinese-CLIP by itself"),
    )
}

# Why these cannot be swapped at all; what is in neither table may come.
REFUSED = {
    "mobilevitv2": "its attention is a softmax over the tokens of one channel, not q k^T",
    "swiftformer": "its attention is additive, not q k^T",
    "perceiver": "its latents attend to up to 50,176 inputs, whose norms would couple every pixel",
    "florence2": "it attends over channels, not tokens",
    "dinat": "it attends to neighbourhoods by a CUDA operation of its own",
    "imagegpt": "it is a causal decoder",
}


def supported_models() -> list[dict[str, str]]:
    """The rows of the table, as data: `model_type`, `config`, `summary`."""
    return [vars(host).copy() for host in HOSTS.values()]


def markdown_table() -> str:
    """The table as the README has it; `sima-hf models --markdown` prints it."""
    lines = ["| model type | its attention |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{host.model_type}` | {host.summary} |" for host in HOSTS.values())])


def find_host(model_type: str) -> Host:
    """The row of a `model_type`.

    Raises:
        UnsupportedModelError: there is none; the text has the reason or the nearest names.
    """
    if model_type in HOSTS:
        return HOSTS[model_type]
    if model_type in REFUSED:
        raise UnsupportedModelError(f"{model_type!r} cannot be swapped to SimA: {REFUSED[model_type]}.")
    near = difflib.get_close_matches(model_type, HOSTS, n=3, cutoff=0.5)
    hint = f" Similar names: {', '.join(near)}." if near else ""
    raise UnsupportedModelError(
        f"{model_type!r} is not among the models that can be swapped: {', '.join(HOSTS)}.{hint}"
    )
