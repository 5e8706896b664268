"""The Triton kernels that the dispatcher would launch, compiled without a GPU: `python -m tests.helpers.compiled_kernels`.

In a process of its own, because pytest's has Triton's interpreter. The dispatcher runs on meta tensors; each kernel that it launches is
compiled for the exact arguments instead. Prints JSON: a list of what `row` and `launches` return.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path


os.environ.pop("TRITON_INTERPRET", None)

import torch
import triton
import triton.language as tl
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from sima_hf.ops import triton as dispatcher


TOOL = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
MULTIPROCESSORS = {80: 108, 90: 132}
# Tokens with the largest batch that one program a head serves, and with one image, split; both odd, and so alike for the compiler.
WHOLE, SPLIT = (256, 197), (1, 4099)
HALF, SINGLE = torch.bfloat16, torch.float32
MODES = ("inference", "training", "backward")
# (architecture, dtype, width, sizes, modes, masked): compiled to the end. float32 of wide heads takes a minute, and is left out.
COMPILED = [
    *((arch, dtype, 64, (WHOLE, SPLIT), MODES, False) for arch in (80, 90) for dtype in (HALF, SINGLE)),
    *((arch, HALF, width, (WHOLE,), MODES[1:], False) for arch in (80, 90) for width in (72, 128, 256)),
]
# Up to Triton's own code, which is what the race is read off. float32 has no asynchronous products.
READ = [
    *((90, HALF, width, (WHOLE, SPLIT), MODES, True) for width in (32, 64, 72, 128, 256)),
    *((90, torch.float16, width, (WHOLE, SPLIT), MODES, True) for width in (64, 128)),
]


class Stopped(Exception):
    """Carries the code at which a compilation was stopped."""


class Launches(TorchDispatchMode):
    """Counts what torch itself would launch: all but views and new memory."""

    FREE = ("empty", "new_empty", "detach", "squeeze", "transpose", "view")

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name not in self.FREE:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


class Compiler:
    """Stands in for the GPU, and for JITFunction's launch."""

    def __init__(self):
        self.arch, self.rows, self.done, self.launched = 80, [], set(), []
        self.case, self.race_only = {}, False
        self.run = JITFunction.run
        compiler = self
        JITFunction.run = lambda function, *args, **kwargs: compiler.launch(function, args, kwargs)
        driver.set_active(self)
        dispatcher._multiprocessors = lambda device: MULTIPROCESSORS[self.arch]
        self.lower = CUDABackend.make_llir

    def get_current_target(self):
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self):
        return self.arch

    def get_current_stream(self, device):
        return 0

    def launch(self, function, args, kwargs):
        name = function.__name__.removesuffix("_kernel") + ("+sums" if kwargs.get("SUMS") else "")
        name += "" if kwargs.get("WHOLE", True) else ", split"
        self.launched.append(name)
        key = (name, *self.case.values(), self.race_only)
        if key not in self.done:
            self.done.add(key)
            self.rows.append({**self.case, "kernel": name, **self.compiled(function, args, kwargs)})

    def compiled(self, function, args, kwargs):
        if self.race_only:
            CUDABackend.make_llir = _stop
        try:
            found = self.run(function, *args, **{**kwargs, "warmup": True})
        except Stopped as stopped:
            return {"races": races(str(stopped))}
        except Exception as error:  # what is looked for
            return {"error": f"{type(error).__name__}: {error}"[:3000]}
        finally:
            CUDABackend.make_llir = self.lower
        return resources(found)

    def call(self, arch, dtype, width, sizes, modes, masked, race_only):
        """Both directions at each of the sizes; what was launched for a size, to the rows too."""
        self.arch, self.race_only = arch, race_only
        self.case = {"arch": arch, "dtype": str(dtype).removeprefix("torch."), "width": width, "masked": masked}
        for batch, tokens in sizes:
            query, key, value = (
                torch.empty(batch, tokens, 6, width, dtype=dtype, device="meta").transpose(1, 2) for _ in range(3)
            )
            keep = torch.empty(batch, tokens, dtype=torch.bool, device="meta") if masked else None
            given = query, key, value, keep, masked
            counts, found = {}, ()
            for mode in modes:
                self.launched = []
                with Launches() as torchs:
                    if mode == "backward":
                        dispatcher._backward(found[0], *given, *found[1:])
                    else:
                        found = dispatcher._forward(*given, masked, mode == "training")
                counts[mode] = [len(self.launched), torchs.names]
            self.rows.append({**self.case, "batch": batch, "launches": counts})


