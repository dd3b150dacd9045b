"""
What the parent of workers tells: of them, and for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred

from binaryserver.metrics.families import counter, gauge, merged, toJson
from binaryserver.workers.supervisor import Supervisor

PARENT = "parent"
"""What the parent's own samples have as their label C{worker}; those of workers have a number."""


class WorkersCollector(Collector):
    """
    Of the parent.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def collect(self) -> Iterable[Metric]:
        """
        See L{Collector.collect}.
        """
        supervisor = self._supervisor
        yield gauge("workers", "Workers that there are to be: --workers.", len(supervisor.workers))
        yield gauge("workers_running", "Workers that run.", len(supervisor.channels()))
        yield counter("worker_restarts", "Workers that died and were started again.", supervisor.restarts)
        yield counter(
            "workers_unanswered", "Times that a worker did not tell its metrics in time.", supervisor.polling.unanswered
        )


def gatherWorkers(supervisor: Supervisor, registry: CollectorRegistry) -> Deferred[Iterable[Metric]]:
    """
    The families of all workers that answer, and the parent's own.

    @param registry: the parent's
    """

    def answered(byWorker: dict[str, list[Any]]) -> Iterable[Metric]:
        return merged({**dict(sorted(byWorker.items())), PARENT: toJson(registry.collect())})

    return supervisor.polling.ask(supervisor.channels()).addCallback(answered)
