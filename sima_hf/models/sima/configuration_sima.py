"""SimA model configuration."""

import os
import shutil
from pathlib import Path

from huggingface_hub.dataclasses import strict
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig


PATCH_SIZES = (8, 16)
ATTENTION_GAINS = ("none", "tokens")
# Stride of a level of the feature pyramid -> depth, over that of the model, of the block it is made from, as in XCiT's recipe.
PYRAMID_DEPTHS = {4: 1 / 3, 8: 1 / 2, 16: 2 / 3, 32: 1.0}

# The fourteen models of the original code: seven sizes, each with patches of 16 and of 8 pixels.
_SIZES = {
    "nano_12": (128, 12, 4),
    "tiny_12": (192, 12, 4),
    "small_12": (384, 12, 8),
    "tiny_24": (192, 24, 4),
    "small_24": (384, 24, 8),
    "medium_24": (512, 24, 8),
    "large_24": (768, 24, 16),
}
SIMA_VARIANTS = {
    f"sima_{size}_p{patch_size}": {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_attention_heads,
        "patch_size": patch_size,
        "layer_scale_init_value": 1.0 if num_hidden_layers == 12 else 1e-5,
        "class_attention_norm_all_tokens": size != "nano_12",
    }
    for patch_size in PATCH_SIZES[::-1]
    for size, (hidden_size, num_hidden_layers, num_attention_heads) in _SIZES.items()
}


