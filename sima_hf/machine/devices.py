"""Devices by name, checked before any work is done for them."""

import torch


DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}  # by the names that options take


def check_device(name: str | None) -> None:
    """See that torch can compute on a device; None, which leaves the choice, is always right.

    Args:
        name: "cpu", "cuda", "cuda:1", "mps", ...

    Raises:
        ValueError: it is no name of a device, or there is no such device here.
    """
    trouble = None if name is None else _trouble(name)
    if trouble:
        raise ValueError(f"--device {name} {trouble}. Here there is {', '.join(_there())}.")


def best_device() -> str:
    """The accelerator that torch finds here, such as "cuda" or "mps"; else "cpu"."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if found is None else found.type


def _trouble(name: str) -> str | None:
    try:
        device = torch.device(name)
    except RuntimeError:
        return "is not the name of a device"
    if device.type == "meta":
        return "computes nothing"
    if device.type == "cuda":
        if torch.version.cuda is None and torch.version.hip is None:
            return "needs a torch that was built for CUDA, and this one was not"
        if torch.cuda.is_available() and (device.index or 0) >= torch.cuda.device_count():
            return "names a device that is not there"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ImportError, AttributeError) as error:  # each kind of device has its own way
        return f"cannot be used here ({(str(error).strip() or type(error).__name__).splitlines()[0].rstrip('.')})"
    return None


def _there() -> list[str]:
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]
