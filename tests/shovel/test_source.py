"""
The contract of L{binaryserver.shovel.source.Source}, run over the one in Redis and the one that the other tests use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from binaryserver.errors import StoreError
from binaryserver.session.redislink import RedisLink
from binaryserver.session.redissettings import RedisSettings
from binaryserver.shovel.source import EXCHANGE, MOST_BYTES, RENEW, RedisSource, Source
from tests.services import requireRedis
from tests.session.contract_base import reactor
from tests.shovel.memorylists import MemoryList, MemorySource

if TYPE_CHECKING:
    _Base = TestCase
else:
    _Base = object

LEASE = 1.0


class SourceContractMixin(_Base):
    """
    The contract.
    """

    def source(self) -> Source:
        """
        A reader of its own of the one list.
        """
        raise NotImplementedError

    def append(self, *events: bytes) -> Deferred[Any]:
        """
        Put events into the list.
        """
        raise NotImplementedError

    def sleep(self, seconds: float) -> Deferred[None]:
        """
        Let time pass.
        """
        raise NotImplementedError

    def left(self) -> Deferred[tuple[int, int]]:
        """
        How many events are in the list, and how many are taken.
        """
        raise NotImplementedError

    def run_(self, coroutine: Any) -> Any:
        """
        Run a test.
        """
        raise NotImplementedError

    def test_inOrder(self) -> Any:
        """
        Events come in their order, at most so many at once, and go when they are done with.
        """

        async def test() -> None:
            await self.append(*(b"%d" % number for number in range(5)))
            source = self.source()
            first = await source.exchange(0, 2)
            self.assertEqual((first.isOurs, first.isNew, first.backlog, first.packed), (True, True, 3, [b"0", b"1"]))
            second = await source.exchange(2, 2)
            self.assertEqual((second.isOurs, second.isNew, second.packed), (True, False, [b"2", b"3"]))
            third = await source.exchange(2, 100)
            self.assertEqual((third.backlog, third.packed), (0, [b"4"]))
            self.assertEqual((await source.exchange(1, 2)).packed, [])
            self.assertEqual(await self.left(), (0, 0))

        return self.run_(test())

    def test_notDone(self) -> Any:
        """
        What is not done with comes again, before what is behind it.
        """

        async def test() -> None:
            await self.append(b"0", b"1", b"2", b"3")
            source = self.source()
            await source.exchange(0, 3)
            self.assertEqual((await source.exchange(0, 3)).packed, [b"0", b"1", b"2"])
            self.assertEqual((await source.exchange(1, 3)).packed, [b"1", b"2"])
            self.assertEqual((await source.exchange(2, 3)).packed, [b"3"])

        return self.run_(test())

    def test_oneReader(self) -> Any:
        """
        While one reads, another does not; he learns how long the other is believed.
        """

        async def test() -> None:
            await self.append(b"0", b"1")
            one, two = self.source(), self.source()
            await one.exchange(0, 1)
            other = await two.exchange(0, 1)
            self.assertEqual((other.isOurs, other.backlog, other.packed), (False, 1, []))
            self.assertTrue(0 < other.wait <= LEASE)
            self.assertFalse(await two.renew())
            self.assertTrue(await one.renew())

        return self.run_(test())

    def test_takeover(self) -> Any:
        """
        A reader that was not heard of for the lease loses the list, with what he had taken; what he says then counts
        for nothing.
        """

        async def test() -> None:
            await self.append(b"0", b"1", b"2")
            one, two = self.source(), self.source()
            await one.exchange(0, 2)
            await self.sleep(LEASE * 1.2)
            taken = await two.exchange(0, 2)
            self.assertEqual((taken.isOurs, taken.isNew, taken.packed), (True, True, [b"0", b"1"]))
            self.assertFalse((await one.exchange(2, 2)).isOurs)
            self.assertFalse(await one.renew())
            await one.release()
            self.assertEqual(await self.left(), (1, 2))
            self.assertEqual((await two.exchange(2, 2)).packed, [b"2"])

        return self.run_(test())

    def test_lapsed(self) -> Any:
        """
        A lease that lapsed while nobody else came is as good as ever.
        """

        async def test() -> None:
            await self.append(b"0", b"1")
            one = self.source()
            await one.exchange(0, 1)
            await self.sleep(LEASE * 1.2)
            taken = await one.exchange(1, 1)
            self.assertEqual((taken.isNew, taken.packed), (False, [b"1"]))

        return self.run_(test())

    def test_doneAfterTakeoverAndBack(self) -> Any:
        """
        A reader that has the list again has nothing of what he had before.
        """

        async def test() -> None:
            await self.append(b"0", b"1", b"2")
            one, two = self.source(), self.source()
            for _ in range(5):
                await one.exchange(0, 1)
            await self.sleep(LEASE * 1.2)
            await two.exchange(0, 1)
            await two.exchange(1, 1)
            await two.release()
            taken = await one.exchange(1, 1)
            self.assertEqual((taken.isNew, taken.packed), (True, [b"1"]))

        return self.run_(test())

    def test_renewed(self) -> Any:
        """
        A reader that says that he is alive keeps the list.
        """

        async def test() -> None:
            await self.append(b"0")
            one, two = self.source(), self.source()
            await one.exchange(0, 1)
            for _ in range(3):
                await self.sleep(LEASE * 0.6)
                self.assertTrue(await one.renew())
            self.assertFalse((await two.exchange(0, 1)).isOurs)

        return self.run_(test())

    def test_released(self) -> Any:
        """
        A list that was let go of is to be had at once; an exchange that takes nothing only says what is done with.
        """

        async def test() -> None:
            await self.append(b"0", b"1")
            one, two = self.source(), self.source()
            await one.exchange(0, 1)
            self.assertEqual((await one.exchange(1, 0)).packed, [])
            await one.release()
            taken = await two.exchange(0, 5)
            self.assertEqual((taken.isNew, taken.packed), (True, [b"1"]))

        return self.run_(test())


class MemorySourceTests(SourceContractMixin, SynchronousTestCase):
    """
    The one of the other tests.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.list = MemoryList(self.clock)

    def source(self) -> Source:
        """
        See L{SourceContractMixin.source}.
        """
        return MemorySource(self.list, uuid4().hex, LEASE)

    def append(self, *events: bytes) -> Deferred[Any]:
        """
        See L{SourceContractMixin.append}.
        """
        self.list.events += events
        return succeed(None)

    def sleep(self, seconds: float) -> Deferred[None]:
        """
        See L{SourceContractMixin.sleep}.
        """
        self.clock.advance(seconds)
        return succeed(None)

    def left(self) -> Deferred[tuple[int, int]]:
        """
        See L{SourceContractMixin.left}.
        """
        return succeed((len(self.list.events), len(self.list.taken)))

    def run_(self, coroutine: Any) -> Any:
        """
        See L{SourceContractMixin.run_}.
        """
        self.successResultOf(Deferred.fromCoroutine(coroutine))


