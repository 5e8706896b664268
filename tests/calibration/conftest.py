"""The small trained ViT that most tests of calibration swap."""

import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from tests.helpers.calibrated_models import digits


@pytest.fixture(scope="module")
def trained():
    """A small ViT that a few seconds of softmax training have taught the digits."""
    images, labels, *_ = digits()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    picture = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10, "initializer_range": 0.1}
    model = ViTForImageClassification(ViTConfig(**sizes, **picture))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.3)
    for _ in range(12):
        for rows in torch.randperm(len(images)).split(64):
            nn.functional.cross_entropy(model(images[rows]).logits, labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()
