"""Settings of telemetry: what a run shows, and where."""

from __future__ import annotations

from dataclasses import dataclass

from data_shards.errors import UserError
from trainer.screen import STYLES
from trainer.targets import labels_of
from trainer.trackers import check_trackers


@dataclass(frozen=True)
class TelemetryConfig:
    """What a run shows, and where."""

    endpoint: bool = True
    """Serve Prometheus metrics while training (one endpoint a node)."""
    address: str = "127.0.0.1"
    """Address of the endpoint; loopback unless you choose otherwise: it has no password."""
    port: int = 0
    """Port of the endpoint; 0: any free one (see run.json); a port that is taken: the next free."""
    targets: str = ""
    """Prometheus file_sd file to keep while the run lives: FILE.json, or FOLDER/ for RUN.json in it
    (many runs). It stays behind when a run breaks off, so that its absence is noticed."""
    labels: str = ""
    """More labels of this run's series, as NAME=VALUE,NAME=VALUE: in the file_sd file and at the
    Pushgateway. `run` may be given too."""
    push: str = ""
    """URL of a Pushgateway that gets the metrics every 15 s and at the end, for short jobs. A run
    that ends well takes them away again, after `linger`; one that breaks off leaves them."""
    linger: float = 0.0
    """Seconds that an ended run waits for one last scrape; about the scrape interval."""
    trackers: str = ""
    """Trackers of Accelerate, comma-separated: tensorboard, wandb, mlflow, ..."""
    budget_seconds: float = 0.0
    """Process seconds that the run is meant to spend, for navsynth_budget_spent_ratio; 0: none."""
    log: str = "auto"
    """auto (a bar in a terminal, lines elsewhere) | bar | lines | json | none."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65435:
            raise UserError(f"telemetry.port: {self.port} is not in 0..65435")
        for name in ("linger", "budget_seconds"):
            if not getattr(self, name) >= 0:
                raise UserError(f"telemetry.{name}: {getattr(self, name)} is below 0")
        if self.push and not self.push.startswith(("http://", "https://")):
            raise UserError(
                f"telemetry.push: {self.push!r} does not start with http:// or https://"
            )
        check_trackers(self.trackers)
        labels_of(self.labels)
        if self.log not in STYLES:
            raise UserError(f"telemetry.log: {self.log!r} is none of {', '.join(STYLES)}")
