"""The Prometheus endpoint: values of `trainer.metrics` behind an address, or pushed to a gateway.

Setting a value is an assignment in memory, without a lock. A scrape copies the values at one moment
and renders the copy in a thread of its own, so that no client, however slow or broken, holds up
training or another client.
"""

from __future__ import annotations

import http.client
import logging
import socketserver
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import (
    CollectorRegistry,
    delete_from_gateway,
    make_wsgi_app,
    push_to_gateway,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from data_shards.errors import UserError
from trainer.metrics import BY_NAME, COUNTER, GAUGE, HISTOGRAM, METRICS

TRIES = 100
"""Ports that are tried, from the configured one upwards."""
CLIENT_SECONDS = 5.0
"""A client that says nothing for so long is hung up on."""
CLIENTS = 32
"""Clients that are served at the same time; others are hung up on."""
PUSH_SECONDS = 5.0
"""A gateway that does not answer within this time is given up."""
PUSH_EVERY = 15.0
"""Seconds between two pushes."""
Key = tuple[str, ...]

log = logging.getLogger("navsynth")


class Values(Collector):
    """Current values of all metrics. A gauge that was never set is not shown, a counter is 0.

    Written by one thread (training), read by any.
    """

    def __init__(self) -> None:
        self._values: dict[str, dict[Key, Any]] = {
            m.name: {(): 0.0} if m.kind == COUNTER and not m.labels else {} for m in METRICS
        }
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def set(self, name: str, value: float, /, **labels: object) -> None:
        """Set a gauge, or a counter that is counted elsewhere."""
        self._values[name][self._key(name, labels)] = float(value)

    def add(self, name: str, amount: float = 1.0, /, **labels: object) -> None:
        """Increase a counter."""
        values, key = self._values[name], self._key(name, labels)
        values[key] = values.get(key, 0.0) + amount

    def observe(self, name: str, value: float, /, **labels: object) -> None:
        """Count a value in a histogram; what is stored is replaced, so that a copy is whole."""
        values, key, buckets = self._values[name], self._key(name, labels), BY_NAME[name].buckets
        counts = list(values.get(key) or [0.0] * (len(buckets) + 2))
        counts[bisect_left(buckets, value)] += 1
        counts[-1] += value
        values[key] = counts

    def get(self, name: str, /, **labels: object) -> float:
        """A value that was set."""
        return self._values[name][self._key(name, labels)]

    def describe(self) -> Iterator[Any]:
        """Nothing: names are checked by the table's test."""
        return iter(())

    def collect(self) -> Iterator[Any]:
        """Families as they are at this moment."""
        copy = {name: dict(values) for name, values in self._values.items()}
        for name, values in copy.items():
            if values:
                yield _FAMILIES[BY_NAME[name].kind](name, values)

    def _key(self, name: str, labels: dict[str, object]) -> Key:
        return tuple(str(labels[label]) for label in BY_NAME[name].labels)


def _plain(family: Any) -> Any:
    def build(name: str, values: dict[Key, float]) -> Any:
        metric = BY_NAME[name]
        made = family(name, metric.help, labels=metric.labels)
        for key, value in values.items():
            made.add_metric(key, value)
        return made

    return build


def _histogram(name: str, values: dict[Key, list[float]]) -> HistogramMetricFamily:
    metric = BY_NAME[name]
    made = HistogramMetricFamily(name, metric.help, labels=metric.labels)
    bounds = [*(str(float(b)) for b in metric.buckets), "+Inf"]
    for key, counts in values.items():
        total, buckets = 0.0, []
        for bound, count in zip(bounds, counts[:-1], strict=True):
            total += count
            buckets.append((bound, total))
        made.add_metric(key, buckets, counts[-1])
    return made


_FAMILIES = {
    COUNTER: _plain(CounterMetricFamily),
    GAUGE: _plain(GaugeMetricFamily),
    HISTOGRAM: _histogram,
}


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._room = threading.BoundedSemaphore(CLIENTS)
        super().__init__(*args, **kwargs)

    def server_bind(self) -> None:
        """As the base class, without asking a name server who we are."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread; hang up where all are taken."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one client."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is not worth a traceback on a run's display."""
        log.debug("metrics client %s went away", client_address, exc_info=True)


class Endpoint:
    """An HTTP server with the values, until `close`."""

    def __init__(self, values: Values, *, address: str, port: int) -> None:
        """Port 0: any free one; a port that is taken: the next free one.

        Raises:
            UserError: the address cannot be bound.
        """
        last: OSError | None = None
        self._values, self._app = values, make_wsgi_app(values.registry, disable_compression=True)
        self._scraped, self._scrapes = threading.Event(), 0
        for candidate in range(port, min(1 << 16, port + (TRIES if port else 1))):
            try:
                self._server = make_server(
                    address, candidate, self._answer, server_class=_Server, handler_class=_Handler
                )
            except OSError as error:
                last = error
                continue
            self.address, self.port = address, int(self._server.server_port)
            self._thread = threading.Thread(
                target=self._server.serve_forever, name="metrics", daemon=True
            )
            self._thread.start()
            return
        raise UserError(
            f"telemetry.address: cannot listen on {address}:{port} ({last}); use telemetry.port=0 "
            "or telemetry.endpoint=false"
        )

    def close(self, *, linger: float = 0.0) -> None:
        """Stop listening, after one more scrape or `linger` seconds."""
        self._scraped.clear()
        if linger:
            self._scraped.wait(linger)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: Any, start_response: Any) -> Any:
        answer = self._app(environ, start_response)
        self._scrapes += 1
        self._values.set("navsynth_scrapes_total", self._scrapes)
        self._scraped.set()
        return answer


class Pusher:
    """Hands the values to a Pushgateway from a thread, now and then and when it is closed; takes
    those of a run that has ended as it should away again."""

    def __init__(self, values: Values, url: str, *, group: dict[str, str]) -> None:
        """`group`: labels under which the gateway keeps the values."""
        self._values, self._url, self._group = values, url, group
        self._stop, self._warned, self._pushed = threading.Event(), False, False
        self._thread = threading.Thread(target=self._work, name="push", daemon=True)
        self._thread.start()

    def push(self) -> bool:
        """Push now, for at most `PUSH_SECONDS`; whether it worked. A failure is told once."""
        return self._ask(partial(push_to_gateway, registry=self._values.registry))

    def close(self, *, done: bool, linger: float = 0.0) -> bool:
        """Push what there is at the end; takes at most thrice `PUSH_SECONDS`, and `linger`.

        Args:
            done: the run has ended as it should: nothing of it stays with the gateway, where it
                would be taken for a run that stands still.
            linger: seconds that the last figures of such a run stay there first.

        Returns:
            Whether that time was taken; a gateway that did not answer has no figures.
        """
        self._stop.set()
        self._thread.join(2 * PUSH_SECONDS)
        waited = done and self._pushed
        if waited:
            time.sleep(linger)
        if done:
            self._ask(delete_from_gateway)
        return waited

    def _ask(self, what: Callable[..., None]) -> bool:
        try:
            what(self._url, job="navsynth", grouping_key=self._group, timeout=PUSH_SECONDS)
        except (OSError, ValueError, http.client.HTTPException) as error:
            if not self._warned:
                log.warning("telemetry.push: %s: %s; training goes on", self._url, error)
            self._warned = True
            return False
        return True

    def _work(self) -> None:
        while not self._stop.wait(PUSH_EVERY):
            self.push()
        self._pushed = self.push()
