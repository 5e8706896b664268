"""Classes and columns, splits, lazy reading, the quickstart's checks, and what is said of bad data."""

import ast
import itertools
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage

from sima_hf import SimAImageProcessor
from sima_hf.data import sources as data_module
from sima_hf.data.images import EvalImages, TrainImages, collate
from sima_hf.data.sampling import Draw
from sima_hf.data.sources import image_folder, load_folder, load_image_data, load_images, stratified_split
from sima_hf.data.streaming import StreamedImages
from sima_hf.data.views import EvalView, TrainView
from sima_hf.errors import DataError, MissingDependencyError
from tests.helpers.digit_files import WORDS, few_digits, write_digits


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def few():
    return few_digits()


@pytest.fixture(scope="module")
def root(few, tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    write_digits(few, root)
    return root


def test_digits_are_the_default_and_are_split_alike_every_time():
    one, two = load_image_data(), load_image_data(dataset="digits", streaming=True)
    assert (len(one.train), len(one.validation), one.num_train, two.num_train) == (1437, 360, 1437, 1437)
    assert one.source == two.source == "digits"
    assert one.labels == [str(digit) for digit in range(10)]
    assert one.validation["label"][:] == two.validation["label"][:]
    images = itertools.islice(two.train, 300)
    assert len({row["label"] for row in images}) == 10
    assert load_image_data(held_out=0).validation is None
    assert len(load_image_data(held_out=0).train) == 1797
    assert load_image_data(max_unreadable=7).max_unreadable == 7


def test_files_are_not_opened_before_they_are_needed(root, tmp_path):
    folder = tmp_path / "photos"
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for index in range(10):
            (folder / name / f"{index}.jpg").write_bytes(b"broken")
    data = load_image_data(train_dir=folder, max_unreadable=1)
    assert (len(data.train), len(data.validation)) == (16, 4)
    batch = collate(EvalImages(data.validation, EvalView(SimAImageProcessor.for_image_size(16))).__getitems__([0, 1]))
    assert batch["labels"].tolist() == [-100, -100]
    assert batch["unreadable"][0].startswith(f"{folder}/")
    sample = TrainImages(data.train, TrainView(16), data.max_unreadable)[Draw(3, 0)]
    assert len(sample["unreadable"]) == 2


def test_classes_can_be_named_and_columns_too(root, tmp_path):
    files = {"train": str(root / "cls/train-*.tar"), "validation": str(root / "cls/validation-*.tar")}
    data = load_image_data(
        data_files=files, labels=list(WORDS), num_images=50, streaming=True, cache_dir=str(tmp_path)
    )
    assert data.labels == list(WORDS)
    assert data.num_train == 50
    assert next(iter(data.train))["label"] == 0  # a number stands for its name
    data = load_image_data(
        data_files=str(root / "named/train-*.parquet"),
        image_column="img",
        label_column="fine_label",
        cache_dir=str(tmp_path),
    )
    assert (len(data.train), len(data.validation)) == (40, 10)
    with pytest.raises(
        DataError, match=r"has no column picture; it has img \(Image\), fine_label \(ClassLabel\), note"
    ):
        load_image_data(data_files=str(root / "named/*.parquet"), image_column="picture", cache_dir=str(tmp_path))
    with pytest.raises(DataError, match=r"needs a column of images and one of classes .* it has note \(string\)"):
        load_images(dataset=one_column(tmp_path))


def one_column(folder):
    (folder / "notes").mkdir()
    Dataset.from_dict({"note": ["x"] * 3}).to_parquet(folder / "notes" / "train.parquet")
    return str(folder / "notes")


def test_a_stream_that_does_not_say_how_many_images_it_has(root, tmp_path):
    files = {"data_files": {split: str(root / f"cls/{split}-*.tar") for split in ("train", "validation")}}
    data = load_image_data(
        **files, labels=[str(number) for number in range(10)], streaming=True, cache_dir=str(tmp_path)
    )
    assert data.num_train is None
    with pytest.raises(DataError, match="does not say how many images it has"):
        StreamedImages(data.train, TrainView(8), 4, 0, 10, data.num_train)


def small(folder, split, labels, feature=None):
    """A parquet file of gray images with these labels."""
    folder.mkdir(exist_ok=True)
    images = [PILImage.new("L", (4, 4), index) for index in range(len(labels))]
    feature = feature or Value("string" if isinstance(labels[0], str) else "int64")
    data = Dataset.from_dict(
        {"image": images, "label": labels}, features=Features({"image": Image(), "label": feature})
    )
    data.to_parquet(folder / f"{split}.parquet")
    return str(folder / f"{split}.parquet")


@pytest.mark.parametrize("feature", [None, ClassLabel(names=["c", "b", "a"])])
def test_labels_of_the_validation_set_go_by_name(feature, tmp_path):
    labels = ["c", "a"] if feature is None else [0, 2]
    files = {
        "train": small(tmp_path, "train", [0, 1, 2, 1], ClassLabel(names=["a", "b", "c"])),
        "validation": small(tmp_path, "validation", labels, feature),
    }
    data = load_image_data(data_files=files, cache_dir=str(tmp_path))
    assert data.labels == ["a", "b", "c"]
    assert data.validation["label"][:] == [2, 0]


@pytest.mark.parametrize(
    ("train", "names"),
    [
        (["b", "a", "a"], ["a", "b"]),
        ([10, 9, 100], ["9", "10", "100"]),
        (["10", "9"], ["9", "10"]),
        ([1, -1, 1], ["-1", "1"]),
        (["10", "x"], ["10", "x"]),
    ],
)
def test_label_maps_are_sorted(train, names, tmp_path):
    data = load_image_data(data_files=small(tmp_path, "train", train), held_out=0, cache_dir=str(tmp_path))
    assert data.labels == names
    assert [names[label] for label in data.train["label"]] == [str(label) for label in train]


def test_a_class_is_the_same_however_its_accents_are_written(tmp_path):
    """Folders that were made on a Mac have "é" in two characters, those of other systems in one."""
    one, two = "caf\u00e9", "cafe\u0301"
    filled(tmp_path, f"train/{two}", "train/zoo", f"val/{one}", "val/zoo", f"both/{one}", f"both/{two}", "both/zoo")
    data = load_image_data(train_dir=tmp_path / "train", validation_dir=tmp_path / "val")
    assert data.labels == [two, "zoo"]
    assert sorted(data.validation["label"][:]) == [0, 1]
    with pytest.raises(DataError, match=f"a name of its own, but {one} comes more than once"):
        load_image_data(train_dir=tmp_path / "both")
    column = load_image_data(
        data_files=small(tmp_path, "train", [one, two, "zoo", "zoo"]), held_out=0, cache_dir=str(tmp_path)
    )
    assert (column.labels, column.train["label"][:]) == ([one, "zoo"], [0, 0, 1, 1])


def test_classes_that_training_does_not_have(tmp_path):
    files = {
        "train": small(tmp_path, "train", ["a", "b"]),
        "validation": small(tmp_path, "validation", ["a", "z", "y"]),
    }
    with pytest.raises(
        DataError, match=r"\(validation\) has classes that the training set does not have: y, z\. .* 2, from a to b"
    ):
        load_image_data(data_files=files, cache_dir=str(tmp_path))
    data = load_image_data(
        data_files=files["train"], labels=["a", "c"], streaming=True, held_out=0, cache_dir=str(tmp_path)
    )
    with pytest.raises(DataError, match="of the class 'b', which is not among the 2"):
        list(data.train)


def test_images_without_a_label(tmp_path):
    named = ClassLabel(names=["0", "1"])
    files = small(tmp_path, "train", [0, 1, -1, None], named)
    with pytest.raises(DataError, match="2 of the 4 images of The set of data files have no label"):
        load_image_data(data_files=files, held_out=0, cache_dir=str(tmp_path))
    data = load_image_data(data_files=files, held_out=0, labels=["1", "0"], streaming=True, cache_dir=str(tmp_path))
    assert [row["label"] for row in data.train] == [1, 0, -1, -1]  # to be passed over as unreadable


def test_bad_folders(tmp_path):
    with pytest.raises(DataError, match=r"There is no folder .*nothing"):
        load_image_data(train_dir=tmp_path / "nothing")
    (tmp_path / "cats").mkdir()
    with pytest.raises(DataError, match="holds no images: it needs one sub-folder per class"):
        load_image_data(train_dir=tmp_path)
    for index in range(9):
        PILImage.new("RGB", (8, 8)).save(tmp_path / "cats" / f"{index}.png")
    with pytest.raises(DataError, match=r"one class only \(cats\)"):
        load_image_data(train_dir=tmp_path)
    (tmp_path / "dogs").mkdir()
    PILImage.new("RGB", (8, 8)).save(tmp_path / "dogs" / "0.PNG")
    with pytest.raises(DataError, match="fewer than two images of: dogs"):
        load_image_data(train_dir=tmp_path)
    assert load_image_data(train_dir=tmp_path, held_out=0).num_train == 10


def filled(folder, *names):
    """Folders with an image each, and what macOS leaves beside images."""
    for name in names:
        (folder / name).mkdir(parents=True)
        PILImage.new("RGB", (8, 8)).save(folder / name / "0.png")
        (folder / name / "._0.png").write_bytes(b"\x00\x05\x16\x07")


def test_hidden_files_are_passed_over_and_links_followed(tmp_path):
    filled(tmp_path, "there/cats", "photos/dogs", "photos/.thumbnails")
    (tmp_path / "photos" / "cats").symlink_to(tmp_path / "there" / "cats")
    data = load_folder(tmp_path / "photos")
    assert data.labels == ["cats", "dogs"]
    assert [Path(row["path"]).name for row in data.train["image"]] == ["0.png", "0.png"]
    assert image_folder(tmp_path / "photos").num_rows == 2


def test_splits_are_no_classes(tmp_path):
    filled(tmp_path, "photos/train/cats", "photos/train/dogs", "photos/val/cats", "photos/val/dogs")
    for load in (load_folder, image_folder):
        with pytest.raises(DataError, match=r"is meant, \S+photos/train or \S+photos/val\.$"):
            load(tmp_path / "photos")
    assert len(load_image_data(train_dir=tmp_path / "photos").validation) == 2
    assert load_folder(tmp_path / "photos" / "val").labels == ["cats", "dogs"]
    filled(tmp_path, "alone/Train/cats", "alone/Train/dogs")
    with pytest.raises(DataError, match=r"is meant, \S+alone/Train\.$"):
        load_image_data(train_dir=tmp_path / "alone")


def test_a_class_may_be_called_as_a_split_is(tmp_path):
    filled(tmp_path, "toys/train", "toys/train/wooden", "toys/car")
    filled(tmp_path, "more/train/steam", "more/car")
    filled(tmp_path, "both/train", "both/val")
    assert load_folder(tmp_path / "toys").labels == load_folder(tmp_path / "more").labels == ["car", "train"]
    assert load_folder(tmp_path / "both").labels == ["train", "val"]


def test_quickstart_s_folders_are_checked_first(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        PILImage.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    (tmp_path / "dogs" / "1.jpg").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"1 of 3 files cannot be read: .*1\.jpg \(UnidentifiedImageError\)"):
        image_folder(tmp_path)
    assert len(image_folder(tmp_path, check=False)) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dataset": "a", "train_dir": "b"}, "either a data set or a folder"),
        ({"train_dir": "b", "data_files": "x.parquet"}, "either a folder or data files"),
        ({"validation_dir": "b"}, "say what to train on"),
        ({"data_files": "nothing/*.parquet"}, "There are no data files nothing/"),
        ({"data_files": "nothing/*.tar"}, "There are no data files nothing/"),
        ({"data_files": ["x.parquet", "y.tar"]}, r"all end in \.parquet, all in \.arrow, or all in \.tar"),
        ({"data_files": "x.csv"}, "got x.csv"),
        ({"data_files": {}, "dataset": "no/such/data set"}, "cannot be loaded"),
        ({"dataset": "sima-hf/no-such-set"}, "The data set sima-hf/no-such-set cannot be loaded"),
        ({"dataset": "sima-hf/no-such-set", "streaming": True}, "The data set sima-hf/no-such-set cannot be loaded"),
    ],
)
def test_bad_sources(arguments, words, tmp_path):
    with pytest.raises(DataError, match=words):
        load_image_data(**arguments, cache_dir=str(tmp_path))


