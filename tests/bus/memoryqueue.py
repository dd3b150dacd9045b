"""
CloudConnect's side in memory, for tests without a Redis.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from binaryserver.bus.memorybus import recordSize
from binaryserver.errors import BusError, ConfigError
from binaryserver.model import Record


class MemoryQueue:
    """
    See L{binaryserver.bus.clouds.SecondCloud}.

    @ivar lists: what was published to each topic: records, and whether they are shared
    @ivar isBroken: every flush fails
    @ivar isAway: flushes wait
    @ivar cannotStart: the start fails
    """

    maxRecord = 2_000_000

    def __init__(self, clock: Any, topics: Iterable[str]) -> None:
        self._clock = clock
        self.topics = frozenset(topics)
        self.lists: dict[str, list[tuple[Record, bool]]] = {topic: [] for topic in self.topics}
        self.pendingBytes = 0
        self.isBroken = self.isAway = self.cannotStart = False
        self._isRunning = False
        self._waiting: list[tuple[str, Sequence[Record], bool, int, Deferred[None]]] = []

    def start(self) -> Deferred[None]:
        """
        See L{binaryserver.bus.clouds.SecondCloud.start}.
        """
        if self.cannotStart:
            return fail(ConfigError("--cloudconnect", "it is not there"))
        self._isRunning = True
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """
        See L{binaryserver.bus.clouds.SecondCloud.stop}.
        """
        self._isRunning = False
        if self.isAway:
            self.isBroken = True
        self.settle()
        return succeed(None)

    def publish(self, topic: str, partition: int, records: Sequence[Record], shared: bool = False) -> Deferred[None]:
        """
        See L{binaryserver.bus.clouds.SecondCloud.publish}.
        """
        if not self._isRunning:
            return fail(BusError("the queue is stopped"))
        size = sum(map(recordSize, records))
        self.pendingBytes += size
        done: Deferred[None] = Deferred()
        self._waiting.append((topic, records, shared, size, done))
        if not self.isAway:
            self._clock.callLater(0, self.settle)
        return done

    def settle(self) -> None:
        """
        End what waits.
        """
        waiting, self._waiting = self._waiting, []
        for topic, records, shared, size, done in waiting:
            self.pendingBytes -= size
            if self.isBroken:
                done.errback(BusError("the queue is broken"))
            else:
                self.lists[topic] += [(record, shared) for record in records]
                done.callback(None)
