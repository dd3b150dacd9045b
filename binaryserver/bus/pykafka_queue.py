"""
What is to be sent to one partition, and what became of it: decisions only, no clock and no socket.

A partition has at most one batch under way. A batch whose fate is unknown is sent again byte for byte, with the same
producer id and sequence, so that the broker can tell that it has it already: then retries neither repeat nor reorder.
Only where that is impossible (the broker has forgotten the producer, or every flush of the batch has run out of time
and the next must not wait for it) a new producer id is taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum, auto

from twisted.internet.defer import Deferred

from binaryserver.bus.pykafka_records import BATCH_HEADER, Producer, encodeBatch, recordSize
from binaryserver.bus.pykafka_requests import TopicPartition
from binaryserver.errors import BusError, FlushTimeout, RecordTooLarge
from binaryserver.model import Record

RECORD_OVERHEAD = 32
"""Bytes reckoned for a record's lengths and offsets."""

_SEQUENCES = 2**31


class PartitionState(Enum):
    """
    What a partition waits for.
    """

    awaitingRecords = auto()
    awaitingTurn = auto()
    awaitingProducer = auto()
    awaitingAnswer = auto()
    awaitingRetry = auto()


_S = PartitionState
TRANSITIONS: dict[PartitionState, frozenset[PartitionState]] = {
    _S.awaitingRecords: frozenset({_S.awaitingTurn}),
    _S.awaitingTurn: frozenset({_S.awaitingProducer, _S.awaitingAnswer, _S.awaitingRetry, _S.awaitingRecords}),
    _S.awaitingProducer: frozenset({_S.awaitingTurn, _S.awaitingRetry, _S.awaitingRecords}),
    _S.awaitingAnswer: frozenset({_S.awaitingTurn, _S.awaitingRetry, _S.awaitingRecords}),
    _S.awaitingRetry: frozenset({_S.awaitingTurn, _S.awaitingRecords}),
}
"""Every way from one state to another."""


class Flush:
    """
    What one call of C{publish} brought.

    @ivar deadline: reactor's clock, s
    @ivar due: reactor's clock, s: when it may no longer wait for others to go with it
    @ivar size: bytes of keys, values and headers
    @ivar taken: how many of the records have gone into batches
    @ivar committed: how many are durable
    @ivar done: what the caller waits for; L{None} once it has fired
    """

    __slots__ = ("committed", "deadline", "done", "due", "records", "size", "taken")

    def __init__(self, records: Sequence[Record], size: int, due: float, deadline: float) -> None:
        self.records = records
        self.size = size
        self.due = due
        self.deadline = deadline
        self.taken = 0
        self.committed = 0
        self.done: Deferred[None] | None = Deferred()


class Batch:
    """
    Records of one or more flushes that go to the broker together.

    @ivar parts: flush, first record, record behind the last
    """

    __slots__ = ("_encoded", "count", "nowMs", "parts", "producer")

    def __init__(self, parts: list[tuple[Flush, int, int]], producer: Producer, nowMs: int) -> None:
        self.parts = parts
        self.count = sum(stop - start for _, start, stop in parts)
        self.producer = producer
        self.nowMs = nowMs
        self._encoded: bytes | None = None

    @property
    def wanted(self) -> bool:
        """
        Somebody still waits for it.
        """
        return any(flush.done is not None for flush, _, _ in self.parts)

    def encoded(self) -> bytes:
        """
        Its bytes, always the same. Called in the thread of the broker's link, and by one thread at a time.
        """
        if self._encoded is None:
            records = [record for flush, start, stop in self.parts for record in flush.records[start:stop]]
            self._encoded = encodeBatch(records, self.nowMs, self.producer)
        return self._encoded