def test_no_training_images_or_nothing_to_validate_on(root, tmp_path):
    with pytest.raises(DataError, match="no split called 'train'; it has test"):
        load_image_data(
            dataset=str(Path(small(tmp_path / "only", "test", ["a", "b"])).parent), cache_dir=str(tmp_path)
        )
    with pytest.raises(DataError, match="no data files called 'train'; there are validation"):
        load_image_data(data_files={"train": None, "validation": str(root / "int/*.parquet")}, cache_dir=str(tmp_path))
    with pytest.raises(DataError, match=r"no images can be held out from a stream: .*--held_out 0"):
        load_image_data(data_files=str(root / "int/*.parquet"), streaming=True, cache_dir=str(tmp_path))
    empty = small(tmp_path, "train", [0], ClassLabel(names=["a", "b"]))
    Dataset.from_parquet(empty, cache_dir=str(tmp_path)).select([]).to_parquet(empty)
    with pytest.raises(DataError, match="holds no images"):
        load_image_data(data_files=empty, streaming=True, held_out=0, cache_dir=str(tmp_path))


def test_broken_shards_are_named(root, tmp_path):
    broken = tmp_path / "train-0.tar"
    broken.write_bytes((root / "cls/train-0.tar").read_bytes()[:3000])
    (tmp_path / "x.parquet").write_bytes(b"broken")
    for files in (str(broken), str(tmp_path / "x.parquet")):
        with pytest.raises(DataError, match=rf"\({files}\) cannot be read: (ReadError|ArrowInvalid), \w+"):
            load_image_data(data_files=files, held_out=0, cache_dir=str(tmp_path))


