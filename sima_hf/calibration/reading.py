"""What is read of a model's hidden states at its end, as far as the weights of the fits depend on it."""

from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.models.auto import modeling_auto


DENSE = {
    *modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES.values(),
    *modeling_auto.MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES.values(),
}


def reads_patches_alone(model: PreTrainedModel) -> bool:
    """Whether the patches are read and the class token is not: by a backbone's user, by a head for masks or for hidden patches.

    DPT's heads put the class token to every patch, unless their config says `readout_type="ignore"`.
    """
    if getattr(model.config, "readout_type", "ignore") != "ignore":
        return False
    name = getattr(type(model), "softmax_class", type(model)).__name__
    return name in DENSE or any(isinstance(module, BackboneMixin) for module in model.modules())
