"""docs/self-supervision.md: its commands run as they stand, shortened, in one folder, on handwritten digits."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from PIL import Image
from sklearn.datasets import load_digits
from transformers import AutoModel

from tests.helpers.script_runs import EXAMPLES


ROOT = EXAMPLES.parent
PAGE = (ROOT / "docs" / "self-supervision.md").read_text(encoding="utf-8")
QUIET = "--report_to none --disable_tqdm True --dataloader_num_workers 0"
# What does not end in seconds.
STAND_INS = {
    "run_dino.py": f" --max_steps 4 --save_strategy steps --save_steps 2 --per_device_train_batch_size 16 --head_hidden_dim 64 {QUIET}",
    "run_image_classification.py": f" --max_steps 2 --per_device_train_batch_size 16 --held_out 0.1 {QUIET}",
}


def commands():
    """The lines of the block that begins with DINO, backslashes joined, comments left out."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    (block,) = [one for one in blocks if "--protocol knn" in one]
    return [line for line in block.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


@pytest.mark.slow
def test_its_commands_run(tmp_path):
    bunch = load_digits()
    for index, (pixels, label) in enumerate(zip(bunch.images[:200], bunch.target, strict=False)):
        place = tmp_path / "photos" / ("train" if index < 150 else "val") / f"digit {label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * (255 / 16)).round().astype("uint8")).resize((32, 32)).save(place / f"{index}.png")
    (tmp_path / "examples").symlink_to(EXAMPLES)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    told, printed = commands(), ""
    assert [line.split()[0] for line in told] == ["python", "python", "sima-hf", "sima-hf", "sima-hf", "python"]
    for line in told:
        line += next((words for name, words in STAND_INS.items() if name in line), "")
        program, *words = shlex.split(line)
        before = [sys.executable] if program == "python" else [sys.executable, "-m", "sima_hf.cli"]
        if "--resume_from_checkpoint" in words:
            words[words.index("--max_steps") + 1] = "6"
        done = subprocess.run(
            [*before, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        printed += done.stdout
    assert printed.count("top-1 accuracy") == 2
    assert AutoModel.from_pretrained(tmp_path / "mine").config.model_type == "sima_vit"
    for name in ("mine/curves.png", "mine/README.md", "mine/sima_provenance.json", "features/part-00000.parquet"):
        assert (tmp_path / name).is_file(), name
    assert not list((tmp_path / "mine").glob("dino*"))
    provenance = json.loads((tmp_path / "mine" / "sima_provenance.json").read_text(encoding="utf-8"))
    assert (provenance["training"]["local_crops"], provenance["training"]["out_dim"]) == (4, 1024)
    assert (tmp_path / "classifier" / "all_results.json").is_file()