def test_quickstart_s_splits(root, few):
    one, two = load_images(), load_images()
    assert (len(one["train"]), len(one["test"])) == (1437, 360)
    assert one["test"]["label"][:] == two["test"]["label"][:]
    counts = [one["test"]["label"][:].count(digit) for digit in range(10)]
    assert max(counts) - min(counts) <= 2
    assert one["train"].features["label"].names == [str(digit) for digit in range(10)]
    splits = load_images(dataset=str(root / "named"))
    assert (len(splits["train"]), len(splits["test"])) == (50, 10)
    assert set(splits["train"].features) == {"image", "label"}
    assert np.array_equal(np.asarray(splits["test"][3]["image"]), np.asarray(few[53]["image"]))
    splits = load_images(train_dir=str(root / "folder/train"), held_out=0.3)
    assert (len(splits["train"]), len(splits["test"])) == (35, 15)


def test_quickstart_s_bad_data(tmp_path):
    with pytest.raises(DataError, match="cannot be loaded"):
        load_images(dataset=str(tmp_path / "nothing"))
    with pytest.raises(DataError, match="no split called 'train'; it has test"):
        load_images(dataset=str(Path(small(tmp_path / "only", "test", ["a", "b"])).parent))
    with pytest.raises(DataError, match="either a data set or a folder"):
        load_images(dataset="a", train_dir="b")
    with pytest.raises(DataError, match="leaves no image of some classes"):
        load_images(held_out=0.001)