@strict
class SimAConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of a [`SimAModel`]: a vision transformer with softmax-free attention (SimA, arXiv 2206.08898). The
    defaults are those of the original `sima_small_12_p16`.

    Args:
        hidden_size (`int`, *optional*, defaults to 384):
            Width of the tokens.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Number of SimA blocks, which work on the patches.
        num_attention_heads (`int`, *optional*, defaults to 8):
            Number of heads in every attention; must divide `hidden_size`. One head is a valid choice.
        num_class_attention_layers (`int`, *optional*, defaults to 2):
            Number of class attention blocks after the SimA blocks; they let the class token read the patches.
        mlp_ratio (`float`, *optional*, defaults to 4):
            Width of the MLPs' inner layer over `hidden_size`.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the stem, of the local patch interaction and of the MLPs.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout after the position encoding, the attention's output projection and both layers of the MLPs.
        drop_path_rate (`float`, *optional*, defaults to 0.0):
            Probability of skipping a residual branch of a SimA block in training, the same for all blocks. Class
            attention blocks never skip.
        layer_scale_init_value (`float`, *optional*, defaults to 1.0):
            Initial value of the learned scale of each residual branch; the original takes 1e-5 for 24 blocks.
        class_attention_norm_all_tokens (`bool`, *optional*, defaults to `True`):
            Whether the second norm of the class attention blocks covers all tokens (`tokens_norm` in the original code)
            or the class token only, as in the nano models.
        attention_gain (`str`, *optional*, defaults to `"none"`):
            `"none"` is the paper's formula, with which the original checkpoints load exactly. `"tokens"` multiplies
            every attention's output by its number of keys, so that its scale does not shrink with the number of tokens:
            steadier across resolutions; which trains better depends on the model.
        qkv_bias (`bool`, *optional*, defaults to `True`):
            Whether the query, key and value projections have biases.
        position_encoding_hidden_size (`int`, *optional*, defaults to 32):
            Number of Fourier features per image axis; must be even.
        position_encoding_temperature (`float`, *optional*, defaults to 10000):
            Temperature of the Fourier features' frequencies.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the truncated normal that initializes linear layers and the class token.
        layer_norm_eps (`float`, *optional*, defaults to 1e-06):
            Epsilon of the layer norms.
        image_size (`int`, *optional*, defaults to 224):
            Resolution the model is made for, kept for the image processor and for tools. Any other works as well.
        patch_size (`int`, *optional*, defaults to 16):
            8 or 16: the stem halves the image three or four times.
        num_channels (`int`, *optional*, defaults to 3):
            Number of image channels.
        out_features (`list[str]`, *optional*):
            For a backbone: stages whose feature maps are returned, among `"stem"`, `"stage1"`, ..., one stage per SimA
            block. Defaults to the last stage, with a pyramid to those of XCiT's recipe: a third, half, two thirds and all
            of the blocks for strides of 4, 8, 16 and 32.
        out_indices (`list[int]`, *optional*):
            The same by index; `"stem"` is 0.
        pyramid_strides (`list[int]`, *optional*):
            For a backbone: strides, among 4, 8, 16 and 32 pixels, to which the feature maps are brought, one for each of
            `out_features`, by transposed convolutions and max pooling, as dense heads need them. By default all maps have
            the resolution of the patches.
        reshape_hidden_states (`bool`, *optional*, defaults to `True`):
            For a backbone: whether it returns maps. `False` is for heads that take tokens (DPT, Depth Anything):
            `(batch_size, 1 + N, hidden_size)`, with the mean of the patches where other models have a class token.

    Raises:
        ValueError: sizes that do not fit together, with the values it got.

    Example:

    ```python
    >>> from sima_hf import SimAConfig, SimAForImageClassification

    >>> config = SimAConfig.from_variant("sima_tiny_12_p16", num_labels=10)
    >>> model = SimAForImageClassification(config)
    >>> model.config.hidden_size
    192

    ```"""

    model_type = "sima"

    hidden_size: int = 384
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    num_class_attention_layers: int = 2
    mlp_ratio: float | int = 4
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    layer_scale_init_value: float | int = 1.0
    class_attention_norm_all_tokens: bool = True
    attention_gain: str = "none"
    qkv_bias: bool = True
    position_encoding_hidden_size: int = 32
    position_encoding_temperature: float | int = 10000
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-6
    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int = 16
    num_channels: int = 3
    pyramid_strides: list[int] | tuple[int, ...] | None = None
    reshape_hidden_states: bool = True
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        self.validate_architecture()  # here too, so that a wrong value gives a plain ValueError before anything is derived
        self.stage_names = ["stem"] + [f"stage{index}" for index in range(1, self.num_hidden_layers + 1)]
        out_indices, out_features = kwargs.pop("out_indices", None), kwargs.pop("out_features", None)
        if self.pyramid_strides is not None and out_indices is None and out_features is None:
            out_indices = [round(PYRAMID_DEPTHS[stride] * self.num_hidden_layers) for stride in self.pyramid_strides]
            if len(set(out_indices)) < len(out_indices):
                raise ValueError(
                    f"`pyramid_strides` of {len(out_indices)} levels need `out_features`, one stage for each, in a model of only "
                    f"{self.num_hidden_layers} blocks, got none."
                )
        self.set_output_features_output_indices(out_indices=out_indices, out_features=out_features)
        self.validate_pyramid()
        super().__post_init__(**kwargs)

    @property
    def output_attentions(self) -> bool:
        """Whether the model returns its attention maps; every SimA attention function can, so none is refused here."""
        return self._output_attentions

    @output_attentions.setter
    def output_attentions(self, value: bool):
        self._output_attentions = value

    def validate_output_attentions(self):
        """Nothing to refuse, see above; part of `@strict`'s validation."""

    def validate_pyramid(self):
        """Raise ValueError where the pyramid has not one stage for each level; a backbone asks again, as stages may change."""
        if self.pyramid_strides is not None and len(self.pyramid_strides) != len(self.out_features):
            raise ValueError(
                f"`pyramid_strides` must have one stride for each of `out_features`, got {list(self.pyramid_strides)} for "
                f"{self.out_features}."
            )

    def validate_architecture(self):
        """Raise ValueError for values that no model can be built from; part of `@strict`'s validation."""
        positive = (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_class_attention_layers",
            "num_channels",
            "position_encoding_hidden_size",
            "mlp_ratio",
            "position_encoding_temperature",
            "initializer_range",
            "layer_norm_eps",
        )
        for name in positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be greater than 0, got {getattr(self, name)}.")
        sides = self.image_size if isinstance(self.image_size, (list, tuple)) else (self.image_size,)
        if not sides or min(sides) < 1:
            raise ValueError(f"`image_size` must be at least 1, got {self.image_size}.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`num_attention_heads` must divide `hidden_size`, got {self.num_attention_heads} heads for a "
                f"hidden size of {self.hidden_size}."
            )
        if self.patch_size not in PATCH_SIZES:
            raise ValueError(
                f"`patch_size` must be 8 or 16, because the convolutional stem halves the image three or four times, "
                f"got {self.patch_size}."
            )
        if self.hidden_size < 8:
            raise ValueError(
                f"`hidden_size` must be at least 8, as the stem starts at an eighth of it, got {self.hidden_size}."
            )
        if self.position_encoding_hidden_size % 2:
            raise ValueError(
                f"`position_encoding_hidden_size` must be even, one sine and one cosine per frequency, got "
                f"{self.position_encoding_hidden_size}."
            )
        for name in ("hidden_dropout_prob", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 0 and less than 1, got {getattr(self, name)}.")
        strides = list(self.pyramid_strides or ())
        if self.pyramid_strides is not None and (
            not strides or strides != sorted(set(strides)) or not PYRAMID_DEPTHS.keys() >= set(strides)
        ):
            raise ValueError(
                f"`pyramid_strides` must be some of {', '.join(map(str, PYRAMID_DEPTHS))}, in that order, got {strides}."
            )
        if strides and not self.reshape_hidden_states:
            raise ValueError(f"`reshape_hidden_states` must be True with `pyramid_strides`, got False and {strides}.")
        if self.attention_gain not in ATTENTION_GAINS:
            raise ValueError(f"`attention_gain` must be 'none' or 'tokens', got {self.attention_gain!r}.")

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """As any config; one that was prepared for the Hub, by its `auto_map`, brings the code beside this file along."""
        if getattr(self, "auto_map", None) and self._auto_class is None:  # else Transformers copies it
            # Loaded from the Hub, it names the repository that it came from.
            self.auto_map = {name: place.rpartition("--")[2] for name, place in self.auto_map.items()}
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            for path in sorted(Path(__file__).parent.glob("*_sima.py")):
                if path.name.split("_")[0] in ("configuration", "embeddings", "modeling"):
                    shutil.copyfile(path, Path(save_directory) / path.name)
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_variant(cls, name: str, **kwargs) -> "SimAConfig":
        """The configuration of one of the fourteen original models, e.g. `"sima_small_12_p16"`.

        Keyword arguments override or add fields. Without `num_labels` (or `id2label`) it has the 1000 classes of
        ImageNet-1k, as the original models do.

        Raises:
            ValueError: no such variant; the text lists those there are.
        """
        if name not in SIMA_VARIANTS:
            raise ValueError(f"There is no variant {name!r}; there are {', '.join(SIMA_VARIANTS)}.")
        if "id2label" not in kwargs:
            kwargs.setdefault("num_labels", 1000)
        return cls(**{**SIMA_VARIANTS[name], **kwargs})


__all__ = ["SIMA_VARIANTS", "SimAConfig"]
