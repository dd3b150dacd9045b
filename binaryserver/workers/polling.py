"""
What the parent asks of all its workers at once: their metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from binaryserver.workers.channel import Channel

PATIENCE = 1.0
"""s that a worker has to answer."""


class Polling:
    """
    One poll at a time: who asks while one is under way is answered with it.

    @ivar unanswered: how often a worker did not answer in time, since the start
    """

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._number = 0
        self._awaited: set[str] = set()
        self._answers: dict[str, list[Any]] = {}
        self._askers: list[Deferred[dict[str, list[Any]]]] = []
        self._timer: IDelayedCall | None = None
        self.unanswered = 0

    def ask(self, workers: Mapping[str, Channel]) -> Deferred[dict[str, list[Any]]]:
        """
        Ask workers, by their names, for their metrics. Fires with the answers of those that gave one in time.
        """
        asker: Deferred[dict[str, list[Any]]] = Deferred()
        self._askers.append(asker)
        if len(self._askers) == 1:
            self._number += 1
            self._answers, self._awaited = {}, set(workers)
            for channel in workers.values():
                channel.send("metrics", id=self._number)
            self._timer = self._clock.callLater(PATIENCE if workers else 0, self._end)
        return asker

    def answered(self, worker: str, message: Mapping[str, Any]) -> None:
        """
        A worker answers.
        """
        if self._askers and message["id"] == self._number and worker in self._awaited:
            self._awaited.discard(worker)
            self._answers[worker] = message["families"]
            if not self._awaited:
                self._end()

    def _end(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self.unanswered += len(self._awaited)
        askers, self._askers = self._askers, []
        for asker in askers:
            asker.callback(self._answers)