@pytest.mark.parametrize("share", [2, -0.1, 1.0, float("nan")])
def test_a_share_held_out_that_is_none(share):
    with pytest.raises(DataError, match=f"held out must be above 0 and below 1, got {share}"):
        load_image_data(held_out=share)


def test_a_split_is_stratified():
    names = ClassLabel(names=["a", "b"])
    data = Dataset.from_dict({"label": [0] * 30 + [1] * 10}, features=Features({"label": names}))
    parts = stratified_split(data, 0.2, "x")
    assert [sorted(part["label"][:]) for part in parts.values()] == [[0] * 24 + [1] * 8, [0] * 6 + [1] * 2]


@pytest.mark.parametrize(("module", "package"), [("datasets", "datasets"), ("sklearn.datasets", "sklearn")])
def test_packages_that_are_not_installed(module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"needs {package}: pip install 'sima-hf\[train\]'$"):
        load_image_data()


def test_the_modules_need_no_extra_to_be_imported():
    modules = [path for path in Path(data_module.__file__).parent.glob("*.py") if path.stem != "web_dataset"]
    assert len(modules) > 10
    for path in modules:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        found |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom) and not node.level}
        assert not {one.partition(".")[0] for one in found} & {"datasets", "sklearn", "pyarrow", "accelerate"}
    assert data_module.VALIDATION_NAMES[0] == "validation"
