"""Pictures from files to RGB, and between RGB and the tensors of the network. The only ground-floor user of Pillow."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from smalti.errors import ImageError
from smalti.types import Images

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
MAX_PIXELS = 40_000_000


def open_image(
    source: str | Path | BinaryIO | Image.Image,
    *,
    background: tuple[int, int, int] = (255, 255, 255),
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """A picture as 8-bit RGB, upright, with its text chunks and RGB colour profile kept in `.info`.

    The size is checked before any pixel is decoded; of an animation the first frame counts; transparency is laid on
    `background`. Raises ImageError (one line, naming the file) if it is missing, damaged, no picture, or too large.
    """
    if isinstance(source, Image.Image):
        with _explained("the picture"):
            return _checked(source, "the picture", background, max_pixels)
    name = str(source) if isinstance(source, str | Path) else getattr(source, "name", "the upload")
    with _explained(name), warnings.catch_warnings():
        # our own limit is the one that counts; Pillow's second, far larger one still raises
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(source, formats=FORMATS) as image:
            return _checked(image, name, background, max_pixels)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what Pillow raises over a file into an ImageError of one line that names it."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist") from None
    except IsADirectoryError:
        raise ImageError(f"{name} is a folder, not a picture") from None
    except PermissionError:
        raise ImageError(f"{name} cannot be read: no permission") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not a picture ({', '.join(FORMATS)} can be read)") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name} claims far too many pixels: it may be made to harm") from None
    except Exception as error:  # decoders raise anything over damaged bytes: struct.error, IndexError, zlib.error ...
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ImageError(f"{name} is damaged or incomplete: {reason}") from error


def _checked(image: Image.Image, name: str, background: tuple[int, int, int], max_pixels: int) -> Image.Image:
    """Size first, then pixels."""
    if image.width * image.height > max_pixels:
        raise ImageError(
            f"{name} has {image.width}x{image.height} pixels, more than {max_pixels / 1e6:g} million: make it smaller"
        )
    if not image.width * image.height:
        raise ImageError(f"{name} has no pixels ({image.width}x{image.height})")
    image.load()
    return _to_rgb(image, background)


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    info = dict(image.info)
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        rgb = _from_deep_grey(upright)
    elif upright.has_transparency_data:
        layer = upright.convert("RGBA")
        rgb = Image.new("RGB", layer.size, background)
        rgb.paste(layer, mask=layer.getchannel("A"))
    else:
        rgb = upright.convert("RGB") if upright.mode != "RGB" else upright.copy()
    for key in ("transparency", "exif"):
        info.pop(key, None)
    profile = info.get("icc_profile")
    if profile is not None and profile[16:20] != b"RGB ":  # the colour space that a profile speaks of
        del info["icc_profile"]
    rgb.info = info
    return rgb


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, 32 bits or floats to 8 bits: Pillow's own conversion clips at 255 instead of scaling.

    32-bit and float modes do not say what white is: it is the least of 1 (floats), 255 and 65535 that nothing exceeds.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    brightest = values.max()
    if image.mode == "F" and brightest <= 1:
        white = 1.0
    elif image.mode in ("I", "F") and brightest <= 255:
        white = 255.0
    else:
        white = 65535.0
    grey = (np.clip(values / white, 0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(grey, "L").convert("RGB")


def to_tensor(image: Image.Image) -> Images:
    """float32 `(1, 3, H, W)` in [-1, 1] of an RGB picture."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"), dtype=np.uint8))
    return pixels.permute(2, 0, 1).unsqueeze(0).float().div_(127.5).sub_(1)


def to_pil(images: Images) -> list[Image.Image]:
    """RGB pictures of float `(n, 3, H, W)`; values outside [-1, 1] are clamped, halves round up."""
    pixels = ((images.detach().float().cpu() + 1) * 127.5 + 0.5).floor().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(p, "RGB") for p in pixels.permute(0, 2, 3, 1).numpy()]


def png_bytes(image: Image.Image) -> bytes:
    """A picture as PNG, without any of its text."""
    buffer = io.BytesIO()
    Image.Image.save(image, buffer, "PNG", pnginfo=None)
    return buffer.getvalue()