def _stop(self, code, *args, **kwargs):
    raise Stopped(str(code))


def resources(kernel):
    """What ptxas made of a kernel, and which instructions PTX has."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run([TOOL, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    ptx = kernel.asm["ptx"]
    return {
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "stack": int(re.search(r"STACK:(\d+)", usage)[1]),
        "shared": kernel.metadata.shared,
        "tensor_cores": bool(re.search(r"\b(mma\.sync|wgmma\.mma_async)\b", ptx)),
        "tf32": "tf32" in ptx,
        "narrow": len(re.findall(r"\b(?:ld|st)\.global(?:\.\w+)*?\.b16\b", ptx)),
        "wide": len(
            re.findall(
                r"\b(?:ld|st)\.global(?:\.\w+)*?\.v4\.b32\b|cp\.async\.\w+\.shared\.global \S+ \S+, 0x10\b", ptx
            )
        ),
        "races": races(kernel.asm["ttgir"]),
    }


def races(code):
    """Shared buffers of a loop that a copy overwrites while an asynchronous product of the same turn may still read them.

    Product i reads buffer i modulo their number and is left running at the next wait; then the copy for some turns ahead begins. As many
    buffers as turns ahead are one too few: triton-lang/triton#6691.
    """
    code = re.sub(r" loc\(.*", "", code)
    number = {
        name: int(count)
        for name, count in re.findall(r"(%\S+) = ttg\.local_alloc : \(\) -> !ttg\.memdesc<(\d+)x", code)
    }
    memory = {}
    for name, source in re.findall(r"(%\S+) = ttg\.memdesc_\w+ (%[\w#]+)", code):
        memory[name] = memory.get(source, source)
    found, read, running, copies, ahead = [], set(), 0, {}, {}
    for line in code.splitlines():
        if "scf.for" in line:
            read, running, ahead = set(), 0, dict(copies)
        elif product := re.search(r"ttng\.warp_group_dot (%\S+), (%\S+),.*isAsync = true", line):
            read |= {memory.get(name) for name in product.groups()}
        elif wait := re.search(r"ttng\.warp_group_dot_wait .*pendings = (\d+)", line):
            running = int(wait[1])
        elif copy := re.search(r"async_copy_global_to_local [^,]+, (%\S+)", line):
            copied = memory.get(copy[1])
            copies[copied] = copies.get(copied, 0) + 1
            if copied in read and running and number[copied] <= ahead.get(copied, 0):
                found.append(copied)
    return found


@triton.jit
def _racing(key, value, out, sums, tokens, stride, D: tl.constexpr):
    """The loop as it must not be: pipelined, with k in a product and in a sum."""
    channels = tl.arange(0, D)
    context, total = tl.zeros([D, D], tl.float32), tl.zeros([D], tl.float32)
    for first in range(0, tokens, 64):
        at = (first + tl.arange(0, 64))[:, None] * stride + channels[None, :]
        inside = (first + tl.arange(0, 64) < tokens)[:, None]
        k, v = tl.load(key + at, mask=inside, other=0.0), tl.load(value + at, mask=inside, other=0.0)
        total += tl.sum(tl.abs(k.to(tl.float32)), 0)
        context += tl.dot(tl.trans(k), v)
    tl.store(out + channels[:, None] * D + channels[None, :], context)
    tl.store(sums + channels, total)


def main():
    """Print the rows."""
    compiler = Compiler()
    for case in COMPILED:
        compiler.call(*case, race_only=False)
    for case in READ:
        compiler.call(*case, race_only=True)
    compiler.arch, compiler.race_only, compiler.case = 90, True, {"control": True}
    tokens = torch.empty(640, 64, dtype=HALF, device="meta")
    sums = torch.empty(64, 64, device="meta")
    _racing.run(tokens, tokens, sums, sums, 640, 64, D=64, grid=(1,))
    json.dump(compiler.rows, sys.stdout)


if __name__ == "__main__":
    main()
