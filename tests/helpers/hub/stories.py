"""Code that the publishing tests run in processes of their own, and the process that runs it.

`reading_process` has imported torch and Transformers and nothing of sima_hf, and knows nothing but the loopback Hub. Its
forks (`Client.apart`) are the users of the tests: each starts from there, with an empty cache unless the test says otherwise.
"""

from pathlib import Path

from tests.helpers.hub.client import Client
from tests.helpers.hub.server import HubServer


BEFORE = """
import json, os, time
import torch, transformers
from PIL import Image
from transformers import (
    AutoConfig, AutoModel, AutoModelForImageClassification, DeiTConfig, DeiTForImageClassification, Trainer,
    TrainingArguments, pipeline,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # at the top, older ones want torchvision for it
torch.set_num_threads(1)
torch.set_grad_enabled(False)

def same_logits(model, saved):
    "Whether a model gives what a file says, to the last bit; its weights copied into torch's own memory, as the file's were."
    images, logits = torch.load(saved)
    return torch.equal(own_memory(model)(images).logits, logits)

def own_memory(model):
    "A convolution's order of sums depends on where its weights lie; torch's own memory is aligned, a mapped file is not."
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.clone()
    return model.eval()
"""

# Tiny classifiers, as users have them: DeiT and CvT swapped (CvT's attention is its own code), and a native model; 32x32 images.
MODELS = """
import sima_hf

def awake(model):
    "A classifier whose tokens and position tables are not zero, as they are at first, so that it has an opinion."
    for parameter in model.parameters():
        if not parameter.any():
            parameter.data.normal_()
    return model.eval()

def swapped(seed=0):
    torch.manual_seed(seed)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = DeiTConfig(**small, image_size=32, patch_size=8, num_labels=3, initializer_range=0.5)
    return sima_hf.patch_model(awake(DeiTForImageClassification(config)))

def swapped_own_code(seed=0):
    torch.manual_seed(seed)
    small = {"embed_dim": [16, 16, 32], "num_heads": [1, 1, 2], "depth": [1, 2, 3], "cls_token": [False, False, True]}
    return sima_hf.patch_model(awake(transformers.CvtForImageClassification(transformers.CvtConfig(**small, num_labels=3))))

def plain(model):
    "The model with the attention that a reader without sima_hf has."
    if model.config.model_type != "sima":
        return sima_hf.patch_model(model, backend="eager")
    model.set_attn_implementation("eager")
    return model

def native(seed=0):
    torch.manual_seed(seed)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_class_attention_layers": 1}
    config = sima_hf.SimAConfig(**small, patch_size=8, image_size=32, num_labels=3, initializer_range=0.5)
    return awake(sima_hf.SimAForImageClassification(config))

def save_logits(model, path):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    torch.save((images, own_memory(model)(images).logits), path)

processor = sima_hf.SimAImageProcessor.for_image_size(32, crop_pct=1.0)
"""


def reading_process(hub: HubServer, folder: Path) -> Client:
    """The process; it has no token, and its folder holds a red picture, "red.png"."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = hub.environment(folder / "home")
    picture = f"Image.new('RGB', (40, 30), (200, 30, 30)).save({str(folder / 'red.png')!r})"
    return Client(environment, folder / "log", f"{BEFORE}\n_ = {picture}\nos.chdir({str(folder)!r})")
