"""`sima-hf env`: what a bug report needs."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer

from ..version import __version__
from .output import AsJSON, emit, stdout_kept_clean


EXAMPLES = """Examples:
sima-hf env
sima-hf env --json > env.json"""
PACKAGES = (
    "torch",
    "transformers",
    "huggingface_hub",
    "safetensors",
    "tokenizers",
    "numpy",
    "pillow",
    "typer",
    "accelerate",
    "datasets",
    "evaluate",
    "kornia",
    "scikit-learn",
    "matplotlib",
    "peft",
    "triton",
    "timm",
)


def env(as_json: AsJSON = False) -> None:
    """Print what a bug report needs: versions, hardware, the Hub, backends with reasons. No token, no folder of yours but caches."""
    with stdout_kept_clean():
        facts = environment()
    if as_json:
        emit(facts, "", True)
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            typer.echo(f"{name}:")
            for key, text in value.items():
                typer.echo(f"  {key}: {text}")
        else:
            typer.echo(f"{name}: {value}")


def environment() -> dict:
    """Versions of what matters, the machine, the Hub, and each backend with what it is or why it cannot serve.

    The backends' line may build the CPU kernels, which takes seconds the first time.
    """
    import torch

    from ..machine.description import git_revision
    from ..ops import backend_report
    from ..ops.cpu_library import cache_folder

    return {
        "sima_hf": __version__,
        "revision": git_revision() or "not a checkout",
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: _version(package) for package in PACKAGES},
        "processor": _processor(),
        "memory": _memory(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else _why_no_cuda(torch),
        "mps": "available" if torch.backends.mps.is_available() else "not available",
        "threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        "compiler": _compiler(),
        "kernels_cache": str(cache_folder()),
        "hub": hub_facts(),
        "backends": backend_report(),
    }


def hub_facts() -> dict[str, str]:
    """Where huggingface_hub looks, whether it may, and whether somebody is logged in; never the token."""
    from huggingface_hub import constants, get_token

    scheme, separator, rest = constants.ENDPOINT.rpartition("://")
    return {
        "endpoint": f"{scheme}{separator}{rest.rpartition('@')[2]}",  # without a password in it
        "offline": "yes" if constants.HF_HUB_OFFLINE else "no",
        "logged_in": "yes" if get_token() else "no",
        "cache": constants.HF_HUB_CACHE,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _why_no_cuda(torch) -> str:
    return "not available" if torch.version.cuda else "not available: torch was built without CUDA"


def _processor() -> str:
    from ..machine.description import device_name

    cores = os.cpu_count()
    return f"{device_name('cpu').rpartition(', ')[0]}, {cores} core{'' if cores == 1 else 's'}"


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):
        return "not known"


def _compiler() -> str:
    """The C++ compiler that builds the CPU kernels, and the first line of its version."""
    from ..ops.cpu_library import compiler

    command = compiler()
    if command is None:
        return "none found"
    try:
        said = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"{Path(command[0])} ({type(error).__name__})"
    return f"{' '.join(command)} ({said.splitlines()[0] if said.strip() else 'it does not say its version'})"
