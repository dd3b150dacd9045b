"""
What every L{IBusConsumer} must do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from binaryserver.errors import BusError
from binaryserver.interfaces import IBus, IBusConsumer
from binaryserver.model import StoredRecord
from tests.bus.steps import BusSteps, numbers, reactor, record

Offsets = dict[tuple[str, int], int]


def behind(records: Sequence[StoredRecord]) -> Offsets:
    """
    The offsets that say that these records are done with.
    """
    return {(one.topic, one.partition): one.offset + 1 for one in records}


class ConsumerContractMixin(BusSteps):
    """
    The contract of L{IBusConsumer}.
    """

    async def prepare(self, count: int = 10) -> tuple[str, str, IBus]:
        """
        A topic with records in partition 0, the name of a group, and a bus.
        """
        topic, group = self.topicName(), self.topicName("group")
        bus = await self.startWith(topic)
        await self._within(bus.publish(topic, 0, [record(n) for n in range(count)]))
        return topic, group, bus

    async def leftFor(self, bus: IBus, group: str, topic: str) -> list[int]:
        """
        What a new member of a group, alone in it, is given until nothing more comes.
        """
        consumer = await self.openConsumer(bus, group, topic)
        await self._within(bus.publish(topic, 7, [record(999_999)]))
        found: list[int] = []
        until = time.monotonic() + self.patience
        while 999_999 not in found and time.monotonic() < until:
            found += numbers(await self._within(consumer.read(1000)))
        found += numbers(await self._within(consumer.read(1000)))
        await self._within(consumer.close())
        found.remove(999_999)
        return found

    # alone

    async def test_consumerProvides(self) -> None:
        """
        A consumer provides what it says.
        """
        topic, group, bus = await self.prepare()
        verifyObject(IBusConsumer, await self.openConsumer(bus, group, topic))

    async def test_lag(self) -> None:
        """
        Where a consumer knows what it has not given out yet it tells that; also when it has given out nothing.
        """
        topic, group, bus = await self.prepare()
        consumer = await self.openConsumer(bus, group, topic)
        found: list[StoredRecord] = []
        while len(found) < 4:
            found += await self._within(consumer.read(1))
        if not self.knowsLag:
            self.assertIsNone(consumer.lag)
            return
        await self._within(consumer.commit(behind(found)))
        await self._within(bus.publish(topic, 3, [record(10)]))
        # What is read ahead is not given out.
        await deferLater(reactor, 1.2)
        found += await self._within(consumer.read(1))
        self.assertIn(consumer.lag, (10 - 4, 11 - len(found), 11 - 4))
        await self._within(consumer.commit(behind(found)))
        await self._within(consumer.close())
        successor = await self.openConsumer(bus, group, topic)
        while len(found) < 11:
            found += await self._within(successor.read(100))
        await deferLater(reactor, 1.2)
        await self._within(successor.read(1))
        self.assertEqual(successor.lag, 0)
        await self._within(successor.commit(behind(found)))
        await self._within(successor.close())
        last = await self.openConsumer(bus, group, topic)
        for _ in range(4):
            await self._within(last.read(1))
            await deferLater(reactor, 0.5)
        self.assertEqual(last.lag, 0)

    async def test_consumesFromFirst(self) -> None:
        """
        A group that never committed begins with the first record, whole as it was published, and goes on.
        """
        topic, group, bus = await self.prepare()
        consumer = await self.openConsumer(bus, group, topic)
        found = await self.readSome(consumer, 10)
        self.assertEqual(numbers(found), list(range(10)))
        self.assertEqual({(one.topic, one.partition, one.key) for one in found}, {(topic, 0, b"acme/box-1")})
        self.assertEqual(tuple(found[3].headers), record(3).headers if self.keepsHeaders else ())
        await self._within(bus.publish(topic, 5, [record(10)]))
        self.assertEqual(numbers(await self.readSome(consumer, 1)), [10])

    async def test_resumesBehindCommit(self) -> None:
        """
        The next member goes on behind what was committed; the uncommitted comes again.
        """
        topic, group, bus = await self.prepare()
        await self._within(bus.publish(topic, 3, [record(n) for n in range(100, 105)]))
        consumer = await self.openConsumer(bus, group, topic)
        found = await self.readSome(consumer, 15)
        await self._within(consumer.commit(behind([one for one in found if numbers([one])[0] in (3, 101)])))
        await self._within(consumer.close())
        again = await self.openConsumer(await self.anotherBus(bus, topic), group, topic)
        found = await self.readSome(again, 9)
        self.assertEqual(sorted(numbers(found)), [4, 5, 6, 7, 8, 9, 102, 103, 104])
        await self._within(again.commit(behind(found)))
        await self._within(again.close())
        self.assertEqual(await self.leftFor(bus, group, topic), [])

    async def test_uncommittedComesAgain(self) -> None:
        """
        Records that were read but never committed are given to the next member from the first.
        """
        topic, group, bus = await self.prepare()
        consumer = await self.openConsumer(bus, group, topic)
        await self.readSome(consumer, 10)
        await self._within(consumer.close())
        self.assertEqual(await self.leftFor(bus, group, topic), list(range(10)))

    async def test_consumerOrder(self) -> None:
        """
        The records of a partition come in order, each once, while they are published and read a few at a time.
        """
        topic, group, bus = await self.prepare(0)
        consumer = await self.openConsumer(bus, group, topic)
        flushes = []
        found: dict[int, list[int]] = {place: [] for place in range(self.partitions)}
        until = time.monotonic() + self.patience
        for number in range(40 * self.partitions):
            flushes.append(bus.publish(topic, number % self.partitions, [record(number), record(10_000 + number)]))
        while sum(map(len, found.values())) < 80 * self.partitions and time.monotonic() < until:
            some = await self._within(consumer.read(7))
            self.assertLessEqual(len(some), 7)
            for one in some:
                found[one.partition] += numbers([one])
            await self._within(consumer.commit(behind(some)))
        await self._within(gatherResults(flushes))
        for place in range(self.partitions):
            wanted = range(place, 40 * self.partitions, self.partitions)
            self.assertEqual(found[place], [each for n in wanted for each in (n, 10_000 + n)])

    async def test_groupsAreIndependent(self) -> None:
        """
        Each group gets everything, whatever another one has read and committed; a reader too.
        """
        topic, group, bus = await self.prepare()
        one = await self.openConsumer(bus, group, topic)
        other = await self.openConsumer(bus, f"{group}.other", topic)
        found = await self.readSome(one, 10)
        await self._within(one.commit(behind(found)))
        self.assertEqual(numbers(found), list(range(10)))
        self.assertEqual(numbers(await self.readSome(other, 10)), list(range(10)))
        reader = await self.openReader(bus, topic)
        self.assertEqual(numbers(await self.readSome(reader, 10)), list(range(10)))

    async def test_consumesItsTopics(self) -> None:
        """
        A consumer of two topics gives both and no third.
        """
        one, two, three = (self.topicName(name) for name in ("one", "two", "three"))
        bus = await self.startWith(one, two, three)
        for number, topic in enumerate((one, two, three)):
            await self._within(bus.publish(topic, number, [record(number)]))
        consumer = await self.openConsumer(bus, self.topicName("group"), one, two)
        found = await self.readSome(consumer, 2)
        self.assertEqual(sorted((each.topic, *numbers([each])) for each in found), sorted([(one, 0), (two, 1)]))
        self.assertEqual(await self._within(consumer.read(10)), [])

    async def test_consumesNothing(self) -> None:
        """
        A read without records fires with none after about half a second.
        """
        topic, group, bus = await self.prepare(1)
        consumer = await self.openConsumer(bus, group, topic)
        await self.readSome(consumer, 1)
        before = time.monotonic()
        self.assertEqual(await self._within(consumer.read(10)), [])
        self.assertTrue(0.2 <= time.monotonic() - before <= 3.0, time.monotonic() - before)

    async def test_firesOnArrival(self) -> None:
        """
        A read that waits fires when a record comes, whatever time it has waited already; between two reads nothing is
        slept away either.
        """
        topic, group, bus = await self.prepare(1)
        consumer = await self.openConsumer(bus, group, topic)
        await self.readSome(consumer, 1)
        taken: list[float] = []
        for number in range(20):
            began: list[float] = []

            def publish(number: int, began: list[float] = began) -> None:
                began.append(time.monotonic())
                bus.publish(topic, number % self.partitions, [record(number)])

            reactor.callLater(0.005 + 0.021 * number, publish, number)
            self.assertEqual(numbers(await self.readSome(consumer, 1)), [number])
            taken.append(time.monotonic() - began[0])
        taken.sort()
        self.assertLess(taken[10], 0.1, taken)
        self.assertLess(taken[17], 0.3, taken)

    # together

    async def rounds(self, topic: str, bus: IBus, members: Sequence[IBusConsumer]) -> list[set[int]]:
        """
        Publish a record to each partition and let the members read, again and again until each reads some partitions,
        or one of them reads all if that is how the back end shares; give the partitions of each.
        """
        wanted = len(members) if self.sharesPartitions else 1
        until = time.monotonic() + self.patience
        number = 0
        shares: list[set[int]] = []
        while time.monotonic() < until:
            first = number
            for place in range(self.partitions):
                await self._within(bus.publish(topic, place, [record(number)]))
                number += 1
            seen: list[set[int]] = [set() for _ in members]
            while set().union(*seen) != set(range(first, number)) and time.monotonic() < until:
                found = await self._within(gatherResults([member.read(1000) for member in members]))
                for own, records in zip(seen, found, strict=True):
                    own.update(each for each in numbers(records) if each >= first)
            shares = [{each - first for each in own} for own in seen]
            if sum(map(bool, shares)) == wanted and sum(map(len, shares)) == self.partitions:
                return shares
        raise self.failureException(f"they never shared: {shares}")

    async def test_membersShare(self) -> None:
        """
        Each partition is read by one member at a time, and all are read.
        """
        topic, group, bus = await self.prepare(0)
        other = await self.anotherBus(bus, topic)
        members = [await self.openConsumer(each, group, topic) for each in (bus, other)]
        shares = await self.rounds(topic, bus, members)
        self.assertEqual(sorted(place for share in shares for place in share), list(range(self.partitions)))

    async def test_closeFreesAtOnce(self) -> None:
        """
        What a member leaves goes to another without waiting for a timeout, behind what was committed.
        """
        topic, group, bus = await self.prepare()
        leaving = await self.openConsumer(bus, group, topic)
        found = await self.readSome(leaving, 10)
        await self._within(leaving.commit(behind(found[:8])))
        staying = await self.openConsumer(await self.anotherBus(bus, topic), group, topic)
        taking = Deferred.fromCoroutine(self.readSome(staying, 2))
        before = time.monotonic()
        await self._within(leaving.close())
        self.assertEqual(numbers(await self._within(taking)), [8, 9])
        self.assertLess(time.monotonic() - before, 5)

    async def test_foreignCommitPassedOver(self) -> None:
        """
        A commit of partitions that are another member's changes nothing, and is no error; its own ones count.
        """
        topic, group, bus = await self.prepare(0)
        members = [await self.openConsumer(bus, group, topic) for _ in range(2)]
        await self.rounds(topic, bus, members)
        await self._within(bus.publish(topic, 0, [record(5000), record(5001)]))
        found: list[list[StoredRecord]] = [[], []]
        until = time.monotonic() + self.patience
        while 5001 not in numbers(found[0] + found[1]) and time.monotonic() < until:
            for taken, member in zip(found, members, strict=True):
                taken += await self._within(member.read(100))
        mine = 0 if 5001 in numbers(found[0]) else 1
        (last,) = [one for one in found[mine] if numbers([one]) == [5001]]
        own = {(self.topicName("none"), 0): 5, (topic, 0): last.offset, (topic, self.partitions): 5}
        self.assertIsNone(await self._within(members[mine].commit(own)))
        self.assertIsNone(await self._within(members[1 - mine].commit({(topic, 0): last.offset + 1})))
        for member in (members[1 - mine], members[mine]):
            await self._within(member.close())
        self.assertEqual([n for n in await self.leftFor(bus, group, topic) if n >= 5000], [5001])

    async def test_handedBack(self) -> None:
        """
        A member that comes and goes while records flow costs none, though some may come twice.
        """
        topic, group, bus = await self.prepare(0)
        other = await self.anotherBus(bus, topic)
        staying = await self.openConsumer(bus, group, topic)
        found: set[int] = set()
        flushes: list[Deferred[None]] = []

        async def work(member: IBusConsumer, seconds: float) -> None:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                some = await self._within(member.read(50))
                found.update(numbers(some))
                await self._within(member.commit(behind(some)))

        def publish() -> None:
            number = len(flushes)
            flushes.append(bus.publish(topic, number % self.partitions, [record(number)]))

        timers = [reactor.callLater(0.01 * n, publish) for n in range(300)]
        working = Deferred.fromCoroutine(work(staying, 4.0))
        for _ in range(2):
            coming = await self.openConsumer(other, group, topic)
            await work(coming, 0.7)
            await self._within(coming.close())
        # One that comes and is gone before it was given anything.
        await self._within((await self.openConsumer(other, group, topic)).close())
        left = time.monotonic()
        await self._within(working)
        self.assertFalse(any(timer.active() for timer in timers))
        await self._within(gatherResults(flushes))
        until = time.monotonic() + self.patience
        while len(found) < 300 and time.monotonic() < until:
            await work(staying, 0.2)
        self.assertEqual(found, set(range(300)))
        self.assertLess(time.monotonic() - left, 8)

    # ends

    async def test_closeConsumerDuringRead(self) -> None:
        """
        A read under way when its consumer is closed fires with no records; so does one after it. A commit fails.
        """
        topic, group, bus = await self.prepare(1)
        consumer = await self.openConsumer(bus, group, topic)
        await self.readSome(consumer, 1)
        under: Deferred[list[StoredRecord]] = consumer.read(10)
        for _ in range(2):
            self.assertIsNone(await self._within(consumer.close()))
        self.assertEqual(await self._within(under), [])
        self.assertEqual(await self._within(consumer.read(10)), [])
        await self.failureOf(consumer.commit({(topic, 0): 1}), BusError)

    async def test_stopEndsConsumer(self) -> None:
        """
        A consumer's read under way at a stop has fired when the stop fires; its close does nothing more then.
        """
        topic, group, bus = await self.prepare(1)
        consumer = await self.openConsumer(bus, group, topic)
        await self.readSome(consumer, 1)
        fired: list[object] = []
        consumer.read(10).addBoth(fired.append)
        await self._within(bus.stop())
        self.assertEqual(len(fired), 1)
        self.assertTrue(fired[0] == [] or (isinstance(fired[0], Failure) and fired[0].check(BusError)))
        self.assertIsNone(await self._within(consumer.close()))

    async def test_cannotConsume(self) -> None:
        """
        A topic that is not there, or a stopped bus, fails the opening.
        """
        topic, group, bus = await self.prepare(1)
        error = await self.failureOf(bus.openConsumer([topic, "nowhere"], group), BusError)
        self.assertIn("nowhere", str(error))
        await self._within(bus.stop())
        await self.failureOf(bus.openConsumer([topic], group), BusError)
