"""A clip's pixels as the payload of a tar member, and back.

| codec | payload | exact |
| --- | --- | --- |
| `png` | one PNG with the frames stacked from top to bottom (the default) | yes |
| `jpg` | one JPEG with the frames stacked from top to bottom, quality 95, 4:4:4 | no |
| `raw` | a `.npy` of uint8 (T, H, W, 3) | yes |
| `mp4` | H.264, 4:4:4, constant rate factor 16, sides filled up to whole macroblocks | no |

Decoding checks the sizes that the payload claims before it spends memory on them, and never
unpickles.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

import av
import imagecodecs
import numpy as np
from av.error import FFmpegError
from PIL import Image

_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
_DAMAGE += (Image.DecompressionBombError, FFmpegError)  # type: ignore[operator]
# numpy's own reader parses Python, and Python 3.11's parser fails now and then in threads.
_NPY_HEAD = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '\|u1', 'fortran_order': False, "
    rb"'shape': \((\d{1,9}), (\d{1,9}), (\d{1,9}), (\d{1,9})\), \} *\n",
    re.DOTALL,
)
_JPEG_ROWS = 65500
MACROBLOCK = 16
"""Pixels of the sides of what H.264 codes at once."""
_READERS: dict[str, tuple[bytes, Callable[..., np.ndarray], type[Exception]]] = {
    "PNG": (b"IEND\xaeB`\x82", imagecodecs.png_decode, imagecodecs.PngError),
    "JPEG": (b"\xff\xd9", imagecodecs.jpeg8_decode, imagecodecs.Jpeg8Error),
}
"""How a file ends, what reads it, and what that raises for one that it cannot read."""


class Codec(NamedTuple):
    """How one payload format is written and read."""

    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes, tuple[int, int, int]], np.ndarray]
    exact: bool
    """Whether every pixel comes back as it was."""


def encode(frames_THWC: np.ndarray, codec: str) -> bytes:
    """Payload of a clip: uint8 (T, H, W, 3) -> bytes; the same bytes for the same pixels.

    Raises:
        ValueError: unknown codec, not uint8 RGB, or a clip too long for the image codecs.
    """
    if frames_THWC.ndim != 4 or frames_THWC.dtype != np.uint8 or frames_THWC.shape[3] != 3:
        raise ValueError(f"a clip is uint8 (T, H, W, 3), not {_describe(frames_THWC)}")
    return _find(codec).encode(np.ascontiguousarray(frames_THWC))


def decode(payload: bytes, codec: str, *, frames: int, height: int, width: int) -> np.ndarray:
    """Pixels of a payload, uint8 (frames, height, width, 3), writable.

    Raises:
        ValueError: unknown codec, a damaged payload, or one of another size than asked for.
    """
    found = _find(codec)
    try:
        frames_THWC = found.decode(payload, (frames, height, width))
    except _DAMAGE as error:
        raise ValueError(f"damaged {codec} payload: {error}") from error
    if frames_THWC.shape != (frames, height, width, 3):
        raise ValueError(f"damaged {codec} payload: {_describe(frames_THWC)}")
    return frames_THWC


def _find(codec: str) -> Codec:
    if codec not in CODECS:
        raise ValueError(f"unknown codec {codec!r}: choose from {', '.join(CODECS)}")
    return CODECS[codec]


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"


def _encode_image(frames_THWC: np.ndarray, kind: str, **options: int) -> bytes:
    frames, height, width, _ = frames_THWC.shape
    rows = frames * height
    if rows * width > (Image.MAX_IMAGE_PIXELS or 0) or (kind == "JPEG" and rows > _JPEG_ROWS):
        raise ValueError(f"{frames} frames are too many for one {kind} image: use raw or mp4")
    buffer = io.BytesIO()
    Image.fromarray(frames_THWC.reshape(rows, width, 3)).save(buffer, kind, **options)
    return buffer.getvalue()


def _decode_image(payload: bytes, size_THW: tuple[int, int, int], kind: str) -> np.ndarray:
    frames, height, width = size_THW
    end, read, failure = _READERS[kind]
    if not payload.endswith(end):
        raise ValueError("its end is missing")
    pixels_YXC = np.empty((frames * height, width, 3), np.uint8)
    try:
        read(payload, out=pixels_YXC)  # an image of another size or type is refused by its header
    except failure as error:
        raise ValueError(str(error)) from None
    return pixels_YXC.reshape(frames, height, width, 3)


def _encode_raw(frames_THWC: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, frames_THWC, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _decode_raw(payload: bytes, size_THW: tuple[int, int, int]) -> np.ndarray:
    head = _NPY_HEAD.match(payload)
    if head is None or head.end() != 10 + int.from_bytes(head[1], "little"):
        raise ValueError("not the head of an .npy file of bytes")
    shape, body = tuple(map(int, head.groups()[1:])), memoryview(payload)[head.end() :]
    if shape != (*size_THW, 3) or len(body) != np.prod(shape):
        raise ValueError(f"{shape} in {len(body)} bytes")
    return np.frombuffer(body, np.uint8).reshape(shape).copy()


def _blocks(height: int, width: int) -> tuple[int, int]:
    """Pixels of the whole macroblocks that hold so many."""
    return height + -height % MACROBLOCK, width + -width % MACROBLOCK


def _encode_mp4(frames_THWC: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    height, width = frames_THWC.shape[1:3]
    # x264 fills a last block that is not whole from memory that nobody wrote, now and then: other
    # bytes for the same pixels.
    rows, columns = _blocks(height, width)
    more = [(0, 0), (0, rows - height), (0, columns - width), (0, 0)]
    frames_THWC = np.pad(frames_THWC, more, mode="edge")
    with av.open(buffer, "w", format="mp4") as container:
        # One thread: slices, and with them the bytes, must not depend on the machine.
        stream = container.add_stream("libx264", rate=25, options={"crf": "16", "threads": "1"})
        stream.height, stream.width = frames_THWC.shape[1:3]
        container.metadata["comment"] = f"{width}x{height}"
        stream.pix_fmt = "yuv444p"
        for frame_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _decode_mp4(payload: bytes, size_THW: tuple[int, int, int]) -> np.ndarray:
    frames, height, width = size_THW
    frames_THWC = np.empty((frames, height, width, 3), np.uint8)
    count = 0
    with av.open(io.BytesIO(payload), "r", format="mp4") as container:
        stream = container.streams.video[0]
        stored = stream.height, stream.width
        size = container.metadata.get("comment", f"{stream.width}x{stream.height}")
        if size != f"{width}x{height}" or stored not in ((height, width), _blocks(height, width)):
            raise ValueError(f"video of {stream.width}x{stream.height} pixels for {size}")
        stream.codec_context.thread_count = 1
        for count, frame in enumerate(container.decode(stream), start=1):
            if count <= frames:
                frames_THWC[count - 1] = frame.to_ndarray(format="rgb24")[:height, :width]
    if count != frames:
        raise ValueError(f"video of {count} frames")
    return frames_THWC


CODECS = {
    "png": Codec(
        lambda frames: _encode_image(frames, "PNG", compress_level=6),
        lambda payload, size: _decode_image(payload, size, "PNG"),
        exact=True,
    ),
    "jpg": Codec(
        lambda frames: _encode_image(frames, "JPEG", quality=95, subsampling=0),
        lambda payload, size: _decode_image(payload, size, "JPEG"),
        exact=False,
    ),
    "raw": Codec(_encode_raw, _decode_raw, exact=True),
    "mp4": Codec(_encode_mp4, _decode_mp4, exact=False),
}
"""Every codec by its name, which is also the extension of the tar members."""
