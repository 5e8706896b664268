"""What a measurement depends on besides its settings: processor or GPU, threads, the checkout."""

import platform
import subprocess
from pathlib import Path

import torch
import transformers

from ..version import __version__


def device_name(device: str) -> str:
    """The GPU's or the processor's name, as the machine gives it."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'' if threads == 1 else 's'}"


def git_revision() -> str:
    """Short hash of the checkout, with a plus where the package differs from it; empty outside of one."""
    here = Path(__file__).resolve().parents[1]
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        diff = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "."], cwd=here, check=False)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if diff.returncode else "")


def versions() -> dict[str, str]:
    """Versions of what computed: the package, its checkout, torch, Transformers, Python."""
    return {
        "sima_hf": __version__,
        "revision": git_revision(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
