"""What a run keeps and tells of its lives: endings, pushes that go, slow ranks, ranks in vain."""

from __future__ import annotations

import http.server
import json
import threading
from pathlib import Path

import pytest
import torch

from data_shards.stream import open_manifest
from launch.goodput import troubles
from launch.runs import events, read_run
from tests.support.footage import tiny_set
from tests.support.training import SMALL, launch, train
from trainer import lives, vitals
from trainer.commit import read_json, update_json
from trainer.config import resolve
from trainer.estimate import estimate
from trainer.leaving import DONE
from trainer.straggler import straggling
from trainer.telemetry import Telemetry, TelemetryConfig


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lives")
    return tiny_set(folder / "set", identities=3, actions=2, frames=6, size=32)


def test_a_reason_belongs_to_its_life(tmp_path: Path, data: Path) -> None:
    """A life that hung is followed by one that ends well: run.json has the ending of the newer one,
    and the older one's reason among the events, once, also in the report."""
    assert train(tmp_path, data, "train.steps=2") == 0
    path = tmp_path / "run" / "run.json"
    first = read_json(path)
    assert first["code"] == 0 and first["ended"] >= first["starts"][0]["time"]
    update_json(path, status="hang", code=4, reason="rank 0 of 1: no sign of life", ended=2e9)
    assert troubles(read_run(tmp_path / "run")).faults == 1
    for steps in (4, 6):
        assert train(tmp_path, data, f"train.steps={steps}") == 0
        known = read_json(path)
        assert (known["status"], known["code"], known["reason"]) == ("done", 0, None)
        assert known["ended"] >= known["starts"][-1]["time"]
        told = [e for e in known["events"] if e["kind"] == "hang"]
        assert [e["text"] for e in told] == ["rank 0 of 1: no sign of life"]
        assert troubles(read_run(tmp_path / "run")).faults == 1


def test_a_mistake_at_a_start_keeps_the_reason_of_the_life_before(
    tmp_path: Path, data: Path
) -> None:
    """A start that ends before it claims the run has a reason of its own; the hang is an event."""
    assert train(tmp_path, data, "train.steps=2") == 0
    path = tmp_path / "run" / "run.json"
    update_json(path, status="hang", code=4, reason="no sign of life", ended=2e9)
    assert launch(tmp_path, data, "train.steps=4", "seed=1").returncode == 2
    known = read_json(path)
    assert (known["status"], known["code"]) == ("user-error", 2)
    assert known["reason"].startswith("seed: the run was trained with 0")
    kinds = [(e["kind"], e["text"]) for e in events(read_run(tmp_path / "run"))]
    assert kinds.count(("hang", "no sign of life")) == 1
    assert kinds.count(("user-error", known["reason"])) == 1


def test_a_note_and_its_reason_are_one_event(tmp_path: Path) -> None:
    """A run notes a step that is not finite, and ends for it: that is one fault, in this life and
    in the ones that follow; one in another life is another."""
    (tmp_path / "config.yaml").write_text("{}\n")
    path = tmp_path / "run.json"
    for life in (1, 2):
        lives.begin(tmp_path, start={"world": 1}, fingerprint="x")
        begun = read_json(path)["starts"][-1]["time"]
        note = {"kind": "non-finite", "step": 3, "time": begun + 0.001, "text": "step 3"}
        update_json(path, events=[*read_json(path).get("events", []), note])
        update_json(path, status="non-finite", code=3, **lives.failure(tmp_path, "step 3: gamma"))
        kinds = [event["kind"] for event in events(read_run(tmp_path))]
        assert kinds.count("non-finite") == troubles(read_run(tmp_path)).faults == life
    lives.begin(tmp_path, start={"world": 1}, fingerprint="x")
    lives.end(tmp_path, DONE, step=9)
    known = read_json(path)
    assert (known["status"], known["code"], known["reason"]) == ("done", 0, None)
    assert [event["kind"] for event in known["events"]] == ["non-finite", "non-finite"]


