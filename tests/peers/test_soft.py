"""SOFT: the approximation against exact inverses in float64, and the layer against its own parts, written out."""

import pytest
import torch
from torch.nn import functional as F

from sima_hf.peers.soft import SoftAttention, newton_inverse, soft_attention, soft_reference
from tests.helpers.tensors import relative_error


def tensors(dtype=torch.float64, tokens=17, landmarks=5):
    torch.manual_seed(0)
    query = torch.randn(2, 3, tokens, 8, dtype=torch.float64)
    marks = 1.5 * torch.randn(2, 3, landmarks, 8, dtype=torch.float64)  # far from each other: well conditioned
    return [x.to(dtype) for x in (query, torch.randn(2, 3, tokens, 6, dtype=torch.float64), marks)]


@pytest.mark.parametrize("normalize", [False, True])
def test_numbers_and_gradients(normalize):
    results = []
    for attend in (soft_attention, soft_reference):
        leaves = [x.clone().requires_grad_() for x in tensors()]
        output = attend(*leaves, normalize=normalize)
        torch.manual_seed(1)
        results.append([output, *torch.autograd.grad(output, leaves, torch.randn_like(output))])
    for found, expected in zip(*results, strict=True):
        assert relative_error(found, expected) < 1e-10


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)]
)
def test_dtypes(dtype, tolerance):
    found = soft_attention(*tensors(dtype))
    assert found.dtype == dtype
    assert relative_error(found, soft_reference(*tensors())) < tolerance


def test_newton_damps_what_it_cannot_invert():
    alike = torch.ones(3, 3, dtype=torch.float64) + 1e-9 * torch.eye(3)
    assert newton_inverse(alike).isfinite().all()
    matrix = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    assert relative_error(newton_inverse(matrix) @ matrix, torch.eye(2)) < 1e-12


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("prefix", [0, 1])
def test_the_layer(prefix, normalize):
    torch.manual_seed(0)
    layer = SoftAttention(12, 3, ratio=2, prefix_tokens=prefix, normalize=normalize).double()
    hidden = torch.randn(2, 20 + prefix, 12, dtype=torch.float64)
    output, maps = layer(hidden, grid=(4, 5))
    assert maps is None
    query = layer.q_proj(hidden).view(2, -1, 3, 4).transpose(1, 2) / 4**0.25
    value = layer.v_proj(hidden).view(2, -1, 3, 4).transpose(1, 2)
    expected = []
    for b in range(2):
        for h in range(3):
            grid = query[b, h, prefix:].T.view(1, 4, 4, 5)
            marks = F.conv2d(grid, layer.landmarks.weight, stride=2)[0].flatten(1).T  # 2 x 2 of them
            marks = F.gelu(F.layer_norm(marks, (4,), layer.landmark_norm.weight, layer.landmark_norm.bias))
            head = soft_attention(
                query[b, h][None, None], value[b, h][None, None], marks[None, None], normalize=normalize
            )
            near = F.conv2d(value[b, h, prefix:].T.view(4, 1, 4, 5), layer.local.weight[h : h + 1], padding=1)
            expected.append(head[0, 0] + F.pad(near.flatten(1).T, (0, 0, prefix, 0)))
    merged = torch.stack(expected).view(2, 3, -1, 4).transpose(1, 2).flatten(2)
    assert relative_error(output, layer.o_proj(merged)) < 1e-12
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_refusals():
    layer = SoftAttention(12, 3)
    with pytest.raises(ValueError, match="as many places as there are patches, 16, got 4 x 5"):
        layer(torch.randn(1, 17, 12), grid=(4, 5))
    with pytest.raises(ValueError, match="`attention_mask` must be None"):
        layer(torch.randn(1, 17, 12), torch.ones(1, 17, dtype=torch.bool))
    with pytest.raises(ValueError, match="must divide `hidden_size`, got 5 and 12"):
        SoftAttention(12, 5)
