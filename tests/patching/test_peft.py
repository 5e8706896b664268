"""PEFT on a patched model: adapters before the swap and after it, merged, saved."""

import pytest
import torch
from transformers import AutoModelForImageClassification

import sima_hf
from tests.helpers.hosts.at_hand import given, make


peft = pytest.importorskip("peft", reason="pip install peft")
TARGETS = ["q_proj", "v_proj"]


def lora(model):
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=TARGETS, init_lora_weights=False, modules_to_save=["classifier"])
    return peft.get_peft_model(model, config)


def logits(model):
    with torch.no_grad():
        return model(**given("vit", "")).logits


def test_adapters_on_a_patched_model(tmp_path):
    model = sima_hf.patch_model(make("vit", "ViTForImageClassification"))
    base = logits(model)
    model.save_pretrained(tmp_path / "base")
    adapted = lora(model).eval()
    assert not torch.allclose(logits(adapted), base)
    assert sima_hf.certify(adapted, given("vit", "")).softmax_free
    adapted.train()(**given("vit", ""), labels=torch.tensor([0, 2])).loss.backward()
    learning = [name for name, parameter in adapted.named_parameters() if parameter.grad is not None]
    assert learning
    assert all("lora_" in name or "classifier" in name for name in learning)
    expected = logits(adapted.eval())
    adapted.save_pretrained(tmp_path / "adapter")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "base")
    again = peft.PeftModel.from_pretrained(again, tmp_path / "adapter").eval()
    assert torch.equal(logits(again), expected)
    merged = again.merge_and_unload()
    assert type(merged).__name__ == "SimAViTForImageClassification"
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-5)


def test_adapters_survive_the_swap_and_its_undo():
    adapted = lora(make("vit", "ViTForImageClassification")).eval()
    softmax, keys = logits(adapted), list(adapted.state_dict())
    inner = adapted.get_base_model()
    sima_hf.patch_model(inner)
    assert list(adapted.state_dict()) == keys
    assert adapted.get_base_model() is inner
    assert not torch.allclose(logits(adapted), softmax)
    assert sima_hf.certify(adapted, given("vit", "")).softmax_free
    sima_hf.unpatch_model(inner)
    assert torch.equal(logits(adapted), softmax)


def siglip():
    return make("siglip_vision_model", "SiglipVisionModel")


def pooled(model):
    with torch.no_grad():
        return model(**given("siglip_vision_model", "")).pooler_output


def test_lora_on_a_multihead_attention_then_patch_then_another_model():
    """PEFT's wrapper of torch's MultiheadAttention has its name; what is inside it is swapped, and nothing else is touched."""
    plain = pooled(sima_hf.patch_model(siglip()))
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["attention"], init_lora_weights=False)
    adapted = peft.get_peft_model(siglip(), config).eval()
    softmax, inner = pooled(adapted), adapted.get_base_model()
    sima_hf.patch_model(inner, verify=given("siglip_vision_model", ""))
    expected = pooled(adapted)
    assert not torch.allclose(expected, softmax)
    with adapted.disable_adapter():
        torch.testing.assert_close(pooled(adapted), plain)
    assert torch.equal(pooled(sima_hf.patch_model(siglip())), plain)
    sima_hf.unpatch_model(inner)
    torch.testing.assert_close(pooled(adapted), softmax)
    torch.testing.assert_close(pooled(sima_hf.patch_model(adapted.merge_and_unload())), expected)


def test_auto_peft_model_loads_an_adapter_of_a_swapped_model(tmp_path):
    """PEFT imports classes of a few packages only; sima_hf is named to it."""
    model = sima_hf.patch_model(make("vit", "ViTForImageClassification"))
    model.save_pretrained(tmp_path / "base")
    adapted = lora(AutoModelForImageClassification.from_pretrained(tmp_path / "base")).eval()
    expected = logits(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="not in the import allowlist"):
        peft.AutoPeftModel.from_pretrained(tmp_path / "adapter")
    again = peft.AutoPeftModel.from_pretrained(tmp_path / "adapter", import_allowlist=["sima_hf"]).eval()
    assert type(again.get_base_model()).__name__ == "SimAViTForImageClassification"
    assert torch.equal(logits(again), expected)
