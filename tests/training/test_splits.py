"""SimATrainer on splits of `datasets`: the views, batches and classes that it makes of them, and what it says where it cannot."""

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForImageClassification

import sima_hf
from sima_hf.data.images import EvalImages, TrainImages
from sima_hf.data.streaming import StreamedImages
from sima_hf.data.views import EvalView, TrainView
from sima_hf.errors import DataError
from sima_hf.training import SimATrainer, SimATrainingArguments


NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PROCESSOR = sima_hf.SimAImageProcessor.for_image_size(32, crop_pct=1.0)


def digits(label=None, named="label", image="image", count=64):
    """Digits with a column of PIL images, and labels as `label` has them: class, number or name."""
    data = load_digits()
    images = [PILImage.fromarray((15 * pixels).astype("uint8")) for pixels in data.images[:count]]
    labels = data.target[:count].tolist()
    if isinstance(label, ClassLabel):
        labels = [label.str2int(NAMES[index]) for index in labels]
    elif label is not None:
        labels = [NAMES[index] for index in labels]
    features = Features({image: Image(), named: label or Value("int64")})
    return Dataset.from_dict({image: images, named: labels}, features=features)


def model_of(names=None, num_labels=10):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    classes = {"id2label": dict(enumerate(names))} if names else {"num_labels": num_labels}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8, **classes))


def trainer_of(folder, train=None, model=None, **changes):
    kwargs = {
        name: changes.pop(name)
        for name in ("eval_dataset", "processing_class", "image_column", "label_column", "num_images")
        if name in changes
    }
    settings = {"per_device_train_batch_size": 16, "max_steps": 2, "save_strategy": "no", "eval_strategy": "no"}
    settings |= {"dataloader_num_workers": 0, "disable_tqdm": True, "report_to": "none", "use_cpu": True}
    args = SimATrainingArguments(str(folder), **{**settings, **changes})
    kwargs = {"processing_class": PROCESSOR, **kwargs}
    return SimATrainer(model or model_of(), args, train_dataset=train, **kwargs)


def test_splits_are_trained_on_and_measured(tmp_path):
    ds = digits(ClassLabel(names=NAMES)).train_test_split(24, seed=0)
    trainer = trainer_of(tmp_path, ds["train"], eval_dataset=ds["test"], eval_strategy="epoch")
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1
    assert trainer.model.config.id2label == dict(enumerate(NAMES))
    trainer.save_model()
    assert sima_hf.SimAImageProcessor.from_pretrained(tmp_path).crop_size == {"height": 32, "width": 32}
    both = trainer.evaluate({"a": ds["test"], "b": ds["train"]})
    assert {"eval_a_accuracy", "eval_b_accuracy"} <= set(both)
    assert trainer.predict(ds["test"]).label_ids.tolist() == ds["test"]["label"][:]


@pytest.mark.parametrize("view", [{"train_view": "shift"}, {"min_crop_area": 0.5, "horizontal_flip": 0.0}])
def test_batches_are_those_of_images_and_views_made_by_hand(view, tmp_path):
    ds = digits(ClassLabel(names=NAMES))
    stored = ds.cast_column("image", Image(decode=False))
    by_hand = TrainView(32, scale=None, flip=0, shift=0.125)
    if "train_view" not in view:
        by_hand = TrainView(32, scale=(0.5, 1.0), flip=0.0)
    found = trainer_of(tmp_path, ds, eval_dataset=ds, **view)
    wanted = trainer_of(tmp_path, TrainImages(stored, by_hand), eval_dataset=EvalImages(stored, EvalView(PROCESSOR)))
    assert (found.image_mean, found.image_std) == (wanted.image_mean, wanted.image_std)
    for loader in ("get_train_dataloader", "get_eval_dataloader"):
        for one, other in zip(getattr(found, loader)(), getattr(wanted, loader)(), strict=True):
            assert torch.equal(one["pixel_values"], other["pixel_values"])
            assert torch.equal(one["labels"], other["labels"])


@pytest.mark.parametrize(
    ("label", "names", "expected"),
    [
        (None, None, [0, 1, 2, 3]),  # numbers, and a model without names
        (None, NAMES, [0, 1, 2, 3]),
        (Value("string"), NAMES, [0, 1, 2, 3]),
        (ClassLabel(names=NAMES), NAMES[::-1], [9, 8, 7, 6]),
        (ClassLabel(names=NAMES[::-1]), NAMES, [0, 1, 2, 3]),
        (ClassLabel(names=NAMES), [name.title() for name in NAMES], [0, 1, 2, 3]),
        (ClassLabel(names=NAMES), ["more", *NAMES], [1, 2, 3, 4]),
    ],
)
@pytest.mark.parametrize("column", ["label", "class"])
def test_classes_are_the_models(label, names, expected, column, tmp_path):
    model = model_of(names)
    trainer = trainer_of(tmp_path, model=model, eval_dataset=digits(label, column))
    assert next(iter(trainer.get_eval_dataloader()))["labels"][:4].tolist() == expected
    assert list(model.config.id2label.values()) == (names or [str(index) for index in range(10)])


def test_a_transform_of_the_data_set_is_left_out(tmp_path):
    ds = digits().with_transform(lambda rows: {"pixel_values": rows["image"]})
    batch = next(iter(trainer_of(tmp_path, ds).get_train_dataloader()))
    assert batch["pixel_values"].shape == (16, 3, 32, 32)


def test_a_stream_is_read_as_it_comes(tmp_path):
    stream = digits(ClassLabel(names=NAMES)).to_iterable_dataset(num_shards=2)
    trainer = trainer_of(tmp_path, stream, num_images=48)
    assert isinstance(trainer.train_dataset, StreamedImages)
    assert trainer.train_dataset.num_images == 48
    trainer.train()
    with pytest.raises(DataError, match="how many images it has"):
        trainer_of(tmp_path, digits(ClassLabel(names=NAMES)).to_iterable_dataset())
    with pytest.raises(DataError, match=r"eval_dataset must be a `datasets.Dataset`.*got a stream"):
        trainer_of(tmp_path, eval_dataset=stream)


@pytest.mark.parametrize(
    ("make", "options", "sentence"),
    [
        (lambda: digits(named="answer"), {}, r"train_dataset needs a column.*answer \(int64\).*`label_column`"),
        (digits, {"label_column": "kind"}, r"train_dataset has no column kind; it has image"),
        (digits, {"processing_class": None}, r"`processing_class` must be the model's image processor, got None"),
        (digits, {"model": model_of(num_labels=3)}, r"The model has 3 classes.*got 10.*`num_labels`"),
        (
            lambda: digits(ClassLabel(names=NAMES)),
            {"model": model_of(["cat", "dog"])},
            r"no name in common.*ignore_mismatched_sizes",
        ),
        (lambda: DatasetDict(train=digits(), test=digits()), {}, r"must be one split, got all of train, test.*ds\['train'\]"),
    ],
    ids=["label", "named", "processor", "number", "names", "dictionary"],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_is_trained(make, options, sentence, tmp_path):
    with pytest.raises(DataError, match=sentence):
        trainer_of(tmp_path, make(), **options)


def test_columns_can_be_named(tmp_path):
    trainer = trainer_of(tmp_path, digits(named="answer", image="scan"), image_column="scan", label_column="answer")
    assert next(iter(trainer.get_train_dataloader()))["labels"].min() >= 0


def test_without_splits_it_wants_the_normalization_or_the_processor(tmp_path):
    images = TrainImages(digits(), TrainView(32))
    with pytest.raises(ValueError, match="Give `processing_class`"):
        trainer_of(tmp_path, images, processing_class=None)
