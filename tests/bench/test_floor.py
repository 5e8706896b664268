"""What attention costs at least: work by torch's own counter, memory, the rate of the machine."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from sima_hf.bench import attention, floor
from sima_hf.ops import sima_attention


def test_work_is_what_a_counter_counts():
    """Multiply-adds of the linear order by torch's own counter, forward, and forward and backward."""
    tensors = [x.requires_grad_() for x in attention.strided_inputs(2, 100, torch.float32, "cpu")]
    for mode in attention.MODES:
        moved, additions = floor.attention_work(tensors[0], mode)
        with FlopCounterMode(display=False) as counter:
            out = sima_attention(*tensors, backend="eager", order="linear")
            if mode == "train":
                out.sum().backward()
        assert counter.get_total_flops() == 2 * additions
        assert moved == {"forward": 4, "train": 11}[mode] * 4 * tensors[0].numel()


def test_peak_is_what_is_held_at_once():
    def call():
        first = torch.ones(1000, 1000)
        del first
        return torch.ones(500, 1000).sum() + torch.ones(250, 1000).sum()

    assert 4_000_000 <= floor.peak_allocated(call, "cpu") < 4_100_000


def test_the_ceiling_is_the_quicker_of_two_ways_to_the_same_product(monkeypatch):
    """Operations over seconds, without a clock: what is timed must be the product of two square matrices, done twice over."""
    seconds, results = iter((2.0, 0.5)), []

    def timed(call, device, limit):
        assert (device, limit) == ("cpu", 0.05)
        results.append(call().flatten())
        return next(seconds)

    monkeypatch.setattr(floor, "_best_time", timed)
    assert floor.multiply_add_ceiling(torch.float32, "cpu", 0.05) == 2 * 1536**3 / 0.5
    product, convolution = results
    assert len(product) == 1536**2
    torch.testing.assert_close(convolution, product, rtol=1e-3, atol=1e-2)
