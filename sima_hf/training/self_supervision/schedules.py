"""What changes from step to step of a DINO run, as functions of the step alone, so that nothing of it need be saved."""

import math


def cosine(start: float, end: float, step: int, steps: int) -> float:
    """Half a cosine from `start` at step 0 to `end` at step `steps`, and `end` after it."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(step / steps, 1.0)))


def linear_warmup(start: float, end: float, step: float, warmup: float) -> float:
    """A line from `start` at 0 to `end` at `warmup`, and `end` after it; `end` throughout without a warm-up."""
    return end if step >= warmup else start + (end - start) * step / warmup
