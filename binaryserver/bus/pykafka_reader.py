"""
Reads topics back with Fetch requests, one at a time to each broker that leads some of their partitions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.bus.pykafka_cluster import CONTROL_TIMEOUT, Cluster
from binaryserver.bus.pykafka_link import IBrokerLink, reasonOf
from binaryserver.bus.pykafka_options import Address
from binaryserver.bus.pykafka_records import BadKafkaBytes, decodeBatches
from binaryserver.bus.pykafka_requests import (
    EARLIEST,
    LATEST,
    FetchRequest,
    FetchResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    TopicPartition,
)
from binaryserver.errors import BusError, BusUnavailable
from binaryserver.interfaces import IBusReader
from binaryserver.model import StoredRecord

READ_WAIT = 0.5
"""s that a read waits for records."""
FETCH_WAIT_MS = 400
"""ms that a broker waits for records."""
FETCH_BYTES = 4 * 1024 * 1024
"""Bytes of one fetch: what a reader holds in memory for each broker, undecoded."""
PARTITION_BYTES = 1024 * 1024
"""Bytes of one partition in one fetch."""
RETRY_WAIT = 0.2
"""s before a broker is asked again after a failure."""

_OFFSET_OUT_OF_RANGE = 1


class _Fetched(NamedTuple):
    """
    What a fetch brought of one partition.
    """

    error: int
    records: list[StoredRecord]
    following: int


def decodeFetch(data: memoryview, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, _Fetched]:
    """
    Decode the answer to a fetch.

    @param offsets: what was asked for
    @raise BadKafkaBytes: it cannot be read
    """
    fetched = {}
    for place, (error, batches) in FetchResponse(data).partitions.items():
        offset = offsets.get(place)
        if offset is None:
            raise BadKafkaBytes(f"a broker's answer speaks of {place.topic}/{place.partition}, which was not asked for")
        records, following = ([], offset) if error else decodeBatches(*place, batches, offset)
        fetched[place] = _Fetched(error, records, following)
    return fetched


@implementer(IBusReader)
class PykafkaReader:
    """
    Reads from the leaders of all partitions of some topics.

    @ivar closed: L{close} was called
    """

    log = Logger()

    def __init__(self, reactor: Any, cluster: Cluster, topics: Sequence[str]) -> None:
        """
        @param reactor: C{IReactorTime}
        """
        self._reactor = reactor
        self._cluster = cluster
        self._topics = tuple(topics)
        self._next: dict[TopicPartition, int] = {}
        self._end: dict[TopicPartition, int] = {}
        self._buffer: deque[StoredRecord] = deque()
        # Of the records in the buffer, those that stood in the topics when the reader was opened.
        self._old = 0
        self._links: dict[int, tuple[Address, IBrokerLink]] = {}
        self._fetching: set[int] = set()
        self._troubled = False
        self._read: tuple[Deferred[list[StoredRecord]], int] | None = None
        self._readTimer: IDelayedCall | None = None
        self._retryTimer: IDelayedCall | None = None
        self._error: BadKafkaBytes | None = None
        self.closed = False

    async def open(self, fromStart: bool, patience: float) -> None:
        """
        Find out where to begin.

        @param patience: s
        @raise BusError: there is no such topic, or a partition's leader is not to be had
        """
        missing = await self._cluster.lookup(self._topics)
        if missing:
            raise BusError(f"no such topic: {', '.join(missing)}")
        places = [
            TopicPartition(topic, number) for topic in self._topics for number in range(self._cluster.partitions[topic])
        ]
        deadline = self._reactor.seconds() + patience
        self._end = await self._offsets(places, LATEST, deadline)
        self._next = dict(await self._offsets(places, EARLIEST, deadline) if fromStart else self._end)

    async def openAt(self, offsets: Mapping[TopicPartition, int], patience: float) -> None:
        """
        Begin at offsets, of some partitions only; below 0: with the partition's first record.

        @param patience: s
        @raise BusUnavailable: a partition's leader is not to be had
        """
        fresh = [place for place, offset in offsets.items() if offset < 0]
        found = await self._offsets(fresh, EARLIEST, self._reactor.seconds() + patience)
        self._next = {**offsets, **found}

    @property
    def isOpen(self) -> bool:
        """
        It may be read.
        """
        return bool(self._next) and not self.closed

    @property
    def caughtUp(self) -> bool:
        """
        See L{IBusReader.caughtUp}.
        """
        return not self._old and all(self._next[place] >= end for place, end in self._end.items())

    def read(self, limit: int) -> Deferred[list[StoredRecord]]:
        """
        See L{IBusReader.read}.
        """
        if self.closed:
            return succeed([])
        reading: Deferred[list[StoredRecord]] = Deferred()
        self._read = (reading, limit)
        if self._buffer or self._error is not None:
            self._deliver()
        else:
            self._readTimer = self._reactor.callLater(READ_WAIT, self._deliver)
            self._fetch()
        return reading

    def close(self) -> Deferred[None]:
        """
        See L{IBusReader.close}.
        """
        self.closed = True
        self._buffer.clear()
        self._deliver()
        if self._retryTimer is not None:
            self._retryTimer.cancel()
            self._retryTimer = None
        links, self._links = self._links, {}
        closed = gatherResults([self._cluster.release(link) for _, link in links.values()])
        return closed.addCallback(lambda _: None)

    def _deliver(self) -> None:
        """
        Give the waiting read what there is.
        """
        if self._readTimer is not None:
            if self._readTimer.active():
                self._readTimer.cancel()
            self._readTimer = None
        if self._read is None:
            return
        reading, limit = self._read
        self._read = None
        if not self._buffer and self._error is not None and not self.closed:
            reading.errback(self._error)
            return
        given = [self._buffer.popleft() for _ in range(min(limit, len(self._buffer)))]
        self._old -= sum(1 for record in given if self._isOld(record))
        reading.callback(given)

    def _isOld(self, record: StoredRecord) -> bool:
        return record.offset < self._end.get(TopicPartition(record.topic, record.partition), 0)

    def _fetch(self) -> None:
        """
        Ask every broker that is not being asked already.
        """
        wanted: dict[tuple[int, Address], dict[TopicPartition, int]] = {}
        leaderless = False
        for place, offset in self._next.items():
            leader = self._cluster.leader(place)
            if leader is None:
                leaderless = True
            elif leader[0] not in self._fetching:
                wanted.setdefault(leader, {})[place] = offset
        for (broker, address), offsets in wanted.items():
            self._fetching.add(broker)
            fetching = self._link(broker, address).ask(
                lambda offsets=offsets: FetchRequest(offsets, FETCH_WAIT_MS, FETCH_BYTES, PARTITION_BYTES),  # type: ignore[misc]
                lambda data, offsets=offsets: decodeFetch(data, offsets),  # type: ignore[misc]
                CONTROL_TIMEOUT + FETCH_WAIT_MS / 1000,
            )
            fetching.addCallbacks(self._fetched, self._unfetched, (broker,), {}, (broker,))
            fetching.addErrback(self._broken)
        if leaderless:
            self._retryLater()

    def _fetched(self, fetched: Mapping[TopicPartition, _Fetched], broker: int) -> None:
        self._fetching.discard(broker)
        if self.closed:
            return
        self._troubled = False
        tooOld = []
        moved = False
        for place, (error, records, following) in fetched.items():
            if error == _OFFSET_OUT_OF_RANGE:
                tooOld.append(place)
            elif error:
                self._cluster.moved(place)
                moved = True
            else:
                # To the end of the line: a full answer leaves out those that come last.
                del self._next[place]
                self._next[place] = following
                self._buffer.extend(records)
                self._old += sum(1 for record in records if self._isOld(record))
        if tooOld:
            self._skip(tooOld)
        if moved:
            self._retryLater()
        if self._buffer:
            self._deliver()
        elif self._read is not None and not tooOld and not moved:
            self._fetch()

    def _unfetched(self, failure: Failure, broker: int) -> None:
        self._fetching.discard(broker)
        if self.closed:
            return
        if isinstance(failure.value, BadKafkaBytes):
            # It will not get better by asking again.
            self._error = failure.value
            self._deliver()
            return
        if not self._troubled:
            self._troubled = True
            self.log.warn("broker {broker} cannot be read from: {reason}", broker=broker, reason=reasonOf(failure))
        self._retryLater()

    def _skip(self, places: Sequence[TopicPartition]) -> None:
        """
        Records went (retention) before they were read: go on with the first that are left.
        """
        for place in places:
            self.log.warn(
                "records of {topic}/{partition} went before they were read",
                topic=place.topic,
                partition=place.partition,
            )
        deadline = self._reactor.seconds() + CONTROL_TIMEOUT

        def found(offsets: Mapping[TopicPartition, int]) -> None:
            self._next.update(offsets)
            if self._read is not None:
                self._fetch()

        finding = Deferred.fromCoroutine(self._offsets(places, EARLIEST, deadline))
        finding.addCallbacks(found, lambda _: self._retryLater()).addErrback(self._broken)

    def _retryLater(self) -> None:
        """
        Look leaders up, and then go on if somebody still reads.
        """
        if self._retryTimer is None and not self.closed:
            self._retryTimer = self._reactor.callLater(RETRY_WAIT, self._retry)

    def _retry(self) -> None:
        self._retryTimer = None

        def over(_: object) -> None:
            if self._read is not None and not self._buffer:
                self._fetch()

        Deferred.fromCoroutine(self._cluster.lookup(self._topics)).addBoth(over).addErrback(self._broken)

    def _link(self, broker: int, address: Address) -> IBrokerLink:
        known = self._links.get(broker)
        if known is not None:
            if known[0] == address:
                return known[1]
            self._cluster.release(known[1])
        link = self._cluster.open(address)
        self._links[broker] = (address, link)
        return link

    async def _offsets(self, places: Sequence[TopicPartition], time: int, deadline: float) -> dict[TopicPartition, int]:
        """
        Where partitions begin or end.
        """
        found: dict[TopicPartition, int] = {}
        reason = "no leader"
        while len(found) < len(places):
            wanted: dict[tuple[int, Address], dict[TopicPartition, int]] = {}
            for place in places:
                leader = self._cluster.leader(place)
                if place not in found and leader is not None:
                    wanted.setdefault(leader, {})[place] = time
            for (broker, address), times in wanted.items():
                try:
                    answer: ListOffsetsResponse = await self._link(broker, address).ask(
                        lambda times=times: ListOffsetsRequest(times),  # type: ignore[misc]
                        ListOffsetsResponse,
                        CONTROL_TIMEOUT,
                    )
                except BusUnavailable as unavailable:
                    reason = str(unavailable)
                    continue
                for place, (error, offset) in answer.partitions.items():
                    if error:
                        reason = f"Kafka's error {error}"
                    else:
                        found[place] = offset
            if len(found) < len(places):
                if self._cluster.closed or self._reactor.seconds() >= deadline:
                    left = next(place for place in places if place not in found)
                    raise BusUnavailable(f"{left.topic}/{left.partition} cannot be read: {reason}")
                await deferLater(self._reactor, RETRY_WAIT)
                try:
                    await self._cluster.lookup(self._topics)
                except BusUnavailable as unavailable:
                    reason = str(unavailable)
        return found

    def _broken(self, failure: Failure) -> None:
        self.log.failure("the pykafka reader is at fault", failure=failure)
