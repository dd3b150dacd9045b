"""
A bus in memory: for tests and trials.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from binaryserver.bus.memoryconsumer import PATIENCE, MemoryConsumer, MemoryGroup
from binaryserver.bus.partitioner import partition
from binaryserver.errors import BusError, ConfigError, RecordTooLarge
from binaryserver.interfaces import IBus, IBusConsumer, IBusReader
from binaryserver.model import Record, StoredRecord
from binaryserver.plugins import BackEndContext

MAX_RECORD = 1_000_000
"""bytes"""


def numbers(spec: str, query: str, context: BackEndContext, known: dict[str, int]) -> dict[str, int]:
    """
    Whole positive numbers from an option's query string, over their defaults.

    @raise ConfigError: one is not known, or no such number
    """
    values = dict(known)
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise ConfigError(context.option, f"{spec!r}: {name} is unknown; known: {', '.join(known)}")
        if not (value.isascii() and value.isdigit() and int(value)):
            raise ConfigError(context.option, f"{spec!r}: {name} is a whole positive number, not {value!r}")
        values[name] = int(value)
    return values


def recordSize(record: Record) -> int:
    """
    Bytes of key, value and headers.
    """
    size = len(record.key) + len(record.value)
    for name, value in record.headers:
        size += len(value) + (len(name) if name.isascii() else len(name.encode(errors="replace")))
    return size


@implementer(IBus)
class MemoryBus:
    """
    C{memory:[?partitions=N][&records=N]}: keeps the last records of each topic.
    """

    maxRecord = MAX_RECORD

    def __init__(self, spec: str, context: BackEndContext) -> None:
        path, _, query = spec.partition(":")[2].partition("?")
        if path:
            raise ConfigError(context.option, f"{spec!r}: memory: names no place")
        settings = numbers(spec, query, context, {"partitions": 8, "records": 100_000})
        self._context = context
        self._clock = context.reactor
        self._defaultPartitions = settings["partitions"]
        self._kept = settings["records"]
        self._partitions: dict[str, int] = {}
        self._topics: dict[str, deque[StoredRecord]] = {}
        self._next = 0
        self._isRunning = False
        self._readers: set[_MemoryReader] = set()
        self._consumers: set[MemoryConsumer] = set()
        self._groups: dict[str, MemoryGroup] = {}
        self._pending: deque[tuple[str, int, Sequence[Record], int, Deferred[None]]] = deque()
        self.pendingBytes = 0

    def start(self) -> Deferred[None]:
        """
        See L{IBus.start}.
        """
        self._makeTopics(self._context.topics, self._defaultPartitions)
        self._isRunning = True
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """
        See L{IBus.stop}.
        """
        self._isRunning = False
        while self._pending:
            self._commit()
        for reader in list(self._readers):
            reader.close()
        for consumer in list(self._consumers):
            consumer.close()
        return succeed(None)

    def partitionFor(self, topic: str, key: bytes) -> int:
        """
        See L{IBus.partitionFor}.
        """
        return partition(key, self._partitions[topic])

    def publish(self, topic: str, partition: int, records: Sequence[Record]) -> Deferred[None]:
        """
        See L{IBus.publish}.
        """
        error = self._refusal(topic, partition, records)
        if error is not None:
            return fail(error)
        size = sum(map(recordSize, records))
        self.pendingBytes += size
        done: Deferred[None] = Deferred()
        self._pending.append((topic, partition, records, size, done))
        self._clock.callLater(0, self._turn)
        return done

    def _refusal(self, topic: str, partition: int, records: Sequence[Record]) -> BusError | None:
        if not self._isRunning:
            return BusError("the bus is stopped")
        if not 0 <= partition < self._partitions.get(topic, 0):
            return BusError(f"there is no partition {partition} of {topic}")
        if any(recordSize(record) > MAX_RECORD for record in records):
            return RecordTooLarge(f"a record has more than {MAX_RECORD} bytes")
        return None

    def _turn(self) -> None:
        if self._pending:
            self._commit()

    def _commit(self) -> None:
        topic, place, records, size, done = self._pending.popleft()
        now = time.time_ns() // 1_000_000
        log = self._topics[topic]
        for record in records:
            log.append(StoredRecord(topic, place, self._next, now, record.key, record.value, tuple(record.headers)))
            self._next += 1
        self.pendingBytes -= size
        done.callback(None)
        for reader in list(self._readers):
            reader.notice()
        for consumer in list(self._consumers):
            consumer.notice()

    def createTopics(self, topics: Sequence[str], partitions: int, replication: int) -> Deferred[list[str]]:
        """
        See L{IBus.createTopics}.
        """
        return succeed(self._makeTopics(topics, partitions))

    def _makeTopics(self, topics: Sequence[str], partitions: int) -> list[str]:
        made = [topic for topic in topics if topic not in self._partitions]
        for topic in made:
            self._partitions[topic] = partitions
            self._topics[topic] = deque(maxlen=self._kept)
        return made

    def erase(self, key: bytes) -> Deferred[int | None]:
        """
        See L{IBus.erase}.
        """
        if not self._isRunning:
            return fail(BusError("the bus is stopped"))
        while self._pending:
            self._commit()
        before = sum(map(len, self._topics.values()))
        for log in self._topics.values():
            # Consumers hold on to it.
            kept = [record for record in log if record.key != key]
            log.clear()
            log.extend(kept)
        return succeed(before - sum(map(len, self._topics.values())))

    def openReader(self, topics: Sequence[str], fromStart: bool) -> Deferred[IBusReader]:
        """
        See L{IBus.openReader}.
        """
        missing = [topic for topic in topics if topic not in self._topics]
        if missing:
            return fail(BusError(f"there is no topic {missing[0]}"))
        logs = [self._topics[topic] for topic in topics]
        reader = _MemoryReader(self._clock, logs, 0 if fromStart else self._next, self._next, self._readers.discard)
        self._readers.add(reader)
        return succeed(reader)

    def openConsumer(self, topics: Sequence[str], group: str) -> Deferred[IBusConsumer]:
        """
        See L{IBus.openConsumer}.
        """
        missing = [topic for topic in topics if topic not in self._topics]
        if missing or not self._isRunning:
            return fail(BusError(f"there is no topic {missing[0]}" if missing else "the bus is stopped"))
        counts = {topic: self._partitions[topic] for topic in topics}
        members = self._groups.setdefault(group, MemoryGroup())
        consumer = MemoryConsumer(self._clock, self._topics, counts, members, self._consumers.discard)
        self._consumers.add(consumer)
        members.join(consumer)
        return succeed(consumer)


@implementer(IBusReader)
class _MemoryReader:
    """
    Goes through the logs by their records' offsets, which grow over all of them.
    """

    def __init__(
        self,
        clock: Any,
        logs: Sequence[deque[StoredRecord]],
        position: int,
        end: int,
        closed: Callable[[_MemoryReader], None],
    ) -> None:
        self._clock = clock
        self._logs = logs
        self._position = position
        self._end = end
        self._closed = closed
        self._waiting: tuple[int, Deferred[list[StoredRecord]], Any] | None = None
        self._isClosed = False

    @property
    def caughtUp(self) -> bool:
        """
        See L{IBusReader.caughtUp}.
        """
        return self._position >= self._end

    def read(self, limit: int) -> Deferred[list[StoredRecord]]:
        """
        See L{IBusReader.read}.
        """
        found = [] if self._isClosed else self._take(limit)
        if found or self._isClosed:
            return succeed(found)
        answer: Deferred[list[StoredRecord]] = Deferred()
        self._waiting = (limit, answer, self._clock.callLater(PATIENCE, self._fire))
        return answer

    def _take(self, limit: int) -> list[StoredRecord]:
        found: list[StoredRecord] = []
        for log in self._logs:
            for one in reversed(log):
                if one.offset < self._position:
                    break
                found.append(one)
        found.sort(key=lambda one: one.offset)
        if len(found) > limit:
            del found[limit:]
            self._position = found[-1].offset + 1
        else:
            self._position = max(self._end, self._position, found[-1].offset + 1 if found else 0)
        return found

    def notice(self) -> None:
        """
        There is something new.
        """
        if self._waiting is not None:
            self._fire()

    def _fire(self) -> None:
        assert self._waiting is not None
        limit, answer, delay = self._waiting
        found = [] if self._isClosed else self._take(limit)
        if not found and delay.active() and not self._isClosed:
            return
        self._waiting = None
        if delay.active():
            delay.cancel()
        answer.callback(found)

    def close(self) -> Deferred[None]:
        """
        See L{IBusReader.close}.
        """
        self._isClosed = True
        self._closed(self)
        self.notice()
        return succeed(None)
