"""Tiny swapped models as they are published, and what they give where sima_hf cannot be imported."""

import os
import subprocess
import sys
from pathlib import Path

import torch

import sima_hf
from sima_hf.hub import auto_map
from sima_hf.patching.remote_code.model_files import write_remote_code
from tests.helpers.hosts.at_hand import CASES, given, make, tensors


SCRIPT = Path(__file__).resolve().parents[2] / "hub/end_to_end/load_without_sima_hf.py"


def auto_class(model):
    """An Auto class whose code makes just this class, or None.

    Not AutoBackbone, which in Transformers asks the Hub for local folders, too.
    """
    named = auto_map(model.config).items()
    found = [name for name, place in named if place.endswith(f".{type(model).__name__}") and name != "AutoBackbone"]
    return found[0] if found else None


def publish(case, folder, attention="sima"):
    """A published folder of a tiny swapped model of `case`, with what it gives; None where no Auto class makes it."""
    options = {"backend": "eager"} if attention == "sima" else {"attention": attention}
    for name in CASES[case][1][::-1]:
        model = sima_hf.patch_model(make(case, name), **options)
        model.config.architectures = [type(model).__name__]  # as saving does
        if (auto := auto_class(model)) is not None:
            break
    else:
        return None
    inputs = given(case, name)
    with torch.no_grad():
        torch.manual_seed(0)
        expected = tensors(model(**inputs))
    model.config.auto_map = auto_map(model.config)
    model.save_pretrained(folder)
    if not (folder / "sima_attention.py").exists():  # a parent that keeps its own config class does not bring it along
        write_remote_code(model.config, folder)  # what prepare_for_hub does, without its checks of this tiny model
    torch.save(inputs, folder / "given.pt")
    torch.save(expected, folder / "expected.pt")
    (folder / "auto.txt").write_text(auto)
    return folder


def publish_and_load_apart(rows, root, once=()):
    """The folders of `rows`, `{key: (case, attention)}`, published and loaded in a process without sima_hf, which leaves its outputs
    there. It saves each model and loads it again, but for those whose key is in `once`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the other process has: sums in parts differ in the last bits
    try:
        folders = {key: publish(row[0], root / f"m{number}", row[1]) for number, (key, row) in enumerate(rows.items())}
    finally:
        torch.set_num_threads(threads)
    for key in once:
        (folders[key] / "once").touch()
    environment = {**os.environ, "HF_HOME": str(root / "home"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, SCRIPT, *map(str, folders.values())],
        env=environment,
        check=True,
        timeout=600,
        capture_output=True,
    )
    return folders
