"""Swapped models at work: saved and loaded, trained, pickled, in pipelines, with masks, maps, checkpointing and hooks."""

import copy
import functools

import pytest
import torch
import transformers
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    DeiTForImageClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)

import sima_hf
from sima_hf import attention
from sima_hf.errors import UnsupportedModelError
from sima_hf.patching import classes
from sima_hf.patching.hosts import HOSTS
from tests.helpers.fresh_process import fresh
from tests.helpers.hosts.at_hand import CASES, given, logits, make, vit


def test_between_base_and_task_models(tmp_path):
    """Nothing is left random but what the target has and the folder has not, for the host's own keys as well."""
    task = sima_hf.patch_model(vit())
    task.save_pretrained(tmp_path / "task")
    base, report = AutoModel.from_pretrained(tmp_path / "task", output_loading_info=True)
    assert set(report["missing_keys"]) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert torch.equal(base.layers[1].mlp.fc1.weight, task.vit.layers[1].mlp.fc1.weight)
    base.save_pretrained(tmp_path / "base")
    again, report = AutoModelForImageClassification.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert set(report["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert torch.equal(again.vit.layers[1].mlp.fc1.weight, task.vit.layers[1].mlp.fc1.weight)
    softmax = vit()
    softmax.save_pretrained(tmp_path / "softmax")  # under the old names, which are read as well
    swapped, report = type(task).from_pretrained(tmp_path / "softmax", output_loading_info=True)
    assert not report["missing_keys"]
    assert type(swapped).__name__ == "SimAViTForImageClassification"


def test_a_model_that_was_loaded_cannot_be_undone(tmp_path):
    sima_hf.patch_model(make("deit", "DeiTForImageClassification")).save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="load its state_dict into a DeiTForImageClassification"):
        sima_hf.unpatch_model(loaded)
    plain = DeiTForImageClassification(make("deit", "DeiTForImageClassification").config)
    plain.load_state_dict(loaded.state_dict())
    assert sima_hf.unpatch_model(plain) is plain


def test_padding_masks_are_honored(monkeypatch):
    """Transformers drops a 2-D mask for attention names it knows no mask for; ours are known."""
    model = sima_hf.patch_model(make("vit", "ViTModel"))
    pixels = given("vit", "")["pixel_values"]
    keep = torch.ones(2, 17, dtype=torch.long)
    keep[1, 12:] = 0
    masks = []
    compute = attention.sima_attention
    monkeypatch.setattr(
        attention, "sima_attention", lambda q, k, v, mask, **o: masks.append(mask) or compute(q, k, v, mask, **o)
    )
    with torch.no_grad():
        masked = model(pixels, attention_mask=keep).last_hidden_state
        plain = model(pixels).last_hidden_state
    assert torch.equal(masks[0], keep.bool())
    assert torch.allclose(masked[0], plain[0], atol=1e-5)
    assert not torch.allclose(masked[1, :12], plain[1, :12], atol=1e-3)


CHECKPOINTED = {
    "vit": "ViTModel",
    "swin": "SwinModel",
    "beit": "BeitModel",
    "swinv2": "Swinv2Model",
    "clip_vision_model": "CLIPVisionModel",
}


@pytest.mark.parametrize(("host", "name"), CHECKPOINTED.items(), ids=list(CHECKPOINTED))
def test_gradient_checkpointing(host, name):
    model = sima_hf.patch_model(make(host, name)).train()
    twin = copy.deepcopy(model)
    enable = getattr(twin, "activation_checkpointing_enable", None) or twin.gradient_checkpointing_enable
    enable()
    for one in (model, twin):
        torch.manual_seed(0)  # for drop path
        one(**given(host, name)).last_hidden_state.square().sum().backward()
    for (key, expected), found in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (expected.grad is None) is (found.grad is None), key
        if expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, msg=key)


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        label = index % 3
        return {"pixel_values": torch.randn(3, 32, 32, generator=generator) + label - 1, "labels": label}


def test_trainer_goes_on_from_a_checkpoint(tmp_path):
    """Softmax ViTs do not in Transformers 5.23: their checkpoints have other names, which its Trainer does not translate."""

    def train(folder, steps, resume=None):
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            save_steps=3,
            per_device_train_batch_size=8,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            lr_scheduler_type="constant",
        )
        trainer = Trainer(sima_hf.patch_model(vit()), arguments, train_dataset=Images())
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model

    whole = train(tmp_path / "whole", 6)
    train(tmp_path / "parts", 3)
    resumed = train(tmp_path / "parts", 6, resume=True)
    for (name, expected), found in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, found), name
    loaded = type(whole).from_pretrained(tmp_path / "parts" / "checkpoint-6")
    assert type(loaded).__name__ == "SimAViTForImageClassification"


