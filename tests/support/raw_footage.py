"""Footage as users have it, in every layout that the sources read, made on the spot."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image


def moving(frames: int, *, height: int = 24, width: int = 24, shade: int = 0) -> np.ndarray:
    """uint8 (T, H, W, 3): a bright bar that moves over a gradient; `shade` tells videos apart."""
    t, y, x = np.mgrid[:frames, :height, :width]
    bar = 200 * (np.abs(x - (2 * t) % width) < 3)
    return np.stack([bar, 90 + 0 * t + shade, (y * 255 // height)], -1).astype(np.uint8)


def write_image(path: Path, pixels_HWC: np.ndarray) -> Path:
    """Save an image, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_HWC).save(path)
    return path


def side_by_side(clip_THWC: np.ndarray) -> np.ndarray:
    """A strip with the frames from left to right."""
    return np.concatenate(list(clip_THWC), axis=1)


def stacked(clip_THWC: np.ndarray) -> np.ndarray:
    """A strip with the frames from top to bottom."""
    return np.concatenate(list(clip_THWC), axis=0)


def strips(root: Path, *, frames: int = 8, people: int = 3, actions: int = 2) -> Path:
    """`<action>/person<k>.png` as in the published Weizmann strips."""
    for action in range(actions):
        for person in range(people):
            clip = moving(frames, shade=40 * action + 10 * person)
            write_image(root / f"action{action}" / f"person{person}.png", side_by_side(clip))
    return root


def chairs(root: Path, *, models: int = 2, views: int = 6, elevations: tuple[int, ...] = (20, 30)):
    """`<model>/renders/image_<nnn>_p<elevation>_t<azimuth>_r096.png`."""
    for model in range(models):
        number = 0
        for elevation in elevations:
            for view, frame in enumerate(moving(views, shade=elevation + model)):
                number += 1
                azimuth = f"{view * 11:03d}"
                name = f"image_{number:03d}_p{elevation:03d}_t{azimuth}_r096.png"
                write_image(root / f"chair{model}" / "renders" / name, frame)
    return root


def write_video(path: Path, clip_THWC: np.ndarray, *, codec: str = "mpeg4") -> Path:
    """Encode a video file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = clip_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        for frame in clip_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def golf(root: Path, *, videos: int = 6, segments: Sequence[int] = (8, 8)) -> Path:
    """`golf/<video>/<segment>.jpg`: a folder a video, a JPEG of stacked frames a segment."""
    for video in range(videos):
        for segment, frames in enumerate(segments):
            clip = moving(frames, shade=20 * video + 5 * segment)
            write_image(root / "golf" / f"{video:06d}" / f"{segment:04d}.jpg", stacked(clip))
    return root


def pack(root: Path, archive: Path) -> Path:
    """A folder as `.tar`, `.tar.gz` or `.tar.bz2`, members in order of their names."""
    mode = {".tar": "w", ".gz": "w:gz", ".bz2": "w:bz2"}[archive.suffix]
    with tarfile.open(archive, mode) as tar:
        for path in sorted(root.rglob("*")):
            tar.add(path, path.relative_to(root).as_posix(), recursive=False)
    return archive


def add_member(archive: tarfile.TarFile, name: str, data: bytes, **facts) -> None:
    """Append a member with any name and type."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in facts.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(data))
