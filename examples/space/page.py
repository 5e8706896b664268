"""The page: drop an image, see classes, maps and times."""

import os
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from attention_maps import ALL_PATCHES, CLASS_TOKEN, Seen, look, seen_picture
from chart import NOTHING_YET, chart_html
from drawing import MEAN_OF_HEADS, STYLE, maps_html, said
from loaded_models import SIMA, SOFTMAX, LoadError, Pair
from pictures import PictureError, read_picture
from PIL import Image
from timing import conditions, measure


os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import, which reads it: the page calls nobody
import gradio as gr


TOP_CLASSES = 5
SECONDS_OF_TIMING = 20.0
INTRODUCTION = """# Where SimA looks
Vision transformers without softmax ([SimA](https://arxiv.org/abs/2206.08898)): drop an image to see the classes, where every
attention looked, and how long a forward takes as images grow. SimA's maps are signed, blue for what is taken away and red for
what is added; softmax's are positive and sum to one.
"""
BEGIN = "Drop an image to see where each attention looks in it."
# System fonts: a page that fetches none shows the same with and without network.
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}


@dataclass(frozen=True)
class Shown:
    """What was computed for the picture on the page, so that other layers and heads need no forward.

    Attributes:
        picture: `(H, W, 3)` uint8, as the model saw it.
        seen: kind of model -> what it made of it.
    """

    picture: np.ndarray
    seen: dict[str, Seen]


def classes_of(pair: Pair, seen: Seen) -> dict[str, float]:
    """Names and probabilities for gr.Label; names that more than one class has get the class's number."""
    names = [str(pair.main.config.id2label.get(index, index)) for index in range(len(seen.probabilities))]
    twice = {name for name, times in Counter(names).items() if times > 1}
    order = np.argsort(-seen.probabilities)[:TOP_CLASSES]
    return {f"{names[i]} ({i})" if names[i] in twice else names[i]: float(seen.probabilities[i]) for i in order}


def examine(pair: Pair, path: str | None) -> tuple[Shown, list[str]]:
    """Show one file to the models; what they made of it, and sentences about what was done to the picture.

    Raises:
        PictureError: the file cannot be shown to them.
    """
    read = read_picture(path)
    image, note = pair.prepare(read.image)
    pixel_values = pair.pixel_values(image)
    seen = {kind: look(model, pixel_values) for kind, model in pair.models.items()}
    return Shown(seen_picture(pixel_values, pair.processor), seen), [*read.notes, *([note] if note else [])]


def probe(pair: Pair) -> Shown:
    """What the models make of plain gray, to know their layers and heads before anybody comes.

    Raises:
        LoadError: they do not take an image through their processor.
    """
    image = Image.new("RGB", (64, 64), (128, 128, 128))
    try:
        pixel_values = pair.pixel_values(image)
        return Shown(
            seen_picture(pixel_values, pair.processor),
            {kind: look(model, pixel_values) for kind, model in pair.models.items()},
        )
    except Exception as error:  # whatever a foreign model's code raises
        raise LoadError(f"{pair.name} does not run on an image: {type(error).__name__}: {error}") from error


def draw(shown: Shown | None, layer: int, head: int, looker: str, overlay: bool) -> str:
    """The maps of what is on the page; `head` from 0, -1 for the mean."""
    if shown is None:
        return said([BEGIN])
    return maps_html(shown.seen, shown.picture, layer, None if head < 0 else head, looker, overlay)


