"""The model of cost: counts against slow loops and against what two ranks really send."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, pages
from benchmarks.constants import GOLF, MACHINES, constants
from benchmarks.cost import bytes_per_step, cost, flops_per_clip, left_out, main, table
from tests.support.engines import TINY, join, make
from tests.support.footage import tiny_set
from tests.support.ranks import run_ranks
from trainer.comm import Comm
from trainer.config import resolve
from trainer.schedule import EVERYTHING, GENERATOR, LATENT

PAPER = ("latents.optimiser=momentum", "schedule.clips=6", "latents.replicate_kib=0")


def test_operations_are_those_of_a_loop_over_layers() -> None:
    """Multiplications of each layer of a 128x128 generator and of the GRU, three times over."""
    config = resolve(["preset=golf", "schedule.frames=3"])
    wide, frames, drawn, hidden, m = 256, 16, 3, config.networks.hidden, 200
    channels = [1024, 512, 256, 128, 64, 3]
    one_frame = wide * 16 * channels[0]
    for layer, side in enumerate((4, 8, 16, 32, 64)):
        one_frame += 16 * channels[layer] * channels[layer + 1] * side * side
    motion = frames * (3 * hidden * (m + hidden) + hidden * m)
    total = 2 * 3 * (drawn * one_frame + motion)
    assert flops_per_clip(config, GOLF) == pytest.approx(total, rel=0.02)
    assert flops_per_clip(config, GOLF, moves=LATENT.moves) < 0.75 * total


def sent(comm: Comm, data: str) -> int:
    """Bytes that a step sends."""
    join(comm)
    made = make(data, (*PAPER, "train.gradients=send"))
    for step in range(2):  # DDP may rebuild its buckets after the first
        made.engine.ranks.comm.bytes_sent.clear()
        made.engine.measure(next(made.stream), step=step, moves=EVERYTHING)
        made.engine.update(step=step, moves=EVERYTHING, factor=1.0)
    return sum(made.engine.ranks.comm.bytes_sent.values())


@pytest.mark.ranks
def test_bytes_are_those_that_two_ranks_send(tmp_path: Path) -> None:
    """The model's bytes of a step, less the loop's flags, are what was counted."""
    data = str(tiny_set(tmp_path, frames=4, size=32))
    config = resolve([*TINY, *PAPER])
    footage = GOLF._replace(clips=6, frames=4, size=32)
    model = bytes_per_step(config, footage, ranks=2)
    expected = 2 * (model["gradients"] + model["rows"])
    assert sum(run_ranks(sent, 2, data)) == pytest.approx(expected, rel=0.01)


def test_more_ranks_hold_and_compute_less_and_never_send_more_than_a_ring() -> None:
    """From 1 to 64 ranks, memory and compute fall, gradients stay below twice their size."""
    config = resolve(["preset=golf", "schedule.clips=512", "latents.residence=host"])
    costs = [cost(config, GOLF, MACHINES["gpu"], ranks=ranks) for ranks in (1, 2, 8, 64)]
    for fewer, more in pairwise(costs):
        assert more.flops < fewer.flops
        assert more.memory["dictionary"] < fewer.memory["dictionary"]
        assert more.memory["networks"] == fewer.memory["networks"]
    assert costs[0].bytes["gradients"] == 0
    assert costs[-1].bytes["gradients"] < costs[-1].memory["networks"] / 3


SECONDS = {1: 64 / 2000, 2: 64 / 2000, 4: 4 * (0.0093 + 8 * 3e-5)}
"""A visit of so many steps on 8 GPUs that compute and send in no time: 64 of 512 clips come at
2,000 a second, beside steps of 9.3 ms and eight collectives of 30 us. Four of these take longer."""


@pytest.mark.parametrize("inner", SECONDS)
def test_a_visit_takes_its_steps_or_its_loading(inner: int) -> None:
    """A batch is loaded once, whatever number of steps is taken on it."""
    machine = MACHINES["gpu"]._replace(flops=math.inf, link=math.inf)
    config = resolve(["preset=golf", "schedule.clips=512", f"schedule.inner={inner}"])
    found = cost(config, GOLF, machine, ranks=8)
    assert found.visit_steps == inner
    assert found.step == pytest.approx(SECONDS[inner] / inner)
    assert found.loading == pytest.approx(64 / 2000 / inner)
    assert found.hours_per_pass == pytest.approx(583_508 / 512 * SECONDS[inner] / 3600)


def test_one_step_a_visit_is_what_the_page_shows() -> None:
    """No settings and `schedule.inner=1` are the same; 2000 passes on 8 GPUs take 20.3 hours by
    what is assumed of loaders, and no line tells of visits. With four steps each it is told."""
    words = ["preset=golf", "schedule.clips=512", "latents.residence=host"]
    machine = MACHINES["gpu"]
    plain, one, four = (
        cost(resolve([*words, *more]), GOLF, machine, ranks=8, gpu=True)
        for more in ((), ("schedule.inner=1",), ("schedule.inner=4",))
    )
    assert plain == one and plain.step == plain.loading == 64 / 2000
    lines = table([plain]).splitlines()
    assert "| step, ms | 32.00 |" in lines and "| hours of 2000 passes | 20.3 |" in lines
    assert not any("visit" in text for text in lines)
    visit = f"| visit of 4 steps, ms | {4e3 * (four.compute + four.communication):.2f} |"
    assert visit in table([four]).splitlines()
    assert (four.compute, four.communication) == (plain.compute, plain.communication)


def test_stages_count_by_their_steps() -> None:
    """One step that moves the generator and three that move the rest: operations and bytes are
    means over the four."""
    steps = ["schedule.kind=alternate", "schedule.inner_gamma=1", "schedule.inner_latents=3"]
    config = resolve(["preset=golf", "schedule.clips=16", "schedule.frames=1", *steps])
    found = cost(config, GOLF, MACHINES["gpu"], ranks=2)
    each = [flops_per_clip(config, GOLF, moves=stage.moves) for stage in (GENERATOR, LATENT)]
    assert found.flops == pytest.approx(8 * (each[0] + 3 * each[1]) / 4)
    sent = [bytes_per_step(config, GOLF, ranks=2, moves=s.moves) for s in (GENERATOR, LATENT)]
    for name, count in found.bytes.items():
        assert count == pytest.approx((sent[0][name] + 3 * sent[1][name]) / 4)
    assert found.visit_steps == 4 and found.loading == pytest.approx(8 / 2000 / 4)


def test_a_step_takes_as_long_as_the_rank_with_most_clips() -> None:
    """One clip on 8 ranks, as `joint` has it, is a whole one for somebody; 10 are 2 for two."""
    config = resolve(["preset=golf", "schedule.kind=joint", "schedule.frames=1"])
    found = cost(config, GOLF, MACHINES["gpu"], ranks=8)
    assert found.flops == pytest.approx(flops_per_clip(config, GOLF))
    assert found.loading == pytest.approx(1 / 2000 / 300)
    ten = resolve(["preset=golf", "schedule.clips=10"])
    assert cost(ten, GOLF, MACHINES["gpu"], ranks=8).loading == pytest.approx(2 / 2000)


def test_what_the_model_leaves_out_is_said(capsys: pytest.CaptureFixture) -> None:
    """Golf as the preset has it is covered; what else is asked for is named below the table."""
    assert not left_out(resolve(["preset=golf", "schedule.inner=4"]))
    paper = left_out(resolve(["preset=weizmann_paper", "latents.low_rank.rank=2"]))
    assert paper == [
        "sums of `networks.norm=batch` over ranks", "labels of `networks.generator=conditional`",
        "`latents.low_rank`", "rows by anything but `dataset` and `clip`",
    ]  # fmt: skip
    assert main(["train.minutes=5", "--ranks", "8"]) == 0
    *_, told, last = capsys.readouterr().out.strip().splitlines()
    ends = "an end by `train.steps`, `train.minutes` or `train.until`"
    assert told == f"Not in these figures: {ends}."
    assert json.loads(last)["left_out"] == [ends]


LINES = {
    "gpu": {"benchmark": "gpu", "device": "a GPU", "flops": 3e14, "overhead": 0.0, "loader": 9.0},
    "stream": {"benchmark": "stream", "cores": 5, "loader": 321.0, "size": 128, "copy": 9.0},
    "ingest": {"benchmark": "ingest", "cores": 6, "clip_bytes": 5e4, "flops": 9.0},
    "scaling": {"benchmark": "scaling", "cores": 7, "flops": 1e11, "overhead": 0.02, "link": 1e9,
                "latency": 1e-4, "copy": 2e9, "loader": 9.0},
}  # fmt: skip
"""What benchmarks end with, each with a figure that is not its own to tell."""


def test_a_constant_comes_from_the_benchmark_that_measures_it() -> None:
    """Of a GPU, bench-gpu has arithmetic; bench-stream the loader, bench-ingest the size of a clip;
    bench-scaling has everything but those of CPUs. The rest stays as it was, and all is told."""
    three = {name: LINES[name] for name in ("gpu", "stream", "ingest")}
    known = constants("gpu", GOLF, three)
    assert known.machine == MACHINES["gpu"]._replace(flops=3e14, overhead=0.0, loader=321.0)
    assert known.footage == GOLF._replace(clip_bytes=5e4)
    assert known.sources == {
        "flops": "measured: bench-gpu, a GPU", "overhead": "measured: bench-gpu, a GPU",
        "loader": "measured: bench-stream, 5 cores",
        "clip_bytes": "measured: bench-ingest, 6 cores", "link": "assumed", "latency": "assumed",
        "copy": "assumed",
    }  # fmt: skip
    known = constants("cpu", GOLF, {"scaling": LINES["scaling"]})
    fields = {name: LINES["scaling"][name] for name in ("flops", "overhead", "link", "latency")}
    assert known.machine == MACHINES["cpu"]._replace(**fields, copy=2e9)
    assert known.sources["copy"] == "measured: bench-scaling, 7 cores"
    assert constants("gpu", GOLF, {}).sources["flops"] == "an H200, docs/scaling.md"
    assert constants("cpu", GOLF, {}).sources["flops"] == "assumed"


@pytest.mark.parametrize(
    ("kind", "figures", "told"),
    [
        ("gpu", LINES["scaling"],
         "bench-scaling tells nothing of a machine of kind gpu; bench-gpu, bench-stream, "
         "bench-ingest do"),
        ("cpu", LINES["gpu"],
         "bench-gpu tells nothing of a machine of kind cpu; bench-scaling, bench-stream, "
         "bench-ingest do"),
        ("gpu", {"link": 1e10},
         "bench-None tells nothing of a machine of kind gpu; bench-gpu, bench-stream, bench-ingest "
         "do"),
        ("gpu", {"benchmark": "gpu", "skipped": "no GPU"}, "has no figure 'flops' (no GPU)"),
        ("gpu", {**LINES["stream"], "size": 64},
         "clips/s of a loader at 64x64, and the footage has 128x128: bench-stream --size 128"),
        ("gpu", {**LINES["ingest"], "clip_bytes": 0},
         "clip_bytes is 0.0, which no machine has"),
        ("gpu", [1.0], "does not end with a line of JSON of a benchmark"),
        ("gpu", None, "does not end with a line of JSON of a benchmark"),
    ],
)  # fmt: skip
def test_a_line_that_tells_nothing_of_the_machine_is_refused(
    kind: str, figures: object, told: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """One line names the file and what is wrong with it; nothing is computed."""
    file = tmp_path / "figures"
    if figures is not None:
        file.write_text(f"a table\n{json.dumps(figures)}\n")
    assert main(["--machine", kind, "--figures", str(file)]) == 2
    assert capsys.readouterr().err == f"error: {file}: {told}\n"


def test_the_page_says_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Figures of a file reach the table, the page and the line of JSON."""
    file, page = tmp_path / "figures", tmp_path / "page.md"
    file.write_text("a table\n" + json.dumps(LINES["gpu"]) + "\n")
    page.write_text("before\n{}\n{}\nafter\n".format(*pages.marks("cost")))
    assert main(["--ranks", "8", "--figures", str(file), "--write", str(page)]) == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert told["benchmark"] == "cost" and told["machine"]["flops"] == 3e14
    assert told["sources"]["flops"] == "measured: bench-gpu, a GPU"
    text = page.read_text()
    assert "| `flops` | 300 | TFLOP/s that a step reaches | measured: bench-gpu, a GPU |" in text
    assert "| `link` | 40 | GB/s sent by a rank | assumed |" in text
    assert text.startswith("before\n<!--") and text.endswith("-->\nafter\n")


