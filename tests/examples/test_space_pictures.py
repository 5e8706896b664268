"""What people drop on the Space's page: every file becomes an upright RGB picture or a sentence."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


SPACE = Path(__file__).resolve().parents[2] / "examples" / "space"


@pytest.fixture
def pictures(monkeypatch):
    monkeypatch.syspath_prepend(str(SPACE))
    monkeypatch.delitem(sys.modules, "pictures", raising=False)
    import pictures

    yield pictures
    sys.modules.pop("pictures", None)


@pytest.fixture
def write(tmp_path):
    """Save an image, or write bytes, under a name; the path."""

    def write(content, name, **options):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path, **options)
        return path

    return write


def photo(mode="RGB", size=(60, 40)):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image, file_format):
    buffer = io.BytesIO()
    image.save(buffer, format=file_format)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("make", "name", "sentence"),
    [
        (lambda: b"Dear model, what is this?", "letter.txt", "letter.txt is not an image that can be read here"),
        (lambda: b"Dear model, what is this?", "letter.png", "letter.png is not an image that can be read here"),
        (lambda: b"", "nothing.png", "nothing.png is empty"),
        (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "drawing.svg", "is not an image that can be read here"),
        (lambda: encoded(photo(), "JPEG")[:900], "cut.jpg", "damaged or cut short"),
        (lambda: encoded(photo(), "PNG")[:900], "cut.png", "damaged or cut short"),
        (lambda: encoded(photo(), "GIF")[:900], "cut.gif", "damaged or cut short"),
        (lambda: encoded(photo(), "WEBP")[:200], "cut.webp", "damaged or cut short|not an image"),
        (lambda: Image.new("1", (20000, 20000)), "enormous.png", "far more pixels than the 50 million"),
        (lambda: Image.new("1", (9000, 9000)), "large.png", "9,000 x 9,000 pixels; at most 50 million"),
        (lambda: Image.new("L", (6000, 2)), "thread.png", "6,000 x 2 pixels, more than 50 times as long as wide"),
    ],
)
def test_what_cannot_be_shown_gets_a_sentence(pictures, write, make, name, sentence):
    with pytest.raises(pictures.PictureError, match=sentence) as refused:
        pictures.read_picture(write(make(), name))
    assert str(refused.value).rstrip().endswith(".")


def test_no_file(pictures):
    with pytest.raises(pictures.PictureError, match="Drop an image first"):
        pictures.read_picture(None)


def test_a_plain_picture_stays_as_it_is(pictures, write):
    read = pictures.read_picture(write(photo(), "plain.png"))
    assert read.notes == ()
    assert read.image.tobytes() == photo().tobytes()


def test_a_large_jpeg_is_decoded_small(pictures, write):
    read = pictures.read_picture(write(Image.new("L", (8000, 7000), 90), "large.jpg"))
    assert read.image.size == (2000, 1750)
    assert read.notes == ("It has 8,000 x 7,000 pixels and was decoded at 2,000 x 1,750.",)


def test_one_pixel(pictures, write):
    read = pictures.read_picture(write(Image.new("RGB", (1, 1), (9, 8, 7)), "one.png"))
    assert read.image.getpixel((0, 0)) == (9, 8, 7)
    assert "hardly anything to look at" in read.notes[0]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_goes_on_white(pictures, write, mode):
    image = photo(mode)
    image.putalpha(Image.new("L", image.size, 0))
    read = pictures.read_picture(write(image, "clear.png"))
    assert read.image.getextrema() == ((255, 255),) * 3
    assert read.notes == ("Its transparent parts were put on white.",)


def test_opaque_alpha_is_not_worth_a_word(pictures, write):
    read = pictures.read_picture(write(photo("RGBA"), "opaque.png"))
    assert read.notes == ()
    assert read.image.tobytes() == photo().tobytes()


def test_palettes(pictures, write):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    assert pictures.read_picture(write(image, "palette.png")).image.getpixel((0, 0)) == (0, 255, 0)
    clear = pictures.read_picture(write(image, "clear.png", transparency=1))
    assert clear.image.getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_and_not_cut_off(pictures, write):
    values = np.array([[0, 257, 128 * 257, 65535]] * 4, dtype=np.uint16)
    read = pictures.read_picture(write(Image.fromarray(values), "deep.png"))
    assert [read.image.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 1, 128, 255)]
    assert read.notes == ("Its gray values were brought to 8 bits.",)


def test_floating_point_with_holes(pictures, write):
    values = np.array([[-1.0, 0.0, 1.0, np.nan]] * 4, dtype=np.float32)
    read = pictures.read_picture(write(Image.fromarray(values), "measured.tiff"))
    assert [read.image.getpixel((x, 0))[0] for x in range(4)] == [0, 128, 255, 128]


def test_cameras_turn(pictures, write):
    image = Image.new("RGB", (40, 20), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turn clockwise
    read = pictures.read_picture(write(image, "turned.png", exif=exif))
    assert read.image.size == (20, 40)
    assert read.image.getpixel((19, 0)) == (255, 255, 255)
    assert read.notes == ("It was turned as its EXIF data say.",)


def test_of_an_animation_the_first_frame(pictures, write):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue")]
    read = pictures.read_picture(write(frames[0], "moving.gif", save_all=True, append_images=frames[1:]))
    assert read.image.getpixel((0, 0)) == (255, 0, 0)
    assert read.notes == ("Of its 3 frames the first is shown.",)


def test_printers_colors(pictures, write):
    read = pictures.read_picture(write(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "print.tiff"))
    red, green, blue = read.image.getpixel((0, 0))
    assert red > 200
    assert green < 60
    assert blue < 60
