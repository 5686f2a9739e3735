"""Run folders as trainings leave them, written in a moment: metrics, states, pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import yaml

from tests.support.outputs import TinyRun, tiny_manifest
from trainer import pictures, render, summary

HOSTILE = [
    '<img src=x onerror="alert(1)">',
    "'\"><script>document.title='owned'</script>",
    "{{ 7*7 }}",
]
CONFIG = {
    "data": {"manifest": "data/demo", "workers": 0},
    "latents": {"static_key": "video", "transient_key": "video"},
    "train": {"minutes": 4.0, "seed": 0, "batch": 12},
}
EPOCH = 1_790_000_000


def metric_lines(steps: int = 60, *, every: int = 10, gain: float = 1.0) -> list[dict]:
    """Lines of metrics.jsonl that look like a training."""
    lines = []
    for step in range(0, steps * every, every):
        share = (step + 1) / (steps * every)
        loss = 0.35 * math.exp(-3.2 * gain * share) + 0.02 * math.sin(step) ** 2 * (1 - share)
        phases = {"data": 0.004, "forward": 0.031, "backward": 0.052, "optimiser": 0.011}
        lines.append(
            {
                "step": step,
                "time": EPOCH + step * 0.1,
                "seconds": step * 0.1,
                "loss/total": loss * 1.4,
                "loss/rec": loss,
                "loss/static": loss * 0.3,
                "loss/triplet": 0.4 * (1 - share),
                "psnr": 11 + 20 * gain * (1 - math.exp(-3 * share)),
                "clips_per_second": 118 + 6 * math.sin(step / 40),
                "lr/generator": 1e-3 * (1 + math.cos(math.pi * share)) / 2,
                **{f"time/{name}": seconds * every for name, seconds in phases.items()},
            }
        )
    return lines


def write_run(
    folder: Path,
    *,
    names: list[str] | None = None,
    gain: float = 1.0,
    status: str = "done",
    overrides: dict | None = None,
    samples: bool = True,
) -> Path:
    """A run folder that `launch.report` and `launch.top` read."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, "train": {**CONFIG["train"], **(overrides or {})}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = metric_lines(gain=gain)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["/somewhere/trainer/main.py", "preset=demo", f"name={folder.name}"]
    starts = [
        {"time": EPOCH, "world": 2, "step": 0, "command": command},
        {"time": EPOCH + 31, "world": 1, "step": 300, "command": command},
    ]
    fault = {"time": EPOCH + 30, "kind": "lost rank", "step": 304, "text": "rank 1 left (exit 5)"}
    info = {"status": status, "starts": starts, "events": [fault]}
    (folder / "run.json").write_text(json.dumps(info))
    if samples:
        run = TinyRun(folder, tiny_manifest(names), noise=9)
        summary.write_samples(run, count=4)  # pyright: ignore
        fake = render.render_clips(run, [0, 1])  # pyright: ignore
        for step in (0, 200, 590):
            rows = [pictures.Row(run.manifest.videos[i].name, fake[i]) for i in (0, 1)]
            pictures.write_png(folder / f"samples/step-{step:06d}.png", pictures.sheet(rows))
    videos = [{"name": n, "psnr": 30.0 - i, "ssim": 0.9} for i, n in enumerate(names or ["a", "b"])]
    card = {"frames": 16, "size": "64 x 64", "videos": len(videos)}
    evaluation = {
        "step": 590,
        "scores": [
            {"name": "PSNR", "value": 29.5, "unit": "dB", "better": "higher", "protocol": card},
            {"name": "FCS", "value": 0.87, "bound": 0.9, "distance": 0.03, "protocol": card},
        ],
        "videos": videos,
        "left_out": [{"name": "MCS", "why": "no VGG16 weights; give --vgg FILE"}],
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder
