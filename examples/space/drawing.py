"""The page's own HTML: maps as pictures on the grid of patches, with color bars, laid out so that they fold on a narrow screen.

Text is HTML text in the page's own colors, so it can be read in light and in dark; only maps and pictures are PNG.
"""

import base64
import html
import io

import numpy as np
from attention_maps import LayerMaps, Seen
from PIL import Image


# Colors from low to high. Both give zero the same light gray, so that zero looks alike in signed and in softmax maps.
SIGNED = ((0x0B, 0x3C, 0x8C), (0x5B, 0x93, 0xD6), (0xF2, 0xF2, 0xF2), (0xE8, 0x7C, 0x55), (0x8E, 0x0B, 0x1E))
POSITIVE = ((0xF2, 0xF2, 0xF2), (0xFB, 0xC8, 0x78), (0xF0, 0x86, 0x2A), (0xC4, 0x4A, 0x08), (0x7A, 0x1F, 0x02))
OVERLAY_OPACITY = 0.7
PICTURE_SIDE = 336  # pixels of the long side of what is drawn
MEAN_OF_HEADS = "mean over heads"

STYLE = """
.looks { display: flex; flex-wrap: wrap; gap: 18px; align-items: flex-start; }
.look { flex: 1 1 210px; max-width: 340px; min-width: 0; margin: 0; }
.look img { width: 100%; display: block; image-rendering: pixelated; border-radius: 4px; }
.look figcaption { font-size: 0.86em; line-height: 1.4; color: var(--body-text-color); overflow-wrap: break-word;
                   margin-top: 5px; }
.strip + .said, .looks + .said { margin-top: 14px; }
.look .title { font-weight: 600; font-size: 0.95em; margin-bottom: 6px; }
.bar { height: 12px; border-radius: 3px; margin-top: 8px; border: 1px solid var(--border-color-primary); }
.ends { display: flex; justify-content: space-between; font-variant-numeric: tabular-nums; }
.strip { margin-top: 16px; }
.strip .row { display: flex; flex-wrap: wrap; gap: 8px; margin: 4px 0 12px; }
.strip .name { font-size: 0.86em; color: var(--body-text-color); }
.strip figure { margin: 0; width: 76px; }
.strip img { width: 76px; image-rendering: pixelated; border-radius: 3px; display: block; }
.strip figcaption { font-size: 0.75em; text-align: center; color: var(--body-text-color); line-height: 1.25; margin-top: 3px; }
.strip .chosen img { outline: 2px solid var(--color-accent); outline-offset: 1px; }
#message:not(:has(.said)) { display: none; }
.said { padding: 10px 12px; border-radius: 6px; border: 1px solid var(--border-color-primary); color: var(--body-text-color);
        background: var(--background-fill-secondary); line-height: 1.45; overflow-wrap: anywhere; }
.said.refused { border-left: 5px solid #d13b2f; }
.chart svg { width: 100%; max-width: 520px; height: auto; color: var(--body-text-color); }
.chart .heading { font-weight: 600; }
.chart .where { font-size: 0.86em; line-height: 1.4; margin-bottom: 6px; color: var(--body-text-color); }
.chart table { font-size: 0.9em; border-collapse: collapse; margin-top: 4px; }
.chart table, .chart tr, .chart td, .chart th { border: none !important; background: none !important; }
.chart td, .chart th { padding: 2px 14px 2px 0 !important; text-align: right; font-variant-numeric: tabular-nums;
                       font-weight: normal; color: var(--body-text-color) !important; }
.chart th { border-bottom: 1px solid var(--border-color-primary) !important; }
.chart .progress { height: 5px; max-width: 520px; border-radius: 3px; margin: 4px 0; background: var(--border-color-primary); }
.chart .progress div { height: 100%; border-radius: 3px; background: var(--color-accent); }
.chart .wide { overflow-x: auto; }
"""


def said(sentences: list[str] | tuple[str, ...], refused: bool = False) -> str:
    """A box with sentences; "" for none. `refused` marks an answer to what could not be shown."""
    if not sentences:
        return ""
    kind, role = ("said refused", "alert") if refused else ("said", "status")
    return f'<div class="{kind}" role="{role}">{"<br>".join(html.escape(one) for one in sentences)}</div>'


def colors_of(values: np.ndarray, colors: tuple, low: float, high: float) -> np.ndarray:
    """`(..., 3)` uint8 of values `(...)`, linear between the colors, which lie evenly from `low` to `high`."""
    place = np.clip((values - low) / (high - low or 1.0), 0, 1) * (len(colors) - 1)
    table = np.array(colors, dtype=np.float64)
    steps = np.arange(len(colors))
    return np.stack([np.interp(place, steps, table[:, c]) for c in range(3)], axis=-1).round().astype(np.uint8)


def scale_of(weights: np.ndarray, signed: bool) -> tuple[tuple, float, float]:
    """Colors and the values of their ends: centered at zero for signed maps, from zero for softmax's."""
    high = float(np.abs(weights).max()) or 1.0
    return (SIGNED, -high, high) if signed else (POSITIVE, 0.0, high)


