"""The head against the paper's formula in float64, with torch's weight norm for the last layer."""

import torch
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from sima_hf.training.self_supervision.head import DINOHead


def test_it_is_an_mlp_a_norm_and_a_weight_normed_layer():
    torch.manual_seed(0)
    head = DINOHead(7, out_dim=11, hidden_dim=9, bottleneck_dim=5).double()
    features = torch.randn(3, 7, dtype=torch.float64)
    hidden = features
    for layer in (0, 2, 4):
        linear = head.mlp[layer]
        assert linear.weight.std() < 0.03
        assert not linear.bias.any()
        hidden = hidden @ linear.weight.T + linear.bias
        hidden = F.gelu(hidden) if layer < 4 else hidden / hidden.norm(dim=1, keepdim=True)
    last = torch.nn.Linear(5, 11, bias=False).double()
    last.weight.data = head.last_layer.weight.data.clone()
    last = weight_norm(last)
    last.parametrizations.weight.original0.data.fill_(1)
    torch.testing.assert_close(head(features), last(hidden), rtol=1e-12, atol=1e-14)
    assert head(features).abs().max() <= 1
