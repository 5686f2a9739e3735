"""The Prometheus endpoint: values of `trainer.metrics` behind a loopback address.

Setting a value is an assignment in memory; scrapes are answered by threads of their own, one per
client, so that a slow or broken client holds up nobody.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    start_http_server,
)

from data_shards.errors import UserError
from trainer.metrics import BY_NAME, COUNTER, GAUGE, HISTOGRAM, METRICS, Metric

TRIES = 100
"""Ports that are tried, from the configured one upwards."""


class Values:
    """Current values of all metrics. A gauge that was never set is not shown, a counter is 0."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._made: dict[str, Any] = {}
        self._children: dict[tuple[str, ...], Any] = {}
        for metric in METRICS:
            if metric.kind != GAUGE:
                self._made[metric.name] = _make(metric, self.registry)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._child(name, labels).set(value)

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Increase a counter."""
        self._child(name, labels).inc(amount)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Count a value in a histogram."""
        self._child(name, labels).observe(value)

    def _child(self, name: str, labels: dict[str, str]) -> Any:
        key = (name, *labels.values())
        if key not in self._children:
            if name not in self._made:
                self._made[name] = _make(BY_NAME[name], self.registry)
            family = self._made[name]
            self._children[key] = family.labels(**labels) if labels else family
        return self._children[key]


class Endpoint:
    """An HTTP server with the values, until `close`."""

    def __init__(self, values: Values, *, address: str, port: int) -> None:
        """Port 0: any free one; a port that is taken: the next free one.

        Raises:
            UserError: the address cannot be bound.
        """
        last: OSError | None = None
        for candidate in range(port, min(1 << 16, port + (TRIES if port else 1))):
            try:
                server, self._thread = start_http_server(
                    candidate, addr=address, registry=values.registry
                )
            except OSError as error:
                last = error
                continue
            self._server = server
            self.address, self.port = address, int(server.server_port)
            return
        raise UserError(
            f"telemetry.address: cannot listen on {address}:{port} ({last}); use telemetry.port=0 "
            "or telemetry.endpoint=false"
        )

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _make(metric: Metric, registry: CollectorRegistry) -> Any:
    kinds: dict[str, Any] = {COUNTER: Counter, GAUGE: Gauge, HISTOGRAM: Histogram}
    extra = {"buckets": metric.buckets} if metric.buckets else {}
    return kinds[metric.kind](metric.name, metric.help, metric.labels, registry=registry, **extra)
