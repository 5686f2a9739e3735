"""From a video's frames to clips: which frames make a clip, and how video files are decoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from data_shards.footage import Footage, UnusableError
from data_shards.images import check_size

WINDOWS = ("first", "each", "all", "whole")
SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv")
SUFFIXES += (".3gp", ".ogv", ".ts", ".gif")

# Playlists and scripts name other files and addresses; only containers are opened.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegvideo,asf,flv,ogg,gif"
_MISSING_SHARE = 0.05


def starts(count: int, *, frames: int, stride: int, windows: str) -> list[int]:
    """First source frames of the clips of a video of `count` frames; empty if it is too short.

    A clip holds the source frames `start + i * stride`, i < `frames`. `all` lays clips end to end
    (`frames * stride` apart); `first`, `each` and `whole` have one at 0.
    """
    if count < shortest(frames=frames, stride=stride):
        return []
    if windows != "all":
        return [0]
    return list(range(0, count - (frames - 1) * stride, frames * stride))


def shortest(*, frames: int, stride: int) -> int:
    """Frames that a video must have for one clip."""
    return (frames - 1) * stride + 1


def cut(
    source: Iterator[np.ndarray],
    *,
    frames: int,
    stride: int,
    windows: str,
    prepare: Callable[[np.ndarray], np.ndarray],
    segments: Sequence[int] = (),
) -> Iterator[tuple[int, np.ndarray]]:
    """Clips of a video as (start, uint8 (T, H, W, 3)), decoding no frame after the last needed.

    T is `frames`, or with `whole` every `stride`-th frame of the video. `prepare` brings a frame to
    its final size and is called for the frames kept only.

    `segments` are the frames of each of its segments (empty: it is one). Each is cut by itself, so
    that no clip crosses into the next, and one too short for a clip gives none; `first` takes the
    first clip of all, `each` the first of each segment, `whole` makes a clip of each segment.

    Raises:
        UnusableError: frames of different sizes.
    """
    alike, start = _alike(source), 0
    for count in segments or (None,):
        segment = islice(alike, count)
        for place, clip_THWC in _cut_segment(
            segment, frames=frames, stride=stride, windows=windows, prepare=prepare
        ):
            yield start + place, clip_THWC
            if windows == "first" or (windows == "each" and count is None):
                return
            if windows == "each":
                break
        deque(segment, maxlen=0)  # what is left of it is passed over
        start += count or 0


def _alike(source: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    first_shape = None
    for index, frame_HWC in enumerate(source):
        first_shape = first_shape or frame_HWC.shape
        if frame_HWC.shape != first_shape:
            raise UnusableError(
                f"frame {index} is {_size(frame_HWC.shape)}, frame 0 {_size(first_shape)}"
            )
        yield frame_HWC


def _cut_segment(
    source: Iterator[np.ndarray],
    *,
    frames: int,
    stride: int,
    windows: str,
    prepare: Callable[[np.ndarray], np.ndarray],
) -> Iterator[tuple[int, np.ndarray]]:
    start, kept = 0, []
    for index, frame_HWC in enumerate(source):
        if (index - start) % stride == 0:
            kept.append(prepare(frame_HWC))
        if windows == "whole" or len(kept) < frames or (index - start) % stride:
            continue
        yield start, np.stack(kept)
        kept = []
        start += frames * stride
    if windows == "whole" and len(kept) >= frames:
        yield 0, np.stack(kept)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def open_video(path: Path) -> Footage:
    """Frames of a video file through PyAV, turned upright; playlists are not followed.

    Raises:
        UnusableError: not a video, damaged or cut off; also while its frames are read.
    """
    try:
        # Absolute: what begins with "file:" or "http:" would be an address to FFmpeg.
        container = av.open(str(path.absolute()), options={"format_whitelist": _CONTAINERS})
    except (FFmpegError, ValueError) as error:
        raise UnusableError(f"{path.name} is not a video ({_reason(error)})") from None
    if not container.streams.video:
        container.close()
        raise UnusableError(f"{path.name} has no video stream")
    if container.streams.video[0].codec_context is None:
        container.close()
        raise UnusableError(f"{path.name} has a codec without a decoder here")
    return Footage(_decode(container, path.name), _told(container.streams.video[0]))


def _decode(container: InputContainer, name: str) -> Iterator[np.ndarray]:
    with container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        check_size(stream.height, stream.width, what=name)
        count, told = 0, _told(stream)
        try:
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise UnusableError(f"{name} is damaged at frame {count}")
                check_size(frame.height, frame.width, what=name)
                yield np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                count += 1
        except FFmpegError as error:
            raise UnusableError(
                f"{name} is damaged after frame {count} ({_reason(error)})"
            ) from None
        if count < told * (1 - _MISSING_SHARE):
            raise UnusableError(f"{name} is cut off: {count} of {told} frames can be read")


def _told(stream: VideoStream) -> int:
    """Frames that a container says it shows, 0 where it does not say: an MP4 or MOV that was cut
    without encoding it again holds more of them than that. (Of a cut-off AVI the duration is what
    is left of it.)"""
    count = max(0, stream.frames)
    if "mp4" not in stream.container.format.name:
        return count
    if stream.duration is None or stream.time_base is None or not stream.average_rate:
        return count
    return min(count, round(stream.duration * stream.time_base * stream.average_rate))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
