"""From a file that somebody dropped to a picture that a model can take, or to a sentence that says why not."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


MAX_PIXELS = 50_000_000  # decoded: 150 MB as RGB
MAX_ELONGATION = 50  # image processors scale the short side up to the model's size, and the long one with it
ORIENTATION = 0x0112  # the EXIF tag
READABLE = "JPEG, PNG, WebP, GIF, BMP and TIFF are."


class PictureError(ValueError):
    """A file that cannot be shown to a model; the text is a sentence for the person who dropped it."""


@dataclass(frozen=True)
class Picture:
    """An image as it should be looked at: upright, without transparency, 8 bits a channel.

    Attributes:
        image: of mode "RGB".
        notes: sentences about what was done to it, for the page.
    """

    image: Image.Image
    notes: tuple[str, ...] = ()


def read_picture(path: str | Path | None) -> Picture:
    """Read a file of any kind; nothing is decoded before its size is known to be bearable.

    JPEGs that are too large are decoded at a half, a quarter or an eighth of their size, which needs memory for the result alone.

    Raises:
        PictureError: there is no file, it is no image, it is damaged, or it is too large.
    """
    if path is None:
        raise PictureError("Drop an image first.")
    path = Path(path)
    if path.stat().st_size == 0:
        raise PictureError(f"{path.name} is empty, so there is nothing to look at.")
    try:
        with Image.open(path) as opened:
            notes = _bearable(opened)
            opened.load()
            frames = _frames(opened)
            notes += [f"Of its {frames} frames the first is shown."] if frames > 1 else []
            opened.seek(0)
            return _upright(opened.copy(), notes)
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(f"{path.name} is not an image that can be read here. {READABLE}") from None
    except Image.DecompressionBombError:
        raise PictureError(
            f"{path.name} has far more pixels than the {MAX_PIXELS / 1e6:.0f} million that are decoded here; make it smaller first."
        ) from None
    except (
        Exception
    ) as error:  # decoders raise whatever their format's code stumbles over: OSError, SyntaxError, struct.error
        raise PictureError(
            f"{path.name} begins like an image, but is damaged or cut short ({type(error).__name__}: {error}). Save or send it again."
        ) from error


def _bearable(opened: Image.Image) -> list[str]:
    """Refuse by the size in the file's header, or have the decoder shrink what it can; what was done."""
    width, height = opened.size
    if max(width, height) > MAX_ELONGATION * min(width, height):
        raise PictureError(
            f"The image has {width:,} x {height:,} pixels, more than {MAX_ELONGATION} times as long as wide; cut a part out of it."
        )
    if width * height <= MAX_PIXELS:
        return []
    opened.draft("RGB", (1024, 1024))
    if opened.size[0] * opened.size[1] <= MAX_PIXELS:
        return [f"It has {width:,} x {height:,} pixels and was decoded at {opened.size[0]:,} x {opened.size[1]:,}."]
    raise PictureError(
        f"The image has {width:,} x {height:,} pixels; at most {MAX_PIXELS / 1e6:.0f} million are decoded here. Make it smaller first: "
        "the model scales it down to its own size anyway."
    )


def _frames(opened: Image.Image) -> int:
    try:
        return getattr(opened, "n_frames", 1)
    except (OSError, EOFError, ValueError):  # a later frame is damaged, which the first need not care about
        return 1


def _upright(image: Image.Image, notes: list[str]) -> Picture:
    """Turn as the camera says, to 8 bits, transparency away."""
    if image.getexif().get(ORIENTATION, 1) in range(2, 9):
        image, notes = ImageOps.exif_transpose(image), [*notes, "It was turned as its EXIF data say."]
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image, notes = _eight_bits(image), [*notes, "Its gray values were brought to 8 bits."]
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            notes = [*notes, "Its transparent parts were put on white."]
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if min(image.size) < 4:
        notes = [*notes, f"It has {image.width} x {image.height} pixels, so there is hardly anything to look at."]
    return Picture(image.convert("RGB"), tuple(notes))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Gray of 16 or 32 bits or floating point as 8 bits; Pillow's own conversion would cut off all above 255."""
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F" or low < 0 or high > 65535:
        values = (values - low) / (high - low or 1.0) * 255
    elif high > 255 or image.mode.startswith("I;16"):
        values = values / 257
    return Image.fromarray(values.round().astype(np.uint8))
