"""The machine and the versions, for the head of a results file."""

import platform

import torch
import transformers

import sima_hf
from sima_hf.machine.description import device_name


def machine_facts() -> dict:
    """What every figure depends on besides its settings, threads and commit."""
    return {
        "device": device_name("cpu"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sima_hf": sima_hf.__version__,
    }
