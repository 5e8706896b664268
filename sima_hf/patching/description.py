"""What was swapped in a model, and what was left: as data, and as text to print."""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from .attention_modules import Attention, sima_attentions
from .attentions.mechanisms import SIMA, title_of


@dataclass(frozen=True)
class SwappedPart:
    """One model whose attention was swapped: where it is, which host, how many attentions, with which settings.

    `mechanism` is "sima", or the name of a peer in its place, which has neither gain nor backends: "tokens" and "torch" stand there.
    """

    path: str
    host: str
    attentions: int
    backend: str
    gain: str
    position_bias: str
    within: str
    mechanism: str = SIMA

    def __str__(self) -> str:
        part = f"{self.path or 'the model'}{f' ({self.within} alone)' if self.within else ''}"
        bias = {"none": "no position bias", "add": "position bias added to the product of query and key"}
        how = (
            f"backend {self.backend}, gain {self.gain!r}"
            if self.mechanism == SIMA
            else f"mechanism {self.mechanism!r}"
        )
        return f"{part}: {self.host}, {self.attentions} attentions, {how}, {bias[self.position_bias]}"


@dataclass(frozen=True)
class Description:
    """Swapped parts, and the parts of the same model that keep their own attention, path -> class."""

    model: str
    swapped: tuple[SwappedPart, ...]
    left: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.model}: {title_of(part.mechanism)} in {part}" for part in self.swapped]
        lines += [f"{self.model}: left as it is: {path} ({name})" for path, name in self.left.items()]
        return "\n".join(lines or [f"{self.model}: no SimA attention"])


def describe(model: PreTrainedModel) -> Description:
    """Say which parts of a model compute SimA attention, or a peer's, and which other models it holds that do not.

    Args:
        model: any Transformers model; it is only looked at, nothing runs.

    Returns:
        A `Description`; `print` it, or read `swapped` (path, host, number of attentions, backend, gain, position bias, mechanism of
        each part) and `left` (path -> class).
    """
    paths = {module: path for path, module in model.named_modules()}
    found: dict[nn.Module, list[Attention]] = {}
    for attention in sima_attentions(model):
        found.setdefault(attention.part, []).append(attention)
    swapped = [_swapped_part(paths[part], attentions) for part, attentions in found.items()]
    swapped_paths = [part.path for part in swapped]
    left: dict[str, str] = {}
    for part, path in paths.items():
        if (
            path
            and isinstance(part, PreTrainedModel)
            and not _inside(path, [*swapped_paths, *left])
            and not any(one.startswith(f"{path}.") for one in swapped_paths)
        ):
            left[path] = type(part).__name__
    for part in swapped:
        if part.within:
            left[f"{part.path}.*".lstrip(".")] = f"all attention outside {part.within}"
    return Description(type(model).__name__, tuple(swapped), left)


def _swapped_part(path: str, attentions: list[Attention]) -> SwappedPart:
    host, config = attentions[0].host, attentions[0].sima_config
    backend, mechanism = "torch", config.attention_mechanism
    if mechanism == SIMA:
        backend = config._attn_implementation.removeprefix("sima").removeprefix("_") or "auto"
    return SwappedPart(
        path,
        host.model_type,
        len(attentions),
        backend,
        config.attention_gain,
        host.position_bias,
        host.within,
        mechanism,
    )


def _inside(path: str, others: list[str]) -> bool:
    return any(path == other or path.startswith(f"{other}.") or other == "" for other in others)
