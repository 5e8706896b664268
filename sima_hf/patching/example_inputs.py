"""Inputs of the right shape for one forward of a vision model, made from what its config says."""

import inspect
from collections.abc import Iterable

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from .host_table.row import VIDEO
from .hosts import HOSTS


def example_inputs(model: PreTrainedModel, size: tuple[int, int] | None = None) -> dict[str, torch.Tensor]:
    """One random image or video, the same each time, and a few text tokens where the model reads text as well.

    Args:
        model: any model whose forward takes `pixel_values` or `pixel_values_videos`.
        size: height and width in pixels; defaults to what the config says, or 224.

    Returns:
        Keyword arguments for a forward: `(1,C,H,W)`, or `(1,frames,C,H,W)`, in the dtype and on the device of the model.

    Raises:
        ValueError: the forward takes neither, so that only its user knows its inputs.
    """
    accepted = inspect.signature(model.forward).parameters
    argument = next((name for name in ("pixel_values", "pixel_values_videos") if name in accepted), None)
    if argument is None:
        raise ValueError(
            f"{type(model).__name__}.forward takes no `pixel_values`, so inputs cannot be made up for it. Give them in Python: "
            "sima_hf.certify(model, inputs)."
        )
    configs = list(_with_inner(model.config))
    height, width = size or _pair(_first(configs, ("image_size", "crop_size"), 224))
    channels, frames = (
        _first(configs, ("num_channels", "in_chans"), 3),
        _first(configs, ("num_frames", "frames_per_clip"), None),
    )
    host = HOSTS.get(model.config.model_type.removeprefix("sima_"))
    shape = (1, channels, height, width)
    if frames and host is not None and host.task == VIDEO:
        shape = (1, frames, channels, height, width)
    generator = torch.Generator().manual_seed(0)
    inputs = {argument: torch.randn(shape, generator=generator).to(model.device, model.dtype)}
    if "input_ids" in accepted:
        inputs["input_ids"] = torch.tensor([[1, 2, 3, 2]], device=model.device)
        if "decoder_input_ids" in accepted:
            inputs["decoder_input_ids"] = inputs["input_ids"]
    return inputs


def _with_inner(config: PreTrainedConfig) -> Iterable[PreTrainedConfig]:
    """Configs of vision first: a text config's sizes mean something else."""
    inner = [value for value in vars(config).values() if isinstance(value, PreTrainedConfig)]
    yield config
    yield from (one for one in inner if "text" not in one.model_type)


def _first(configs: list[PreTrainedConfig], names: tuple[str, ...], default):
    return next((value for config in configs for name in names if (value := getattr(config, name, None))), default)


def _pair(size: int | Iterable[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)[:2]
