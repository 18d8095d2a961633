"""Every kind of picture becomes the right RGB, and every bad file one line."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from smalti.errors import ImageError
from smalti.images import open_image, to_pil, to_tensor


def encoded(image: Image.Image, kind: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def noise(width: int = 7, height: int = 5) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_tensor_range_and_rounding() -> None:
    image = Image.fromarray(np.array([[[0, 127, 255]]], dtype=np.uint8))
    tensor = to_tensor(image)
    assert tensor.shape == (1, 3, 1, 1)
    assert tensor.dtype == torch.float32
    assert tensor.flatten().tolist() == pytest.approx([-1, 127 / 127.5 - 1, 1])
    beyond = torch.tensor([-9.0, 0.0, 9.0]).view(1, 3, 1, 1)
    assert to_pil(beyond)[0].getpixel((0, 0)) == (0, 128, 255)  # 127.5 rounds up, the rest is clamped


def test_every_byte_survives_the_tensor() -> None:
    image = Image.fromarray(np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3))
    assert to_pil(to_tensor(image))[0].tobytes() == image.tobytes()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_files_give_their_bytes(kind: str) -> None:
    assert open_image(encoded(noise(), kind)).tobytes() == noise().tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_other_formats_open(kind: str) -> None:
    image = open_image(encoded(noise(), kind))
    assert (image.mode, image.size) == ("RGB", (7, 5))


def grey_16(value: int) -> Image.Image:
    return Image.fromarray(np.full((2, 3), value, dtype=np.uint16))


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("L", (3, 2), 100), (100, 100, 100)),
        (Image.new("1", (3, 2), 1), (255, 255, 255)),
        (Image.new("LA", (3, 2), (100, 255)), (100, 100, 100)),
        (Image.new("LA", (3, 2), (100, 0)), (255, 255, 255)),
        (Image.new("RGBA", (3, 2), (200, 0, 0, 255)), (200, 0, 0)),
        (Image.new("RGBA", (3, 2), (200, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (3, 2), (200, 0, 0, 51)), (244, 204, 204)),
        (Image.new("CMYK", (3, 2), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("HSV", (3, 2), (0, 255, 255)), (255, 0, 0)),
        (grey_16(65535), (255, 255, 255)),
        (grey_16(257 * 100), (100, 100, 100)),
        (Image.new("I", (3, 2), 257 * 100), (100, 100, 100)),
        (Image.new("I", (3, 2), 100), (100, 100, 100)),
        (Image.new("F", (3, 2), 100.0), (100, 100, 100)),
        (Image.new("F", (3, 2), 0.5), (128, 128, 128)),
        (Image.new("F", (3, 2), float("nan")), (0, 0, 0)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_modes(image: Image.Image, colour: tuple[int, int, int]) -> None:
    rgb = open_image(image)
    assert (rgb.mode, rgb.size) == ("RGB", (3, 2))
    assert rgb.getpixel((1, 1)) == colour


def test_modes_in_files() -> None:
    assert open_image(encoded(grey_16(257 * 100), "PNG")).getpixel((0, 0)) == (100, 100, 100)
    assert open_image(encoded(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "TIFF")).getpixel((0, 0)) == (255, 0, 0)
    red, green, blue = open_image(encoded(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "JPEG")).getpixel((0, 0))
    assert red > 240
    assert max(green, blue) < 16


def test_palette_with_and_without_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert open_image(encoded(image, "PNG")).tobytes() == bytes([10, 20, 30, 200, 100, 50])
    transparent = open_image(encoded(image, "PNG", transparency=0))
    assert transparent.tobytes() == bytes([255, 255, 255, 200, 100, 50])
    assert "transparency" not in transparent.info


def test_background_of_transparent_pixels() -> None:
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert open_image(image, background=(1, 2, 3)).getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    """The red corner of the upright picture is top left, however the file stores it."""
    upright = Image.new("RGB", (16, 8), "blue")
    upright.paste("red", (0, 0, 4, 4))
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(encoded(stored, "PNG", exif=exif))
    assert image.size == (16, 8)
    assert image.tobytes() == upright.tobytes()
    assert "exif" not in image.info  # it would turn the picture once more
    assert open_image(image).tobytes() == upright.tobytes()


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP"):
        file = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert open_image(file).getpixel((0, 0)) == (255, 0, 0)


def test_text_and_rgb_profile_stay_other_profiles_do_not() -> None:
    image = noise()
    image.info.update(smalti="a recipe")
    assert open_image(image).info["smalti"] == "a recipe"
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert open_image(encoded(noise(), "PNG", icc_profile=srgb)).info["icc_profile"] == srgb
    other_space = srgb[:16] + b"GRAY" + srgb[20:]
    assert "icc_profile" not in open_image(encoded(noise(), "TIFF", icc_profile=other_space)).info


def test_the_callers_picture_is_copied() -> None:
    image = noise()
    opened = open_image(image)
    opened.putpixel((0, 0), (1, 2, 3))
    opened.info["new"] = 1
    assert image.tobytes() == noise().tobytes()
    assert "new" not in image.info


def fails(source: object, words: str, **options: object) -> None:
    """Opening fails with one line that has these words."""
    with pytest.raises(ImageError, match=words) as caught:
        open_image(source, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    fails(tmp_path / "none.png", r"none\.png does not exist")
    fails(tmp_path, "is a folder")


def test_renamed_text_file(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("I am no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "drawing.png").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    for name in ("text.png", "empty.png", "drawing.png"):
        fails(tmp_path / name, rf"{name} is not a picture \(PNG, ")


def test_formats_off_the_list_are_not_tried(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png", "EPS")  # Pillow would run Ghostscript over it
    fails(tmp_path / "a.png", "is not a picture")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_truncated_file(tmp_path: Path, kind: str) -> None:
    data = encoded(noise(64, 64), kind).getvalue()
    path = tmp_path / "cut.png"
    path.write_bytes(data[: len(data) // 2])
    fails(path, r"cut\.png is (damaged|not a picture)")


def test_a_truncated_picture_that_pillow_opened_lazily() -> None:
    data = encoded(noise(64, 64), "PNG").getvalue()
    fails(Image.open(io.BytesIO(data[: len(data) // 2])), "the picture is damaged")


def png_claiming(width: int, height: int) -> io.BytesIO:
    """A tiny file whose header promises many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [
        (8000, 8000, "8000x8000 pixels, more than 40 million"),
        (12000, 10000, "more than 40 million"),  # Pillow warns here
        (60_000, 60_000, "far too many pixels"),  # and gives up here
        (2**31 - 1, 2**31 - 1, "far too many pixels"),
    ],
)
def test_decompression_bombs_are_refused_before_a_pixel_is_decoded(width: int, height: int, words: str) -> None:
    fails(png_claiming(width, height), words)


def test_the_limit_is_a_parameter_and_covers_pictures_in_memory() -> None:
    assert open_image(noise(10, 10), max_pixels=100).size == (10, 10)
    fails(noise(10, 11), "10x11 pixels", max_pixels=100)
    fails(encoded(noise(10, 11), "PNG"), "10x11 pixels", max_pixels=100)
    fails(Image.new("RGB", (0, 4)), "no pixels")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_damaged_bytes_never_give_a_traceback(kind: str) -> None:
    data = encoded(noise(24, 18), kind).getvalue()
    rng = np.random.default_rng(0)
    messages = []
    for trial in range(150):
        damaged = bytearray(data)
        head = min(len(data), 150) if trial % 2 else len(data)
        for at in rng.integers(0, head, rng.integers(1, 5)):
            damaged[at] = rng.integers(0, 256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks about the damage
            try:
                image = open_image(io.BytesIO(bytes(damaged)))
            except ImageError as error:
                messages.append(str(error))
            else:
                assert image.mode == "RGB"
    assert messages
    assert not any("\n" in message for message in messages)
