"""Value and output layer fitted jointly, against gradient descent and against what SimA itself gives."""

import pytest
import torch
from torch import nn

from sima_hf.calibration.block_forward import attention_inputs, capture_call, value_features
from sima_hf.calibration.blocks import find_blocks
from sima_hf.calibration.ridge import ridge_path
from sima_hf.calibration.value_output import joint_path, scaled_prior
from tests.helpers.calibrated_models import HOSTS, swapped
from tests.helpers.calibration_rows import sums_of
from tests.helpers.hosts.at_hand import given, make


HEADS, FEATURES, WIDTH, OUT = 3, 6, 2, 5


def rows(noise):
    torch.manual_seed(0)
    x = torch.randn(400, HEADS * FEATURES) @ torch.randn(HEADS * FEATURES, HEADS * FEATURES)
    true = torch.cat([torch.randn(FEATURES, WIDTH) @ torch.randn(WIDTH, OUT) for _ in range(HEADS)])
    return x, x @ true + 0.5 + noise * torch.randn(400, OUT)


def test_it_finds_layers_that_explain_all():
    """Where the rows come from value and output layers of that width, it finds their products."""
    x, y = rows(0)
    sums = sums_of(x, y, torch.zeros(len(x), dtype=torch.bool))
    *_, solution = joint_path(sums.fitted, torch.randn(HEADS, FEATURES, OUT).double(), WIDTH, True, None)
    assert sums.fitted.unexplained(solution.full) < 1e-4
    products = solution.value @ solution.output
    torch.testing.assert_close(products.flatten(0, 1), solution.full[:-1])
    assert solution.value.shape == (HEADS, FEATURES, WIDTH)


def test_it_is_as_good_as_gradient_descent():
    x, y = rows(10.0)
    sums, ridge = sums_of(x, y, torch.zeros(len(x), dtype=torch.bool)), 1e-2
    prior = torch.zeros(HEADS, FEATURES, OUT, dtype=torch.float64)
    scales = sums.fitted.centered(True)[0].diagonal().unflatten(0, (HEADS, FEATURES)).mean(dim=1)

    def loss(products, bias):
        off = (y.double() - x.double() @ products.flatten(0, 1) - bias).square().sum()
        return off + ridge * (scales[:, None, None] * products.square()).sum()

    (solution,) = joint_path(sums.fitted, prior, WIDTH, True, ridge)
    found = loss(solution.value @ solution.output, solution.full[-1])
    parts = [torch.randn(HEADS, FEATURES, WIDTH), torch.randn(HEADS, WIDTH, OUT), torch.zeros(OUT)]
    parts = [part.double().requires_grad_() for part in parts]
    optimizer = torch.optim.LBFGS(parts, max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(parts[0] @ parts[1], parts[2])
        value.backward()
        return value

    optimizer.step(closure)
    assert found <= 1.05 * closure().item()


def test_a_prior_of_the_right_scale():
    """Times a number for each head, the teacher's products explain most: least squares of as many unknowns as heads."""
    x, y = rows(1.0)
    sums = sums_of(x, y, torch.zeros(len(x), dtype=torch.bool))
    products = torch.randn(HEADS, FEATURES, OUT, dtype=torch.float64)
    parts = torch.stack([x.double().unflatten(1, (HEADS, FEATURES))[:, h] @ products[h] for h in range(HEADS)])
    parts, wanted = parts - parts.mean(dim=1, keepdim=True), y.double() - y.double().mean(dim=0)
    numbers = torch.linalg.lstsq(parts.flatten(1).T, wanted.flatten()[:, None]).solution
    found = scaled_prior(sums.fitted, products, True)
    torch.testing.assert_close(found, numbers[:, :, None] * products, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", ["vit", "dinov2", "swin/padded", "segformer", "clip", "beit"])
def test_features_times_value_weights_are_what_the_output_layer_reads(case):
    """Through the host's own code: windows, shifts and padding, position biases, spatial reduction."""
    model, inputs = swapped(make(case, HOSTS[case])).double(), given(case, HOSTS[case])
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    blocks = find_blocks(model)
    with torch.no_grad():
        call = capture_call(model, blocks, 0, inputs, 0)
        found = value_features(blocks[0], call)
        expected, _ = attention_inputs(blocks[0], call)
    layer: nn.Linear = blocks[0].value
    weights = [layer.weight] if layer.bias is None else [layer.weight, layer.bias[:, None]]
    values = torch.cat(weights, dim=1).unflatten(0, (blocks[0].heads, -1))
    torch.testing.assert_close(torch.einsum("rhf,hcf->rhc", found, values).flatten(1), expected.flatten(0, -2))
    assert found.abs().max() > 0


def test_with_full_width_it_is_the_ridge_solution():
    x, y = rows(10.0)
    sums = sums_of(x, y, torch.zeros(len(x), dtype=torch.bool))
    one = torch.zeros(1, HEADS * FEATURES, OUT, dtype=torch.float64)
    (joint,) = joint_path(sums.fitted, one + 1e-12 * torch.randn_like(one), OUT, True, 1e-2)
    (plain,) = ridge_path(sums.fitted, one[0], True, 1e-2)
    torch.testing.assert_close(joint.full, plain.full, rtol=1e-6, atol=1e-8)