class PartitionQueue:
    """
    One partition's flushes, from C{publish} to their end.

    @ivar state: what it waits for; changed by L{become}
    @ivar retryAt: reactor's clock, s: when L{PartitionState.awaitingRetry} ends
    @ivar retries: how often its batch has failed in a row
    @ivar waitingBytes: bytes of the flushes that no batch has taken whole
    @ivar batch: what is under way, or to be sent again
    """

    def __init__(self, place: TopicPartition) -> None:
        self.place = place
        self.state = PartitionState.awaitingRecords
        self.retryAt = 0.0
        self.retries = 0
        self.waitingBytes = 0
        self.batch: Batch | None = None
        self.producer: tuple[int, int] | None = None
        self._sequence = 0
        self._open: deque[Flush] = deque()
        self._waiting: deque[Flush] = deque()

    def become(self, state: PartitionState) -> None:
        """
        Go to another state.

        @raise AssertionError: there is no way there: a fault of ours
        """
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"{self.state.name} to {state.name}")
        self.state = state

    @property
    def busy(self) -> bool:
        """
        There is something to send, or under way.
        """
        return self.batch is not None or bool(self._waiting)

    @property
    def deadline(self) -> float | None:
        """
        When its first flush runs out of time.
        """
        return self._open[0].deadline if self._open else None

    @property
    def due(self) -> float:
        """
        When what waits must be sent at the latest; only while L{busy}.
        """
        return self._waiting[0].due if self.batch is None else 0.0

    def add(self, flush: Flush) -> None:
        """
        Put a flush behind the others.
        """
        self._open.append(flush)
        self._waiting.append(flush)
        self.waitingBytes += flush.size

    def assign(self, producerId: int, epoch: int) -> None:
        """
        Go on as a new producer.
        """
        self.producer = (producerId, epoch)
        self._sequence = 0

    def take(self, limit: int, nowMs: int) -> Batch:
        """
        The batch to send: the one to be sent again, or a new one of what waits. Needs L{busy} and a producer.

        @param limit: bytes of records that a new batch may have; the first record goes in any case
        """
        if self.batch is not None:
            return self.batch
        parts: list[tuple[Flush, int, int]] = []
        room = limit - BATCH_HEADER
        while self._waiting:
            flush = self._waiting[0]
            start = stop = flush.taken
            if start == 0 and flush.size + RECORD_OVERHEAD * len(flush.records) <= room:
                stop = len(flush.records)
                room -= flush.size + RECORD_OVERHEAD * stop
            else:
                while stop < len(flush.records):
                    size = recordSize(flush.records[stop]) + RECORD_OVERHEAD
                    if size > room and (parts or stop > start):
                        break
                    room -= size
                    stop += 1
            if stop > start:
                parts.append((flush, start, stop))
                flush.taken = stop
            if stop < len(flush.records):
                break
            self._waiting.popleft()
            self.waitingBytes -= flush.size
        assert self.producer is not None
        self.batch = Batch(parts, Producer(*self.producer, self._sequence), nowMs)
        return self.batch

    def commit(self) -> list[Flush]:
        """
        The batch is durable. Gives the flushes that are now durable as a whole, in order.
        """
        batch = self._endBatch()
        self._sequence = (self._sequence + batch.count) % _SEQUENCES
        self.retries = 0
        whole = []
        for flush, start, stop in batch.parts:
            flush.committed += stop - start
            if flush.committed == len(flush.records) and flush.done is not None:
                whole.append(flush)
                self._open.remove(flush)
        return whole

    def rewind(self) -> None:
        """
        Put what of the batch is still wanted back, in order, to be sent in a new one by a new producer.
        """
        batch = self._endBatch()
        self.producer = None
        for flush, start, _ in reversed(batch.parts):
            flush.taken = start
            if flush.done is not None and not (self._waiting and self._waiting[0] is flush):
                self._waiting.appendleft(flush)
                self.waitingBytes += flush.size

    def refuse(self, error: BusError) -> list[tuple[Flush, BusError]]:
        """
        The batch was refused for good. Gives its flushes that somebody waits for, with their error.
        """
        batch = self._endBatch()
        self.producer = None
        self.retries = 0
        failed = [flush for flush, _, _ in batch.parts if flush.done is not None]
        self._forget(failed)
        return [(flush, error) for flush in failed]

    def tooLarge(self) -> list[tuple[Flush, BusError]]:
        """
        The batch is larger than the topic allows. A batch of several records is put back, for L{take} with a lower
        limit; gives the flush that has no place in the topic, if it is the one record's.
        """
        assert self.batch is not None
        if self.batch.count > 1:
            self.rewind()
            return []
        flush = self.batch.parts[0][0]
        what = f"a record of {flush.size} bytes is larger than topic {self.place.topic} allows"
        if flush.committed:
            return self.refuse(BusError(f"{what}; others of its flush are in the bus"))
        return self.refuse(RecordTooLarge(what))

    def expire(self, now: float) -> list[Flush]:
        """
        Give up the flushes whose time is over.
        """
        late = []
        for flush in self._open:
            if flush.deadline > now:
                break
            late.append(flush)
        self._forget(late)
        return late

    def abandon(self) -> list[Flush]:
        """
        Give up all flushes.
        """
        left = list(self._open)
        self._forget(left)
        return left

    def dropUnwanted(self) -> None:
        """
        Drop a batch that nobody waits for any more. Not while it is under way.
        """
        if self.batch is not None and not self.batch.wanted:
            # It may yet arrive, and so its sequence numbers must not be used for others.
            self._endBatch()
            self.producer = None

    def _endBatch(self) -> Batch:
        batch = self.batch
        assert batch is not None
        self.batch = None
        return batch

    def _forget(self, flushes: Sequence[Flush]) -> None:
        gone = {id(flush) for flush in flushes}
        if not gone:
            return
        self._open = deque(flush for flush in self._open if id(flush) not in gone)
        self._waiting = deque(flush for flush in self._waiting if id(flush) not in gone)
        self.waitingBytes = sum(flush.size for flush in self._waiting)


def settle(flush: Flush, error: BusError | None) -> None:
    """
    Tell the caller of C{publish} what became of its flush. Once; a second time does nothing.
    """
    done, flush.done = flush.done, None
    if done is None:
        return
    if error is None:
        done.callback(None)
    else:
        done.errback(error)


def timeout(place: TopicPartition, seconds: float) -> FlushTimeout:
    """
    The error of a flush whose time is over.
    """
    return FlushTimeout(f"{place.topic}/{place.partition} did not commit a flush within {seconds:g} s")
