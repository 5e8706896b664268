"""Sixty of scikit-learn's digits, written as image folders, parquet shards and tar shards, for the tests of the sources."""

import io
import json
import tarfile

from datasets import ClassLabel, Dataset, Features, Image, Value

from sima_hf.data.sources import digits


WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

PARTS = {"train-0": range(20), "train-1": range(20, 35), "train-2": range(35, 50), "validation-0": range(50, 60)}


def few_digits():
    """The digits; the last ten are to validate on."""
    return digits().select(range(60))


def write_digits(few, root):
    """Write them below `root`: folder/train, folder/val, and a folder for each kind of shards."""
    for split, rows in {"train": range(50), "val": range(50, 60)}.items():
        for index in rows:
            folder = root / "folder" / split / WORDS[few[index]["label"]]
            folder.mkdir(parents=True, exist_ok=True)
            few[index]["image"].save(folder / f"{index}.png")
    for kind in ("named", "int", "text"):
        write_parquet(few, root / kind, kind)
    for kind in ("cls", "cls-text", "json", "json-text"):
        write_tars(few, root / kind, kind)
    return root


def write_parquet(few, folder, kind):
    folder.mkdir()
    images = few.cast_column("image", Image(decode=False))["image"][:]
    labels = few["label"][:]
    feature = {"named": ClassLabel(names=list(WORDS)), "int": Value("int16"), "text": Value("string")}[kind]
    labels = [WORDS[label] if kind == "text" else label for label in labels]
    if kind == "named":
        features, column = {"img": Image(), "fine_label": feature, "note": Value("string")}, "fine_label"
    else:  # as pandas or another tool writes it: no types of `datasets`
        features, column, images = (
            {"image": Value("binary"), "label": feature},
            "label",
            [row["bytes"] for row in images],
        )
    for name, rows in PARTS.items():
        columns = dict(
            zip(features, ([images[i] for i in rows], [labels[i] for i in rows], ["x"] * len(rows)), strict=False)
        )
        data = Dataset.from_dict(columns, features=Features(features))
        assert column in data.features
        data.to_parquet(folder / f"{name}.parquet")


def write_tars(few, folder, kind):
    folder.mkdir()
    for name, rows in PARTS.items():
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for index in rows:
                buffer = io.BytesIO()
                few[index]["image"].save(buffer, "png")
                label = few[index]["label"]
                label = WORDS[label] if kind.endswith("text") else label
                label = json.dumps({"label": label, "by": "hand"}) if kind.startswith("json") else str(label)
                form = kind.partition("-")[0]
                for ending, content in (("png", buffer.getvalue()), (form, label.encode())):
                    member = tarfile.TarInfo(f"{index:04d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
