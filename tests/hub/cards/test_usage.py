"""Which pipeline and which Auto class a model is for."""

from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, VideoMAEConfig, VideoMAEModel

import sima_hf
from sima_hf.hub.cards.usage import auto_class, pipeline_tag, processor_class
from tests.helpers.hub.card_models import SIZES, clip


def test_tasks_and_auto_classes(one, tmp_path):
    found = clip(tmp_path).model
    wanted = {
        one.model: ("image-classification", "AutoModelForImageClassification"),
        one.model.sima: ("image-feature-extraction", "AutoModel"),
        found: ("zero-shot-image-classification", "AutoModelForZeroShotImageClassification"),
    }
    assert {model: (pipeline_tag(model), auto_class(model)) for model in wanted} == wanted
    assert pipeline_tag(found.text_model) is None


def test_a_class_without_auto_class():
    """AutoModel has a class for this config, but it is another one."""
    config = CLIPVisionConfig(**SIZES, image_size=32, patch_size=8)
    assert auto_class(sima_hf.patch_model(CLIPVisionModelWithProjection(config))) is None


def test_the_pipeline_of_features_is_for_single_pictures():
    video = VideoMAEModel(VideoMAEConfig(**SIZES, image_size=32, patch_size=8, num_frames=4))
    assert pipeline_tag(sima_hf.patch_model(video)) is None
    assert auto_class(video) == "AutoModel"


def test_processors(one, swapped):
    assert processor_class(one.path, one.model) == "AutoImageProcessor"
    assert processor_class(swapped.path, swapped.model) is None
