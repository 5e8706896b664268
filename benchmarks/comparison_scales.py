"""How large attention's output is: block by block in a ViT, and against the number of tokens, for softmax and both gains.

Root mean squares throughout, of what an attention gives to its output projection.
"""

import torch
from transformers import PreTrainedModel, ViTConfig, ViTForImageClassification

from sima_hf import sima_attention


ATTENTIONS = {
    "softmax": torch.nn.functional.scaled_dot_product_attention,
    "none": lambda query, key, value: sima_attention(query, key, value, gain="none"),
    "tokens": lambda query, key, value: sima_attention(query, key, value, gain="tokens"),
}
SIDES = (4, 8, 16, 32)  # patches; with the class token 17 to 1,025 tokens


def rms(x: torch.Tensor) -> float:
    """Root mean square of all entries."""
    return x.double().square().mean().sqrt().item()


def watched(model: torch.nn.Module, ending: str, run) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Input and output of every module whose name ends so, in the order in which `run()` calls them, without gradients."""
    found = []
    hooks = [
        module.register_forward_hook(lambda _, given, output: found.append((given[0], output)))
        for name, module in model.named_modules()
        if name.endswith(ending)
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def block_scales(model: PreTrainedModel, images: torch.Tensor) -> list[dict[str, float]]:
    """Of every block of a ViT, softmax or SimA, on images as it takes them.

    Returns:
        attention: the output of the attention itself; branch: that after `o_proj`; stream: what the branch is added to;
        weights: of `v_proj` times that of `o_proj`, the two matrices whose growth makes the branch grow.
    """
    model.eval()
    streams = watched(model, "layernorm_before", lambda: model(images))
    outputs = watched(model, "attention.o_proj", lambda: model(images))
    layers = [module for name, module in model.named_modules() if name.endswith(".attention")]
    return [
        {
            "attention": rms(given),
            "branch": rms(output),
            "stream": rms(stream),
            "weights": rms(layer.v_proj.weight) * rms(layer.o_proj.weight),
        }
        for (given, output), (stream, _), layer in zip(outputs, streams, layers, strict=True)
    ]


def projections(model: PreTrainedModel, images: torch.Tensor) -> list[list[torch.Tensor]]:
    """Query, key and value `(B, H, N, D)` of every block of a ViT, at any size of the images."""

    def run():
        model(images, interpolate_pos_encoding=True)

    heads = model.config.num_attention_heads
    found = [watched(model, f"attention.{letter}_proj", run) for letter in "qkv"]
    return [
        [output.unflatten(-1, (heads, -1)).transpose(1, 2) for _, output in of_block]
        for of_block in zip(*found, strict=True)
    ]


def three_scales(blocks: list[list[torch.Tensor]]) -> dict[str, float]:
    """The output of each attention on the same queries, keys and values, over all blocks, divided by the values'."""
    values = rms(torch.stack([value for _, _, value in blocks]))
    return {
        name: rms(torch.stack([attention(query, key, value) for query, key, value in blocks])) / values
        for name, attention in ATTENTIONS.items()
    }


def normal_inputs(tokens: int, seed: int) -> list[list[torch.Tensor]]:
    """Unit-normal query, key and value of one block: nothing in common between tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [list(torch.randn(3, 8, 4, tokens, 12, generator=generator))]


def random_vit(fields: dict, size: int, seed: int) -> PreTrainedModel:
    """A ViT for images of `size` pixels with the weights it would start its training from."""
    torch.manual_seed(seed)
    return ViTForImageClassification(ViTConfig(**{**fields, "image_size": size})).eval()


def exponent(by_tokens: dict[str, float]) -> float:
    """Slope of the least-squares line through log(scale) against log(tokens)."""
    tokens, scales = (
        torch.tensor(x, dtype=torch.float64).log() for x in (list(map(int, by_tokens)), list(by_tokens.values()))
    )
    tokens = tokens - tokens.mean()
    return (tokens @ (scales - scales.mean()) / (tokens @ tokens)).item()


def against_tokens(blocks_at) -> dict[str, dict]:
    """For each attention its scale by the number of tokens, and the exponent of the power law through it.

    Args:
        blocks_at: patches per side to queries, keys and values, as `three_scales` takes them.
    """
    scales = {side * side + 1: three_scales(blocks_at(side)) for side in SIDES}
    found = {}
    for name in ATTENTIONS:
        by_tokens = {str(tokens): at[name] for tokens, at in scales.items()}
        found[name] = {"scale": by_tokens, "exponent": exponent(by_tokens)}
    return found
