"""Windows: which frames become clips; video files: what is decoded and what is refused."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards import frames
from data_shards.footage import UnusableError
from tests.support.raw_footage import moving, write_video


def slow_clips(count: int, length: int, stride: int, windows: str) -> list[list[int]]:
    """Source frames of every clip, by the definition."""
    if windows == "whole":
        kept = list(range(0, count, stride))
        return [kept] if len(kept) >= length else []
    clips, start = [], 0
    while start + (length - 1) * stride < count:
        clips.append([start + i * stride for i in range(length)])
        start += length * stride
    return clips[:1] if windows in ("first", "each") else clips


@settings(deadline=None)
@given(
    count=st.integers(0, 60),
    length=st.integers(1, 9),
    stride=st.integers(1, 5),
    windows=st.sampled_from(frames.WINDOWS),
)
def test_windows(count: int, length: int, stride: int, windows: str) -> None:
    """Clips hold exactly the frames of the definition, and `starts` foretells them."""
    source = (np.full((1, 1, 3), index, np.uint8) for index in range(count))
    cutting = {"frames": length, "stride": stride, "windows": windows}
    cuts = list(frames.cut(source, **cutting, prepare=lambda frame: frame))
    want = slow_clips(count, length, stride, windows)
    assert [clip[:, 0, 0, 0].tolist() for _, clip in cuts] == want
    assert [start for start, _ in cuts] == [clip[0] for clip in want]
    assert frames.starts(count, **cutting) == [clip[0] for clip in want]
    assert bool(want) == (count >= frames.shortest(frames=length, stride=stride))


@settings(deadline=None)
@given(
    segments=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    length=st.integers(1, 6),
    stride=st.integers(1, 4),
    windows=st.sampled_from(frames.WINDOWS),
)
def test_no_clip_leaves_its_segment(
    segments: list[int], length: int, stride: int, windows: str
) -> None:
    """Segments are cut one by one, short ones give nothing, and starts count all frames."""
    source = (np.full((1, 1, 3), index, np.uint8) for index in range(sum(segments)))
    cutting = {"frames": length, "stride": stride, "windows": windows}
    cuts = list(frames.cut(source, **cutting, prepare=lambda frame: frame, segments=segments))
    want, begin = [], 0
    for count in segments:
        clips = slow_clips(count, length, stride, windows)
        want += [[begin + index for index in clip] for clip in clips]
        begin += count
    want = want[:1] if windows == "first" else want
    assert [clip[:, 0, 0, 0].tolist() for _, clip in cuts] == want
    assert [start for start, _ in cuts] == [clip[0] for clip in want]


def test_first_window_decodes_no_more() -> None:
    """`first` asks for no frame after its last one, nor does `each` of a video in one piece."""
    source = iter(moving(10))
    cuts = frames.cut(source, frames=3, stride=2, windows="first", prepare=lambda frame: frame)
    assert len(list(cuts)) == 1 and len(list(source)) == 5
    source = iter(moving(10))
    cutting = {"frames": 3, "stride": 2, "windows": "first", "segments": (4, 6)}
    cuts = frames.cut(source, **cutting, prepare=lambda frame: frame)
    assert [start for start, _ in cuts] == [4] and len(list(source)) == 1
    source = iter(moving(10))
    cuts = frames.cut(source, frames=3, stride=2, windows="each", prepare=lambda frame: frame)
    assert len(list(cuts)) == 1 and len(list(source)) == 5


def test_frames_of_other_sizes() -> None:
    """Both sizes and the frame are named."""
    source = iter([moving(1)[0], moving(1, width=30)[0]])
    with pytest.raises(UnusableError, match=r"^frame 1 is 30x24, frame 0 24x24$"):
        list(frames.cut(source, frames=2, stride=1, windows="first", prepare=lambda frame: frame))


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv", "a.gif"])
def test_video_files(tmp_path: Path, name: str) -> None:
    """Containers give their frames back, about as they were."""
    clip = moving(9, height=32, width=48)
    path = tmp_path / name
    if name == "a.gif":
        from PIL import Image

        pages = [Image.fromarray(frame) for frame in clip]
        pages[0].save(path, save_all=True, append_images=pages[1:], duration=40)
    else:
        write_video(path, clip)
    got = np.stack(list(frames.open_video(path).frames))
    assert got.shape == clip.shape
    assert np.abs(got.astype(int) - clip).mean() < 20


def test_text_is_no_video(tmp_path: Path) -> None:
    """A text file is refused, whatever it is called."""
    path = tmp_path / "notes.mp4"
    path.write_text("these are notes\n" * 100)
    with pytest.raises(UnusableError, match=r"^notes\.mp4 is not a video \(Invalid data found"):
        frames.open_video(path)


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{}'\n",
    ],
)
def test_playlists_are_not_followed(tmp_path: Path, text: str) -> None:
    """A file that only names other files is no video."""
    other = write_video(tmp_path / "secret.ts", moving(9), codec="mpeg2video")
    path = tmp_path / "list.mp4"
    path.write_text(text.format(other))
    with pytest.raises(UnusableError, match=r"^list\.mp4 is not a video"):
        frames.open_video(path)


def test_cut_off_video(tmp_path: Path) -> None:
    """A video whose frames end before its container says is refused, not shortened."""
    path = write_video(tmp_path / "a.avi", moving(60, height=64, width=64))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UnusableError, match=r"^a\.avi is (cut off|damaged|not a video)"):
        list(frames.open_video(path).frames)


def test_a_codec_without_a_decoder_is_refused(tmp_path: Path) -> None:
    """A container whose codec nobody knows is no reason to end a preparation."""
    path = write_video(tmp_path / "a.avi", moving(5, height=32, width=32))
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"ZZZZ"))
    with pytest.raises(UnusableError, match=r"^a\.avi has a codec without a decoder here$"):
        frames.open_video(path)


def test_a_video_cut_without_encoding_it_again_is_whole(tmp_path: Path) -> None:
    """Its first frames are there for the decoder and hidden by an edit list: what it shows is read,
    and it is not taken for one that was cut off."""
    whole = write_video(tmp_path / "whole.mp4", moving(60, height=64, width=64))
    path = tmp_path / "cut.mov"
    options = {"use_editlist": "1", "avoid_negative_ts": "disabled"}
    with av.open(str(whole)) as source, av.open(str(path), "w", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.pts is not None and packet.dts is not None and packet.duration:
                packet.pts -= 30 * packet.duration
                packet.dts -= 30 * packet.duration
                packet.stream = stream
                target.mux(packet)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames > 40
    footage = frames.open_video(path)
    assert len(list(footage.frames)) == 30
