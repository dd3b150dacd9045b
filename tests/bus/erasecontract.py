"""
What every L{IBus} must do when the records of a key are to be removed.
"""

from __future__ import annotations

from twisted.internet.defer import gatherResults

from binaryserver.errors import BusError
from binaryserver.interfaces import IBus
from tests.bus.steps import BusSteps, numbers, record

KEY, OTHER = b"acme/box-1", b"acme/box-10"


class EraseContractMixin(BusSteps):
    """
    Of C{erase}. Where a bus cannot do it, everything is as if it had not been asked.
    """

    async def erase(self, bus: IBus, count: int, key: bytes = KEY) -> bool:
        """
        Erase, and see how many records went.

        @return: whether this bus can do it
        """
        removed = await self._within(bus.erase(key))
        if removed is None:
            self.assertFalse(self.mustErase)
            return False
        self.assertEqual(removed, count)
        return True

    async def fill(self, bus: IBus, *topics: str) -> None:
        """
        Publish ten records to each topic, in two partitions: those with even numbers are L{KEY}'s, the last one is not.
        """
        keys = (KEY, OTHER)
        for place in (0, 1):
            flushes = [
                bus.publish(topic, place, [record(place * 5 + n, keys[(place * 5 + n) % 2]) for n in range(5)])
                for topic in topics
            ]
            await self._within(gatherResults(flushes))

    async def test_erase(self) -> None:
        """
        The records of the key are gone from all topics and partitions; those of others are there, in their order, and
        what comes afterwards stands behind them. A second time there is nothing.
        """
        one, two = self.topicName("one"), self.topicName("two")
        bus = await self.startWith(one, two)
        await self.fill(bus, one, two)
        before = await self.readAll(bus, one, two)
        if not await self.erase(bus, 10):
            self.assertEqual(await self.readAll(bus, one, two), before)
            return
        left = await self.readAll(bus, one, two)
        self.assertEqual(left, [each for each in before if each.key == OTHER])
        await self.erase(bus, 0)
        await self.erase(bus, 0, b"acme/box")
        await self._within(bus.publish(one, 1, [record(10), record(11, OTHER)]))
        again = await self.readAll(bus, one, two)
        self.assertEqual(again[:-2], left)
        self.assertEqual(numbers(again[-2:]), [10, 11])
        self.assertGreater(again[-2].offset, max(each.offset for each in before))

    async def test_eraseTheNewest(self) -> None:
        """
        Where nothing is left of what was published last, or at all, readers catch up all the same, and no offset is
        given twice.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        await self._within(bus.publish(topic, 0, [record(0, OTHER), *(record(n) for n in range(1, 9))]))
        last = (await self.readAll(bus, topic))[-1].offset
        behind = await self.openReader(bus, topic)
        self.assertEqual(numbers(await self.readSome(behind, 2, 2)), [0, 1])
        isErased = await self.erase(bus, 8)
        self.assertEqual(numbers(await self.drain(behind)), [] if isErased else list(range(2, 9)))
        self.assertTrue(behind.caughtUp)
        self.assertEqual(numbers(await self.readAll(bus, topic)), [0] if isErased else list(range(9)))
        await self.erase(bus, 1, OTHER)
        self.assertEqual(numbers(await self.readAll(bus, topic)), [] if isErased else list(range(9)))
        end = await self.openReader(bus, topic, fromStart=False)
        await self._within(bus.publish(topic, 0, [record(9)]))
        self.assertEqual(numbers(await self.readSome(behind, 1)), [9])
        (found,) = await self.readSome(end, 1)
        self.assertEqual(numbers([found]), [9])
        self.assertGreater(found.offset, last)

    async def test_eraseWhatIsPending(self) -> None:
        """
        What was published before, and has not fired yet, goes, too; it fires all the same.
        """
        topic = self.topicName()
        bus = await self.startWith(topic)
        flushes = [bus.publish(topic, 0, [record(n), record(n, OTHER)]) for n in range(5)]
        isErased = await self.erase(bus, 5)
        await self._within(gatherResults(flushes))
        self.assertEqual(len(await self.readAll(bus, topic)), 5 if isErased else 10)
        self.assertEqual(bus.pendingBytes, 0)

    async def test_consumersPassOverErased(self) -> None:
        """
        A consumer that had records of the key goes on with those of others, may commit what it had, and whoever comes
        after it goes on from there.
        """
        topic, group = self.topicName(), self.topicName("group")
        bus = await self.startWith(topic)
        await self._within(bus.publish(topic, 0, [record(n, (KEY, OTHER)[n % 3 == 0]) for n in range(12)]))
        consumer = await self.openConsumer(bus, group, topic)
        found = await self.readSome(consumer, 5, 5)
        isErased = await self.erase(bus, 8)
        await self._within(consumer.commit({(topic, 0): found[4].offset + 1}))
        rest = [6, 9] if isErased else list(range(5, 12))
        self.assertEqual(numbers(await self.readSome(consumer, len(rest))), rest)
        await self._within(consumer.close())
        again = await self.openConsumer(bus, group, topic)
        self.assertEqual(numbers(await self.readSome(again, len(rest))), rest)
        await self._within(bus.publish(topic, 0, [record(12)]))
        self.assertEqual(numbers(await self.readSome(again, 1)), [12])

    async def test_cannotErase(self) -> None:
        """
        Of a bus that was stopped: it fails, where it could be done at all.
        """
        bus = await self.startWith(self.topicName())
        await self._within(bus.stop())
        if self.mustErase:
            await self.failureOf(bus.erase(KEY), BusError)