class RedisSourceTests(SourceContractMixin, TestCase):
    """
    The one in Redis.
    """

    timeout = 30

    def setUp(self) -> Any:
        host, port = requireRedis()
        self.key = f"test-{uuid4().hex[:12]}:tracks"
        self.link = RedisLink(reactor, RedisSettings(host, port), "--rqueue", (EXCHANGE, RENEW))
        self.addCleanup(self.clean)
        return self.link.start(10)

    def clean(self) -> Deferred[None]:
        """
        Leave nothing.
        """
        deleted = self.link.call("DEL", self.key, f"{self.key}:taken", f"{self.key}:reader")
        return deleted.addCallback(lambda _: self.link.stop(1))

    def source(self) -> Source:
        """
        See L{SourceContractMixin.source}.
        """
        return RedisSource(self.link, self.key, uuid4().hex, LEASE)

    def append(self, *events: bytes) -> Deferred[Any]:
        """
        See L{SourceContractMixin.append}.
        """
        return self.link.call("RPUSH", self.key, *events)

    def sleep(self, seconds: float) -> Deferred[None]:
        """
        See L{SourceContractMixin.sleep}.
        """
        return deferLater(reactor, seconds)

    def left(self) -> Deferred[tuple[int, int]]:
        """
        See L{SourceContractMixin.left}.
        """

        async def lengths() -> tuple[int, int]:
            return await self.link.call("LLEN", self.key), await self.link.call("LLEN", f"{self.key}:taken")

        return Deferred.fromCoroutine(lengths())

    def run_(self, coroutine: Any) -> Any:
        """
        See L{SourceContractMixin.run_}.
        """
        return Deferred.fromCoroutine(coroutine)

    async def test_lostAnswer(self) -> None:
        """
        An exchange whose answer was lost, and which is asked again, is not done again.
        """
        await self.append(b"0", b"1", b"2")
        source = self.source()
        await source.exchange(0, 1)
        assert isinstance(source, RedisSource)
        await source.exchange(1, 1)
        # As if that had not been heard.
        source._number -= 1
        self.assertEqual((await source.exchange(1, 1)).packed, [b"1"])
        self.assertEqual((await source.exchange(1, 1)).packed, [b"2"])

    async def test_lateExchange(self) -> None:
        """
        An exchange that a lost connection held back, and which comes after later ones, does nothing.
        """
        await self.append(*(b"%d" % number for number in range(6)))
        source = self.source()
        assert isinstance(source, RedisSource)
        await source.exchange(0, 2)
        await source.exchange(2, 2)
        await source.exchange(2, 1)
        number = source._number
        for late in range(number):
            source._number = late
            await source.exchange(2, 2)
        self.assertEqual(await self.left(), (1, 1))
        source._number = number
        self.assertEqual((await source.exchange(1, 2)).packed, [b"5"])

    async def test_many(self) -> None:
        """
        More events than a script may hand on at once, whole and in order; taken ones, too.
        """
        events = [b"%d" % number for number in range(9000)]
        for start in range(0, 9000, 1000):
            await self.append(*events[start : start + 1000])
        one, two = self.source(), self.source()
        self.assertEqual((await one.exchange(0, 8500)).packed, events[:8500])
        await one.release()
        self.assertEqual((await two.exchange(0, 20_000)).packed, events[:8500])
        self.assertEqual((await two.exchange(8500, 20_000)).packed, events[8500:])

    async def test_bytes(self) -> None:
        """
        Large events are taken fewer at once, and one that is larger than all is taken alone.
        """
        large, huge = bytes(MOST_BYTES // 2), bytes(MOST_BYTES + 1)
        await self.append(large, large, b"x", huge, b"y")
        source = self.source()
        self.assertEqual(list(map(len, (await source.exchange(0, 100)).packed)), [len(large), len(large)])
        self.assertEqual((await source.exchange(2, 100)).packed, [b"x"])
        self.assertEqual(list(map(len, (await source.exchange(1, 100)).packed)), [len(huge)])
        self.assertEqual((await source.exchange(1, 100)).packed, [b"y"])

    async def test_idleWritesNothing(self) -> None:
        """
        To look at an empty list again and again costs Redis no writes.
        """
        source = self.source()
        await source.exchange(0, 10)
        info = await self.link.call("HGETALL", f"{self.key}:reader")
        await source.exchange(0, 10)
        self.assertEqual(await self.link.call("HGETALL", f"{self.key}:reader"), info)

    async def test_otherKind(self) -> None:
        """
        A key that is no list fails with a typed error.
        """
        await self.link.call("SET", self.key, "x")
        await self.assertFailure(self.source().exchange(0, 1), StoreError)
