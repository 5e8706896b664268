"""The DINO script: its configurations, and ends that say why."""

import os
import runpy
import sys

import pytest
import torch

from sima_hf.training import DataArguments, DINOTrainingArguments, ModelArguments
from sima_hf.training.command_line import parse
from sima_hf.training.models import build_model
from tests.helpers.script_runs import EXAMPLES


CONFIGS = sorted((EXAMPLES / "configs" / "self_supervision").glob("*.json"))
TINY = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=24,patch_size=4"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_script_takes_its_configurations(path, tmp_path):
    words = [str(path), "--output_dir", str(tmp_path)]
    model_args, data_args, args = parse(ModelArguments, DataArguments, DINOTrainingArguments, arguments=words)
    assert data_args.dataset_name == "ILSVRC/imagenet-1k"
    assert (8 * args.per_device_train_batch_size, args.num_train_epochs, args.out_dim) == (1024, 300, 65536)
    with torch.device("meta"):
        built = build_model(model_args, None, args.drop_path)
    wanted = {"dino_sima_small_12_p16": 25.9, "dino_sima_deit_small": 21.8}[path.stem]
    assert built.model.num_parameters() / 1e6 == pytest.approx(wanted, rel=0.02)
    assert built.model.config.attention_gain == "none"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--model_type vit", "--mixup has no use in DINO, got 0.8; leave it out."),
        ("--model_type vit --variant sima_small_12_p16", "Give exactly one of --variant"),
        ("--model_type vit --validation_dir photos", "--validation_dir has no use in self-supervision"),
        (
            f"--model_type sima_vit --config_overrides {TINY} --image_size 16 --local_crop_size 2",
            "cannot take crops of 2 x 2",
        ),
        ("--model_type vit --resume_from_checkpoint last", "has no checkpoint to go on from"),
    ],
    ids=["mixup", "two", "validation", "crops", "resume"],
)
def test_what_a_user_can_mend_ends_in_a_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    mixup = " --mixup 0.8" if "mixup" in sentence else ""
    quiet = f" --output_dir {tmp_path} --report_to none --per_device_train_batch_size 8 --dataloader_num_workers 0"
    monkeypatch.setattr(sys, "argv", ["run_dino.py", *(words + mixup + quiet).split()])
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(EXAMPLES / "run_dino.py"), run_name="__main__")
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("run_dino: ") or "\nrun_dino: " in said
    assert sentence in said
    assert not list(tmp_path.glob("checkpoint*"))
