"""Codecs: pixels survive, damage never passes."""

from __future__ import annotations

import ast
import io

import av
import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_shards import payloads

SIZE = {"frames": 5, "height": 12, "width": 18}


def clip_THWC(frames: int = 5, height: int = 12, width: int = 18) -> np.ndarray:
    t, y, x = np.mgrid[:frames, :height, :width]
    return np.stack([20 * t + 10 * y, 12 * x, 5 * (x + y)], -1).astype(np.uint8)


@pytest.mark.parametrize("codec", payloads.CODECS)
def test_round_trip(codec: str) -> None:
    """Exact codecs give every pixel back, lossy ones nearly; equal pixels make equal bytes."""
    pixels = clip_THWC()
    payload = payloads.encode(pixels, codec)
    back = payloads.decode(payload, codec, **SIZE)
    error = np.abs(back.astype(int) - pixels)
    assert error.mean() < (1e-9 if payloads.CODECS[codec].exact else 8)
    assert back.flags.writeable and back.dtype == np.uint8
    assert payloads.encode(pixels[:, :, ::-1][:, :, ::-1], codec) == payload


@pytest.mark.parametrize("codec", payloads.CODECS)
@pytest.mark.parametrize("other", [{"frames": 4}, {"frames": 6}, {"height": 10}, {"width": 36}])
def test_another_size_is_damage(codec: str, other: dict) -> None:
    """A payload of another size than the manifest says is refused."""
    with pytest.raises(ValueError, match=f"damaged {codec} payload"):
        payloads.decode(payloads.encode(clip_THWC(), codec), codec, **{**SIZE, **other})


def test_mp4_codes_whole_macroblocks() -> None:
    """The stream of 18 x 12 pixels has 32 x 16; a payload that was written without filling up, or
    whose stream is of another size than its blocks make, is told by its own size."""
    filled = payloads.encode(clip_THWC(), "mp4")
    with av.open(io.BytesIO(filled)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (32, 16)
    bare = io.BytesIO()
    with av.open(bare, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 18, 12, "yuv444p"
        for frame in clip_THWC():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    assert payloads.decode(bare.getvalue(), "mp4", **SIZE).shape == (5, 12, 18, 3)
    forged = payloads.encode(clip_THWC(width=80), "mp4").replace(b"80x12", b"18x12")
    with pytest.raises(ValueError, match="damaged mp4 payload: video of 80x16 pixels for 18x12"):
        payloads.decode(forged, "mp4", **SIZE)


@pytest.mark.parametrize("codec", payloads.CODECS)
@pytest.mark.parametrize("keep", [0, 1, 30, 0.5, 0.9])
def test_truncation_is_damage(codec: str, keep: float) -> None:
    """A payload that was cut off is refused with a ValueError, wherever the cut is."""
    payload = payloads.encode(clip_THWC(), codec)
    cut = payload[: int(keep * len(payload)) if isinstance(keep, float) else keep]
    with pytest.raises(ValueError, match=f"damaged {codec} payload"):
        payloads.decode(cut, codec, **SIZE)


@pytest.mark.parametrize("codec", ["png", "jpg"])
def test_a_cut_that_keeps_the_end_is_damage_or_a_whole_image(codec: str) -> None:
    """Bytes that are missing in the midst are noticed by the format, where it can: all of a PNG."""
    payload, found = payloads.encode(clip_THWC(), codec), []
    for at in range(len(payload) - 12):
        try:
            found.append(payloads.decode(payload[:at] + payload[-12:], codec, **SIZE))
        except ValueError as error:
            assert str(error).startswith(f"damaged {codec} payload: ")
    assert not found or codec == "jpg"


@pytest.mark.parametrize("codec", ["png", "jpg"])
def test_pixels_are_those_of_pillow(codec: str) -> None:
    """Two libraries read the same image from a payload, also from a JPEG in several passes."""
    found, several = [payloads.encode(clip_THWC(), codec)], io.BytesIO()
    if codec == "jpg":
        Image.fromarray(clip_THWC().reshape(60, 18, 3)).save(several, "JPEG", progressive=True)
        found.append(several.getvalue())
    for payload in found:
        with Image.open(io.BytesIO(payload)) as image:
            assert np.array_equal(
                payloads.decode(payload, codec, **SIZE), np.array(image).reshape(5, 12, 18, 3)
            )


@pytest.mark.parametrize("mode", ["L", "RGBA", "RGB;16"])
def test_another_type_of_pixels_is_damage(mode: str) -> None:
    """Shades of grey, transparency and 16 bits a channel are not cut down to what was asked for."""
    pixels, saved = clip_THWC().reshape(60, 18, 3), io.BytesIO()
    if mode == "RGB;16":
        saved.write(imagecodecs.png_encode(pixels.astype(np.uint16) * 257))
    else:
        Image.fromarray(pixels).convert(mode).save(saved, "PNG")
    with pytest.raises(ValueError, match="damaged png payload: invalid out"):
        payloads.decode(saved.getvalue(), "png", **SIZE)


@settings(max_examples=60, deadline=None)
@given(codec=st.sampled_from(sorted(payloads.CODECS)), data=st.binary(max_size=200))
def test_noise_is_damage(codec: str, data: bytes) -> None:
    """Arbitrary bytes raise ValueError and nothing else."""
    with pytest.raises(ValueError):
        payloads.decode(data, codec, **SIZE)


def test_claimed_sizes_cost_no_memory() -> None:
    """A .npy or PNG that claims terabytes is refused by its header."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 20, 1 << 20, 1 << 20, 3)}
    )
    with pytest.raises(ValueError, match="damaged raw"):
        payloads.decode(header.getvalue(), "raw", **SIZE)
    bomb = io.BytesIO()
    Image.new("RGB", (15000, 13000)).save(bomb, "PNG", compress_level=1)
    with pytest.raises(ValueError, match="damaged png"):
        payloads.decode(bomb.getvalue(), "png", **SIZE)


def test_pickles_are_refused() -> None:
    """An object array is never loaded."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="damaged raw"):
        payloads.decode(buffer.getvalue(), "raw", **SIZE)


def test_what_cannot_be_encoded() -> None:
    """Other types, unknown codecs and images taller than JPEG allows are named."""
    with pytest.raises(
        ValueError, match=r"a clip is uint8 \(T, H, W, 3\), not float64 \(5, 12, 18, 3\)"
    ):
        payloads.encode(clip_THWC().astype(float), "png")
    with pytest.raises(ValueError, match="unknown codec 'gif': choose from png, jpg, raw, mp4"):
        payloads.encode(clip_THWC(), "gif")
    with pytest.raises(ValueError, match="6000 frames are too many for one JPEG image"):
        payloads.encode(np.zeros((6000, 12, 2, 3), np.uint8), "jpg")


def test_decoding_parses_no_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """As numpy's own reader of headers does: Python 3.11's parser fails now and then in threads
    (SystemError: AST constructor recursion depth mismatch), which decode clips here."""

    def refuse(*_: object, **__: object) -> None:
        raise SystemError("AST constructor recursion depth mismatch")

    payload = payloads.encode(clip_THWC(), "raw")
    with monkeypatch.context() as patch:
        patch.setattr(ast, "parse", refuse)
        found = payloads.decode(payload, "raw", **SIZE)
    assert np.array_equal(found, clip_THWC())
