"""The average of the weights: its recursion in float64, what it does to a model, and going on from a checkpoint."""

import copy
import io

import pytest
import torch
from torch import nn

from sima_hf.errors import CheckpointError
from sima_hf.training.recipe.ema import WeightAverage


def network(dtype=torch.float32):
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).to(dtype)


def change(model):
    """As a training step would: every floating entry moves, the counter counts."""
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(torch.randn_like(value) if value.is_floating_point() else 1)


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def bits(value):
    return value.detach().reshape(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_it_is_the_recursion(dtype, warmup):
    model = network(dtype)
    average = WeightAverage(model, 0.9, warmup=warmup)
    expected = {name: value.double() for name, value in snapshot(model).items()}
    for n in range(30):
        change(model)
        average.update(model)
        decay = min(0.9, (1 + n) / (10 + n)) if warmup else 0.9
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value.double()
            else:
                expected[name] = value.double()
    assert average.num_updates == 30
    assert average.averages.keys() == model.state_dict().keys()
    for name, value in average.averages.items():
        assert value.dtype == (torch.promote_types(dtype, torch.float32) if "num_batches" not in name else torch.int64)
        torch.testing.assert_close(
            value.double(), expected[name], rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-5
        )


def test_a_slow_average_of_half_precision_moves():
    """A step of 4e-5 of the way is lost when the average itself is in bfloat16."""
    model = nn.Linear(4, 4).to(torch.bfloat16)
    average = WeightAverage(model, 0.99996, warmup=False)
    start = average.averages["weight"].clone()
    with torch.no_grad():
        model.weight.add_(1)
    for _ in range(1000):
        average.update(model)
    moved = 1 - 0.99996**1000
    expected = moved * (model.weight.float() - start)
    torch.testing.assert_close(average.averages["weight"] - start, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_applied_weights_come_and_go_bit_for_bit(dtype, fails):
    model = network(dtype)
    average = WeightAverage(model, 0.5, warmup=False)
    change(model)
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
        model[0].weight[0, 1] = -0.0
    before, addresses = snapshot(model), [parameter.data_ptr() for parameter in model.parameters()]
    average.averages["2.bias"].fill_(1.2345)
    applied = None
    try:
        with average.applied_to(model) as inside:
            assert inside is model
            applied = snapshot(model)
            if fails:
                raise KeyError("in the middle")
    except KeyError:
        assert fails
    for name, value in applied.items():
        assert torch.equal(value, average.averages[name].to(value.dtype)), name
    assert not torch.equal(applied["2.weight"], before["2.weight"])
    for name, value in model.state_dict().items():
        assert bits(value) == bits(before[name]), name
    assert [parameter.data_ptr() for parameter in model.parameters()] == addresses


def test_training_goes_on_after_an_evaluation_with_averaged_weights():
    """Neither gradients nor the optimizer notice."""
    results = []
    for evaluates in (False, True):
        torch.manual_seed(1)
        model = network()
        average, optimizer = WeightAverage(model, 0.9), torch.optim.AdamW(model.parameters())
        for step in range(4):
            model.train()
            model(torch.randn(6, 3, generator=torch.Generator().manual_seed(step))).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            average.update(model)
            if evaluates:
                with average.applied_to(model), torch.no_grad():
                    model.eval()(torch.ones(2, 3))
        results.append(snapshot(model))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_a_checkpoint_goes_on_bit_for_bit():
    model = network()
    whole = WeightAverage(model, 0.99)
    for _ in range(3):
        change(model)
        whole.update(model)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed = WeightAverage(network(), 0.99)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.num_updates == 3
    for average in (whole, resumed):
        torch.manual_seed(3)
        trained = copy.deepcopy(model)
        change(trained)
        average.update(trained)
    for name, value in whole.averages.items():
        assert torch.equal(value, resumed.averages[name]), name


def test_a_checkpoint_of_another_model_is_refused():
    average, other = WeightAverage(network(), 0.9), WeightAverage(nn.Linear(3, 5), 0.9)
    before = {name: value.clone() for name, value in average.averages.items()}
    with pytest.raises(CheckpointError, match=r"belong to another model: '0\.weight' is missing there"):
        average.load_state_dict(other.state_dict())
    with pytest.raises(CheckpointError, match="need num_updates and averages, which this one lacks"):
        average.load_state_dict({})
    assert average.num_updates == 0
    assert all(torch.equal(before[name], value) for name, value in average.averages.items())


def test_another_model_is_refused():
    average = WeightAverage(nn.Linear(3, 5), 0.9)
    wrapped = nn.Sequential(nn.Linear(3, 5))
    with pytest.raises(ValueError, match=r"'0\.bias' is only in the model given now.*bare model"):
        average.update(wrapped)
    with pytest.raises(ValueError, match="started from another model"), average.applied_to(wrapped):
        pass
    assert average.num_updates == 0


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        WeightAverage(nn.Linear(1, 1), decay)


def test_sharded_parameters_are_averaged_beside_plain_buffers(tmp_path):
    """DTensors, as FSDP2 leaves them in the state dict, here on a mesh of one process."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh, model = init_device_mesh("cpu", (1,)), network()
        for module in model:
            for name, parameter in list(module.named_parameters()):
                setattr(module, name, nn.Parameter(distribute_tensor(parameter.detach(), mesh, [Shard(0)])))
        plain = network()
        plain.load_state_dict(
            {name: getattr(v, "full_tensor", lambda v=v: v)() for name, v in snapshot(model).items()}
        )
        averages = []
        for net in (model, plain):
            average = WeightAverage(net, 0.9)
            with torch.no_grad():
                for value in net.state_dict().values():
                    value.add_(1)
            average.update(net)
            kept = snapshot(net)
            with average.applied_to(net):
                averages.append(
                    {name: getattr(v, "full_tensor", lambda v=v: v)() for name, v in snapshot(net).items()}
                )
            average.load_state_dict(average.state_dict())
            for name, value in net.state_dict().items():
                assert bool((value == kept[name]).all()), name
        for name, value in averages[0].items():
            assert torch.equal(value, averages[1][name]), name
    finally:
        torch.distributed.destroy_process_group()