def build_page(pair: Pair) -> gr.Blocks:
    """The page of a pair of models.

    Raises:
        LoadError: the models do not run.
    """
    layers = max((seen.layers for seen in probe(pair).seen.values()), key=len)
    heads = max((layer.heads for layer in layers), default=1)
    lookers = [who for who in (CLASS_TOKEN, ALL_PATCHES) if any(who in layer.patches for layer in layers)]
    kinds = list(pair.models)

    def answer(path, layer, head, looker, overlay):
        labels = [None] * len(kinds)
        if path is None:
            return None, said([BEGIN]), *labels, ""
        try:
            shown, notes = examine(pair, path)
        except PictureError as error:
            return None, said([str(error)], refused=True), *labels, ""
        except Exception as error:  # a foreign model's code; the visitor gets a sentence, the log the rest
            traceback.print_exc()
            text = f"The model could not take this image: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            return None, said([text], refused=True), *labels, ""
        labels = [classes_of(pair, shown.seen[kind]) if pair.classifies else None for kind in kinds]
        return shown, said(notes), *labels, draw(shown, layer, head, looker, overlay)

    def time_it() -> Iterator[str]:
        where = conditions(next(iter(pair.timed.values())))
        for progress in measure(pair.timed, SECONDS_OF_TIMING):
            yield chart_html(progress.points, where, progress.text, progress.share)

    with gr.Blocks(title="Where SimA looks", analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION)
        gr.Markdown("\n".join([f"**Model: `{pair.name}`**\n", *(f"- {note}" for note in pair.notes)]), elem_id="model")
        state = gr.State(None)
        with gr.Row():
            with gr.Column(min_width=280):
                file = gr.File(label="Image", elem_id="image", height=140)
                message = gr.HTML(said([BEGIN]), elem_id="message")
                if pair.examples:
                    samples = [[str(path)] for path in pair.examples]
                    tray = gr.Dataset(
                        components=[gr.Image(visible=False)],
                        samples=samples,
                        type="index",
                        label="Or one of these",
                        samples_per_page=len(samples),
                        elem_id="examples",
                    )
            with gr.Column(min_width=280), gr.Row():
                titles = {SOFTMAX: "Classes, by softmax attention", SIMA: "Classes, by SimA"}
                labels = [
                    gr.Label(
                        num_top_classes=TOP_CLASSES,
                        label=titles[kind],
                        elem_id=f"classes-{kind.lower()}",
                        min_width=220,
                    )
                    for kind in kinds
                ]
        with gr.Row(visible=bool(layers)):
            layer = gr.Dropdown(
                [(one.name, index) for index, one in enumerate(layers)] or [("none", 0)],
                value=max(len(layers) - 1, 0),
                label="Attention",
                elem_id="layer",
                min_width=200,
            )
            head = gr.Dropdown(
                [(MEAN_OF_HEADS, -1), *((f"head {index + 1}", index) for index in range(heads))],
                value=-1,
                label="Head",
                elem_id="head",
                min_width=200,
            )
            looker = gr.Radio(
                lookers or [ALL_PATCHES],
                value=(lookers or [ALL_PATCHES])[0],
                label="Looked from",
                visible=len(lookers) > 1,
                elem_id="looker",
            )
            overlay = gr.Checkbox(label="Draw over the picture", value=False, elem_id="overlay")
        maps = gr.HTML("", elem_id="maps")
        button = gr.Button("Measure the time against resolution on this machine", variant="primary", elem_id="measure")
        times = gr.HTML(said([NOTHING_YET]), elem_id="times")

        chosen = [layer, head, looker, overlay]
        one_at_a_time = {
            "concurrency_id": "models",
            "concurrency_limit": 1,
        }  # a time is true only of a model that runs alone
        file.change(answer, [file, *chosen], [state, message, *labels, maps], show_progress="minimal", **one_at_a_time)
        button.click(time_it, None, times, show_progress="hidden", **one_at_a_time)
        for control in chosen:
            control.change(draw, [state, *chosen], maps, show_progress="hidden")
        if pair.examples:
            tray.click(lambda index: str(pair.examples[index]), tray, file, show_progress="hidden")
    return page


def launch(page: gr.Blocks, pair: Pair, host: str | None, port: int | None, block: bool = True) -> str:
    """Serve the page; its address. Without host and port Gradio's own settings hold, those of a Space included."""
    _, address, _ = page.queue().launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=not block,
        ssr_mode=False,
        share=False,
        max_file_size="100mb",
        allowed_paths=sorted({str(path.parent) for path in pair.examples}),
        footer_links=[],
        theme=gr.themes.Default(**FONTS),
        css=STYLE,
        show_error=True,
    )
    return address
