"""
Presence events on their way to the bus: in order, and repeated until the bus has them (G6).
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.interfaces import IBus
from binaryserver.model import Record

_RETRY = 1.0

# What a record costs in memory beside its value.
_RECORD_COST = 600


class Announcer:
    """
    One flush a partition is under way at a time; what comes meanwhile gathers behind it. A flush that failed is sent
    again before anything later, so that a box's events keep their order.

    @ivar waiting: records not yet durable
    @ivar queuedBytes: memory of those that the bus has not been handed
    """

    log = Logger()

    def __init__(self, bus: IBus, topic: str, clock: IReactorTime) -> None:
        self._bus = bus
        self._topic = topic
        self._clock = clock
        self._queued: dict[int, list[Record]] = {}
        self._sending: set[int] = set()
        self._idle: list[Deferred[None]] = []
        self.waiting = 0
        self.queuedBytes = 0

    def announce(self, record: Record) -> None:
        """
        Publish a presence.
        """
        partition = self._bus.partitionFor(self._topic, record.key)
        self._queued.setdefault(partition, []).append(record)
        self.queuedBytes += len(record.value) + _RECORD_COST
        self.waiting += 1
        if partition not in self._sending:
            self._sending.add(partition)
            self._clock.callLater(0, self._send, partition)

    def whenIdle(self) -> Deferred[None]:
        """
        Fires once all that was announced is durable.
        """
        if not self.waiting:
            return succeed(None)
        idle: Deferred[None] = Deferred()
        self._idle.append(idle)
        return idle

    def _send(self, partition: int) -> None:
        records = self._queued.pop(partition)
        self.queuedBytes -= sum(len(record.value) + _RECORD_COST for record in records)
        done = self._bus.publish(self._topic, partition, records)
        done.addCallbacks(self._sent, self._failed, callbackArgs=(partition, records), errbackArgs=(partition, records))

    def _sent(self, _: None, partition: int, records: list[Record]) -> None:
        self.waiting -= len(records)
        if partition in self._queued:
            self._send(partition)
            return
        self._sending.discard(partition)
        if not self.waiting:
            idle, self._idle = self._idle, []
            for deferred in idle:
                deferred.callback(None)

    def _failed(self, failure: Failure, partition: int, records: list[Record]) -> None:
        self.log.warn("bus did not take presences, trying again: {reason}", reason=failure.getErrorMessage())
        self._queued[partition] = records + self._queued.get(partition, [])
        self.queuedBytes += sum(len(record.value) + _RECORD_COST for record in records)
        self._clock.callLater(_RETRY, self._send, partition)
