"""A status in Prometheus' text form."""

from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest


class Metrics:
    """The numbers of one program, filled from its status at each scrape."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._moved = self._gauge("firedoor_bytes", "Bytes of pieces moved since start", "kind")
        self._refused = self._gauge("firedoor_refused", "Orders refused since start", "reason")
        self._covered = self._gauge("firedoor_covered_bytes", "Bytes of halted releases that came")
        self._orders = self._gauge("firedoor_orders", "Orders held")
        self._peers = self._gauge("firedoor_peers", "Standing connections")

    def render(self, status: dict[str, Any]) -> bytes:
        """The text of a scrape."""
        for kind, count in status["bytes"].items():
            self._moved.labels(kind).set(count)
        for reason, count in status["refusals"].items():
            self._refused.labels(reason).set(count)
        self._covered.set(status["covered"]["bytes"])
        self._orders.set(len(status["orders"]))
        self._peers.set(len(status["peers"]))
        return generate_latest(self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self._registry)
