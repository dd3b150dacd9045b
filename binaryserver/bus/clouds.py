"""
Two clouds: each account's events go to CloudNext (the bus), to CloudConnect (RQueue), or to both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredList
from zope.interface import implementer

from binaryserver.interfaces import IBus, IBusConsumer, IBusReader, ILanes
from binaryserver.model import Clouds, Record


class SecondCloud(Protocol):
    """
    What CloudConnect's side is to offer; L{RQueue<binaryserver.bus.rqueue.RQueue>} does. All as in L{IBus}.

    @ivar topics: those whose records it takes
    """

    @property
    def topics(self) -> frozenset[str]:
        """
        See C{topics}.
        """

    @property
    def maxRecord(self) -> int:
        """
        See L{IBus}.
        """

    @property
    def pendingBytes(self) -> int:
        """
        See L{IBus}.
        """

    def start(self) -> Deferred[None]:
        """
        See L{IBus.start}.
        """

    def stop(self) -> Deferred[None]:
        """
        See L{IBus.stop}.
        """

    def publish(self, topic: str, partition: int, records: Sequence[Record], shared: bool = False) -> Deferred[None]:
        """
        See L{IBus.publish}.

        @param shared: they are published to CloudNext, too
        """


@implementer(IBus, ILanes)
class CloudsBus:
    """
    Publishes tracks, messages and presences by their account; everything else is CloudNext's alone.

    A flush is durable once each cloud concerned has its part of it. It fails, once both have answered, if one of them
    failed; the other may have it then, and has it twice, with the same key and C{ce_id}, when it is sent again.

    Each set of clouds is a lane, so that accounts of one cloud need not wait for the other.
    """

    def __init__(self, main: IBus, queue: SecondCloud, clouds: Callable[[str], Clouds]) -> None:
        """
        @param main: CloudNext's
        @param queue: CloudConnect's
        @param clouds: gives the clouds of an account, at once
        """
        self._main = main
        self._queue = queue
        self._clouds = clouds

    @property
    def maxRecord(self) -> int:
        """
        See L{IBus}.
        """
        return min(self._main.maxRecord, self._queue.maxRecord)

    @property
    def pendingBytes(self) -> int:
        """
        See L{IBus}. What goes to both counts twice: it is there twice.
        """
        return self._main.pendingBytes + self._queue.pendingBytes

    def start(self) -> Deferred[None]:
        """
        See L{IBus.start}.
        """
        return _all([self._main.start(), self._queue.start()])

    def stop(self) -> Deferred[None]:
        """
        See L{IBus.stop}.
        """
        return _all([self._queue.stop(), self._main.stop()])

    def partitionFor(self, topic: str, key: bytes) -> int:
        """
        See L{IBus.partitionFor}.
        """
        return self._main.partitionFor(topic, key)

    def laneOf(self, key: bytes) -> Clouds:
        """
        See L{ILanes.laneOf}.
        """
        return self._clouds(_accountOf(key))

    def publish(self, topic: str, partition: int, records: Sequence[Record]) -> Deferred[None]:
        """
        See L{IBus.publish}.
        """
        if topic not in self._queue.topics:
            return self._main.publish(topic, partition, records)
        places = {account: self._clouds(account) for account in {_accountOf(record.key) for record in records}}
        if set(places.values()) <= {Clouds.cloudnext}:
            return self._main.publish(topic, partition, records)
        parts: dict[Clouds, list[Record]] = {clouds: [] for clouds in Clouds}
        next_: list[Record] = []
        for record in records:
            clouds = places[_accountOf(record.key)]
            parts[clouds].append(record)
            if clouds is not Clouds.cloudconnect:
                next_.append(record)
        # An account's events are all in one part, so that each box's keep their order.
        done = [
            self._queue.publish(topic, partition, parts[clouds], shared=clouds is Clouds.both)
            for clouds in (Clouds.cloudconnect, Clouds.both)
            if parts[clouds]
        ]
        if next_:
            done.append(self._main.publish(topic, partition, next_))
        return done[0] if len(done) == 1 else _all(done)

    def createTopics(self, topics: Sequence[str], partitions: int, replication: int) -> Deferred[list[str]]:
        """
        See L{IBus.createTopics}.
        """
        return self._main.createTopics(topics, partitions, replication)

    def erase(self, key: bytes) -> Deferred[int | None]:
        """
        See L{IBus.erase}. From CloudNext; what CloudConnect's queue has is its agents' to read and to remove.
        """
        return self._main.erase(key)

    def openReader(self, topics: Sequence[str], fromStart: bool) -> Deferred[IBusReader]:
        """
        See L{IBus.openReader}. Of CloudNext.
        """
        return self._main.openReader(topics, fromStart)

    def openConsumer(self, topics: Sequence[str], group: str) -> Deferred[IBusConsumer]:
        """
        See L{IBus.openConsumer}. Of CloudNext.
        """
        return self._main.openConsumer(topics, group)


def _accountOf(key: bytes) -> str:
    return key.partition(b"/")[0].decode("utf-8", "replace")


def _all(deferreds: Sequence[Deferred[None]]) -> Deferred[None]:
    """
    Fires when all have; fails as the first of them that failed.
    """

    def ended(results: Any) -> None:
        for isGood, result in results:
            if not isGood:
                result.raiseException()

    every: Deferred[Any] = DeferredList(deferreds, consumeErrors=True)
    return every.addCallback(ended)
