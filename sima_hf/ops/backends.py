"""The table of backends: who computes SimA attention, for which inputs, and why one cannot serve.

A backend is a function `(query, key, value, *, keep, allow, bias, gain, order, mask_queries) -> out` on checked inputs. A new one
is a row here; "auto" takes the first row that may be picked on the device of the inputs and can serve them.

On CUDA that is plain torch until the Triton kernels have passed their tests on a GPU. It is not compiled for the user: torch.compile
around it would compile anew for sizes as they come, and stand in the way of gradients of gradients; a model that is compiled whole
has it compiled with the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..errors import BackendError
from .cpu import cpu_attention
from .cpu import why_not as why_not_cpu
from .eager import eager_attention
from .reference import reference_attention
from .triton import NO_CUDA, triton_attention
from .triton import why_not as why_not_triton


# True once `make gpu-check` has passed on a GPU and the file that it writes, benchmarks/results/gpu_tests.xml, is committed.
TRITON_RAN_ON_A_GPU = False
UNPROVEN = "not run on a GPU yet: 'auto' takes 'eager' there, backend='triton' takes these"


@dataclass(frozen=True)
class Backend:
    """One row: `why_not(query)` gives the reason why these inputs cannot be served, or None.

    With "auto" it serves on the devices named in `picked_on`, all by default.
    """

    name: str
    attend: Callable[..., torch.Tensor]
    summary: str
    picked_on: tuple[str, ...] | None = None
    why_not: Callable[[torch.Tensor], str | None] = lambda query: None


BACKENDS = (
    Backend("cpu", cpu_attention, "fused kernels for CPU", picked_on=("cpu",), why_not=why_not_cpu),
    Backend(
        "triton",
        triton_attention,
        "fused kernels for CUDA" + ("" if TRITON_RAN_ON_A_GPU else f", {UNPROVEN}"),
        picked_on=("cuda",) if TRITON_RAN_ON_A_GPU else (),  # interpreted on a CPU it serves tests alone
        why_not=why_not_triton,
    ),
    Backend("eager", eager_attention, "folded norms in plain torch, any device"),
    Backend("reference", reference_attention, "the paper's formula, literally; slow, for checking", picked_on=()),
)


def pick_backend(name: str, query: torch.Tensor) -> Callable[..., torch.Tensor]:
    """Return the function of the backend called `name`, or for "auto" of the first that serves `query`, `(B,H,N,D)`.

    Raises:
        BackendError: no such backend (the text lists those there are), or it cannot serve these inputs (with the reason).
    """
    return _pick(name, query).attend


def served_by(name: str, query: torch.Tensor) -> str:
    """The name of the backend that `pick_backend` takes for `query`, `(B,H,N,D)`."""
    return _pick(name, query).name


def _pick(name: str, query: torch.Tensor) -> Backend:
    for backend in BACKENDS:
        if name == backend.name:
            reason = backend.why_not(query)
            if reason is None:
                return backend
            raise BackendError(f"The backend {name!r} cannot serve here: {reason}. backend='auto' picks one that can.")
        picked = backend.picked_on is None or query.device.type in backend.picked_on
        if name == "auto" and picked and backend.why_not(query) is None:
            return backend
    listed = ", ".join(repr(n) for n in ("auto", *backend_names()))
    raise BackendError(f"There is no backend {name!r}; there are {listed}.")


def backend_names() -> list[str]:
    """The names that `backend` may be, besides "auto"."""
    return [backend.name for backend in BACKENDS]


def backend_report(query: torch.Tensor | None = None) -> dict[str, str]:
    """What every backend is, or why it cannot serve.

    Args:
        query: inputs that it should serve, `(B,H,N,D)`; by default float32 on the device it is for, if that is here.

    Returns:
        Name -> summary or reason, in the order in which "auto" tries them.
    """
    reasons = (_why_not_here(backend) if query is None else backend.why_not(query) for backend in BACKENDS)
    return {backend.name: reason or backend.summary for backend, reason in zip(BACKENDS, reasons, strict=True)}


def _why_not_here(backend: Backend) -> str | None:
    """The reason why a backend cannot serve on this machine, or None."""
    cuda = backend.name == "triton" and torch.cuda.is_available()
    reason = backend.why_not(torch.empty(1, 1, 1, 1, dtype=torch.float32, device="cuda" if cuda else "cpu"))
    return f"{NO_CUDA}, and torch finds none here" if reason and reason.startswith(NO_CUDA) else reason