def test_two_batch_sizes_give_speed_and_overhead() -> None:
    """10 ms that depend on nothing and 2 GFLOP a clip at 100 TFLOP/s are found again."""

    def row(clips: int) -> dict[str, float]:
        pace = clips / (0.01 + clips * 2e9 / 1e14)
        return {"clips_per_second": pace, "flops": 2e9 * pace}

    found = gpu.fit(row(512), 512, row(128), 128)
    assert found["flops"] == pytest.approx(1e14) and found["overhead"] == pytest.approx(0.01)


@pytest.mark.parametrize("words", [(), ("train.deterministic=true", "latents.residence=disk")])
def test_a_way_of_bench_gpu_is_measured(tmp_path: Path, words: tuple[str, ...]) -> None:
    """A small one, on whatever device is there: figures that are possible, and rows that do not
    live on the device are announced; torch's kernels are as they were afterwards."""
    data = str(tiny_set(tmp_path, size=32))
    found = gpu.measure(
        data, (f"latents.scratch={tmp_path}", *words), steps=3, resident=False, base=TINY
    )
    assert found["clips_per_second"] > 0 and 0 <= found["loader_share"] < 1
    assert found["utilisation"] is None or 0 < found["utilisation"] < 1
    assert found["flops"] > 0
    assert not torch.are_deterministic_algorithms_enabled()


def test_utilisation_is_of_the_device_s_own_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same operations a second are more of an A100 than of an H200, and nobody knows of what
    they are elsewhere."""
    told = {}
    for name in ("NVIDIA H200", "NVIDIA A100-SXM4-80GB", "NVIDIA H100 PCIe"):
        monkeypatch.setattr("torch.cuda.get_device_name", lambda _, name=name: name)
        told[name] = gpu.share(gpu.utilisation(99e12, torch.device("cuda"), "bf16"))
    assert list(told.values()) == ["10.0%", "31.7%", "?"]
    assert gpu.utilisation(99e12, torch.device("cpu"), "bf16") is None


def test_bench_gpu_without_a_gpu_skips(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """It says so, and its last line is JSON all the same."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("skipped: there is no GPU here")
    assert json.loads(last) == {"benchmark": "gpu", "skipped": "no GPU"}
