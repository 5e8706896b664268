"""Wrong inputs: each gets a sentence that says what came and what is accepted."""

import pytest
import torch

from sima_hf import sima_attention
from sima_hf.errors import BackendError
from sima_hf.ops import backend_report, backends
from tests.helpers.tensors import inputs


def changed(index, change):
    tensors = list(inputs())
    tensors[index] = change(tensors[index])
    return tensors


@pytest.mark.parametrize(
    ("tensors", "error", "words"),
    [
        (changed(0, lambda x: x.tolist()), TypeError, "`query` must be a tensor, got list"),
        (changed(2, lambda x: x.long()), TypeError, "`value` must be float64.*got torch.int64"),
        (
            changed(1, lambda x: x[0]),
            ValueError,
            r"`key` must be \(batch, heads, tokens, channels\).*got shape \(3, 17, 8\)",
        ),
        (changed(1, lambda x: x.float()), ValueError, "one dtype for all three.*key torch.float32"),
        (changed(2, lambda x: x.to("meta")), ValueError, "one device for all three.*value meta"),
        (changed(2, lambda x: x[:1]), ValueError, r"same batch size.*value \(1, 3, 17, 8\)"),
        (changed(1, lambda x: x[..., :4]), ValueError, "same number of channels in query and key"),
        (changed(1, lambda x: x[:, :, :4]), ValueError, "same number of tokens in key and value"),
        (changed(1, lambda x: x[:, :1]), ValueError, "same number of heads in key and value"),
        ([*inputs()[:1], *inputs(key_heads=2)[1:]], ValueError, "multiple of the number of key heads"),
    ],
    ids=["list", "integer", "3d", "dtype", "device", "batch", "channels", "tokens", "heads", "grouping"],
)
def test_tensors_that_do_not_fit(tensors, error, words):
    with pytest.raises(error, match=words):
        sima_attention(*tensors)


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        ([[True]], TypeError, "must be a tensor or None, got list"),
        (torch.ones(2, 17, dtype=torch.long), TypeError, r"got torch.int64.*mask\.bool\(\)"),
        (torch.ones(2, 16, dtype=torch.bool), ValueError, r"\(2, 17\) or a full mask.*got shape \(2, 16\)"),
        (torch.ones(17, 17, dtype=torch.bool), ValueError, r"got shape \(17, 17\)"),
        (torch.ones(2, 17, 17, dtype=torch.bool), ValueError, r"got shape \(2, 17, 17\)"),
        (torch.ones(2, 2, 17, 17, dtype=torch.bool), ValueError, r"2 or 1, 3 or 1, 17, 17"),
        (torch.ones(2, 17, dtype=torch.bool, device="meta"), ValueError, "must be on cpu"),
        (torch.randn(1, 3, 17, 17), ValueError, "position bias"),
        (torch.full((2, 17), -99.0), ValueError, "position bias"),
        (torch.full((2, 17), float("nan")), ValueError, "position bias"),
        (torch.full((2, 17), float("inf")), ValueError, "position bias"),
    ],
    ids=["list", "integer", "short", "2d-square", "3d", "heads", "device", "bias", "not-low-enough", "nan", "inf"],
)
def test_masks_that_are_none(mask, error, words):
    with pytest.raises(error, match=words):
        sima_attention(*inputs(), mask)


def test_full_mask_of_cross_attention_is_refused():
    with pytest.raises(
        ValueError, match=r"as many queries as keys.*11 queries and 19 keys.*key padding of shape \(2, 19\)"
    ):
        sima_attention(*inputs(queries=11, keys=19), torch.ones(1, 1, 11, 19, dtype=torch.bool))


@pytest.mark.parametrize(
    ("option", "words"), [("gain", "'none', 'tokens'"), ("order", "'auto', 'linear', 'quadratic'")]
)
def test_options_are_listed(option, words):
    with pytest.raises(ValueError, match=f"`{option}` must be one of {words}, got 'much'"):
        sima_attention(*inputs(), **{option: "much"})


def test_unknown_backend_lists_what_there_is():
    with pytest.raises(
        BackendError, match="no backend 'cuda'; there are 'auto', 'cpu', 'triton', 'eager', 'reference'"
    ) as caught:
        sima_attention(*inputs(), backend="cuda")
    assert isinstance(caught.value, ValueError)


def test_a_backend_that_cannot_serve_says_why_and_is_passed_over(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("must not be called")

    picky = backends.Backend("picky", fail, "for the test", why_not=lambda query: f"needs CUDA, got {query.device}")
    monkeypatch.setattr(backends, "BACKENDS", (picky, *backends.BACKENDS))
    with pytest.raises(BackendError, match=r"'picky' cannot serve here: needs CUDA, got cpu"):
        sima_attention(*inputs(), backend="picky")
    assert (
        torch.equal(sima_attention(*inputs()), sima_attention(*inputs())) is False
    )  # new numbers each: auto computed
    assert backend_report()["picky"] == "needs CUDA, got cpu"
    assert set(backend_report()) == {"picky", "cpu", "triton", "eager", "reference"}


def test_reference_is_never_picked_by_auto(monkeypatch):
    monkeypatch.setattr(backends, "BACKENDS", tuple(reversed(backends.BACKENDS)))
    assert backends.pick_backend("auto", torch.empty(1, 1, 1, 1)) is backends.eager_attention
