"""BatchNorm over two processes against BatchNorm in one process with the whole batch.

All cases run in one pair of gloo processes, because starting them is what takes the time; the tests read what they wrote.
"""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from torch import nn

from sima_hf.errors import TrainingError
from sima_hf.training.recipe.batch_norm import SynchronizedBatchNorm2d, synchronize_batch_norm
from tests.helpers.script_runs import run_forked


# name: (module, shape of the whole batch, dtype, offset of the values)
CASES = {
    "2d": (lambda: nn.BatchNorm2d(3), (7, 3, 5, 4), torch.float64, 0.0),
    "1d": (lambda: nn.BatchNorm1d(4), (5, 4), torch.float64, 0.0),
    "1d-tokens": (lambda: nn.BatchNorm1d(4), (5, 4, 3), torch.float64, 0.0),
    "plain-mean": (lambda: nn.BatchNorm2d(3, momentum=None), (7, 3, 2, 3), torch.float64, 0.0),
    "no-statistics": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (4, 3, 2, 3), torch.float64, 0.0),
    "no-weights": (lambda: nn.BatchNorm2d(3, affine=False, momentum=0.3), (4, 3, 2, 3), torch.float64, 0.0),
    "float32": (lambda: nn.BatchNorm2d(3), (7, 3, 5, 4), torch.float32, 0.0),
    "far-from-zero": (lambda: nn.BatchNorm2d(3), (7, 3, 5, 4), torch.float32, 300.0),
    "bfloat16": (lambda: nn.BatchNorm2d(3), (7, 3, 5, 4), torch.bfloat16, 0.0),
    "one-image-each": (lambda: nn.BatchNorm1d(4), (2, 4), torch.float64, 0.0),
    "chain": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
        (6, 3, 4, 4),
        torch.float64,
        0.0,
    ),
}
STEPS = 3


def case(name):
    """The module with weights unlike 1 and 0, three whole batches, and the gradients that reach the outputs."""
    make, shape, dtype, offset = CASES[name]
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    module = make()
    for parameter in module.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
    module.to(torch.float64 if dtype == torch.float64 else torch.float32)
    batches = [(2 * torch.randn(shape, generator=generator) + 0.7 + offset).to(dtype) for _ in range(STEPS)]
    slopes = [torch.randn(shape, generator=generator).to(dtype) for _ in range(STEPS)]
    return module, batches, slopes


def run(module, batches, slopes):
    """Outputs and input gradients of each step, gradients of the weights over all, statistics, and an output in evaluation."""
    outputs, gradients = [], []
    for batch, slope in zip(batches, slopes, strict=True):
        batch = batch.clone().requires_grad_()
        output = module.train()(batch)
        output.backward(slope)
        outputs.append(output.detach())
        gradients.append(batch.grad)
    weights = {name: parameter.grad for name, parameter in module.named_parameters()}
    evaluated = module.eval()(batches[0]).detach()
    found = {"outputs": outputs, "gradients": gradients, "weights": weights, "evaluated": evaluated}
    return found | {"buffers": dict(module.named_buffers())}


