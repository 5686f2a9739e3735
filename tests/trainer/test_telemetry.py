"""What a run says: the journal, the endpoint, the display, the table of metrics."""

from __future__ import annotations

import json
import math
import re
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from data_shards.errors import UserError
from trainer import journal
from trainer.endpoint import Endpoint, Values
from trainer.journal import Journal
from trainer.lives import EVENTS
from trainer.metrics import COUNTER, GAUGE, HISTOGRAM, METRICS, main, page, table
from trainer.targets import target
from trainer.telemetry import Pace, Telemetry, TelemetryConfig

VALUES = {
    "loss/total": 0.75,
    "loss/rec": 0.5,
    "psnr": 21.5,
    "lr/factor": 0.25,
    "gradient_norm/gamma": 3.0,
    "time/forward": 0.4,
    "goodput/training": 0.5,
    "loader/wait_seconds": 1.5,
    "shards/bytes": 1000,
    "unknown/thing": 7.0,
}


def scrape(telemetry: Telemetry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    assert telemetry.endpoint is not None
    url = f"http://{telemetry.endpoint.address}:{telemetry.endpoint.port}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_shows_the_run(tmp_path: Path) -> None:
    """Loss terms, PSNR, totals and phases arrive under their documented names."""
    info = {"run": "demo", "preset": "demo", "world": 2}
    begun = time.time()
    telemetry = Telemetry(tmp_path, TelemetryConfig(log="none"), info=info, done=0.05)
    fresh = scrape(telemetry)
    assert fresh["navsynth_progress_ratio", ()] == 0.05, "known before the first step"
    assert fresh["navsynth_last_step_timestamp_seconds", ()] >= begun
    for step in range(1, 5):
        telemetry.count(clips=12, frames=12)
        if step % 2 == 0:
            telemetry.step(step, VALUES, seconds=step / 10, done=step / 10)
    telemetry.saved(tmp_path, seconds=0.2, size=4096)
    seen = scrape(telemetry)
    where = json.loads((tmp_path / "run.json").read_text())["metrics"]
    telemetry.close()
    assert where["address"] == "127.0.0.1" and where["port"] > 0
    assert seen["navsynth_step", ()] == 4
    assert seen["navsynth_clips_total", ()] == 48
    assert seen["navsynth_loss", (("term", "rec"),)] == 0.5
    assert seen["navsynth_psnr_decibels", ()] == 21.5
    assert seen["navsynth_learning_rate", (("group", "factor"),)] == 0.25
    assert seen["navsynth_step_seconds_count", (("phase", "all"),)] == 3
    assert seen["navsynth_step_seconds_count", (("phase", "forward"),)] == 2
    assert seen["navsynth_goodput_seconds_total", (("cause", "training"),)] == 1.0
    assert seen["navsynth_checkpoint_bytes", ()] == 4096
    assert seen["navsynth_run_info", (("name", "demo"), ("preset", "demo"), ("world", "2"))] == 1
    documented = {m.name for m in METRICS}
    for name in {name for name, _ in seen if not name.endswith("_created")}:
        assert re.sub(r"_(bucket|count|sum|created)$", "", name) in documented or name in documented


def test_a_taken_port_gives_the_next(tmp_path: Path) -> None:
    """The endpoint moves up from a port in use; an address of another machine is a user error."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        endpoint = Endpoint(Values(), address="127.0.0.1", port=taken)
        assert taken < endpoint.port < taken + 100
        endpoint.close()
    with pytest.raises(UserError, match=r"telemetry\.address"):
        Endpoint(Values(), address="192.0.2.1", port=0)


def test_broken_clients_are_tolerated(tmp_path: Path) -> None:
    """Clients that connect and say nothing, or hang up, do not keep others from an answer."""
    telemetry = Telemetry(tmp_path, TelemetryConfig(log="none"))
    assert telemetry.endpoint is not None
    where = (telemetry.endpoint.address, telemetry.endpoint.port)
    silent = [socket.create_connection(where, timeout=30) for _ in range(5)]
    with socket.create_connection(where, timeout=30) as rude:
        rude.sendall(b"GET /metr")
    assert scrape(telemetry)["navsynth_ranks", ()] == 1
    for connection in silent:
        connection.close()
    telemetry.close()


def test_the_journal_goes_on_where_the_checkpoint_was(tmp_path: Path) -> None:
    """Lines beyond the restored step, and a torn one, are gone; later ones follow."""
    first = Telemetry(tmp_path, TelemetryConfig(log="none", endpoint=False))
    for step in (10, 20, 30):
        first.step(step, {"psnr": float("nan")}, seconds=step, done=0.5)
    first.close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 40, "ps')
    assert [line["step"] for line in journal.read(path)] == [10, 20, 30]
    assert journal.last_step(path) == 30
    assert journal.last_step(tmp_path / "none") == -math.inf
    second = Telemetry(tmp_path, TelemetryConfig(log="none", endpoint=False), start_step=20)
    second.step(25, {"psnr": 3.0}, seconds=25, done=0.6)
    second.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 25]
    assert lines[0]["psnr"] is None and lines[2]["psnr"] == 3.0
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


FULL = """
import sys
from pathlib import Path
from trainer.journal import Journal
log = Journal(Path(sys.argv[1]))
print([log.write({"step": step, "text": "x" * 80}) for step in range(4)])
"""


def small_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (250, 250))


def test_a_full_disk_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    """A line that does not fit is left out whole; the run is told once and goes on."""
    path = tmp_path / "metrics.jsonl"
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True,
        preexec_fn=small_files,
    )  # fmt: skip
    assert run.stdout == "[True, True, False, False]\n"
    assert [line["step"] for line in journal.read(path)] == [0, 1]
    assert path.read_bytes().endswith(b"\n") and run.stderr.count("a line is lost") == 1


def test_other_ranks_are_silent(tmp_path: Path) -> None:
    """Rank 1 writes, serves and shows nothing."""
    telemetry = Telemetry(tmp_path / "run", TelemetryConfig(), rank=1)
    telemetry.count(clips=1, frames=1)
    telemetry.step(1, VALUES, seconds=1, done=1)
    telemetry.note("start", step=0, text="hello")
    telemetry.close()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("style", ["lines", "json", "bar", "none"])
def test_what_a_person_sees(tmp_path: Path, style: str, capsys: pytest.CaptureFixture) -> None:
    """Each style shows the step's numbers in its way, on stderr; warnings always come through."""
    import logging

    telemetry = Telemetry(tmp_path, TelemetryConfig(log=style, endpoint=False))
    telemetry.step(7, VALUES, seconds=1, done=0.5)
    logging.getLogger("navsynth").warning("disk is %d %% full", 99)
    telemetry.note("start", step=0, text="two processes")
    telemetry.close()
    shown = capsys.readouterr()
    assert shown.out == "" and "warning: disk is 99 % full" in shown.err
    assert ("rec 0.5000  psnr 21.50 dB" in shown.err) == (style in ("lines", "bar"))
    assert ("two processes" in shown.err) == (style != "none")
    if style == "json":
        assert json.loads(shown.err.splitlines()[0])["loss/rec"] == 0.5
    events = json.loads((tmp_path / "run.json").read_text())["events"]
    assert [(event["kind"], event["step"]) for event in events] == [("start", 0)]


def test_samples_crowd_nothing_out(tmp_path: Path) -> None:
    """The record of events is bounded; of a full one the oldest sample goes, then the oldest."""
    known = [{"kind": kind, "step": 0} for kind in ("hang", "sample", "hang")]
    known += [{"kind": "sample", "step": step} for step in range(EVENTS - 3)]
    (tmp_path / "run.json").write_text(json.dumps({"events": known}))
    telemetry = Telemetry(tmp_path, TelemetryConfig(log="none", endpoint=False))
    telemetry.note("non-finite", step=5, text="stopped")
    telemetry.close()
    kept = json.loads((tmp_path / "run.json").read_text())["events"]
    assert len(kept) == EVENTS and [e["kind"] for e in kept[:3]] == ["hang", "hang", "sample"]
    assert kept[2:-1] == known[3:] and kept[-1]["kind"] == "non-finite"


def test_pace() -> None:
    """Nothing is known at first; afterwards the clips counted since the last lap."""
    pace = Pace()
    assert pace.lap()[0] == 0.0 and pace.eta(0.0) is None
    assert pace.count(5) is None
    assert (pace.count(5) or -1) >= 0
    clips_per_second, steps = pace.lap()
    assert clips_per_second > 0 and steps == 2
    assert (pace.eta(0.5) or -1) >= 0 and pace.eta(1.0) == 0.0


def test_the_table_of_metrics_keeps_to_prometheus_naming() -> None:
    """Prefix, `_total` for counters and nothing else, base units, help, buckets, no doubles."""
    assert len(METRICS) >= 40 and len({m.name for m in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"navsynth_[a-z]+(_[a-z]+)*", metric.name), metric
        assert (metric.kind == COUNTER) == metric.name.endswith("_total"), metric
        assert metric.kind in (COUNTER, GAUGE, HISTOGRAM)
        assert bool(metric.buckets) == (metric.kind == HISTOGRAM)
        assert metric.help.endswith(".") and metric.name in table()
        assert not re.search(r"(milli|minutes|percent|megabytes|_ms\b|_mb\b)", metric.name)
        assert not {"clip", "step", "video"} & set(metric.labels)


def test_the_page_of_metrics_is_the_table(tmp_path: Path) -> None:
    """docs/metrics.md is what the table says; a folder that is not there is named."""
    docs = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
    assert docs.read_text() == page(), "run python -m trainer.metrics --write docs/metrics.md"
    assert main(["--write", str(tmp_path / "none" / "page.md")]) == 2


def test_targets_name_the_endpoint_while_the_run_lives(tmp_path: Path) -> None:
    """The file_sd file has the port, goes with a good end, stays after a bad one."""
    folder = tmp_path / "sd"
    for done in (True, False):
        config = TelemetryConfig(
            log="none", targets=f"{folder}/", linger=0.01, labels="study=a,trial=t1"
        )
        telemetry = Telemetry(tmp_path / "demo", config)
        assert telemetry.endpoint is not None
        entry = json.loads((folder / "demo.json").read_text())[0]
        assert entry["targets"] == [f"127.0.0.1:{telemetry.endpoint.port}"]
        assert entry["labels"] == {
            "run": "demo", "study": "a", "trial": "t1", "node": entry["labels"]["node"],
        }  # fmt: skip
        telemetry.close(done=done)
        assert (folder / "demo.json").exists() == (not done)
    anywhere = {"address": "0.0.0.0", "port": 9, "node": "n1"}
    assert target(anywhere, labels={"run": "demo"})["targets"] == ["n1:9"]


def test_lost_time_is_known(tmp_path: Path) -> None:
    """Seconds of the lines that a resumed run will take again."""
    path = tmp_path / "m.jsonl"
    assert journal.lost_seconds(path, step=0) == 0
    path.write_text("".join(json.dumps({"step": s, "seconds": s / 2}) + "\n" for s in (10, 20, 30)))
    assert [journal.lost_seconds(path, step=s) for s in (0, 10, 25, 30)] == [15, 10, 5, 0]


def test_settings_out_of_range_are_refused() -> None:
    """Settings are checked when they are made."""
    with pytest.raises(UserError, match=r"telemetry\.port"):
        TelemetryConfig(port=70000)
    for name, value in (
        ("log", "loud"),
        ("linger", -1),
        ("push", "here"),
        ("labels", "a"),
        ("trackers", "none"),
    ):
        with pytest.raises(UserError, match=rf"telemetry\.{name}"):
            TelemetryConfig(**{name: value})


def test_a_journal_is_durable_when_closed(tmp_path: Path) -> None:
    """A closed journal holds every line that was taken."""
    log = Journal(tmp_path / "m.jsonl")
    assert log.write({"step": 1})
    log.close()
    assert list(journal.read(tmp_path / "m.jsonl")) == [{"step": 1}]


def test_a_line_that_could_not_be_cut_off_is_cut_off_before_the_next(tmp_path: Path) -> None:
    """A disk that fails twice, in the middle of a line and then at mending it, costs that line."""
    log = Journal(tmp_path / "m.jsonl")
    assert log.write({"step": 1})
    whole, log._file = log._file, TornFile(log._file)  # type: ignore[assignment]
    assert not log.write({"step": 2})
    log._file = whole
    assert log.write({"step": 3})
    log.close()
    assert list(journal.read(tmp_path / "m.jsonl")) == [{"step": 1}, {"step": 3}]


class TornFile:
    """Takes half of a line and then nothing more, not even that it be cut off."""

    def __init__(self, file) -> None:
        self.file = file

    def write(self, data: bytes) -> int:
        return self.file.write(data[: len(data) // 2])

    def truncate(self, size: int) -> None:
        raise OSError(5, "Input/output error")
