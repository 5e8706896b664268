"""A page to look at: classes, attention maps and times of a softmax model and its SimA twin.

    python examples/space/app.py                                   # a small ViT, trained on digits at the first start
    python examples/space/app.py facebook/deit-small-patch16-224 --calibrate_with photos
    python examples/space/app.py demo                              # what `make demo` left: a model that is SimA from the start

On a Space there are no arguments; there the variable SIMA_SPACE_MODEL names the model.
"""

import argparse
import json
import os
import sys
from pathlib import Path


os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from digits_model import default_cache, digits_folder, light_on_dark
from loaded_models import UNCALIBRATED, LoadError, Pair, load_pair
from transformers.utils import logging

from sima_hf.errors import SimAError


def digits_pair(cache: Path) -> Pair:
    """The digits models of a folder, made first if need be, with what was measured of them."""
    folder = digits_folder(cache)
    pair = load_pair(str(folder / "sima"), counterpart=str(folder / "softmax"))
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    accuracy = results["accuracy"]
    pair.name = "a small ViT, trained here on scikit-learn's digits"
    pair.notes = (
        f"Of {results['test_images']} held-out digits, softmax gets {accuracy['softmax']:.1%} right, its calibrated SimA twin "
        f"{accuracy['sima']:.1%}; fresh from the swap it was {accuracy['sima_uncalibrated']:.1%}. Nothing was trained after the swap.",
        f"Train, swap, calibrate and measure took {results['seconds']:.0f} s, once.",
    )
    pair.examples = tuple(sorted((folder / "examples").glob("*.png")))
    pair.prepare = light_on_dark
    return pair


def main() -> None:
    """Parse the command line, load, serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", nargs="?", default=os.environ.get("SIMA_SPACE_MODEL") or None, help="folder or Hub name"
    )
    parser.add_argument("--calibrate_with", type=Path, metavar="FOLDER", help="images to calibrate the SimA twin with")
    parser.add_argument(
        "--counterpart", metavar="MODEL", help="softmax model to show beside one that is swapped already"
    )
    parser.add_argument("--trust_remote_code", action="store_true", help="let code from the model's repository run")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where the digits models are kept")
    parser.add_argument("--host", help="address to listen at; default: 127.0.0.1, on a Space what it sets")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    arguments = parser.parse_args()
    try:
        from page import build_page, launch
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        sys.exit("space: the page needs Gradio: pip install gradio")
    logging.disable_progress_bar()  # a model this small is read before a bar is drawn
    try:
        if arguments.model is None:
            pair = digits_pair(arguments.cache)
        else:
            pair = load_pair(
                arguments.model,
                calibrate_with=arguments.calibrate_with,
                counterpart=arguments.counterpart,
                trust_remote_code=arguments.trust_remote_code,
            )
        if UNCALIBRATED in pair.notes:
            print("Note: the SimA twin is not calibrated; --calibrate_with FOLDER does that.")
        page = build_page(pair)
    except (LoadError, SimAError, OSError) as error:
        sys.exit(f"space: {error}")
    launch(page, pair, arguments.host, arguments.port)


if __name__ == "__main__":
    main()
