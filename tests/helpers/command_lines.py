"""Lines of a page's shell, run in forks of one process (tests.helpers.hub.client), which has imported what they import anyway."""

from tests.helpers.script_runs import EXAMPLES


BARE = "import torch; torch.set_num_threads(1); import transformers, PIL.Image"
COMMAND = f"""
{BARE}
import runpy, shlex, sys
import kornia.augmentation, matplotlib.pyplot, sklearn.metrics, transformers.pipelines
import sima_hf, sima_hf.bench.model, sima_hf.calibration, sima_hf.evaluation.run, sima_hf.hub.pushing, sima_hf.patch_folder, sima_hf.training.run, sima_hf.training.trainer
from sima_hf.cli import main

def command(line):
    "A line of the shell. sima-hf and python are this process; nothing else is in the pages."
    program, *words = shlex.split(line)
    try:
        if program == "sima-hf":
            main(words)
        elif program == "python":
            sys.argv = words
            sys.path.insert(0, {str(EXAMPLES)!r})
            runpy.run_path(words[0], run_name="__main__")
        else:
            raise ValueError(line)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise RuntimeError(f"{{line}} ended with exit code {{end.code}}") from end
"""
