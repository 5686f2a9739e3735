"""Images in and out: safe decoding, cropping, resizing, contact sheets.

Nothing is decoded before its claimed size is known to be sane; only plain image formats are opened.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from data_shards.footage import UnusableError
from data_shards.manifest import MAX_SIDE

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
FITS = ("crop", "stretch")
MOST_FRAMES = 65_536
"""Of a strip: far longer ones are thin pictures that mean something else."""
MAX_FILE_BYTES = 1 << 30

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF")
_PNG_END = b"IEND\xaeB`\x82"
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


def read_bytes(path: Path) -> bytes:
    """Bytes of a file of sane size.

    Raises:
        UnusableError: larger than 1 GiB.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise UnusableError(f"{path.name} is larger than {MAX_FILE_BYTES >> 20} MiB")
    return data


def decode_image(data: bytes, *, what: str, upright: bool = False) -> np.ndarray:
    """Pixels of an image file, uint8 (H, W, 3); transparency is laid on white.

    `what` names it in errors; `upright` follows an EXIF orientation.

    Raises:
        UnusableError: not an image, truncated, absurdly large, or of more than 8 bits a channel.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                if image.format == "PNG":
                    image.verify()
                    if _PNG_END not in data:
                        raise UnusableError(f"{what} is damaged (its end is missing)")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                return _pixels(ImageOps.exif_transpose(image) if upright else image, what)
        except UnusableError:
            raise
        except Image.UnidentifiedImageError:
            raise UnusableError(f"{what} is not an image") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            limit = (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
            raise UnusableError(f"{what} has more than {limit} million pixels") from None
        except _DAMAGE as error:
            raise UnusableError(f"{what} is damaged ({_one_line(error)})") from None


def _pixels(image: Image.Image, what: str) -> np.ndarray:
    if image.mode not in _MODES:
        raise UnusableError(f"{what} has mode {image.mode}: convert it to 8 bits a channel")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert("RGB"))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def split_strip(strip_HWC: np.ndarray, *, stacked: bool) -> list[np.ndarray]:
    """Square frames of a strip: one above the other where `stacked`, else side by side.

    Raises:
        UnusableError: the long side is no multiple of the short one, or of too many.
    """
    height, width = strip_HWC.shape[:2]
    if stacked and height % width:
        raise UnusableError(f"its height {height} is no multiple of its width {width}")
    if not stacked and width % height:
        raise UnusableError(f"its width {width} is no multiple of its height {height}")
    count, axis = (height // width, 0) if stacked else (width // height, 1)
    if count > MOST_FRAMES:
        raise UnusableError(f"it has {count:,} frames; at most {MOST_FRAMES:,} are taken")
    return np.split(strip_HWC, count, axis)


def check_size(height: int, width: int, *, what: str) -> None:
    """Refuse a frame with a side of more than `MAX_SIDE` pixels, or none (UnusableError)."""
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise UnusableError(f"{what} is {width}x{height}: sides are 1 to {MAX_SIDE} pixels")


def fit(frame_HWC: np.ndarray, *, height: int, width: int, crop: int, how: str) -> np.ndarray:
    """Bring a frame to (height, width, 3).

    First a centred square of `crop` pixels is cut out (0: none). Then `how="crop"` cuts the largest
    centred part of the wanted shape, `how="stretch"` does not; the rest is an antialiased resize.

    Raises:
        UnusableError: the crop is larger than the frame.
    """
    check_size(*frame_HWC.shape[:2], what="a frame")
    if crop:
        if crop > min(frame_HWC.shape[:2]):
            size = f"{frame_HWC.shape[1]}x{frame_HWC.shape[0]}"
            raise UnusableError(f"the crop of {crop} pixels is larger than its frames of {size}")
        frame_HWC = _centre(frame_HWC, crop, crop)
    if how == "crop":
        have_h, have_w = frame_HWC.shape[:2]
        keep_h = min(have_h, max(1, round(have_w * height / width)))
        keep_w = min(have_w, max(1, round(have_h * width / height)))
        frame_HWC = _centre(frame_HWC, keep_h, keep_w)
    if frame_HWC.shape[:2] == (height, width):
        return frame_HWC
    image = Image.fromarray(np.ascontiguousarray(frame_HWC))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def _centre(frame_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    top = (frame_HWC.shape[0] - height) // 2
    left = (frame_HWC.shape[1] - width) // 2
    return frame_HWC[top : top + height, left : left + width]


def contact_sheet(clips: list[np.ndarray], *, columns: int = 16, gap: int = 2) -> Image.Image:
    """One row for each clip (T, H, W, 3), at most `columns` of its frames evenly spread."""
    height, width = clips[0].shape[1:3]
    shown = min(columns, max(len(clip) for clip in clips))
    size = (gap + shown * (width + gap), gap + len(clips) * (height + gap))
    sheet = Image.new("RGB", size, "white")
    for row, clip_THWC in enumerate(clips):
        picks = np.linspace(0, len(clip_THWC) - 1, min(shown, len(clip_THWC))).round().astype(int)
        for column, pick in enumerate(picks):
            where = (gap + column * (width + gap), gap + row * (height + gap))
            sheet.paste(Image.fromarray(clip_THWC[pick]), where)
    return sheet
