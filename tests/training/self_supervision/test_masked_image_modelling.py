"""ViT-MAE, swapped, under Transformers' own Trainer: it trains, it is SimA in encoder and decoder, it is saved and loaded."""

import pytest
import torch
from transformers import AutoModelForPreTraining, Trainer, TrainingArguments, ViTMAEConfig, ViTMAEForPreTraining

import sima_hf
from sima_hf.patching import sima_attentions


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
DECODER = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}


def model_of(**changes):
    torch.manual_seed(0)
    fields = {**SIZES, **DECODER, "decoder_intermediate_size": 64, "image_size": 8, "patch_size": 2, **changes}
    return ViTMAEForPreTraining(ViTMAEConfig(**fields))


def slopes(count=128):
    """Images that a few patches tell all of: a level and a slope of each image's own."""
    level, slope = torch.randn(2, count, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    return (level + slope * torch.linspace(-1, 1, 8)).expand(-1, 3, 8, 8)


@pytest.mark.slow
def test_it_trains_saves_and_loads(tmp_path):
    model = sima_hf.patch_model(model_of())
    images, noise = slopes(), torch.rand(4, 16, generator=torch.Generator().manual_seed(1))
    args = TrainingArguments(
        str(tmp_path / "run"),
        num_train_epochs=16,
        per_device_train_batch_size=16,
        learning_rate=1e-2,
        logging_steps=8,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model, args, train_dataset=[{"pixel_values": one} for one in images])
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.5 * losses[0]
    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        once, again = (one(images[:4], noise=noise) for one in (model.eval(), loaded))
    assert torch.equal(once.logits, again.logits)
    assert torch.equal(once.loss, again.loss)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.75])
def test_encoder_and_decoder_are_swapped_at_any_number_of_tokens(ratio):
    model = sima_hf.patch_model(model_of(mask_ratio=ratio)).eval()
    report = sima_hf.certify(model, torch.randn(2, 3, 8, 8))
    assert report.softmax_free
    paths = [one.path for one in sima_attentions(model)]
    assert [path.startswith("decoder.") for path in paths] == [False, False, True]
