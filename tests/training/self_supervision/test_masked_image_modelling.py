"""ViT-MAE, swapped, under Transformers' own Trainer: it trains, it is SimA in encoder and decoder, it is saved and loaded."""

import pytest
import torch
from sklearn.datasets import load_digits
from transformers import AutoModelForPreTraining, Trainer, TrainingArguments, ViTMAEConfig, ViTMAEForPreTraining

import sima_hf


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
DECODER = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}


def model_of(**changes):
    torch.manual_seed(0)
    fields = {**SIZES, **DECODER, "decoder_intermediate_size": 64, "image_size": 8, "patch_size": 2, **changes}
    return ViTMAEForPreTraining(ViTMAEConfig(**fields))


class Digits(torch.utils.data.Dataset):
    def __init__(self, count=256):
        self.images = torch.tensor(load_digits().images[:count]).float() / 8 - 1

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index].expand(3, -1, -1)}


def test_it_trains_saves_and_loads(tmp_path):
    model = sima_hf.patch_model(model_of())
    shape = {"dtype": torch.float32, "device": "cpu"}
    noise = torch.rand(4, 16, generator=torch.Generator().manual_seed(1), **shape)
    pixels = torch.stack([Digits()[index]["pixel_values"] for index in range(4)])
    args = TrainingArguments(
        str(tmp_path / "run"),
        num_train_epochs=6,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        logging_steps=16,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model, args, train_dataset=Digits())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.6 * losses[0]
    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        once, again = (one(pixels, noise=noise) for one in (model.eval(), loaded))
    assert torch.equal(once.logits, again.logits)
    assert torch.equal(once.loss, again.loss)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.75])
def test_encoder_and_decoder_are_swapped_at_any_number_of_tokens(ratio):
    model = sima_hf.patch_model(model_of(mask_ratio=ratio)).eval()
    report = sima_hf.certify(model, torch.randn(2, 3, 8, 8))
    assert report.softmax_free
    paths = [part.path for part in sima_hf.patching.describe(model).swapped]
    assert sum("decoder" in path for path in paths) == 1
    assert sum("decoder" not in path for path in paths) == 2
