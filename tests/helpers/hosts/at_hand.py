"""Tiny models of every host in the table, with inputs, for the tests of the swap."""

import copy
import importlib

import torch
import transformers
from transformers import CONFIG_MAPPING

from sima_hf.patching.hosts import HOSTS
from tests.helpers.hosts import composite, interface, own, plain


CASES = {**plain.CASES, **interface.CASES, **own.CASES, **composite.CASES}
INPUTS = {**plain.INPUTS, **interface.INPUTS, **own.INPUTS, **composite.INPUTS}

# Larger models that are not in the table, or whose towers their code would build anew with softmax: the tests see them refused.
REFUSED = ("flava_multimodal_model", "conditional_detr", "table-transformer", "dab-detr")
# Towers that older Transformers, down to the oldest that is supported, do not know by a type.
UNKNOWN = {case for case in CASES if case.split("/")[0] not in CONFIG_MAPPING}
UNKNOWN |= {"got_ocr2"} if "got_ocr2_vision" in UNKNOWN else set()
MODELS = [(case, name) for case, (_, names) in CASES.items() for name in names if case not in UNKNOWN | set(REFUSED)]
IDS = [f"{case}-{name}" for case, name in MODELS]


def type_of(case):
    """The model_type of a case, which may be a variant of it."""
    return case.split("/")[0]


def kind_of(case):
    """What a swapped host runs that others may share: its attention classes, a position bias, how it is reached."""
    host = HOSTS.get(type_of(case))
    if host is None:
        return "composite"
    classes = sorted(str(place) for place in host.forwards.values())
    return host.reached, host.position_bias, *classes, bool(host.within), bool(host.class_table), bool(host.allowed)


# The classifiers that most users swap.
MAIN = [
    ("vit", "ViTForImageClassification"),
    ("deit", "DeiTForImageClassification"),
    ("dinov2", "Dinov2ForImageClassification"),
    ("beit", "BeitForImageClassification"),
    ("swin", "SwinForImageClassification"),
    ("swinv2", "Swinv2ForImageClassification"),
    ("cvt", "CvtForImageClassification"),
    ("segformer", "SegformerForImageClassification"),
    ("clip_vision_model", "CLIPVisionModel"),
    ("siglip_vision_model", "SiglipVisionModel"),
]
# For what depends on the host and its config, and not on the head: one model for each case, with a head where there is one.
_HEADS = {case: name for case, name in MODELS if not name.endswith("Backbone")}  # the last of each case
CONFIGS = [*{**dict(MODELS), **_HEADS, **dict(MAIN)}.items()]
CONFIG_IDS = [f"{case}-{name}" for case, name in CONFIGS]
# For what depends on the host alone: one model for each type.
TYPES = [*{type_of(case): (case, name) for case, name in reversed(CONFIGS)}.values()]
TYPE_IDS = [f"{case}-{name}" for case, name in TYPES]

# What the table does not tell apart: rotary positions, packed and padded images, a backbone, towers found by their type.
_ALSO = [
    ("dinov3_vit", "DINOv3ViTModel"),
    ("qwen2_vl_vision", "Qwen2VisionTransformerPretrainedModel"),
    ("siglip2_vision_model", "Siglip2VisionModel"),
    ("dinov2", "Dinov2Backbone"),
    ("upernet/beit", "UperNetForSemanticSegmentation"),
    ("llava", "LlavaForConditionalGeneration"),
]


def _one_of_each_kind():
    found = {}
    for case, name in [*MAIN, *_HEADS.items()]:
        found.setdefault(kind_of(case), (case, name))
    return [*dict.fromkeys([*MAIN, *found.values(), *(pair for pair in _ALSO if pair in MODELS)])]


# For what depends on the kind of code that runs and not on the host: one model for each.
KINDS = _one_of_each_kind()
KIND_IDS = [f"{case}-{name}" for case, name in KINDS]


def find(case, name):
    """A model class, also where Transformers does not export it at the top."""
    if hasattr(transformers, name):
        return getattr(transformers, name)
    config = CONFIG_MAPPING[type_of(case)]
    return getattr(importlib.import_module(config.__module__.replace(".configuration_", ".modeling_")), name)


def merged(old, new):
    """Fields with changes laid over them, in nested configs as well."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: merged(old.get(key), value) for key, value in new.items()}}
    return new


def fresh(case, name, **changes):
    """A softmax model with weights as Transformers initializes them, the same each time."""
    cls = find(case, name)
    fields = copy.deepcopy(merged(CASES[case][0], changes))  # some configs change the dicts that they get
    torch.manual_seed(0)
    return cls(cls.config_class(**fields))


def make(case, name, **changes):
    """A softmax model in eval mode, the same each time, that looks trained: nothing in it that matters to attention is zero."""
    return wake(fresh(case, name, **changes).eval())


def wake(model, scale=0.5):
    """Random values in position tables, bias tables and tokens that start at zero, so that a test would see them missing.

    A model is compared with another here. That one trains from the weights as they are initialized is tried in
    test_zero_tokens.py, without this.
    """
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.any() and (not name.endswith("bias") or parameter.dim() > 1):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


def given(case, name):
    """Keyword arguments for a forward."""
    keys = ((case, name), case, (type_of(case), name), type_of(case))
    specs = next((INPUTS[key] for key in keys if key in INPUTS), {"pixel_values": interface.PIXELS})
    torch.manual_seed(1)
    return {argument: _value_of(*spec) for argument, spec in specs.items()}


def _value_of(kind, *rest):
    if kind == "half":
        count = torch.Size(rest[1:]).numel()
        return (torch.arange(count) % 2).bool().reshape(1, *rest[1:]).expand(*rest).clone()
    makers = {
        "randn": torch.randn,
        "rand": torch.rand,
        "ones": lambda *shape: torch.ones(*shape, dtype=torch.long),
        "int": torch.tensor,
        "float": torch.tensor,
        "bool": lambda values: torch.tensor(values).bool(),
        "plain": lambda value: value,
        "ids": lambda high, *shape: torch.randint(0, high, shape),
    }
    return makers[kind](*rest)


def tensors(output):
    """The floating point tensors of a model's output, flattened."""
    if isinstance(output, torch.Tensor):
        return [output] if output.is_floating_point() else []
    if hasattr(output, "to_tuple"):
        output = output.to_tuple()
    return [tensor for value in output for tensor in tensors(value)] if isinstance(output, (tuple, list)) else []


def vit(**changes):
    """The classifier that most tests of the swap take."""
    return make("vit", "ViTForImageClassification", **changes)


def logits(model):
    """Its logits for the images at hand."""
    with torch.no_grad():
        return model(**given("vit", "")).logits
