"""From pixels to patch tokens, and from their feature maps to a pyramid: convolutions and Fourier positions, for any size."""

import itertools
import math

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.utils.generic import maybe_autocast

from .configuration_sima import SimAConfig


class SimAConvNorm(nn.Module):
    """A 3x3 convolution of stride 2 without bias, and its batch norm: halves both sides, rounding up."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B,in_channels,H,W)` to `(B,out_channels,h,w)`."""
        return self.norm(self.convolution(hidden_states))


class SimAPatchEmbeddings(nn.Module):
    """Pixels `(B,C,H,W)` to feature map `(B,hidden_size,h,w)`: a stack of convolutions, widths doubling."""

    def __init__(self, config: SimAConfig):
        super().__init__()
        self.num_channels = config.num_channels
        depth = int(math.log2(config.patch_size))
        widths = [config.num_channels] + [config.hidden_size // 2**step for step in range(depth - 1, -1, -1)]
        self.layers = nn.ModuleList(SimAConvNorm(*pair) for pair in itertools.pairwise(widths))
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The feature map of `(B,C,H,W)`."""
        hidden_states = self.layers[0](pixel_values)
        for layer in self.layers[1:]:
            hidden_states = layer(self.activation(hidden_states))
        return hidden_states


class SimAPositionEncoding(nn.Module):
    """Fourier features of the rows and columns of a grid of any size, through a 1x1 convolution.

    The features are computed in float32 whatever the model's dtype, as the original does, and cast once.
    """

    def __init__(self, config: SimAConfig):
        super().__init__()
        self.num_features = config.position_encoding_hidden_size
        self.temperature = float(config.position_encoding_temperature)
        self.projection = nn.Conv2d(2 * self.num_features, config.hidden_size, kernel_size=1)

    def axis_features(self, length: int, device: torch.device) -> torch.Tensor:
        """`(length, num_features)`: sines and cosines, interleaved, of positions that end at 2 pi."""
        positions = torch.arange(1, length + 1, dtype=torch.float32, device=device)
        positions = positions / (positions[-1:] + 1e-6) * (2 * math.pi)
        exponents = torch.arange(self.num_features // 2, dtype=torch.float32, device=device)
        angles = positions[:, None] / self.temperature ** (2 * exponents / self.num_features)
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)

    def forward(self, height: int, width: int, band: slice | None = None) -> torch.Tensor:
        """`(1,hidden_size,height,width)` for a grid of that many patches, or for a band of its rows alone."""
        weight = self.projection.weight
        with maybe_autocast(weight.device.type, enabled=False):
            rows = self.axis_features(height, weight.device)
            rows = rows if band is None else rows[band]
            columns = self.axis_features(width, weight.device)[None].expand(rows.shape[0], -1, -1)
            rows = rows[:, None].expand(-1, width, -1)
        features = torch.cat((rows, columns), dim=-1).permute(2, 0, 1).unsqueeze(0)
        return self.projection(features.to(weight.dtype))


class SimAEmbeddings(nn.Module):
    """Pixels `(B,C,H,W)` to patch tokens `(B,N,hidden_size)` with positions, and the grid they lie on."""

    def __init__(self, config: SimAConfig):
        super().__init__()
        self.patch_embeddings = SimAPatchEmbeddings(config)
        self.position_encoding = SimAPositionEncoding(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """The tokens of `(B,C,H,W)`, row by row, and (h, w); ValueError for another number of axes or channels."""
        expected = self.patch_embeddings.num_channels
        if pixel_values.dim() != 4 or pixel_values.shape[1] != expected:
            raise ValueError(
                f"`pixel_values` must be (batch, {expected}, height, width), as `config.num_channels` is {expected}, got "
                f"shape {tuple(pixel_values.shape)}."
            )
        pixel_values = pixel_values.to(self.position_encoding.projection.weight.dtype)
        feature_map = self.patch_embeddings(pixel_values)
        height, width = feature_map.shape[-2:]
        feature_map = feature_map + self.position_encoding(height, width)
        return self.dropout(feature_map.flatten(2).transpose(1, 2)), (height, width)


class SimAFeaturePyramid(nn.Module):
    """Feature maps `(B,hidden_size,h,w)` of the patches' stride to those of `config.pyramid_strides`; without, as they are.

    For heads that take tokens (`config.reshape_hidden_states=False`) to `(B,1+h*w,hidden_size)`, the mean of the patches first.
    After XCiT's segmentation and detection backbones (arXiv 2106.09681, facebookresearch/xcit): transposed convolutions of
    stride 2, with batch norm and activation between two of them, for finer levels, and max pooling for coarser ones.
    """

    def __init__(self, config: SimAConfig):
        super().__init__()
        config.validate_pyramid()
        self.patch_size, self.strides = config.patch_size, tuple(config.pyramid_strides or ())
        self.as_tokens = not config.reshape_hidden_states
        self.levels = nn.ModuleList(self.level(config, stride) for stride in self.strides)

    @staticmethod
    def level(config: SimAConfig, stride: int) -> nn.Module:
        """The layers from the patches' stride to that of a level."""
        if stride >= config.patch_size:
            factor = stride // config.patch_size
            return nn.Identity() if factor == 1 else nn.MaxPool2d(kernel_size=factor, stride=factor)
        width, layers = config.hidden_size, []
        for step in range(int(math.log2(config.patch_size // stride))):
            if step > 0:
                layers += [nn.BatchNorm2d(width), ACT2FN[config.hidden_act]]
            layers.append(nn.ConvTranspose2d(width, width, kernel_size=2, stride=2))
        return nn.Sequential(*layers)

    def forward(self, feature_maps: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """One map for each that it gets; ValueError for an image of less than a pixel at the coarsest level."""
        if self.as_tokens:
            tokens = (feature_map.flatten(2).transpose(1, 2) for feature_map in feature_maps)
            return tuple(torch.cat((one.mean(dim=1, keepdim=True), one), dim=1) for one in tokens)
        if not self.strides:
            return feature_maps
        grid, needed = tuple(feature_maps[0].shape[-2:]), max(1, self.strides[-1] // self.patch_size)
        if min(grid) < needed:
            raise ValueError(
                f"`pixel_values` must be at least {self.strides[-1] - self.patch_size + 1} pixels high and wide for a feature "
                f"pyramid of stride {self.strides[-1]}, got {grid[0]} x {grid[1]} patches of {self.patch_size} pixels."
            )
        return tuple(level(feature_map) for level, feature_map in zip(self.levels, feature_maps, strict=True))


__all__ = ["SimAEmbeddings", "SimAFeaturePyramid"]
