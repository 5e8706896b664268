"""docs/dense.md: its commands run as they stand, shortened, in one folder; its sentences are those that are raised."""

import os
import re

import pytest
import torch
from PIL import Image

from sima_hf import SimABackbone, SimAConfig
from sima_hf.errors import DataError
from tests.helpers.command_lines import COMMAND
from tests.helpers.hub.client import Client
from tests.helpers.script_runs import EXAMPLES


ROOT = EXAMPLES.parent
PAGE = (ROOT / "docs" / "dense.md").read_text(encoding="utf-8")
SHORT = "--max_steps 4 --max_train_images 24 --max_validation_images 8 --report_to none --disable_tqdm True"
# What does not end in seconds, and what is not here.
STAND_INS = {
    "digits_on_photos.py": " --images 40 --validation_images 12",
    "run_": f" {SHORT} --save_steps 2 --save_strategy steps",
}


def commands():
    """The lines of the bash block that begins with the data, backslashes joined, comments left out."""
    (block,) = [one for one in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL) if "digits_on_photos.py" in one]
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.slow
def test_its_commands_run(tmp_path):
    (tmp_path / "examples").symlink_to(EXAMPLES)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    softmax = (
        "python examples/run_semantic_segmentation.py --config_name examples/configs/dense/models/segformer_digits.json "
        "--image_size 64 --dataset_name digits-on-photos --output_dir segmented-by-softmax"
    )
    told = commands()
    assert len(told) == 5
    with Client(environment, tmp_path / "log", COMMAND) as process:
        for line in [told[0], softmax, *told[1:]]:
            line += next(words for name, words in STAND_INS.items() if name in line)
            if "--resume_from_checkpoint" in line:
                line = line.replace("--max_steps 4", "--max_steps 6")
            process.apart(f"command({line!r})", empty=False)
    for folder in ("segmented", "detected", "swapped"):
        assert (tmp_path / folder / "all_results.json").is_file()
        assert (tmp_path / folder / "preprocessor_config.json").is_file()


def sentence_of(function):
    with pytest.raises(ValueError) as raised:
        function()
    return str(raised.value)


def test_its_sentences_are_what_is_said():
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("run_semantic_segmentation", EXAMPLES / "run_semantic_segmentation.py")
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    tiny = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    backbone = SimABackbone(SimAConfig(**tiny, pyramid_strides=[4, 8, 16, 32]))
    processor = type("Sized", (), {"size": {"height": 8, "width": 8}})
    rows = [{"image": Image.new("RGB", (8, 8)), "label": Image.new("L", (8, 9))}]
    for function in (
        lambda: backbone(torch.randn(1, 3, 16, 32)),
        lambda: SimAConfig(**tiny, pyramid_strides=[8, 16], out_features=["stage4"]),
        lambda: script.Views(rows, processor, script.DataArguments())[0],
    ):
        assert sentence_of(function) in PAGE
    assert issubclass(DataError, ValueError)