def share(batch, rank):
    """Uneven shares: the first process has about a third of the batch."""
    first = max(len(batch) // 3, 1)
    return batch[:first] if rank == 0 else batch[first:]


def process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        results = {}
        for name in CASES:
            module, batches, slopes = case(name)
            converted = synchronize_batch_norm(module)
            parts = [[share(value, rank) for value in values] for values in (batches, slopes)]
            results[name] = run(module, *parts) | {"converted": converted, "keys": list(module.state_dict())}
        group = dist.new_group([rank], use_local_synchronization=True)
        module, batches, slopes = case("2d")
        synchronize_batch_norm(module, process_group=group)
        results["own-group"] = run(module, batches, slopes)
        torch.save(results, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    run_forked(process, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_as_one(results, name):
    dtype, far = CASES[name][2], CASES[name][3] != 0
    module, batches, slopes = case(name)
    keys = list(module.state_dict())
    # The reference in float64, on the values that the processes have.
    expected = run(module.double(), [b.double() for b in batches], [s.double() for s in slopes])
    found = [each[name] for each in results]
    tolerance = TOLERANCES[dtype] * (30 if far else 1)

    def close(value, reference, factor=1):
        torch.testing.assert_close(
            value.double(), reference.double(), rtol=factor * tolerance, atol=factor * tolerance
        )

    assert all(each["converted"] == (2 if name == "chain" else 1) for each in found)
    assert all(each["keys"] == keys for each in found)
    for step in range(STEPS):
        output = torch.cat([each["outputs"][step] for each in found])
        assert output.dtype == dtype
        close(output, expected["outputs"][step])
        close(torch.cat([each["gradients"][step] for each in found]), expected["gradients"][step])
    for parameter, gradient in expected["weights"].items():
        close(sum(each["weights"][parameter] for each in found), gradient)
    for buffer, value in expected["buffers"].items():
        close(found[0]["buffers"][buffer], value)
        assert torch.equal(found[0]["buffers"][buffer], found[1]["buffers"][buffer])
    if name not in ("no-statistics", "bfloat16"):  # without statistics, evaluation is each process's own
        # Each process evaluated its share of the first batch.
        close(torch.cat([each["evaluated"] for each in found]), expected["evaluated"])


@pytest.mark.slow
def test_shares_alone_would_give_other_numbers(results):
    """The test above is none if statistics of a share are those of the batch."""
    module, batches, slopes = case("2d")
    alone = run(module, [share(b, 0) for b in batches], [share(s, 0) for s in slopes])
    assert (alone["outputs"][0] - results[0]["2d"]["outputs"][0]).abs().max() > 0.1
    assert (alone["buffers"]["running_var"] - results[0]["2d"]["buffers"]["running_var"]).abs().max() > 0.01


@pytest.mark.slow
def test_a_group_of_one_process_is_plain_batch_norm(results):
    module, batches, slopes = case("2d")
    expected = run(module, batches, slopes)
    for each in results:
        assert torch.equal(each["own-group"]["outputs"][2], expected["outputs"][2])
        assert torch.equal(each["own-group"]["buffers"]["running_var"], expected["buffers"]["running_var"])


def test_conversion_in_place_changes_nothing_in_one_process():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(16), nn.LayerNorm(16))
    plain, images = copy.deepcopy(model), torch.randn(5, 3, 2, 2)
    parameters, state = list(model.parameters()), model.state_dict()
    assert synchronize_batch_norm(model) == 2
    assert synchronize_batch_norm(model) == 0
    assert all(one is other for one, other in zip(parameters, model.parameters(), strict=True))
    assert list(model.state_dict()) == list(state)
    assert isinstance(model[1], SynchronizedBatchNorm2d)
    assert isinstance(model[1], nn.BatchNorm2d)
    assert isinstance(model[3], nn.BatchNorm1d)
    assert torch.equal(model(images), plain(images))
    plain.load_state_dict(model.state_dict())
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied.eval()(images), plain.eval()(images))


def test_other_batch_norms_are_refused_before_anything_is_changed():
    class Own(nn.BatchNorm2d):
        def forward(self, input):
            return super().forward(input).relu()

    for other in (Own(3), nn.BatchNorm3d(3)):
        model = nn.Sequential(nn.BatchNorm2d(3), other)
        with pytest.raises(TrainingError, match=f"1 is a {type(other).__name__}, which cannot be synchronized"):
            synchronize_batch_norm(model)
        assert type(model[0]) is nn.BatchNorm2d


def test_every_batch_norm_of_a_sima_model_is_converted():
    import sima_hf

    config = sima_hf.SimAConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=2)
    for device_type, kind in (("cpu", SynchronizedBatchNorm2d), ("cuda", nn.SyncBatchNorm)):
        model = sima_hf.SimAForImageClassification(config)
        names, parameters = list(model.state_dict()), list(model.parameters())
        norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        assert norms > 3
        assert synchronize_batch_norm(model, device_type=device_type) == norms
        assert sum(type(module) is kind for module in model.modules()) == norms
        assert list(model.state_dict()) == names
        assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