def test_pipeline(tmp_path):
    from PIL import Image
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    sima_hf.patch_model(vit(id2label={0: "cat", 1: "dog", 2: "owl"})).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    answers = pipeline("image-classification", model=str(tmp_path))(Image.new("RGB", (50, 40)))
    assert {answer["label"] for answer in answers} == {"cat", "dog", "owl"}


PICKLED = [("vilt", "ViltModel"), ("swinv2", "Swinv2Model"), ("clip", "CLIPModel"), ("detr", "DetrModel")]
RUN = """
def run(model, inputs):
    torch.manual_seed(2)
    with torch.no_grad():
        return [one for one in model(**inputs).to_tuple() if isinstance(one, torch.Tensor)]
"""


def test_pickles_load_in_a_fresh_process(tmp_path):
    """Classes that are made at run time are found by name."""
    models = [(sima_hf.patch_model(make(*case)), given(*case)) for case in PICKLED]
    torch.save(models, tmp_path / "all.pt")
    code = f"""
import torch
{RUN}
found = [run(*one) for one in torch.load({str(tmp_path / "all.pt")!r}, weights_only=False)]
torch.save(found, {str(tmp_path / "found.pt")!r})
"""
    done = fresh(code)
    assert done.returncode == 0, done.stderr[-2000:]
    scope = {"torch": torch}
    exec(RUN, scope)
    for found, one in zip(torch.load(tmp_path / "found.pt"), models, strict=True):
        for ours, expected in zip(found, scope["run"](*one), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_fresh_processes_with_and_without_sima_hf(tmp_path):
    model = sima_hf.patch_model(vit(), gain="none")
    model.save_pretrained(tmp_path)
    torch.save(logits(model), tmp_path / "logits.pt")
    load = f"""
from transformers import AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained({str(tmp_path)!r}).eval()
print(type(model).__name__, model.config.attention_gain)
"""
    without = fresh(load)
    assert without.returncode != 0
    assert "model type `sima_vit`" in without.stderr
    code = f"import sima_hf\n{load}"
    found = fresh(code)
    assert found.stdout.split() == ["SimAViTForImageClassification", "none"], found.stderr[-2000:]


@pytest.mark.parametrize("case", ["vit", "vilt", "mobilevit"])
def test_hooks_of_accelerate_call_what_was_swapped(case):
    """They keep the forward that they found on each module; device maps are made of them."""
    from accelerate import dispatch_model

    name = {"vit": "ViTModel", "vilt": "ViltModel", "mobilevit": "MobileViTModel"}[case]
    expected, plain = (run_once(one, case, name) for one in (sima_hf.patch_model(make(case, name)), make(case, name)))
    model = dispatch_model(make(case, name), device_map={"": "cpu"}, force_hooks=True)
    assert any("_old_forward" in vars(module) for module in model.modules())
    sima_hf.patch_model(model)
    assert torch.equal(run_once(model, case, name), expected)
    sima_hf.unpatch_model(model)
    assert torch.equal(run_once(model, case, name), plain)


def run_once(model, case, name):
    inputs = given(case, name)
    torch.manual_seed(2)
    with torch.no_grad():
        return model(**inputs).last_hidden_state


def test_a_forward_hung_onto_an_attention_is_refused():
    model = make("vilt", "ViltModel")
    attend = model.encoder.layer[0].attention.attention
    attend.forward = functools.partial(attend.forward)
    with pytest.raises(
        UnsupportedModelError, match=r"encoder.layer.0.attention.attention.* was replaced on the module"
    ):
        sima_hf.patch_model(model)
    assert type(model).__name__ == "ViltModel"


def heads_of(host):
    """(base class, task class) of a host, where it has both."""
    names = [name for case, (_, names) in CASES.items() if case == host for name in names]
    base = next((name for name in names if name.endswith("Model")), None)
    task = next((name for name in names if name.endswith(("ForImageClassification", "ForVideoClassification"))), None)
    return (base, task) if base and task else None


BOTH = [(host, *pair) for host in HOSTS if (pair := heads_of(host)) and not HOSTS[host].towers]


@pytest.mark.parametrize(("host", "base", "task"), BOTH, ids=[row[0] for row in BOTH])
def test_keys_are_converted_as_the_hosts_are(host, base, task, tmp_path):
    """From a task folder to a base model and back, what stays random is what stays random with softmax."""

    def routes(patch, folder):
        missing = []
        for start, goal in ((task, base), (base, task)):
            model = make(host, start)
            if patch:
                sima_hf.patch_model(model)
            model.save_pretrained(folder / start)
            cls = getattr(classes, f"SimA{goal}") if patch else getattr(transformers, goal)
            loaded, report = cls.from_pretrained(folder / start, output_loading_info=True)
            missing.append((set(report["missing_keys"]), set(report["unexpected_keys"])))
            assert all(parameter.isfinite().all() for parameter in loaded.parameters())
        return missing

    assert routes(True, tmp_path / "sima") == routes(False, tmp_path / "softmax")
