"""
What every L{ISessionStore} must do, written once and run over each of them.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from twisted.internet import reactor as globalReactor
from twisted.internet.defer import gatherResults
from zope.interface.verify import verifyObject

from binaryserver.interfaces import ISessionStore
from binaryserver.model import EPOCH_2010_MS, BoxKey, Claim, MarkUpdate, MqttSession, Owner, StreamMark

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase as _Base
else:
    _Base = object

reactor: Any = globalReactor

NOW = 1_790_000_000_000
BOX, OTHER = BoxKey("acme", "box-1"), BoxKey("acme", "box-2")


class SessionStoreContractMixin(_Base):
    """
    The contract of L{ISessionStore}.
    """

    timeout = 60

    def makeStore(self) -> Awaitable[ISessionStore]:
        """
        Make a store, not started. All those made during one test see the same data (a memory store is made once).
        """
        raise NotImplementedError

    async def startStore(self) -> ISessionStore:
        """
        A started store; stopped at the end of the test.
        """
        store = await self.makeStore()
        self.addCleanup(store.stop)
        await store.start()
        return store

    async def claim(
        self, store: ISessionStore, box: BoxKey = BOX, incarnation: str = "a@1", nowMs: int = NOW, clean: bool = False
    ) -> Claim:
        """
        Claim with what a test does not care about.
        """
        return await store.claim(box, incarnation, "md30", "192.0.2.1", nowMs, clean)

    async def test_provides(self) -> None:
        """
        It provides what it says.
        """
        verifyObject(ISessionStore, await self.startStore())

    async def test_firstClaim(self) -> None:
        """
        Of a box that nobody knows: the epoch is the time, nobody held it, nothing is marked or kept.
        """
        store = await self.startStore()
        self.assertEqual(await self.claim(store), Claim(NOW - EPOCH_2010_MS, None, (), None))
        self.assertEqual(await store.marks(OTHER), ())

    async def test_epochsGrow(self) -> None:
        """
        With the clock, without it, and when it goes back; each box has its own.
        """
        store = await self.startStore()
        epochs = [(await self.claim(store, nowMs=now)).linkEpoch for now in (NOW, NOW, NOW - 5000, NOW + 5000, NOW)]
        first = NOW - EPOCH_2010_MS
        self.assertEqual(epochs, [first, first + 1, first + 2, first + 5000, first + 5001])
        self.assertEqual((await self.claim(store, OTHER)).linkEpoch, first)

    async def test_clockOfYore(self) -> None:
        """
        A host whose clock stands before 2010 gives epochs that are no less than 0, and that grow.
        """
        store = await self.startStore()
        self.assertEqual([(await self.claim(store, nowMs=5)).linkEpoch for _ in range(3)], [0, 1, 2])

    async def test_claimTellsThePreviousOwner(self) -> None:
        """
        Connected until it was released, and by whom; also where it is the same one.
        """
        store = await self.startStore()
        first = await self.claim(store, incarnation="a@1")
        second = await self.claim(store, incarnation="b@7")
        self.assertEqual(second.previous, Owner("a@1", first.linkEpoch, True))
        self.assertTrue(await store.release(BOX, second.linkEpoch, NOW))
        third = await self.claim(store, incarnation="a@1")
        self.assertEqual(third.previous, Owner("b@7", second.linkEpoch, False))
        fourth = await self.claim(store, incarnation="a@1")
        self.assertEqual(fourth.previous, Owner("a@1", third.linkEpoch, True))

    async def test_manyClaimsAtOnce(self) -> None:
        """
        Each gets an epoch of its own, and each but the first is told of another one before it.
        """
        store = await self.startStore()
        claims = await gatherResults([store.claim(BOX, f"a@{n}", "md30", "192.0.2.1", NOW, False) for n in range(20)])
        epochs = sorted(claim.linkEpoch for claim in claims)
        self.assertEqual(epochs, list(range(epochs[0], epochs[0] + 20)))
        before = sorted(claim.previous.linkEpoch for claim in claims if claim.previous is not None)
        self.assertEqual(before, epochs[:-1])

    async def test_releaseIsFenced(self) -> None:
        """
        An epoch that is not the latest changes nothing.
        """
        store = await self.startStore()
        self.assertFalse(await store.release(BOX, 1, NOW))
        first = await self.claim(store)
        second = await self.claim(store)
        self.assertFalse(await store.release(BOX, first.linkEpoch, NOW))
        third = await self.claim(store)
        assert third.previous is not None
        self.assertEqual((third.previous.linkEpoch, third.previous.connected), (second.linkEpoch, True))

    async def test_releaseTwice(self) -> None:
        """
        The latest stays the latest once it is released.
        """
        store = await self.startStore()
        claim = await self.claim(store)
        for _ in range(2):
            self.assertTrue(await store.release(BOX, claim.linkEpoch, NOW))
        self.assertFalse(await store.release(OTHER, claim.linkEpoch, NOW))

    async def test_marksBeforeAClaim(self) -> None:
        """
        Marks need no claim, and make nobody an owner.
        """
        store = await self.startStore()
        await store.commitMarks([])
        await store.commitMarks([MarkUpdate(BOX, 0, 0, 0)])
        self.assertEqual(await store.marks(BOX), (StreamMark(0, 0, 0),))
        self.assertFalse(await store.release(BOX, 0, NOW))
        self.assertEqual(await self.claim(store), Claim(NOW - EPOCH_2010_MS, None, (StreamMark(0, 0, 0),), None))

    async def test_manyMarksAtOnce(self) -> None:
        """
        Calls that do not wait for each other merge to what they would one after the other.
        """
        store = await self.startStore()
        calls = [store.commitMarks([MarkUpdate(BOX, n % 4, n * 37 % 101, n * 53 % 97)]) for n in range(100)]
        await gatherResults(calls)
        wanted = [
            StreamMark(stream, max(n * 37 % 101 for n in numbers), max(n * 53 % 97 for n in numbers))
            for stream, numbers in ((stream, range(stream, 100, 4)) for stream in range(4))
        ]
        self.assertEqual(list(await store.marks(BOX)), wanted)

    async def test_marksAreMergedByMaximum(self) -> None:
        """
        Of both numbers; whoever raises them, with a claim or without, over the whole range.
        """
        store = await self.startStore()
        top = 2**64 - 1
        await store.commitMarks([MarkUpdate(BOX, 7, 10, 100), MarkUpdate(OTHER, top, top, 5)])
        await store.commitMarks([MarkUpdate(BOX, 7, 8, 300)])
        await store.commitMarks([MarkUpdate(BOX, 7, 12, 200), MarkUpdate(BOX, 7, 11, 0)])
        self.assertEqual(await store.marks(BOX), (StreamMark(7, 12, 300),))
        self.assertEqual((await self.claim(store, OTHER)).marks, (StreamMark(top, top, 5),))
        await store.commitMarks([MarkUpdate(OTHER, top, 2**63, 6)])
        self.assertEqual(await store.marks(OTHER), (StreamMark(top, top, 6),))

    async def test_fourStreamsAreKept(self) -> None:
        """
        Those raised last, in the order of their raising.
        """
        store = await self.startStore()
        for stream in (1, 2, 3, 4, 1, 5):
            await store.commitMarks([MarkUpdate(BOX, stream, stream, 0)])
        await store.commitMarks([MarkUpdate(OTHER, 9, 9, 0)])
        self.assertEqual([mark.stream for mark in await store.marks(BOX)], [3, 4, 1, 5])
        await store.commitMarks([MarkUpdate(BOX, stream, 1, 0) for stream in (6, 3, 7)])
        self.assertEqual([mark.stream for mark in await store.marks(BOX)], [5, 6, 3, 7])

    async def test_mqttSessionIsKept(self) -> None:
        """
        With order and QoS of its subscriptions, until a clean claim, which leaves the marks alone.
        """
        store = await self.startStore()
        session = MqttSession((("#", 1), ("boxes/ünï/index", 0)), (1, 65_535))
        first = await self.claim(store)
        self.assertTrue(await store.saveMqtt(BOX, first.linkEpoch, session))
        await store.commitMarks([MarkUpdate(BOX, 7, 10, 100)])
        second = await self.claim(store)
        self.assertEqual(second.mqtt, session)
        clean = await self.claim(store, clean=True)
        self.assertEqual((clean.mqtt, clean.marks), (None, (StreamMark(7, 10, 100),)))
        self.assertIsNone((await self.claim(store)).mqtt)

    async def test_mqttSessionCanBeForgotten(self) -> None:
        """
        L{None} forgets it; an empty one is one.
        """
        store = await self.startStore()
        first = await self.claim(store)
        self.assertTrue(await store.saveMqtt(BOX, first.linkEpoch, MqttSession()))
        second = await self.claim(store)
        self.assertEqual(second.mqtt, MqttSession())
        self.assertTrue(await store.saveMqtt(BOX, second.linkEpoch, None))
        self.assertIsNone((await self.claim(store)).mqtt)

    async def test_mqttSessionIsFenced(self) -> None:
        """
        A link that was taken over cannot write it.
        """
        store = await self.startStore()
        first = await self.claim(store)
        second = await self.claim(store)
        self.assertFalse(await store.saveMqtt(BOX, first.linkEpoch, MqttSession((("i", 0),))))
        self.assertFalse(await store.saveMqtt(OTHER, 1, MqttSession()))
        self.assertTrue(await store.saveMqtt(BOX, second.linkEpoch, MqttSession()))
        self.assertTrue(await store.release(BOX, second.linkEpoch, NOW))
        self.assertTrue(await store.saveMqtt(BOX, second.linkEpoch, MqttSession((("i", 0),))))
        self.assertEqual((await self.claim(store)).mqtt, MqttSession((("i", 0),)))

    async def test_workersAreTheirInstances(self) -> None:
        """
        No two instances share a number; a new incarnation of one has the number of the old one.
        """
        store = await self.startStore()
        numbers = [await store.leaseWorker(f"host-{n}@1") for n in range(10)]
        self.assertEqual(len(set(numbers)), 10)
        self.assertTrue(all(0 <= number < 16_384 for number in numbers))
        self.assertEqual(await store.leaseWorker("host-3@2"), numbers[3])
        self.assertEqual(await store.leaseWorker("host-3@2"), numbers[3])
        self.assertNotIn(await store.leaseWorker("with@sign@1"), numbers)


class DurableSessionStoreContractMixin(SessionStoreContractMixin):
    """
    More, of stores whose data outlives the object.
    """

    async def test_survivesAStop(self) -> None:
        """
        What was handed over before the stop is there for the next one.
        """
        store = await self.makeStore()
        await store.start()
        claim = await self.claim(store)
        store.commitMarks([MarkUpdate(BOX, 7, 10, 100)])
        store.saveMqtt(BOX, claim.linkEpoch, MqttSession((("i", 1),)))
        await store.stop()
        again = await self.claim(await self.startStore())
        self.assertEqual(again.marks, (StreamMark(7, 10, 100),))
        self.assertEqual(again.mqtt, MqttSession((("i", 1),)))
        self.assertEqual(again.previous, Owner("a@1", claim.linkEpoch, True))

    async def test_twoAtOnce(self) -> None:
        """
        Two processes on one store see each other's claims and marks.
        """
        one, other = await self.startStore(), await self.startStore()
        first = await self.claim(one, incarnation="a@1")
        second = await self.claim(other, incarnation="b@1")
        self.assertEqual(second.previous, Owner("a@1", first.linkEpoch, True))
        await one.commitMarks([MarkUpdate(BOX, 7, 10, 100)])
        await other.commitMarks([MarkUpdate(BOX, 7, 9, 200)])
        self.assertEqual(await one.marks(BOX), (StreamMark(7, 10, 200),))
        self.assertNotEqual(await one.leaseWorker("a@1"), await other.leaseWorker("b@1"))
