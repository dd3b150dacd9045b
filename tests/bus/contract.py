"""
What every L{IBus} must do, written once and run over each of them.

A back end's test case inherits L{BusContractMixin}, and L{DurableBusContractMixin} if what it took outlives the object
that took it. It says how to make a bus by C{makeBus}; everything else has a default.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from binaryserver.bus.partitioner import partition
from binaryserver.errors import BusError, ConfigError, RecordTooLarge
from binaryserver.interfaces import IBus, IBusReader
from binaryserver.model import Record, StoredRecord
from tests.bus.consumercontract import ConsumerContractMixin
from tests.bus.erasecontract import EraseContractMixin
from tests.bus.steps import numbers, reactor, record

__all__ = ["BusContractMixin", "DurableBusContractMixin", "StallingBusContractMixin", "numbers", "reactor", "record"]


class BusContractMixin(ConsumerContractMixin, EraseContractMixin):
    """
    The contract of L{IBus}, L{IBusReader} and L{IBusConsumer}.
    """

    # start, stop

    async def test_provides(self) -> None:
        """
        Bus and reader provide what they say.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        verifyObject(IBus, bus)
        verifyObject(IBusReader, await self.openReader(bus, topic))

    async def test_missingTopicAtStart(self) -> None:
        """
        A missing topic is made at start, or ends it with an error that names the topic and the way to make it.
        """
        topic = self.topicName()
        bus = await self._within(self.makeBus((topic,)))
        self.addCleanup(bus.stop)
        if self.makesTopicsAtStart:
            await self._within(bus.start())
            key = b"acme/box-7"
            self.assertEqual(bus.partitionFor(topic, key), partition(key, self.partitionsAtStart))
        else:
            error = await self.failureOf(bus.start(), ConfigError)
            self.assertIn(topic, str(error))
            self.assertIn("topics create", str(error))

    async def test_stopBeforeStart(self) -> None:
        """
        A bus that never started can be stopped.
        """
        bus = await self._within(self.makeBus((self.topicName(),)))
        self.assertIsNone(await self._within(bus.stop()))

    async def test_stopWithFlushesPending(self) -> None:
        """
        When the stop fires, every flush has fired; and those that fired well can be read afterwards.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        fired: list[object] = []
        for number in range(20):
            bus.publish(topic, number % self.partitions, [record(number)]).addBoth(fired.append)
        await self._within(bus.stop())
        self.assertEqual(len(fired), 20)
        self.assertEqual([one for one in fired if isinstance(one, Failure)], [])

    async def test_publishAfterStop(self) -> None:
        """
        After a stop C{publish} fails with a L{BusError}; it does not raise.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        await self._within(bus.stop())
        await self.failureOf(bus.publish(topic, 0, [record(1)]), BusError)
        self.assertEqual(bus.pendingBytes, 0)

    async def test_publishWhileStopping(self) -> None:
        """
        A stop takes no more, though what is pending still ends.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        before = bus.publish(topic, 0, [record(1)])
        stopped = bus.stop()
        await self.failureOf(bus.publish(topic, 0, [record(2)]), BusError)
        self.assertIsNone(await self._within(before))
        await self._within(stopped)

    async def test_stopEndsRead(self) -> None:
        """
        A read under way at a stop has fired when the stop fires.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        reader = await self.openReader(bus, topic)
        await self.drain(reader)
        fired: list[object] = []
        reader.read(10).addBoth(fired.append)
        await self._within(bus.stop())
        self.assertEqual(len(fired), 1)
        if isinstance(fired[0], Failure):
            self.assertTrue(fired[0].check(BusError))
        else:
            self.assertEqual(fired[0], [])

    # topics and partitions

    async def test_createTopics(self) -> None:
        """
        C{createTopics} works without a start, makes what is missing and tells which; a second call makes nothing.
        """
        one, two, three = (self.topicName(name) for name in ("one", "two", "three"))
        bus = await self._within(self.makeBus(()))
        self.addCleanup(bus.stop)
        self.assertEqual(
            sorted(await self._within(bus.createTopics([one, two], self.partitions, 1))), sorted([one, two])
        )
        await self._within(self.settle())
        self.assertEqual(await self._within(bus.createTopics([one, two], self.partitions, 1)), [])
        self.assertEqual(await self._within(bus.createTopics([two, three], self.partitions, 1)), [three])
        self.assertEqual(await self._within(bus.createTopics([], self.partitions, 1)), [])

    async def test_createTopicsKeeps(self) -> None:
        """
        Making a topic that is there changes neither its records nor its partitions; also on a started bus.
        """
        topic = self.topicName()
        bus = await self.startWith(topic, partitions=3)
        await self._within(bus.publish(topic, 2, [record(1)]))
        self.assertEqual(await self._within(bus.createTopics([topic], 5, 1)), [])
        self.assertEqual(numbers(await self.readAll(bus, topic)), [1])
        self.assertEqual({bus.partitionFor(topic, b"acme/%d" % n) for n in range(100)}, {0, 1, 2})

    async def test_partitionFor(self) -> None:
        """
        The partition of a key is Java's murmur2 over the topic's partitions, and stays.
        """
        topic = self.topicName()
        bus = await self.startWith(topic, partitions=5)
        keys = [b"", b"a", b"acme/356938035643809", "konto/büchse".encode(), *(b"acme/box-%d" % n for n in range(200))]
        first = [bus.partitionFor(topic, key) for key in keys]
        self.assertEqual(first, [partition(key, 5) for key in keys])
        await self._within(bus.publish(topic, 0, [record(1)]))
        self.assertEqual([bus.partitionFor(topic, key) for key in keys], first)

    # publish

    async def test_firedIsReadable(self) -> None:
        """
        Once a flush fired with L{None}, its records can be read, with everything that they were given.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        before = time.time() * 1000
        records = [record(n) for n in range(50)]
        where = bus.partitionFor(topic, records[0].key)
        self.assertIsNone(await self._within(bus.publish(topic, where, records)))
        found = await self.readAll(bus, topic)
        self.assertEqual([Record(one.key, one.value) for one in found], [Record(one.key, one.value) for one in records])
        self.assertEqual({(one.topic, one.partition) for one in found}, {(topic, where)})
        for one in found:
            self.assertTrue(before - 60_000 <= one.timestamp <= time.time() * 1000 + 60_000, one.timestamp)

    async def test_headers(self) -> None:
        """
        Headers come back in order, with names repeated and values of any length; or, where none are kept, none do.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        wanted: list[tuple[tuple[str, bytes], ...]] = [
            (),
            (("ce_id", b"1"), ("content-type", b"application/protobuf")),
            (("same", b"1"), ("same", b"2"), ("empty", b""), ("ünïcode", "wërt".encode()), ("long", b"x" * 1000)),
        ]
        await self._within(bus.publish(topic, 0, [Record(b"k", b"v", headers) for headers in wanted]))
        found = [one.headers for one in await self.readAll(bus, topic)]
        self.assertEqual(found, wanted if self.keepsHeaders else [(), (), ()])

    async def test_emptyAndBinary(self) -> None:
        """
        Values and keys may be empty, and may hold any byte.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        every = bytes(range(256))
        pairs = [(b"k", b""), (b"", b"v"), (every, every), (b"", b"")]
        await self._within(bus.publish(topic, 1, [Record(key, value) for key, value in pairs]))
        found = await self.readAll(bus, topic)
        self.assertEqual([(one.key or b"", one.value) for one in found], pairs)

    async def test_noRecords(self) -> None:
        """
        A flush of nothing fires.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        self.assertIsNone(await self._within(bus.publish(topic, 0, [])))
        self.assertEqual(bus.pendingBytes, 0)

    async def test_orderInPartition(self) -> None:
        """
        Flushes to one partition commit in the order of their C{publish} calls, none waiting for the one before.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        fired: list[int] = []
        flushes = []
        for flush in range(100):
            deferred = bus.publish(topic, 3, [record(flush * 7 + n) for n in range(7)])
            deferred.addCallback(lambda _, flush: fired.append(flush), flush)
            flushes.append(deferred)
        await self._within(gatherResults(flushes, consumeErrors=True))
        self.assertEqual(fired, list(range(100)))
        found = await self.readAll(bus, topic)
        self.assertEqual(numbers(found), list(range(700)))
        offsets = [one.offset for one in found]
        self.assertEqual(offsets, sorted(set(offsets)), "offsets of a partition grow")

    async def test_partitionsAreIndependent(self) -> None:
        """
        What goes to several partitions and topics stays apart, each in order.
        """
        tracks, messages = self.topicName("tracks"), self.topicName("messages")
        bus = await self.startWith(tracks, messages)
        flushes = []
        for number in range(60):
            topic = (tracks, messages)[number % 2]
            flushes.append(bus.publish(topic, number % self.partitions, [record(number), record(1000 + number)]))
        await self._within(gatherResults(flushes, consumeErrors=True))
        found: dict[tuple[str, int], list[StoredRecord]] = {}
        for one in await self.readAll(bus, tracks, messages):
            found.setdefault((one.topic, one.partition), []).append(one)
        wanted: dict[tuple[str, int], list[int]] = {}
        for number in range(60):
            wanted.setdefault(((tracks, messages)[number % 2], number % self.partitions), []).extend(
                (number, 1000 + number)
            )
        self.assertEqual({where: numbers(records) for where, records in found.items()}, wanted)

    async def test_pendingBytes(self) -> None:
        """
        C{pendingBytes} rises by at least what is handed over, and is 0 again once everything has fired.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        self.assertEqual(bus.pendingBytes, 0)
        first = bus.publish(topic, 0, [Record(b"k", bytes(10_000))])
        one = bus.pendingBytes
        second = bus.publish(topic, 1, [Record(b"k", bytes(10_000)), Record(b"k", bytes(10_000))])
        three = bus.pendingBytes
        self.assertGreaterEqual(one, 10_000)
        self.assertGreaterEqual(three, one + 20_000)
        await self._within(gatherResults([first, second]))
        self.assertEqual(bus.pendingBytes, 0)

    async def test_pendingBytesFallBeforeFiring(self) -> None:
        """
        Whoever waits for a flush sees C{pendingBytes} without it, so that it may resume what it paused.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        seen: list[int] = []
        deferred = bus.publish(topic, 0, [record(1)])
        deferred.addCallback(lambda _: seen.append(bus.pendingBytes))
        await self._within(deferred)
        self.assertEqual(seen, [0])

    async def test_largestRecord(self) -> None:
        """
        A record of C{maxRecord} bytes is taken.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        self.assertGreaterEqual(bus.maxRecord, 262144 + 1024, "the largest packet fits")
        value = bytes(bus.maxRecord - 1 - len("name") - 5)
        await self._within(bus.publish(topic, 0, [Record(b"k", value, (("name", b"value"),))]))
        self.assertEqual([len(one.value) for one in await self.readAll(bus, topic)], [len(value)])

    async def test_recordTooLarge(self) -> None:
        """
        A record over C{maxRecord} fails its flush, of which nothing is in the bus; the next one works.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        large = Record(b"k", bytes(bus.maxRecord))
        await self.failureOf(bus.publish(topic, 0, [record(1), large, record(2)]), RecordTooLarge)
        self.assertEqual(bus.pendingBytes, 0)
        await self._within(bus.publish(topic, 0, [record(3)]))
        self.assertEqual(numbers(await self.readAll(bus, topic)), [3])

    async def test_unknownTopic(self) -> None:
        """
        A topic or a partition that is not there fails the flush with a L{BusError}.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        await self.failureOf(bus.publish(topic, self.partitions, [record(1)]), BusError)
        await self.failureOf(bus.publish(self.topicName("nowhere"), 0, [record(1)]), BusError)
        self.assertEqual(bus.pendingBytes, 0)

    # readers

    async def test_readFromStart(self) -> None:
        """
        A reader from the start gives what stood there, then what comes.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        await self._within(bus.publish(topic, 0, [record(n) for n in range(5)]))
        reader = await self.openReader(bus, topic)
        self.assertEqual(numbers(await self.readSome(reader, 5)), [0, 1, 2, 3, 4])
        await self._within(bus.publish(topic, 0, [record(5), record(6)]))
        self.assertEqual(numbers(await self.readSome(reader, 2)), [5, 6])

    async def test_readFromEnd(self) -> None:
        """
        A reader from the end gives only what comes after it was opened, and all of that.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        await self._within(bus.publish(topic, 0, [record(n) for n in range(5)]))
        await self._within(bus.publish(topic, 1, [record(n) for n in range(5, 9)]))
        reader = await self.openReader(bus, topic, fromStart=False)
        await self._within(bus.publish(topic, 0, [record(100)]))
        await self._within(bus.publish(topic, 1, [record(101)]))
        await self._within(bus.publish(topic, 2, [record(102)]))
        self.assertEqual(sorted(numbers(await self.readSome(reader, 3))), [100, 101, 102])

    async def test_caughtUp(self) -> None:
        """
        C{caughtUp} is false while something that stood there at the opening was not given out, and then true for good.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        await self._within(bus.publish(topic, 0, [record(n) for n in range(6)]))
        await self._within(bus.publish(topic, 4, [record(n) for n in range(6, 10)]))
        reader = await self.openReader(bus, topic)
        found: list[StoredRecord] = []
        until = time.monotonic() + self.patience
        while len(found) < 10 and time.monotonic() < until:
            self.assertFalse(reader.caughtUp)
            found += await self._within(reader.read(3))
        found += await self.drain(reader)
        self.assertTrue(reader.caughtUp)
        self.assertEqual(sorted(numbers(found)), list(range(10)))
        await self._within(bus.publish(topic, 0, [record(10)]))
        self.assertTrue(reader.caughtUp)

    async def test_caughtUpWithNothing(self) -> None:
        """
        A reader from the end, or of an empty topic, catches up without a record.
        """
        full, empty = self.topicName("full"), self.topicName("empty")
        bus = await self.startWith(full, empty)
        await self._within(bus.publish(full, 0, [record(1)]))
        for reader in (await self.openReader(bus, full, fromStart=False), await self.openReader(bus, empty)):
            self.assertEqual(await self.drain(reader), [])
            self.assertTrue(reader.caughtUp)

    async def test_readLimit(self) -> None:
        """
        A read gives at most C{limit} records, and the next one goes on where it ended.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        await self._within(bus.publish(topic, 0, [record(n) for n in range(25)]))
        reader = await self.openReader(bus, topic)
        found: list[int] = []
        until = time.monotonic() + self.patience
        while len(found) < 25 and time.monotonic() < until:
            some = await self._within(reader.read(4))
            self.assertLessEqual(len(some), 4)
            found += numbers(some)
        self.assertEqual(found, list(range(25)))

    async def test_readNothing(self) -> None:
        """
        A read without records fires with none after about half a second.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        reader = await self.openReader(bus, topic)
        await self.drain(reader)
        before = time.monotonic()
        self.assertEqual(await self._within(reader.read(10)), [])
        self.assertTrue(0.2 <= time.monotonic() - before <= 3.0, time.monotonic() - before)

    async def test_readWaits(self) -> None:
        """
        A read that waits fires as soon as there is something, well before its half second.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        reader = await self.openReader(bus, topic)
        await self.drain(reader)
        found: list[StoredRecord] = []
        until = time.monotonic() + self.patience
        reactor.callLater(0.1, bus.publish, topic, 0, [record(1)])
        while not found and time.monotonic() < until:
            found += await self._within(reader.read(10))
        self.assertEqual(numbers(found), [1])

    async def test_severalTopics(self) -> None:
        """
        A reader of two topics gives both and no third, from all partitions.
        """
        one, two, three = (self.topicName(name) for name in ("one", "two", "three"))
        bus = await self.startWith(one, two, three)
        flushes = []
        for number, topic in enumerate((one, two, three) * self.partitions):
            flushes.append(bus.publish(topic, number // 3, [record(number)]))
        await self._within(gatherResults(flushes))
        found = await self.readAll(bus, one, two)
        wanted = sorted(
            ((one, two)[number % 3], number // 3, number) for number in range(3 * self.partitions) if number % 3 < 2
        )
        self.assertEqual(sorted((each.topic, each.partition, numbers([each])[0]) for each in found), wanted)

    async def test_readersAreIndependent(self) -> None:
        """
        Two readers of one topic each get everything.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        await self._within(bus.publish(topic, 0, [record(n) for n in range(10)]))
        first, second = await self.openReader(bus, topic), await self.openReader(bus, topic)
        self.assertEqual(numbers(await self.readSome(first, 10)), list(range(10)))
        await self._within(first.close())
        self.assertEqual(numbers(await self.readSome(second, 10)), list(range(10)))

    async def test_closeDuringRead(self) -> None:
        """
        A read under way when its reader is closed fires with no records.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        reader = await self.openReader(bus, topic)
        await self.drain(reader)
        under: Deferred[list[StoredRecord]] = reader.read(10)
        await self._within(reader.close())
        self.assertEqual(await self._within(under), [])

    async def test_closeTwice(self) -> None:
        """
        Closing a closed reader does nothing; so does stopping a stopped bus.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        reader = await self.openReader(bus, topic)
        for _ in range(2):
            self.assertIsNone(await self._within(reader.close()))
        for _ in range(2):
            self.assertIsNone(await self._within(bus.stop()))


class DurableBusContractMixin(BusContractMixin):
    """
    More, of buses whose log outlives the object: two made by C{makeBus} in one test see the same log.
    """

    async def anotherBus(self, bus: IBus, *topics: str) -> IBus:
        """
        See L{BusSteps.anotherBus}.
        """
        return await self.startBus(topics)

    async def test_stopKeepsCommits(self) -> None:
        """
        What a consumer had committed when its bus was stopped is durable, and its share is free at once.
        """
        topic, group = self.topicName(), self.topicName("group")
        bus = await self.startWith(topic)
        await self._within(bus.publish(topic, 0, [record(n) for n in range(10)]))
        consumer = await self.openConsumer(bus, group, topic)
        found = await self.readSome(consumer, 10)
        await self._within(consumer.commit({(topic, 0): found[6].offset + 1}))
        await self._within(bus.stop())
        before = time.monotonic()
        again = await self.openConsumer(await self.startBus((topic,)), group, topic)
        self.assertEqual(numbers(await self.readSome(again, 3)), [7, 8, 9])
        self.assertLess(time.monotonic() - before, 6)

    async def test_survivesStop(self) -> None:
        """
        What one bus took, the next one gives back in order, and goes on after it.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        await self._within(bus.publish(topic, 2, [record(n) for n in range(10)]))
        await self._within(bus.stop())
        again = await self.startBus((topic,))
        await self._within(again.publish(topic, 2, [record(10)]))
        found = await self.readAll(again, topic)
        self.assertEqual(numbers(found), list(range(11)))
        offsets = [one.offset for one in found]
        self.assertEqual(offsets, sorted(set(offsets)))

    async def test_stopCommits(self) -> None:
        """
        A flush that was pending at the stop and fired well is there afterwards.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        good: list[int] = []
        for number in range(50):
            bus.publish(topic, 0, [record(number)]).addCallbacks(
                lambda _, number=number: good.append(number), lambda failure: failure.trap(BusError) and None
            )
        await self._within(bus.stop())
        found = numbers(await self.readAll(await self.startBus((topic,)), topic))
        self.assertEqual([number for number in good if number not in found], [])
        self.assertEqual(len(good), 50)

    async def test_twoAtOnce(self) -> None:
        """
        Two buses on one log write to one partition at once: each one's records keep their order, none is lost.
        """
        topic = self.topicName()
        first = await self.startWith(topic)
        second = await self.startBus((topic,))
        flushes = []
        for number in range(100):
            flushes.append((first, second)[number % 2].publish(topic, 0, [record(number)]))
        await self._within(gatherResults(flushes))
        found = numbers(await self.readAll(first, topic))
        self.assertEqual(sorted(found), list(range(100)))
        for parity in (0, 1):
            own = [number for number in found if number % 2 == parity]
            self.assertEqual(own, sorted(own))

    async def test_readsAnothers(self) -> None:
        """
        A reader that waits gets what another bus on the log publishes.
        """
        topic = self.topicName()
        first = await self.startWith(topic)
        second = await self.startBus((topic,))
        reader = await self.openReader(second, topic, fromStart=False)
        await self._within(first.publish(topic, 0, [record(1), record(2)]))
        self.assertEqual(numbers(await self.readSome(reader, 2)), [1, 2])


class StallingBusContractMixin(DurableBusContractMixin):
    """
    More, of buses that a test can keep from committing: C{stall} and C{resume} say how.
    """

    def stall(self) -> Awaitable[None]:
        """
        From now on no flush commits, nor fails for a while.
        """
        raise NotImplementedError

    def resume(self) -> Awaitable[None]:
        """
        End what L{stall} began. Called once more at the end of the test, when it may do nothing.
        """
        raise NotImplementedError

    async def stalledBus(self, topic: str, stopTimeout: float) -> IBus:
        """
        A started bus that cannot commit.
        """
        warm = await self.startWith(topic)
        await self._within(warm.stop())
        bus = await self.startBus((topic,), stopTimeout)
        await self._within(bus.publish(topic, 0, [record(0)]))
        self.addCleanup(self.resume)
        await self._within(self.stall())
        return bus

    async def test_nothingFiresWhileStalled(self) -> None:
        """
        A flush does not fire before it is durable, stays pending, and commits in order once the bus goes on.
        """
        topic = self.topicName()
        bus = await self.stalledBus(topic, 20.0)
        fired: list[object] = []
        flushes = [bus.publish(topic, 0, [record(n)]) for n in range(1, 20)]
        for deferred in flushes:
            deferred.addCallback(fired.append)
        await self._within(deferLater(reactor, 0.7, lambda: None))
        self.assertEqual(fired, [])
        self.assertGreater(bus.pendingBytes, 0)
        await self._within(self.resume())
        await self._within(gatherResults(flushes, consumeErrors=True))
        self.assertEqual(bus.pendingBytes, 0)
        self.assertEqual(numbers(await self.readAll(bus, topic)), list(range(20)))

    async def test_stopGivesUp(self) -> None:
        """
        What has not ended C{stopTimeout} after the stop fails with a L{BusError}, and the stop fires.
        """
        topic = self.topicName()
        bus = await self.stalledBus(topic, 1.0)
        flushes = [bus.publish(topic, n % 2, [record(n)]) for n in range(1, 10)]
        fired: list[object] = []
        for deferred in flushes:
            deferred.addErrback(lambda failure: fired.append(failure.trap(BusError)))
        before = time.monotonic()
        await self._within(bus.stop())
        self.assertEqual(len(fired), 9)
        self.assertTrue(0.8 <= time.monotonic() - before <= 10, time.monotonic() - before)
        self.assertEqual(bus.pendingBytes, 0)
