"""Run by the tests in a process of its own: load published folders where sima_hf cannot be imported, and save what they give.

    python load_without_sima_hf.py FOLDER...

Each folder holds a published model, `auto.txt` (the Auto class to load with) and `given.pt` (inputs); it gets `got.pt`, the floating
point tensors of the output. Its model is saved once more, loaded in another process, and run again (`again.pt`), and pickled. Every
load is in a fork of its own, so that none finds what another has registered. A folder that fails gets `error.txt` instead; one with a
file `once` is left at the first load.
"""

import os
import pickle
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


def load(place, folder):
    """The model of `place`, by the Auto class that `folder` names."""
    auto = getattr(transformers, (folder / "auto.txt").read_text())
    return auto.from_pretrained(str(place), trust_remote_code=True)


def first(folder):
    given = torch.load(folder / "given.pt", weights_only=False)
    model = load(folder, folder)
    # Not the model as a whole: Transformers hangs hooks onto backbones, and makes a class of its own for those that generate.
    for part in (model.config, *{type(module) for module in model.modules() if module is not model}):
        pickle.loads(pickle.dumps(part))
    torch.save(run(model, given), folder / "got.pt")
    (folder / "class.txt").write_text(f"{type(model).__module__}.{type(model).__name__}")
    if not (folder / "once").exists():
        model.save_pretrained(folder / "again")


def second(folder):
    given = torch.load(folder / "given.pt", weights_only=False)
    torch.save(run(load(folder / "again", folder), given), folder / "again.pt")


def apart(work, folder):
    """Do it in a fork."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        work(folder)
    except BaseException:
        (folder / "error.txt").write_text(traceback.format_exc()[-3000:])
    finally:
        os._exit(0)


def warm_up(place):
    """Load a model of Transformers' own, so that not every fork has to import what that takes."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4)
    transformers.ViTModel(config).save_pretrained(place)
    run(transformers.AutoModel.from_pretrained(str(place)), {"pixel_values": torch.zeros(1, 3, 8, 8)})


def main(folders):
    """Load each; nothing of sima_hf can be imported from here on."""
    sys.modules["sima_hf"] = None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    warm_up(Path(folders[0]).with_name("warm"))
    for folder in map(Path, folders):
        apart(first, folder)
        if (folder / "again").exists() and not (folder / "error.txt").exists():
            apart(second, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