class Asked(http.server.BaseHTTPRequestHandler):
    """A Pushgateway as far as pushing and deleting need one."""

    seen: list[tuple[str, str]]

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_DELETE()

    def do_DELETE(self) -> None:
        self.seen.append((self.command, self.path))
        self.send_response(202)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.mark.parametrize(("done", "methods"), [(True, ["PUT", "DELETE"]), (False, ["PUT"])])
@pytest.mark.parametrize(("rank", "node"), [(0, False), (2, True)])
def test_a_gateway_keeps_only_runs_that_broke_off(
    tmp_path: Path, rank: int, node: bool, done: bool, methods: list[str]
) -> None:
    """A good end takes the figures away after a last push; nothing but the run (and the node, of
    other nodes) is in their key, so that a run's next life takes the place of the one before."""
    handler = type("Handler", (Asked,), {"seen": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            telemetry = Telemetry(
                tmp_path, TelemetryConfig(log="none", endpoint=False, push=url, linger=0.05),
                rank=rank, serve=True, info={"run": "short"},
            )  # fmt: skip
            telemetry.close(done=done)
        finally:
            server.shutdown()
            thread.join()
    assert [method for method, _ in handler.seen] == methods
    (path,) = {path for _, path in handler.seen}
    assert path.startswith("/metrics/job/navsynth/") and path.endswith("/run/short")
    assert ("/node/" in path) == node


@pytest.mark.parametrize(
    ("own", "clips", "ratio"),
    [
        ([1.0, 1.0], 6, 1.0),
        ([1.0, 2.0], 3, 1.0),  # 1 and 2 clips, the time of which they are
        ([1.0, 1.1, 1.0, 1.1], 6, 1.0),  # 1 2 1 2 clips, and hardly any time of them
        ([0.0, 1.0, 0.0, 1.0], 2, 1.0),  # two ranks have a clip
        ([1.0, 3.0, 1.0], 3, 3.0),
        ([1.0, 6.0], 3, 3.0),  # twice the clips, six times as long
        ([5.0], 8, 1.0),
    ],
)
def test_a_rank_is_slow_for_its_clips(own: list[float], clips: int, ratio: float) -> None:
    """Clips that ranks do not divide, and ranks without one, make nobody slow; slowness does."""
    assert straggling(own, clips=clips) == pytest.approx(ratio)


def test_processes_without_a_clip_are_told_of(tmp_path: Path, data: Path) -> None:
    """In a dry run and at the start of a run, in one line; nothing where each has one."""
    opened = open_manifest(str(data))
    config = resolve([f"data.manifest={data}", *SMALL])
    line = "1 of 4 processes get no clip: schedule.clips is 3; set schedule.clips=4 or more"
    assert f"\nwarning: {line}" in estimate(config, opened, ranks=4).text()
    assert "warning" not in estimate(config, opened, ranks=3).text()


@pytest.mark.ranks
def test_a_run_begins_with_a_word_on_idle_processes(tmp_path: Path, data: Path) -> None:
    """Rank 0 says once how many processes wait for the others, and the run goes on."""
    ended = launch(tmp_path, data, "train.steps=2", "schedule.clips=1", ranks=2)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("1 of 2 processes get no clip: schedule.clips is 1") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU that works tells its use")
def test_a_driver_that_does_not_tell_a_gpus_use_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The library is there and the driver is not: no figure, and one line on why."""
    card = torch.device("cuda", 7)
    monkeypatch.setattr(vitals, "_unseen", set())
    (tmp_path / "pynvml.py").write_text("def nvmlInit():\n    raise OSError('no driver')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert [vitals.gpu_utilisation(card) for _ in range(3)] == [None] * 3
    assert caplog.text.count("cuda:7: its use is not shown") == 1


def test_an_ending_that_cannot_be_kept_is_no_reason_to_lose_the_new_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where run.json is damaged, a failing life still gives its reason, with a warning."""
    (tmp_path / "run.json").write_text("{")
    fields = lives.failure(tmp_path, "no room")
    assert fields["reason"] == "no room" and fields["ended"] > 0
    assert "an earlier reason is not kept" in caplog.text
    (tmp_path / "run.json").write_text(json.dumps({"reason": "old", "status": "failed"}))
    assert [e["text"] for e in lives.failure(tmp_path, "new")["events"]] == ["old"]