def map_image(weights: np.ndarray, signed: bool, picture: np.ndarray | None = None) -> Image.Image:
    """A map `(h, w)` in colors, a pixel for each patch; with a picture `(H, W, 3)`, that one tinted as strongly as it was looked at."""
    colors, low, high = scale_of(weights, signed)
    colored = colors_of(weights, colors, low, high)
    if picture is None:
        return Image.fromarray(colored)
    base = Image.fromarray(picture)
    side = PICTURE_SIDE / max(base.size)
    size = (max(1, round(base.width * side)), max(1, round(base.height * side)))
    under = np.asarray(
        base.resize(size, Image.Resampling.NEAREST if side > 4 else Image.Resampling.BICUBIC).convert("L")
    )
    strength = np.abs(weights) / high * OVERLAY_OPACITY
    tint = np.asarray(Image.fromarray(colored).resize(size, Image.Resampling.NEAREST), dtype=np.float64)
    opacity = np.asarray(Image.fromarray(strength.astype(np.float32)).resize(size, Image.Resampling.NEAREST))[
        ..., None
    ]
    return Image.fromarray((tint * opacity + under[..., None] * (1 - opacity)).round().astype(np.uint8))


def data_uri(image: Image.Image) -> str:
    """A PNG within the page."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def maps_html(
    seen: dict[str, Seen], picture: np.ndarray, layer: int, head: int | None, looker: str, overlay: bool
) -> str:
    """What the model saw, one attention of each model large, and all their attentions small.

    Args:
        seen: "softmax" and "SimA", or one of them.
        picture: `(H, W, 3)` uint8, as the model saw it.
        layer: index of the attention, from 0; the last one where a model has fewer.
        head: from 0; None for the mean.
        looker: `CLASS_TOKEN` or `ALL_PATCHES`.
        overlay: tint the picture instead of drawing the map alone.
    """
    large = [_card("What the model saw", Image.fromarray(picture), _pixels(picture))]
    strips = []
    for kind, one in seen.items():
        signed = kind != "softmax"
        if one.layers:
            chosen = min(layer, len(one.layers) - 1)
            large.append(_large(kind, one.layers[chosen], signed, head, looker, picture if overlay else None))
            strips.append(_strip(kind, one.layers, signed, head, looker, chosen))
    sentences = {kind: one.missing for kind, one in seen.items() if one.missing}
    alike = len(sentences) == len(seen) and len(set(sentences.values())) == 1
    boxes = said(list(set(sentences.values())) if alike else [f"{kind}: {text}" for kind, text in sentences.items()])
    return f'<div class="looks">{"".join(large)}</div>{"".join(strips)}{boxes}'


def _pixels(picture: np.ndarray) -> str:
    return f"{picture.shape[1]} x {picture.shape[0]} pixels, after its image processor"


def _card(title: str, image: Image.Image, caption: str, bar: str = "") -> str:
    name = html.escape(title)
    return (
        f'<figure class="look"><div class="title">{name}</div><img alt="{name}" src="{data_uri(image)}">{bar}'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _large(kind: str, layer: LayerMaps, signed: bool, head: int | None, looker: str, picture) -> str:
    """One map with its color bar, and in words what the colors leave out."""
    weights, special, who = layer.shown(looker, head)
    colors, low, high = scale_of(weights, signed)
    steps = ", ".join(f"rgb{color}" for color in colors)
    middle = "<span>0</span>" if signed else f"<span>{number(high / 2)}</span>"
    bar = (
        f'<div class="bar" style="background: linear-gradient(to right, {steps})"></div>'
        f'<div class="ends"><span>{number(low)}</span>{middle}<span>{number(high)}</span></div>'
    )
    which = MEAN_OF_HEADS if head is None else f"head {min(head, layer.heads - 1) + 1}"
    caption = (
        f"Looked from: {who}. {weights.shape[1]} x {weights.shape[0]} patches, weights {number(weights.min())} to "
    )
    caption += f"{number(weights.max())}, {number(weights.sum())} in sum"
    caption += f"; on the class token and its like {number(special)}." if special else "."
    return _card(f"{kind}: {layer.name}, {which}", map_image(weights, signed, picture), caption, bar)


def _strip(kind: str, layers: tuple[LayerMaps, ...], signed: bool, head: int | None, looker: str, chosen: int) -> str:
    """All attentions of a model, small, each in its own scale."""
    cells = []
    for index, layer in enumerate(layers):
        image = data_uri(map_image(layer.shown(looker, head)[0], signed))
        mark = ' class="chosen"' if index == chosen else ""
        cells.append(
            f'<figure{mark}><img alt="{kind}, {layer.name}" src="{image}"><figcaption>{layer.name}</figcaption></figure>'
        )
    return (
        f'<div class="strip"><div class="name">All attentions of {kind}, each in its own scale</div>'
        f'<div class="row">{"".join(cells)}</div></div>'
    )


def number(value: float) -> str:
    """A number to three digits, with a true minus."""
    text = f"{value:.3g}" if value else "0"
    return text.replace("-", "\N{MINUS SIGN}", 1) if text.startswith("-") else text
