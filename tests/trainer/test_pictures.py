"""Pictures hold the pixels that they were given, and can be opened by others."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from trainer import pictures
from trainer.pictures import Row


def clip(seed: int = 0, *, frames: int = 4, height: int = 10, width: int = 12) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (frames, height, width, 3)).astype(np.uint8)


def test_pixels_are_round_of_x_plus_one_times_127_5():
    """-1 is 0, 1 is 255, outside is clipped, and the channels come last."""
    images = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0]).reshape(5, 1, 1, 1).expand(5, 3, 1, 1)
    assert pictures.to_pixels(images)[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]
    assert pictures.to_pixels(torch.zeros(2, 4, 3, 6, 5)).shape == (2, 4, 6, 5, 3)
    assert pictures.to_pixels(torch.zeros(2, 1, 6, 5)).shape == (2, 6, 5, 3)


def test_a_film_strip_shows_every_frame_in_order():
    """Frame i starts at i (width + gap); the gaps are transparent."""
    frames = clip()
    strip = pictures.film_strip(frames, gap=3)
    assert strip.shape == (10, 4 * 12 + 3 * 3, 4)
    for index in range(4):
        assert (strip[:, index * 15 : index * 15 + 12, :3] == frames[index]).all()
    assert (strip[:, 12:15, 3] == 0).all()


def test_a_sheet_holds_its_rows_exactly_and_keeps_groups_apart():
    """Real and generated of one video touch nearly; the next video stands further away."""
    first, second = clip(1), clip(2)
    rows = pictures.real_above_generated(
        ["a", "b"], np.stack([first, second]), np.stack([first] * 2)
    )
    page = np.asarray(pictures.sheet(rows))
    strip = pictures.film_strip(first)
    assert (page[:10, -strip.shape[1] :] == strip).all()
    assert (page[12:22, -strip.shape[1] :] == strip).all()
    assert (page[32:42, -strip.shape[1] :] == pictures.film_strip(second)).all()
    assert page[:, : -strip.shape[1], 3].any(), "labels were drawn"


def test_a_sheet_takes_hostile_and_endless_names():
    """Newlines, other scripts and length do no harm."""
    rows = [Row("<b>\n" + "x" * 500, clip()), Row("видео ☃", clip())]
    assert pictures.sheet(rows).width < 400
    assert pictures.shorten("abcdefghij", 5) == "ab…ij"
    assert pictures.shorten("a\nb", 5) == "a b"


def test_a_sheet_of_nothing_is_refused():
    """No rows is the caller's mistake."""
    with pytest.raises(ValueError, match="at least one row"):
        pictures.sheet([])


def test_a_wall_places_every_video():
    """Videos go left to right, top to bottom; missing places stay empty."""
    videos = np.stack([clip(seed) for seed in range(5)])
    page = pictures.wall(videos, columns=3, gap=2)
    assert page.shape == (4, 2 * 12 + 2, 3 * 14 + 2, 3)
    for index in range(5):
        top, left = 2 + index // 3 * 12, 2 + index % 3 * 14
        assert (page[:, top : top + 10, left : left + 12] == videos[index]).all()
    assert (page[:, 14:24, 30:42] == np.array(pictures.BACKDROP, np.uint8)).all()


def test_a_labelled_wall_keeps_the_wall():
    """Names are added around the videos and never over them."""
    grid = pictures.wall(np.stack([clip(seed) for seed in range(4)]), columns=2)
    page = pictures.label_wall(grid, across=["one", "two"], down=["first", "second"])
    assert (page[:, -grid.shape[1] :, -grid.shape[2] :] == grid).all()


def test_a_gif_has_every_frame_and_repeats(tmp_path: Path):
    """Read back by Pillow; flat colours survive the palette exactly."""
    frames = np.zeros((5, 8, 8, 3), np.uint8)
    frames += np.arange(0, 250, 50, dtype=np.uint8)[:, None, None, None]
    path = pictures.write_gif(tmp_path / "deep" / "a.gif", frames, fps=10)
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.info["loop"], gif.info["duration"]) == (5, 0, 100)  # pyright: ignore
        for index in range(5):
            gif.seek(index)
            assert np.asarray(gif.convert("RGB")).tolist() == frames[index].tolist()


@pytest.mark.parametrize("size", [(64, 64), (9, 15), (300, 401)])
def test_an_mp4_plays_everywhere(tmp_path: Path, size: tuple[int, int]):
    """H.264 with even sides, large enough to be watched, every frame there, close in colour."""
    height, width = size
    ramp = np.linspace(40, 200, width).astype(np.uint8)
    frames = np.broadcast_to(ramp[None, None, :, None], (6, height, width, 3)).copy()
    path = pictures.write_mp4(tmp_path / "a.mp4", frames, fps=8, loops=2)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        decoded = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
    assert len(decoded) == 12
    shape = decoded[0].shape
    assert shape[0] % 2 == 0 and shape[1] % 2 == 0 and min(shape[:2]) >= 200
    factor = pictures.watchable_factor(height, width)
    wanted = pictures.enlarge(frames, factor=factor)[0]
    assert np.abs(decoded[0][: wanted.shape[0], : wanted.shape[1]].astype(int) - wanted).mean() < 4


def test_enlarging_by_nearest_repeats_pixels_and_lanczos_keeps_the_mean():
    """Both reach the same size."""
    frames = clip()
    near = pictures.enlarge(frames, factor=3)
    assert (near[:, 1::3, 1::3] == frames).all()
    flat = np.full((2, 5, 5, 3), 77, np.uint8)
    assert (pictures.enlarge(flat, factor=4, smooth=True) == 77).all()


def test_a_failed_write_leaves_nothing(tmp_path: Path):
    """Neither the file nor its unfinished neighbour."""
    with pytest.raises(ValueError, match="no"):
        pictures._whole(tmp_path / "a.png", _raise)
    assert list(tmp_path.iterdir()) == []


def _raise(part: Path) -> None:
    part.write_bytes(b"half")
    raise ValueError("no")


def test_curves_take_what_there_is(tmp_path: Path):
    """Missing columns, a single point and no point at all are drawn without complaint."""
    lines = [{"step": s, "psnr": 10 + s, "loss/total": 1 / (s + 1)} for s in range(5)]
    gap = [*lines, {"step": 9, "psnr": None, "loss/total": None}]
    for name, metrics in {"full": lines, "one": lines[:1], "none": [], "gap": gap}.items():
        path = pictures.write_curves(tmp_path / f"{name}.png", metrics)
        with Image.open(path) as picture:
            assert picture.width > 500
