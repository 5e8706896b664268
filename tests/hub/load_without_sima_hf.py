"""Run by the tests in a process of its own: load published folders where sima_hf cannot be imported, and save what they give.

    python load_without_sima_hf.py FOLDER...

Each folder holds a published model, `auto.txt` (the Auto class to load with) and `given.pt` (inputs, or a seed's worth of them); it
gets `got.pt`, the floating point tensors of the output, and its model is saved once more, loaded again, and run again (`again.pt`).
A folder that fails gets `error.txt` instead.
"""

import sys
import traceback
from pathlib import Path

import torch
import transformers


def tensors(output):
    """The floating point tensors of a model's output, flattened."""
    if isinstance(output, torch.Tensor):
        return [output] if output.is_floating_point() else []
    if hasattr(output, "to_tuple"):
        output = output.to_tuple()
    return [tensor for value in output for tensor in tensors(value)] if isinstance(output, (tuple, list)) else []


def run(model, given):
    """The tensors of one forward in eval mode."""
    torch.manual_seed(0)  # ViLT draws among its patches
    with torch.no_grad():
        return tensors(model.eval()(**given))


def main(folders):
    """Load each; nothing of sima_hf can be imported from here on."""
    sys.modules["sima_hf"] = None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for folder in map(Path, folders):
        try:
            auto = getattr(transformers, (folder / "auto.txt").read_text())
            given = torch.load(folder / "given.pt", weights_only=False)
            model = auto.from_pretrained(str(folder), trust_remote_code=True)
            torch.save(run(model, given), folder / "got.pt")
            (folder / "class.txt").write_text(f"{type(model).__module__}.{type(model).__name__}")
            again = folder / "again"
            model.save_pretrained(again)
            torch.save(run(auto.from_pretrained(str(again), trust_remote_code=True), given), folder / "again.pt")
        except Exception:
            (folder / "error.txt").write_text(traceback.format_exc()[-3000:])


if __name__ == "__main__":
    main(sys.argv[1:])
