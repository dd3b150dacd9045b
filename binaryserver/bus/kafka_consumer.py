"""
Consumer groups of Kafka.

librdkafka does the group's work inside its poll: partitions go and come cooperatively, so that those that stay with a
member are read on meanwhile. What is committed is stored in the client, which writes it once a second, when partitions
go, and at the close.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.bus.kafka_reader import opening, polled, storedRecord
from binaryserver.bus.kafka_settings import KafkaSettings
from binaryserver.errors import BusError
from binaryserver.interfaces import IBusConsumer
from binaryserver.model import StoredRecord

_PATIENCE = 0.5

# s that a close waits for a broker that does not answer.
_LEAVING = 5.0

# How soon a member learns that others have come or gone.
_HEARTBEAT_MS = 300

# s that a member stays connected after it said that it leaves. Where a join is under way Kafka takes no notice of that
# before the others have come to it, with their next heartbeat; and none at all if the connection is gone by then: they
# would wait for the end of its session.
_LINGER = _HEARTBEAT_MS / 1000 + 0.2

_DEFAULTS: dict[str, Any] = {
    "session.timeout.ms": 10_000,
    "fetch.wait.max.ms": 100,
    # Of records that wait to be read, in the client; and how soon it goes on fetching once there is room.
    "queued.max.messages.kbytes": 16_384,
    "fetch.queue.backoff.ms": 20,
}

# s between two looks at the lag.
_MEASURE = 1.0

# What passes by itself, beside what the client calls retriable. The last two: a broker that has just come up does not
# know its topics yet; a reader that was away too long has left the group, and joins it again.
_PASSING = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._MAX_POLL_EXCEEDED,
    }
)

# What says that a partition is not this member's.
_FOREIGN = frozenset({KafkaError._STATE, KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC})


@implementer(IBusConsumer)
class KafkaConsumer:
    """
    A member of a group. Its blocking calls run in threads, one by one.
    """

    log = Logger()

    def __init__(
        self,
        settings: KafkaSettings,
        logger: logging.Logger,
        clock: Any,
        inThread: Callable[..., Deferred[Any]],
        closed: Callable[[KafkaConsumer], None],
    ) -> None:
        """
        @param clock: C{IReactorTime}
        @param inThread: calls a function in a thread
        @param closed: called once its close has begun
        """
        self._settings = settings
        self._logger = logger
        self._clock = clock
        self._inThread = inThread
        self._whenClosed = closed
        self.lag: int | None = None
        self._measureAt = 0.0
        # Of partitions of which nothing was read yet: where their group stands.
        self._committed: dict[tuple[str, int], int] = {}
        self._consumer: Any = None
        self._underWay: Deferred[Any] | None = None
        self._isClosing = False
        self._closed: Deferred[None] | None = None

    def open(self, topics: Sequence[str], group: str, timeout: float) -> Deferred[IBusConsumer]:
        """
        Join the group.

        @param timeout: s
        """
        return self._call(self._open, topics, group, timeout)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        self._underWay = called = self._inThread(function, *arguments)

        def over(result: Any) -> Any:
            self._underWay = None
            return result

        return called.addBoth(over)

    def _open(self, topics: Sequence[str], group: str, timeout: float) -> KafkaConsumer:
        try:
            consumer = Consumer(
                {
                    **_DEFAULTS,
                    **self._settings.client(),
                    "group.id": group,
                    "heartbeat.interval.ms": _HEARTBEAT_MS,
                    "partition.assignment.strategy": "cooperative-sticky",
                    "auto.offset.reset": "earliest",
                    "enable.auto.offset.store": False,
                    "enable.auto.commit": True,
                    "auto.commit.interval.ms": 1000,
                    "logger": self._logger,
                }
            )
        except KafkaException as error:
            raise BusError(error.args[0].str()) from error
        with opening(consumer):
            known = consumer.list_topics(timeout=timeout).topics
            missing = [topic for topic in topics if topic not in known]
            if missing:
                raise BusError(f"there is no topic {missing[0]}")
            consumer.subscribe(list(topics))
        self._consumer = consumer
        return self

    def read(self, limit: int) -> Deferred[list[StoredRecord]]:
        """
        See L{IBusConsumer.read}.
        """
        if self._isClosing:
            return succeed([])
        return self._call(self._read, limit).addBoth(lambda result: [] if self._isClosing else result)

    def _read(self, limit: int) -> list[StoredRecord]:
        deadline = time.monotonic() + _PATIENCE
        while not self._isClosing and (left := deadline - time.monotonic()) > 0:
            self._measure()
            messages = polled(self._consumer, left, limit)
            records = [storedRecord(message) for message in messages if _isRecord(message)]
            if records:
                return records
        return []

    def _measure(self) -> None:
        """
        Note the lag, by what the client knows of its partitions' ends from fetching.
        """
        now = time.monotonic()
        if now < self._measureAt:
            return
        self._measureAt = now + _MEASURE
        try:
            self.lag = self._lag(self._consumer.assignment())
        except KafkaException as error:
            # The next look may find it; what is read does not depend on it.
            self.log.debug("the lag could not be found: {reason}", reason=error.args[0].str())

    def _lag(self, places: list[Any]) -> int:
        """
        @raise KafkaException: the broker does not say where the group stands
        """
        lag = 0
        unread = []
        for place in self._consumer.position(places):
            if place.offset >= 0:
                lag += max(0, self._consumer.get_watermark_offsets(place, cached=True)[1] - place.offset)
            else:
                unread.append(TopicPartition(place.topic, place.partition))
        if not unread:
            self._committed = {}
        elif {(place.topic, place.partition) for place in unread} != self._committed.keys():
            # Of what nothing was read of yet the broker knows where the group stands.
            found = self._consumer.committed(unread, timeout=_PATIENCE)
            self._committed = {(place.topic, place.partition): place.offset for place in found}
        for place in unread:
            low, high = self._consumer.get_watermark_offsets(place, cached=True)
            committed = self._committed[place.topic, place.partition]
            # Negative: there is none, or nothing was heard of the partition.
            lag += max(0, high - (committed if committed >= 0 else max(0, low)))
        return lag

    def commit(self, offsets: Mapping[tuple[str, int], int]) -> Deferred[None]:
        """
        See L{IBusConsumer.commit}.
        """
        if self._isClosing:
            return fail(BusError("the consumer is closed"))
        stored = [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
        try:
            # Does not block: it notes them.
            self._consumer.store_offsets(offsets=stored)
        except KafkaException as error:
            if error.args[0].code() not in _FOREIGN:
                return fail(BusError(error.args[0].str()))
        return succeed(None)

    def close(self) -> Deferred[None]:
        """
        See L{IBusConsumer.close}.
        """
        closed: Deferred[None] = Deferred()
        if self._closed is None:
            self._closed = Deferred()
            self._isClosing = True
            self._whenClosed(self)
            if self._underWay is None:
                self._leave()
            else:
                self._underWay.addBoth(self._ended)
        self._closed.addCallback(closed.callback)
        return closed

    def _ended(self, result: Any) -> Any:
        self._leave()
        return result

    def _leave(self) -> None:
        assert self._closed is not None
        if self._consumer is None:
            self._closed.callback(None)
            return
        left = self._inThread(self._end)
        left.addTimeout(_LEAVING, self._clock, lambda failure, _: failure.trap(CancelledError) and None)
        left.addErrback(self._leaveFailed).addCallback(self._closed.callback)

    def _end(self) -> None:
        self._consumer.unsubscribe()
        deadline = time.monotonic() + _LINGER
        while (left := deadline - time.monotonic()) > 0:
            # What it may still give is not stored, and comes again to the next one.
            self._consumer.poll(left)
        self._consumer.close()

    def _leaveFailed(self, failure: Failure) -> None:
        self.log.warn("a consumer group could not be left: {reason}", reason=failure.getErrorMessage())


def _isRecord(message: Any) -> bool:
    """
    Whether it is one, and not an error that passes.

    @raise BusError: an error that does not
    """
    error = message.error()
    if error is not None and not error.retriable() and error.code() not in _PASSING:
        raise BusError(error.str())
    return error is None
