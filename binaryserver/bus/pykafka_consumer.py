"""
Consumer groups by pykafka: the partitions that a L{GroupMember} is given are read by a L{PykafkaReader}, a new one for
each assignment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.bus.pykafka_cluster import CONTROL_TIMEOUT, Cluster
from binaryserver.bus.pykafka_group import RETRY_WAIT, GroupMember
from binaryserver.bus.pykafka_reader import READ_WAIT, PykafkaReader
from binaryserver.bus.pykafka_requests import TopicPartition
from binaryserver.errors import BusError, BusUnavailable
from binaryserver.interfaces import IBusConsumer
from binaryserver.model import StoredRecord


@implementer(IBusConsumer)
class PykafkaConsumer:
    """
    A member of a group.

    @ivar closed: L{close} was called
    """

    log = Logger()
    lag = None

    def __init__(self, reactor: Any, cluster: Cluster, topics: Sequence[str], group: str) -> None:
        """
        @param reactor: C{IReactorTime}
        """
        self._reactor = reactor
        self._cluster = cluster
        self._topics = tuple(topics)
        self._member = GroupMember(reactor, cluster, group, topics, self._assigned, self._revoked, self._broken)
        self._reader: PykafkaReader | None = None
        self._beginning: Deferred[None] = succeed(None)
        self._inner: Deferred[list[StoredRecord]] | None = None
        self._read: tuple[Deferred[list[StoredRecord]], int] | None = None
        self._readTimer: IDelayedCall | None = None
        self._error: Exception | None = None
        self._left: Deferred[None] | None = None
        self.closed = False

    async def open(self) -> None:
        """
        Begin to take part.

        @raise BusError: there is no such topic
        """
        missing = await self._cluster.lookup(self._topics)
        if missing:
            raise BusError(f"no such topic: {', '.join(missing)}")
        if not self.closed:
            self._member.start()

    # What the group gives and takes.

    def _assigned(self, offsets: Mapping[TopicPartition, int]) -> None:
        if not offsets:
            return
        reader = PykafkaReader(self._reactor, self._cluster, self._topics)
        self._reader = reader
        self._beginning = Deferred.fromCoroutine(self._begin(reader, offsets))
        self._beginning.addErrback(self._unreadable)

    async def _begin(self, reader: PykafkaReader, offsets: Mapping[TopicPartition, int]) -> None:
        while True:
            try:
                await reader.openAt(offsets, CONTROL_TIMEOUT)
            except BusUnavailable as error:
                self.log.debug("partitions cannot be read yet: {reason}", reason=error)
                await deferLater(self._reactor, RETRY_WAIT)
            else:
                self._pump()
                return

    def _revoked(self) -> None:
        reader, self._reader = self._reader, None
        self._beginning.cancel()
        if reader is not None:
            reader.close()

    def _unreadable(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        if not failure.check(BusError):
            self.log.failure("a pykafka consumer is at fault", failure)
        self._broken(BusError(failure.getErrorMessage()))

    def _broken(self, error: Exception) -> None:
        self._error = error
        self._expire()

    # Reading.

    def read(self, limit: int) -> Deferred[list[StoredRecord]]:
        """
        See L{IBusConsumer.read}.
        """
        if self.closed:
            return succeed([])
        if self._error is not None:
            return fail(self._error)
        reading: Deferred[list[StoredRecord]] = Deferred()
        self._read = (reading, limit)
        self._readTimer = self._reactor.callLater(READ_WAIT, self._expire)
        self._pump()
        return reading

    def _pump(self) -> None:
        """
        Have the partitions read, if somebody waits for it.
        """
        reader = self._reader
        if self._read is not None and self._inner is None and reader is not None and reader.isOpen:
            self._inner = reader.read(self._read[1])
            self._inner.addCallbacks(self._got, self._unreadable)

    def _got(self, records: list[StoredRecord]) -> None:
        self._inner = None
        if records or self._readTimer is None:
            self._fire(records)
        else:
            self._pump()

    def _expire(self) -> None:
        """
        Half a second has passed. A read that goes on in the partitions will end now, too.
        """
        self._stopTimer()
        if self._inner is None or self._error is not None:
            self._fire([])

    def _fire(self, records: list[StoredRecord]) -> None:
        self._stopTimer()
        if self._read is None:
            return
        reading, _ = self._read
        self._read = None
        if self._error is not None and not self.closed:
            reading.errback(self._error)
        else:
            reading.callback(records)

    def _stopTimer(self) -> None:
        if self._readTimer is not None and self._readTimer.active():
            self._readTimer.cancel()
        self._readTimer = None

    # The rest.

    def commit(self, offsets: Mapping[tuple[str, int], int]) -> Deferred[None]:
        """
        See L{IBusConsumer.commit}.
        """
        if self.closed:
            return fail(BusError("the consumer is closed"))
        if self._error is not None:
            return fail(self._error)
        self._member.note({TopicPartition(*place): offset for place, offset in offsets.items()})
        return succeed(None)

    def close(self) -> Deferred[None]:
        """
        See L{IBusConsumer.close}.
        """
        closed: Deferred[None] = Deferred()
        if self._left is None:
            self.closed = True
            self._revoked()
            self._expire()
            self._left = Deferred.fromCoroutine(self._member.leave())
        self._left.addBoth(lambda _: closed.callback(None))
        return closed
