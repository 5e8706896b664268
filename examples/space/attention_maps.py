"""Where each attention of a model looked in one picture: its maps on the grid of patches, and its classes."""

from dataclasses import dataclass

import numpy as np
import torch
from loaded_models import with_maps
from transformers import PreTrainedModel


CLASS_TOKEN, ALL_PATCHES = "class token", "mean over all patches"
MAX_SPECIAL_TOKENS = 16  # class, distillation and register tokens


@dataclass(frozen=True)
class LayerMaps:
    """One attention's map `(H, N, N)`, reduced to what is drawn.

    Attributes:
        name: "block 3", or "class attention 1".
        patches: who looked -> `(H, h, w)`, float32: the weights on the patches.
        special: who looked -> `(H,)`: the sum of the weights on tokens that are no patches.
    """

    name: str
    patches: dict[str, np.ndarray]
    special: dict[str, np.ndarray]

    @property
    def heads(self) -> int:
        """How many heads it has."""
        return len(next(iter(self.patches.values())))

    def shown(self, looker: str, head: int | None) -> tuple[np.ndarray, float, str]:
        """The map `(h, w)` of one head, from 0, or of the mean over heads; the weight on special tokens; and who looked.

        Where `looker` has no row in this attention, the other one is taken.
        """
        who = looker if looker in self.patches else next(iter(self.patches))
        maps, special = self.patches[who], self.special[who]
        if head is None:
            return maps.mean(0), float(special.mean()), who
        return maps[min(head, self.heads - 1)], float(special[min(head, self.heads - 1)]), who


@dataclass(frozen=True)
class Seen:
    """What one model made of one picture.

    Attributes:
        probabilities: `(classes,)`, softmax of the logits.
        layers: those attentions whose maps lie on the grid of patches.
        missing: a sentence on maps that are not drawn, or "".
    """

    probabilities: np.ndarray
    layers: tuple[LayerMaps, ...]
    missing: str = ""


def look(model: PreTrainedModel, pixel_values: torch.Tensor) -> Seen:
    """One forward without gradients, with maps.

    Args:
        model: an image classifier, with softmax or SimA.
        pixel_values: `(1, C, H, W)`.
    """
    with torch.no_grad(), with_maps(model):
        try:
            outputs = model(pixel_values=pixel_values, output_attentions=True)
            attentions, missing = getattr(outputs, "attentions", None), ""
        except (TypeError, ValueError) as error:
            outputs = model(pixel_values=pixel_values)
            attentions, missing = None, f"No maps: this model does not return them ({error})."
    probabilities = outputs.logits[0].float().softmax(-1).cpu().numpy()
    if missing:
        return Seen(probabilities, (), missing)
    layers, missing = layer_maps(attentions, grid_of(model, pixel_values))
    return Seen(probabilities, layers, missing)


def grid_of(model: PreTrainedModel, pixel_values: torch.Tensor) -> tuple[int, int] | None:
    """Rows and columns of patches, as the config's patch size says; None where it says nothing."""
    config = getattr(model.config, "vision_config", model.config)
    patch = getattr(config, "patch_size", None)
    if patch is None:
        return None
    high, wide = (patch, patch) if isinstance(patch, int) else tuple(patch)[-2:]
    return -(-pixel_values.shape[-2] // high), -(-pixel_values.shape[-1] // wide)


def layer_maps(attentions, grid: tuple[int, int] | None) -> tuple[tuple[LayerMaps, ...], str]:
    """Maps by layer, and a sentence on those that cannot be drawn.

    Drawn are `(1, H, N, N)` and `(1, H, 1, N)` whose N is the number of patches and at most 16 special tokens in front of them.
    """
    if not attentions:
        return (), "No maps: this model has no attention, or its attention does not return them."
    layers, blocks, others = [], 0, 0
    for index, weights in enumerate(attentions, start=1):
        found = None if grid is None or weights is None else _one_layer(weights, grid)
        if found is None:
            continue
        if weights.shape[-2] == 1 and weights.shape[-1] > 1:
            others += 1
            layers.append(LayerMaps(f"class attention {others}", *found))
        else:
            blocks = index
            layers.append(LayerMaps(f"block {blocks}", *found))
    if not layers:
        shapes = sorted({str(tuple(w.shape)) for w in attentions if w is not None})
        return (), (
            "Maps are not drawn for this model: its attention works in windows or on reduced keys, so that no weight belongs to "
            f"one patch of the picture (shapes of its maps: {', '.join(shapes[:4])})."
        )
    left = len(attentions) - len(layers)
    return tuple(layers), f"{left} of {len(attentions)} attentions have no map on the grid of patches." if left else ""


def _one_layer(weights: torch.Tensor, grid: tuple[int, int]):
    """(patches, special) of a map, or None where it does not lie on the grid."""
    if weights.dim() != 4 or weights.shape[0] != 1:
        return None
    special = weights.shape[-1] - grid[0] * grid[1]
    rows = weights.shape[-2]
    if not 0 <= special <= MAX_SPECIAL_TOKENS or rows not in (1, weights.shape[-1]):
        return None
    weights = weights[0].float()
    chosen = {}
    if special:
        chosen[CLASS_TOKEN] = weights[:, 0]
    if rows > 1 or not special:
        chosen[ALL_PATCHES] = weights[:, special:].mean(1)
    patches = {who: row[:, special:].unflatten(-1, grid).cpu().numpy() for who, row in chosen.items()}
    return patches, {who: row[:, :special].sum(-1).cpu().numpy() for who, row in chosen.items()}


def seen_picture(pixel_values: torch.Tensor, processor) -> np.ndarray:
    """What the model saw, `(H, W, 3)` uint8: the processor's normalization undone."""
    image = pixel_values[0].float().cpu()
    if getattr(processor, "do_normalize", True):
        mean, std = (getattr(processor, name, None) or [0.5] for name in ("image_mean", "image_std"))
        if len(mean) in (1, len(image)):
            image = image * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    image = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    return image.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
