"""An image encoder with a projection head, as DINO trains it: student and teacher are two of them."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from ...embedding.any_size import run_at_size
from ...embedding.encoder import ImageEncoder
from ...embedding.pooling import pool, tokens_around
from ...errors import DataError, UnsupportedModelError
from .head import DINOHead
from .loss import GLOBAL_CROPS
from .multi_crop import MultiCrop


logger = logging.get_logger(__name__)


class EncoderWithHead(nn.Module):
    """Projected features of multi-crops. The features are what `sima-hf embed` reads of the model by its convention.

    Parameters that no gradient of these features reaches, such as a mask token, are frozen; a pooler of that kind is left out.

    Args:
        model: an image encoder of Transformers, native SimA, swapped or with softmax, or a classifier, whose head is left out.
        crops: how a batch is split.
        head: its arguments after `in_dim`, as `DINOHead` has them.

    Attributes:
        backbone: the image encoder.
        pooling: how its features are read.
        head: the `DINOHead`.

    Raises:
        UnsupportedModelError: it yields no features of images alone.
        DataError: it cannot take crops of these sizes.
    """

    def __init__(self, model: PreTrainedModel, crops: MultiCrop, **head: int):
        super().__init__()
        if hasattr(model, "get_text_features"):
            raise UnsupportedModelError(
                f"DINO trains an image encoder, got {type(model).__name__}, which reads text as well: take its vision tower, such "
                "as --model_type clip_vision_model."
            )
        encoder = ImageEncoder(model)
        self.backbone, self.pooling, self.crops = encoder.model, encoder.pooling, crops
        self._tokens = tokens_around(self.backbone)
        self._try_sizes()
        self._freeze_what_is_not_read()
        self.head = DINOHead(encoder.size, **head)

    @property
    def config(self):
        """The encoder's."""
        return self.backbone.config

    @property
    def dtype(self) -> torch.dtype:
        """The encoder's."""
        return self.backbone.dtype

    def forward(self, pixel_values: torch.Tensor, global_only: bool = False) -> torch.Tensor:
        """`(V * B, out_dim)` of crops `(B, 3, P)`, crop by crop, the global ones first; of these alone with `global_only`."""
        groups = self.crops.split(pixel_values)
        return self.head(torch.cat([self.features(group) for group in groups[: 1 if global_only else None]]))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """`(B, D)`, float32, of images `(B, 3, H, W)`; position embeddings are interpolated where the model can."""
        return pool(run_at_size(self.backbone, pixels), self.pooling, self._tokens)

    @torch.no_grad()
    def _try_sizes(self) -> None:
        for number in (0, GLOBAL_CROPS) if len(self.crops.views) > GLOBAL_CROPS else (0,):
            height, width = self.crops.shapes[number]
            try:
                self.features(torch.zeros(2, 3, height, width))
            except (DataError, RuntimeError, ValueError) as error:
                raise DataError(
                    f"{type(self.backbone).__name__} cannot take crops of {height} x {width} pixels ({error}). Choose "
                    f"--local_crop_size so that it can; a model without `interpolate_pos_encoding` takes its own image size alone."
                ) from error

    def _freeze_what_is_not_read(self) -> None:
        """DDP waits for the gradients of all parameters that are not frozen."""
        height, width = self.crops.shapes[0]
        self.features(torch.randn(2, 3, height, width)).square().sum().backward()
        unread = [name for name, one in self.backbone.named_parameters() if one.requires_grad and one.grad is None]
        self.backbone.zero_grad(set_to_none=True)
        if any(name.startswith("pooler.") for name in unread):
            self.backbone.pooler = None
        for name, one in self.backbone.named_parameters():
            if name in unread:
                one.requires_grad_(False)
        kept = [name for name in unread if not name.startswith("pooler.")]
        if kept:
            logger.info(f"Not trained, because the features do not depend on them: {', '.join(kept)}.")
