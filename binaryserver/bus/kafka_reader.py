"""
Kafka's topics read back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from binaryserver.bus.kafka_settings import KafkaSettings
from binaryserver.errors import BusError
from binaryserver.interfaces import IBusReader
from binaryserver.model import StoredRecord

_PATIENCE = 0.5
_STEP = 0.1


def storedRecord(message: Any) -> StoredRecord:
    """
    A record of confluent-kafka's as ours. Headers without a value get an empty one.
    """
    try:
        headers = tuple((name, content or b"") for name, content in message.headers() or ())
    except SystemError:
        # The client's way of saying that a header's name is no UTF-8, each time that it is asked.
        headers = ()
    return StoredRecord(
        message.topic(),
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key() or b"",
        message.value() or b"",
        headers,
    )


@contextmanager
def opening(consumer: Any) -> Iterator[None]:
    """
    What makes a client ready to be read: fails with a L{BusError}, and leaves no client behind then.
    """
    try:
        yield
    except KafkaException as error:
        consumer.close()
        raise BusError(error.args[0].str()) from error
    except BusError:
        consumer.close()
        raise


def polled(consumer: Any, left: float, limit: int) -> list[Any]:
    """
    What a client has, at once if it has some. Blocks.

    @param left: s, the longest; it wakes up in between, so that a close need not wait so long
    """
    first = consumer.poll(min(left, _STEP))
    if first is None:
        return []
    return [first, *(consumer.consume(limit - 1, 0) if limit > 1 else ())]


@implementer(IBusReader)
class KafkaReader:
    """
    A consumer with its partitions assigned by hand; commits nothing. Its calls block: they run in threads, one by one.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        logger: logging.Logger,
        inThread: Callable[..., Deferred[Any]],
        closed: Callable[[KafkaReader], None],
    ) -> None:
        """
        @param inThread: calls a function in a thread
        @param closed: called when it is closed
        """
        self._whenClosed = closed
        self._settings = settings
        self._logger = logger
        self._inThread = inThread
        self._ends: dict[tuple[str, int], int] = {}
        self._consumer: Any = None
        self._isClosing = False
        self._reading: Deferred[Any] | None = None
        self._closed: Deferred[None] | None = None

    @property
    def caughtUp(self) -> bool:
        """
        See L{IBusReader.caughtUp}.
        """
        return not self._ends

    def open(self, topics: Sequence[str], fromStart: bool, timeout: float) -> Deferred[IBusReader]:
        """
        Assign every partition of the topics.

        @param timeout: s
        """
        opened: Deferred[IBusReader] = self._inThread(self._open, topics, fromStart, timeout)
        return opened

    def _open(self, topics: Sequence[str], fromStart: bool, timeout: float) -> KafkaReader:
        self._consumer = consumer = Consumer(
            {
                **self._settings.client(),
                "group.id": "binaryserver-reader",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 100,
                "logger": self._logger,
            }
        )
        with opening(consumer):
            assigned = []
            metadata = consumer.list_topics(timeout=timeout)
            for topic in topics:
                if topic not in metadata.topics:
                    raise BusError(f"there is no topic {topic}")
                for number in metadata.topics[topic].partitions:
                    low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=timeout)
                    assigned.append(TopicPartition(topic, number, OFFSET_BEGINNING if fromStart else high))
                    if fromStart and high > low:
                        self._ends[topic, number] = high
            consumer.assign(assigned)
        return self

    def read(self, limit: int) -> Deferred[list[StoredRecord]]:
        """
        See L{IBusReader.read}.
        """
        if self._isClosing:
            return succeed([])
        reading = self._inThread(self._read, limit)
        self._reading = reading

        def done(result: Any) -> Any:
            self._reading = None
            if self._closed is not None:
                self._close(self._closed)
                return []
            return result

        return reading.addBoth(done)

    def _read(self, limit: int) -> list[StoredRecord]:
        records: list[StoredRecord] = []
        deadline = time.monotonic() + _PATIENCE
        while not records and not self._isClosing and (left := deadline - time.monotonic()) > 0:
            self._sort(polled(self._consumer, left, limit), records)
        return records

    def _sort(self, messages: Sequence[Any], records: list[StoredRecord]) -> None:
        for message in messages:
            place = (message.topic(), message.partition())
            error = message.error()
            if error is None:
                records.append(storedRecord(message))
                reached = message.offset() + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                reached = message.offset()
            elif error.retriable() or error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
                continue
            else:
                raise BusError(error.str())
            if reached >= self._ends.get(place, reached + 1):
                del self._ends[place]

    def close(self) -> Deferred[None]:
        """
        See L{IBusReader.close}.
        """
        if self._isClosing:
            return succeed(None)
        self._isClosing = True
        self._whenClosed(self)
        closed: Deferred[None] = Deferred()
        if self._reading is None:
            self._close(closed)
        else:
            self._closed = closed
        return closed

    def _close(self, closed: Deferred[None]) -> None:
        self._closed = None
        self._inThread(self._consumer.close).addBoth(lambda _: closed.callback(None))
