"""Every configuration in examples/configs is one that the scripts take: arguments, models, launchers."""

import json
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from sima_hf import SIMA_VARIANTS, SimAForImageClassification
from sima_hf.bench.tables import links_from
from sima_hf.training.arguments import DataArguments, LoopArguments, ModelArguments, SimATrainingArguments
from sima_hf.training.command_line import parse
from sima_hf.training.models import build_model


CONFIGS = Path(__file__).resolve().parents[2] / "examples" / "configs"
MODELS = sorted(CONFIGS.glob("*.json"))
LAUNCHERS = sorted(CONFIGS.glob("*.yaml"))

RUNNERS = ("python", "accelerate", "torchrun")
TRAINING = {"run_image_classification", "run_image_classification_no_trainer", "distill"}

# Width, blocks and parameters (1,000 classes, in millions) as the literature has them; see SIMA.md and DeiT, CvT.
PARAMETERS = {
    "sima_tiny_12_p16": 6.7,
    "sima_small_12_p16": 26.3,
    "sima_medium_24_p16": 84.4,
    "sima-deit-tiny": 5.7,
    "sima-deit-small": 22.05,
    "sima-deit-base": 86.6,
    "sima-cvt-13": 20.0,
}


def test_all_that_was_promised_is_there():
    names = {path.stem for path in MODELS}
    assert names >= {f"sima_{size}_p{patch}" for size in ("tiny_12", "small_12", "medium_24") for patch in (8, 16)}
    assert names >= {"sima-deit-tiny", "sima-deit-small", "sima-deit-base", "sima-cvt-13", "finetune-384"}
    assert len(LAUNCHERS) == 5


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_both_scripts_take_it(path, tmp_path):
    for kind in (SimATrainingArguments, LoopArguments):
        words = [str(path), "--output_dir", str(tmp_path), "--max_steps", "3"]
        model_args, data_args, args = parse(ModelArguments, DataArguments, kind, arguments=words)
        assert data_args.dataset_name == "ILSVRC/imagenet-1k"
        assert args.output_dir == str(tmp_path)  # the command line has the last word
        assert args.max_steps == 3
        assert args.per_device_train_batch_size * args.gradient_accumulation_steps * 8 in (512, 1024)
    if path.stem.startswith("sima_"):
        assert model_args.variant == path.stem
        assert path.stem in SIMA_VARIANTS


@pytest.mark.parametrize("name", [path.stem for path in MODELS if path.stem in PARAMETERS])
def test_it_builds_the_model_that_its_name_says(name, tmp_path):
    words = [str(CONFIGS / f"{name}.json"), "--output_dir", str(tmp_path)]
    model_args, _, args = parse(ModelArguments, DataArguments, LoopArguments, arguments=words)
    with torch.device("meta"):
        built = build_model(model_args, [f"class {index}" for index in range(1000)], args.drop_path)
    assert built.model.num_parameters() / 1e6 == pytest.approx(PARAMETERS[name], rel=0.02)
    assert built.model.config.attention_gain == "none"
    assert built.image_size == 224
    assert isinstance(built.model, SimAForImageClassification) or built.model.config.model_type.startswith("sima_")


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_accelerate_takes_it(path):
    from accelerate.commands.config.config_args import load_config_from_file

    content = yaml.safe_load(path.read_text())
    config = load_config_from_file(str(path))
    assert config.num_processes == content["num_processes"]
    assert config.mixed_precision == "bf16"
    if "fsdp" in path.stem:
        assert config.fsdp_config["fsdp_version"] == 2
    if "zero2" in path.stem:
        assert config.deepspeed_config["zero_stage"] == 2
    if "nodes" in path.stem:
        assert (config.num_machines, config.num_processes) == (4, 32)


@pytest.mark.parametrize("path", sorted((CONFIGS / "small_sets").glob("*.json")), ids=lambda path: path.stem)
def test_a_recipe_for_small_sets_is_one_without_data_and_model(path, tmp_path):
    words = [str(path), "--model_name_or_path", "mine", "--output_dir", str(tmp_path)]
    for kind in (SimATrainingArguments, LoopArguments):
        model_args, data_args, args = parse(ModelArguments, DataArguments, kind, arguments=words)
        assert (model_args.model_name_or_path, data_args.train_dir) == ("mine", None)
        assert args.rand_augment is None
        assert not args.scale_learning_rate


def test_a_field_that_nobody_knows_is_refused(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"output_dir": "x", "learning_rat": 1}))
    with pytest.raises(ValueError, match=r"mine\.json sets learning_rat, which this script does not know"):
        parse(ModelArguments, DataArguments, LoopArguments, arguments=[str(path)])
    path.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        parse(ModelArguments, DataArguments, LoopArguments, arguments=[str(path)])
    with pytest.raises(ValueError, match="There is no file"):
        parse(ModelArguments, DataArguments, LoopArguments, arguments=[str(tmp_path / "none.json")])


def test_the_page_on_training_lists_them(monkeypatch):
    monkeypatch.syspath_prepend(str(CONFIGS.parents[1] / "benchmarks"))
    from list_configs import markdown_table

    page = Path("docs/training.md")
    text, table = (CONFIGS.parents[1] / page).read_text(encoding="utf-8"), links_from(page, markdown_table())
    assert f"<!-- configs:start -->\n{table}\n<!-- configs:end -->" in text


def test_commands_of_the_pages_are_ones_that_the_scripts_take(tmp_path, monkeypatch):
    """Every argument of every training command in README and docs exists; their values are read."""
    from sima_hf.training.distillation.trainer import DistillationArguments

    monkeypatch.chdir(CONFIGS.parents[1])
    seen = set()
    for page in (Path("README.md"), *Path("docs").glob("*.md")):
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in text.splitlines():
            words = (
                shlex.split(line.partition(" # ")[0]) if "examples/" in line and line.split(" ")[0] in RUNNERS else []
            )
            script = next((word for word in words if word.startswith("examples/") and word.endswith(".py")), None)
            if script is None or Path(script).stem not in TRAINING or "..." in words:
                continue
            kinds = (ModelArguments, DataArguments, LoopArguments if "no_trainer" in script else SimATrainingArguments)
            kinds += (DistillationArguments,) if "distill" in script else ()
            arguments = words[words.index(script) + 1 :]
            arguments += [] if "--output_dir" in arguments or arguments[0].endswith(".json") else ["--output_dir", "x"]
            parse(*kinds, arguments=arguments)
            seen.add(Path(script).stem)
    assert seen == TRAINING
