"""Images: what is decoded, refused, cropped and resized."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from data_shards import images
from data_shards.footage import UnusableError
from tests.support.raw_footage import moving, side_by_side, stacked


def png(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_modes_become_rgb() -> None:
    """Grey, palette and transparent images become RGB, transparency white."""
    grey = images.decode_image(png(Image.new("L", (3, 2), 7)), what="a")
    assert grey.shape == (2, 3, 3) and (grey == 7).all()
    clear = images.decode_image(png(Image.new("RGBA", (3, 2), (9, 9, 9, 0))), what="a")
    assert (clear == 255).all()
    palette = images.decode_image(png(Image.new("P", (3, 2), 0)), what="a")
    assert palette.shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello", "^a.png is not an image$"),
        (b"", "^a.png is not an image$"),
        (png(Image.new("I;16", (4, 4))), "^a.png has mode I;16: convert it to 8 bits a channel$"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "^a.png is not an image$"),
    ],
)
def test_what_is_no_image(data: bytes, reason: str) -> None:
    """Text, deep images and formats that run programs are refused with a reason."""
    with pytest.raises(UnusableError, match=reason):
        images.decode_image(data, what="a.png")


@pytest.mark.parametrize("cut", [20, 60, 100, -13, -1])
def test_truncated_png(cut: int) -> None:
    """A PNG that was cut anywhere, even in its last chunk, is damaged."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    with pytest.raises(UnusableError, match=r"^a\.png is (damaged|not an image)"):
        images.decode_image(png(Image.fromarray(noise))[:cut], what="a.png")


def test_bombs_are_not_decoded() -> None:
    """An image that claims more pixels than Pillow's limit is refused by its header."""
    bomb = png(Image.new("1", (12000, 12000)))
    assert len(bomb) < 30_000
    with pytest.raises(UnusableError, match=r"^b\.png has more than 89 million pixels$"):
        images.decode_image(bomb, what="b.png")


def test_strips_split_into_their_frames() -> None:
    """Both directions give the frames back; another width is refused with both sizes."""
    clip = moving(5)
    assert np.array_equal(images.split_strip(side_by_side(clip), stacked=False), clip)
    assert np.array_equal(images.split_strip(stacked(clip), stacked=True), clip)
    with pytest.raises(UnusableError, match=r"^its width 119 is no multiple of its height 24$"):
        images.split_strip(side_by_side(clip)[:, :-1], stacked=False)
    with pytest.raises(UnusableError, match=r"^its height 119 is no multiple of its width 24$"):
        images.split_strip(stacked(clip)[:-1], stacked=True)


def test_fit() -> None:
    """The crop is centred, the aspect is kept unless stretched, equal sizes stay as they are."""
    frame = np.zeros((20, 40, 3), np.uint8)
    frame[:, 10:30] = 255
    size = {"height": 10, "width": 10}
    assert (images.fit(frame, **size, crop=0, how="crop") == 255).all()
    assert (images.fit(frame, **size, crop=20, how="crop") == 255).all()
    stretched = images.fit(frame, **size, crop=0, how="stretch")
    assert stretched.shape == (10, 10, 3) and stretched.min() == 0
    assert images.fit(frame, height=20, width=40, crop=0, how="crop") is not None
    assert np.array_equal(images.fit(frame, height=20, width=40, crop=0, how="crop"), frame)
    with pytest.raises(
        UnusableError, match=r"^the crop of 21 pixels is larger than its frames of 40x20$"
    ):
        images.fit(frame, **size, crop=21, how="crop")


def test_absurd_sizes() -> None:
    """Sides beyond 8192 pixels are refused."""
    with pytest.raises(UnusableError, match=r"^x is 9000x10: sides are 1 to 8192 pixels$"):
        images.check_size(10, 9000, what="x")


def test_contact_sheet() -> None:
    """A sheet has one row for each clip and at most 16 columns."""
    sheet = images.contact_sheet([moving(20), moving(4)])
    assert sheet.size == (2 + 16 * 26, 2 + 2 * 26)
