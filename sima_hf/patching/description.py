"""What was swapped in a model, and what was left: as data, and as text to print."""

from dataclasses import dataclass

from transformers import PreTrainedConfig, PreTrainedModel

from .attention_modules import sima_attentions
from .configs import SimAHostConfig
from .hosts import host_of_config


@dataclass(frozen=True)
class SwappedPart:
    """One model whose attention is SimA: where it is, which host, how many attentions, with which settings."""

    path: str
    host: str
    attentions: int
    backend: str
    gain: str
    position_bias: str
    within: str

    def __str__(self) -> str:
        place = f"{self.path or 'the model'}{f' ({self.within} alone)' if self.within else ''}"
        bias = {"none": "no position bias", "add": "position bias added to the product of query and key"}
        return (
            f"{place}: {self.host}, {self.attentions} attentions, backend {self.backend}, gain {self.gain!r}, "
            f"{bias[self.position_bias]}"
        )


@dataclass(frozen=True)
class Description:
    """Swapped parts, and the parts of the same model that keep their own attention, path -> class."""

    model: str
    swapped: tuple[SwappedPart, ...]
    left: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.model}: SimA in {part}" for part in self.swapped]
        lines += [f"{self.model}: left as it is: {path} ({name})" for path, name in self.left.items()]
        return "\n".join(lines or [f"{self.model}: no SimA attention"])


def describe(model: PreTrainedModel) -> Description:
    """Say which parts of a model compute SimA attention, and which other models it holds that do not.

    Args:
        model: any Transformers model; it is only looked at, nothing runs.

    Returns:
        A `Description`; `print` it, or read `swapped` (path, host, number of attentions, backend, gain, position bias of each
        part) and `left` (path -> class).
    """
    parts = [
        (path, part) for path, part in model.named_modules() if isinstance(vars(part).get("config"), PreTrainedConfig)
    ]
    swapped: list[SwappedPart] = []
    covered: dict[str, list[str]] = {}
    for path, part in parts:
        config = part.config
        if not isinstance(config, SimAHostConfig) or any(
            _inside(path, [place]) for place in covered.get(config.model_type, ())
        ):
            continue
        host = host_of_config(config)
        held = [one.sima_config for one in sima_attentions(part) if one.host is host]
        if not held:
            continue
        swapped.append(
            SwappedPart(
                path,
                host.model_type,
                len(held),
                held[0]._attn_implementation.removeprefix("sima").removeprefix("_") or "auto",
                config.attention_gain,
                host.position_bias,
                host.within,
            )
        )
        covered.setdefault(config.model_type, []).append(path)
    places = [part.path for part in swapped]
    left: dict[str, str] = {}
    for path, part in parts:
        if (
            path
            and isinstance(part, PreTrainedModel)
            and not _inside(path, [*places, *left])
            and not any(one.startswith(f"{path}.") for one in places)
        ):
            left[path] = type(part).__name__
    for part in swapped:
        if part.within:
            left[f"{part.path}.*".lstrip(".")] = f"all attention outside {part.within}"
    return Description(type(model).__name__, tuple(swapped), left)


def _inside(path: str, others: list[str]) -> bool:
    return any(path == other or path.startswith(f"{other}.") or other == "" for other in others)
