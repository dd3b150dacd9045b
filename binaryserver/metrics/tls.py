"""
What the listeners with TLS of a process tell.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.registry import Collector

from binaryserver.endpoints.credentials import ReloadingCredentials
from binaryserver.metrics.families import counters, gauges


class TlsCollector(Collector):
    """
    Of those for boxes, and of the HTTP side.
    """

    def __init__(self) -> None:
        self._credentials: list[ReloadingCredentials] = []

    def add(self, credentials: ReloadingCredentials | None) -> None:
        """
        One listener more.

        @param credentials: L{None}: it has no TLS
        """
        if credentials is not None:
            self._credentials.append(credentials)

    def collect(self) -> Iterable[Metric]:
        """
        See L{Collector.collect}.
        """
        handshakes = {
            "done": sum(one.handshakes.done for one in self._credentials),
            "failed": sum(one.handshakes.failed for one in self._credentials),
        }
        yield counters("tls_handshakes", "TLS handshakes, by how they ended.", "result", handshakes)
        yield gauges(
            "certificate_expiry_timestamp_seconds",
            "When the first certificate, or revocation list, in use expires, Unix time; 0: there is none.",
            "kind",
            self._expiries(),
        )

    def _expiries(self) -> dict[str, float]:
        first = {"certificate": 0.0, "revocations": 0.0}
        for moment, what in (expiry for one in self._credentials for expiry in one.expiries):
            kind = "revocations" if what.startswith("the revocation list") else "certificate"
            at = moment.timestamp()
            first[kind] = min(first[kind] or at, at)
        return first
