"""
What tests of an L{IBus} share: records that can be told apart, and the steps of a test.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from twisted.internet import reactor as globalReactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from binaryserver.interfaces import IBus, IBusConsumer, IBusReader
from binaryserver.model import Record, StoredRecord

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase as _Base
else:
    _Base = object

reactor: Any = globalReactor


def record(number: int, key: bytes = b"acme/box-1") -> Record:
    """
    A record that can be told from others.
    """
    return Record(key, b"value-%d" % number, (("ce_id", b"id-%d" % number), ("ce_type", b"track")))


def numbers(records: Sequence[StoredRecord]) -> list[int]:
    """
    The numbers that L{record} was given.
    """
    return [int(one.value.rpartition(b"-")[2]) for one in records]


class BusSteps(_Base):
    """
    The steps.

    @cvar partitions: of the topics that the tests make
    @cvar knowsLag: its consumers tell their lag
    @cvar makesTopicsAtStart: C{start} makes what is missing among the context's topics, with L{partitionsAtStart}
    @cvar keepsHeaders: records come back with the headers that they were published with
    @cvar sharesPartitions: the members of a group read at once, each some partitions; if not, one of them reads all
    @cvar mustErase: records of a key can be removed
    @cvar patience: s, the longest that one step (a start, a flush, a read) may take
    """

    timeout = 120
    partitions = 8
    partitionsAtStart = 8
    makesTopicsAtStart = False
    knowsLag = False
    keepsHeaders = True
    sharesPartitions = True
    mustErase = False
    patience = 30.0

    # what a back end fills in

    def makeBus(self, topics: Sequence[str], stopTimeout: float = 20.0) -> Awaitable[IBus]:
        """
        Make a bus, not started, whose C{context.topics} are C{topics}. All those made during one test see one log (a
        memory bus, which has no log outside itself, is made once a test). Stopping is the contract's business.
        """
        raise NotImplementedError

    def settle(self) -> Awaitable[None]:
        """
        Called after topics were made and before they are used: a real server may take a moment to know them.
        """
        return deferLater(reactor, 0, lambda: None)

    # steps that the tests share

    def topicName(self, name: str = "tracks") -> str:
        """
        A name that no other test uses, as back ends on a server share it.
        """
        return f"contract.{uuid4().hex[:12]}.{name}"

    async def _within(self, awaited: Awaitable[Any]) -> Any:
        deferred: Deferred[Any] = awaited if isinstance(awaited, Deferred) else Deferred.fromCoroutine(awaited)  # type: ignore[arg-type]
        return await deferred.addTimeout(self.patience, reactor)

    async def startBus(self, topics: Sequence[str], stopTimeout: float = 20.0) -> IBus:
        """
        A started bus on topics that are there already; stopped at the end of the test.
        """
        bus: IBus = await self._within(self.makeBus(topics, stopTimeout))
        self.addCleanup(bus.stop)
        await self._within(bus.start())
        return bus

    async def startWith(self, *topics: str, partitions: int | None = None) -> IBus:
        """
        A started bus on topics that are made for it.
        """
        maker: IBus = await self._within(self.makeBus(()))
        await self._within(maker.createTopics(topics, partitions or self.partitions, 1))
        await self._within(self.settle())
        again: IBus = await self._within(self.makeBus(()))
        if maker is again:  # a memory bus
            self.addCleanup(maker.stop)
            await self._within(maker.start())
            return maker
        await self._within(maker.stop())
        return await self.startBus(topics)

    async def openReader(self, bus: IBus, *topics: str, fromStart: bool = True) -> IBusReader:
        """
        A reader that is closed at the end of the test.
        """
        reader: IBusReader = await self._within(bus.openReader(topics, fromStart))
        self.addCleanup(reader.close)
        return reader

    async def readSome(self, reader: IBusReader | IBusConsumer, count: int, limit: int = 1000) -> list[StoredRecord]:
        """
        Read until there are C{count} records or patience ends.

        @param limit: the most that are read in all: a reader gives them in as many answers as it likes
        """
        found: list[StoredRecord] = []
        until = time.monotonic() + self.patience
        while len(found) < count and time.monotonic() < until:
            found += await self._within(reader.read(limit - len(found)))
        return found

    async def readAll(self, bus: IBus, *topics: str) -> list[StoredRecord]:
        """
        Everything that stands in the topics, by a reader of its own.
        """
        reader = await self.openReader(bus, *topics)
        found: list[StoredRecord] = []
        until = time.monotonic() + self.patience
        while not reader.caughtUp and time.monotonic() < until:
            found += await self._within(reader.read(1000))
        self.assertTrue(reader.caughtUp, "the reader never caught up")
        await self._within(reader.close())
        return found

    async def failureOf(self, deferred: Awaitable[Any], *types: type[Exception]) -> Exception:
        """
        The error of one of the types that C{deferred} fails with.
        """
        try:
            await self._within(deferred)
        except types as error:
            return error
        raise self.failureException(f"did not fail with {types}")

    async def drain(self, reader: IBusReader) -> list[StoredRecord]:
        """
        Read until the reader has caught up.
        """
        found: list[StoredRecord] = []
        until = time.monotonic() + self.patience
        while not reader.caughtUp and time.monotonic() < until:
            found += await self._within(reader.read(1000))
        return found

    async def openConsumer(self, bus: IBus, group: str, *topics: str) -> IBusConsumer:
        """
        A member of a group, closed at the end of the test.
        """
        consumer: IBusConsumer = await self._within(bus.openConsumer(topics, group))
        self.addCleanup(consumer.close)
        return consumer

    async def anotherBus(self, bus: IBus, *topics: str) -> IBus:
        """
        A bus on the same log, as another process would have it; the same where the log is the bus's own.
        """
        return bus
