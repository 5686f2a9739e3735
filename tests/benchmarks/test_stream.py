"""The benchmark of the stream: what it calls slow, what waiting is, and that it measures both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import pages
from benchmarks.stream import Row, broken_limits, main, minutes, parse, table
from benchmarks.waiting import Waited, steady

ROW = Row("png", 0, 100.0, ours=98.0, webdataset=100.0, ratio=0.98, disk=1e4, page_cache=1e5)
TRAINED = Waited(data=0.01, queue=0.005, clips_per_second=150.0)


def test_a_slow_row_and_a_long_wait_are_told() -> None:
    """A ratio below 0.95 and more than 2 % of waiting, of the loop and of the training; what is
    just good enough is."""
    edge = ROW._replace(ratio=0.95)
    assert broken_limits([ROW, edge], 0.02, TRAINED._replace(data=0.02)) == []
    slow = ROW._replace(codec="jpg", workers=2, ratio=0.9496)
    late = TRAINED._replace(data=0.0301)
    assert broken_limits([ROW, slow], 0.021, late) == [
        "jpg with 2 loader processes has a ratio of 0.9496",
        "the loop waited for 2.10 %",
        "the training waited for 3.01 %",
    ]
    told = table([ROW, slow], [0.0732, 0.001, 0.021], late, parse([]))
    assert "data 2.10 % of the time (the middle one of 3 loops, 0.10 to 7.32; png, 100 ms" in told
    assert "0.95, waiting for at most 2 % of the time: jpg with 2 loader processes" in told
    assert "it was 0.50 % in the steady state until a batch was there, 3.01 % in the phase" in told
    assert table([ROW], [0.0, 0.0], TRAINED, parse([])).endswith(": all within the targets.")


def test_waiting_is_read_from_the_steady_part_of_a_metric_log() -> None:
    """Of lines at 1 to 9 s, those behind the third one count: 6 s, of which each line waited 60 ms,
    half of that until a batch was there. The first ones waited for seconds."""

    def at(second: int) -> dict[str, Any]:
        return {
            "seconds": float(second),
            "loader/longest_data_seconds": 0.06 if second > 3 else 0.9,
            "loader/longest_wait_seconds": 0.03 if second > 3 else 5.0, "shards/clips": 20 * second,
        }  # fmt: skip

    found = steady([at(second) for second in range(1, 10)])
    assert found == pytest.approx((0.06, 0.03, 20.0))
    with pytest.raises(RuntimeError, match="a training of 2 s is too short to see it settle"):
        steady([at(2)])


def test_larger_frames_are_announced_to_take_longer() -> None:
    """At 128x128, four times the pixels are decoded while nothing is measured."""
    small, large = (minutes(parse(["--size", f"{size}"])) for size in (64, 128))
    assert 10 < small < 20 and 1.2 * small < large < 3 * small


@pytest.mark.ranks
@pytest.mark.slow
def test_it_measures_loaders_loop_and_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One format, little networks: the table is on the page, the line of JSON has every figure, and
    the exit code is its judgement."""
    page = tmp_path / "page.md"
    page.write_text("before\n{}\n{}\nafter\n".format(*pages.marks("stream")))
    loaders = ["--codecs", "jpg", "--train-codec", "jpg", "--size", "32", "--workers", "0"]
    sizes = ["--clips", "48", "--shards", "3", "--processes", "1", "--rounds", "1"]
    times = ["--seconds", "0.2", "--steps", "10", "--step-ms", "5", "--train-seconds", "4"]
    times += ["--loops", "2"]
    words = ["networks.channels=4", "networks.group_channels=4", "networks.hidden=8"]
    where = ["--folder", str(tmp_path), "--write", str(page)]
    code = main([*loaders, *sizes, *times, *where, *words])
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    row, trained = Row(*told["rows"][0].values()), Waited(*told["training"].values())
    assert (told["benchmark"], told["size"], told["loader"]) == ("stream", 32, row.ours)
    assert 0 <= trained.queue <= trained.data == told["training_wait_share"] < 1
    assert told["broken"] == broken_limits([row], told["wait_share"], trained)
    assert code == bool(told["broken"])
    assert f"| jpg | 0 | {row.kib_per_clip:.1f} | {row.ours:.0f} |" in page.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"], "shards and runs are gone"
    page.write_text("no marks\n")
    assert main(["--write", str(page)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {page}: has no place for the table")
