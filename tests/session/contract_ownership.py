"""
What every L{ISessionStore} must do with the links of boxes, their marks and their MQTT sessions.
"""

from __future__ import annotations

from twisted.internet.defer import gatherResults

from binaryserver.errors import StoreUnavailable
from binaryserver.model import (
    EPOCH_2010_MS,
    BoxKey,
    Claim,
    LinkState,
    MarkUpdate,
    MqttSession,
    Owner,
    StreamMark,
)
from tests.session.contract_base import BOX, NOW, OTHER, ContractBase, messageFor


class OwnershipContractMixin(ContractBase):
    """
    Of claims, releases, marks and MQTT sessions.
    """

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
        self.assertEqual(second.previous, Owner("a@1", first.linkEpoch, True, NOW))
        self.assertTrue(await store.release(BOX, second.linkEpoch, NOW))
        third = await self.claim(store, incarnation="a@1")
        self.assertEqual(third.previous, Owner("b@7", second.linkEpoch, False, NOW))
        fourth = await self.claim(store, incarnation="a@1")
        self.assertEqual(fourth.previous, Owner("a@1", third.linkEpoch, True, NOW))

    async def test_sameAttempt(self) -> None:
        """
        Who asks again for want of an answer has the same epoch, and the same previous owner; nothing else changes.
        """
        store = await self.startStore()
        nobody = await self.claim(store, attempt="one")
        self.assertEqual(await self.claim(store, attempt="one", nowMs=NOW + 5), nobody)
        first = await self.listen(store)
        second = await self.claim(store, incarnation="b@1", nowMs=NOW + 1000, attempt="two")
        session = MqttSession((("d", 1),))
        await store.leaseWorker("b@1")
        await store.saveMqtt(BOX, second.linkEpoch, session, True)
        await store.commitMarks([MarkUpdate(BOX, 7, 10, 100)])
        again = await self.claim(store, incarnation="b@1", nowMs=NOW + 2000, clean=True, attempt="two")
        self.assertEqual(again, Claim(second.linkEpoch, second.previous, (StreamMark(7, 10, 100),), session))
        self.assertEqual(again.previous, Owner("a@1", first, True, NOW))
        self.assertEqual(await self.listenerOf(store), "b@1")
        third = await self.claim(store, nowMs=NOW, attempt="three")
        self.assertEqual(third.previous, Owner("b@1", second.linkEpoch, True, NOW + 1000))

    async def test_earlierAttempt(self) -> None:
        """
        An attempt that is not that of the latest claim is another claim: others have had the box meanwhile.
        """
        store = await self.startStore()
        epochs = [(await self.claim(store, attempt=attempt)).linkEpoch for attempt in ("one", "two", "one")]
        self.assertEqual(epochs, [epochs[0], epochs[0] + 1, epochs[0] + 2])
        (orphan,) = await store.adopt("a@1", "b@1", NOW, 10, "x")
        again = await self.claim(store, attempt="one")
        self.assertEqual(again.previous and again.previous[:3], ("b@1", orphan.linkEpoch, True))
        await store.restore("c@1", [LinkState(BOX, again.linkEpoch + 9, "md30", "192.0.2.1", NOW, (), None, False)])
        again = await self.claim(store, attempt="one")
        self.assertEqual(again.previous and again.previous[:2], ("c@1", again.linkEpoch - 1))

    async def test_claimOfTheDead(self) -> None:
        """
        Who gave its lease back, was declared dead or has a newer incarnation cannot claim, and changes nothing; also
        not with an attempt that it made before. Who was revived can, and so can who was never heard of.
        """
        store = await self.startStore()
        for name in ("resigned@1", "declared@1", "old@1"):
            await store.leaseWorker(name)
        await self.elapse(0.2)
        await store.leaseWorker("old@2")
        await store.leaseWorker("alive@1")
        await store.resign("resigned@1")
        await self.claim(store, OTHER, "declared@1", attempt="made")
        await store.bury(150)
        owner = await self.claim(store, BOX, "alive@1")
        await store.saveMqtt(BOX, owner.linkEpoch, MqttSession((("d", 1),)), True)
        for name in ("resigned@1", "declared@1", "old@1", "old@0"):
            error = await self.refusalOf(self.claim(store, BOX, name, clean=True, attempt="late"))
            self.assertIsNot(type(error), StoreUnavailable)
            self.assertIn(name, str(error))
            await self.refusalOf(self.claim(store, BoxKey("acme", "new"), name))
        await self.refusalOf(self.claim(store, OTHER, "declared@1", attempt="made"))
        self.assertEqual((await self.listenerOf(store), await store.accounts("new")), ("alive@1", ()))
        await store.leaseWorker("declared@1")
        claim = await self.claim(store, BOX, "declared@1", attempt="late")
        self.assertEqual(claim.previous, Owner("alive@1", owner.linkEpoch, True, NOW))
        self.assertEqual((claim.linkEpoch, claim.mqtt), (owner.linkEpoch + 1, MqttSession((("d", 1),))))
        unknown = await self.claim(store, BOX, "never heard of@1")
        self.assertEqual(unknown.linkEpoch, claim.linkEpoch + 1)

    async def test_seenAt(self) -> None:
        """
        When the link was claimed; once it is released, when it ended. What was not the latest changes nothing.
        """
        store = await self.startStore()
        first = await self.claim(store, nowMs=NOW)
        second = await self.claim(store, nowMs=NOW + 1000)
        self.assertEqual(second.previous, Owner("a@1", first.linkEpoch, True, NOW))
        self.assertFalse(await store.release(BOX, first.linkEpoch, NOW + 2000))
        self.assertTrue(await store.release(BOX, second.linkEpoch, NOW + 3000))
        third = await self.claim(store, nowMs=NOW + 9000)
        self.assertEqual(third.previous, Owner("a@1", second.linkEpoch, False, NOW + 3000))

    async def test_claimDoesNotListen(self) -> None:
        """
        A new link listens once it says so, whatever the one before did.
        """
        store = await self.startStore()
        await self.listen(store)
        self.assertEqual(await self.listenerOf(store), "a@1")
        claim = await self.claim(store)
        self.assertEqual(await self.listenerOf(store), "")
        self.assertTrue(await store.saveMqtt(BOX, claim.linkEpoch, None, True))
        self.assertEqual(await self.listenerOf(store), "a@1")

    async def test_listensUntilItDoesNot(self) -> None:
        """
        An unsubscription ends it, and so does a release; another box's link, or an old one's, changes nothing.
        """
        store = await self.startStore()
        old = await self.listen(store)
        epoch = await self.listen(store)
        self.assertFalse(await store.saveMqtt(BOX, old, None, False))
        self.assertFalse(await store.release(BOX, old, NOW))
        self.assertEqual((await self.listenerOf(store), await self.listenerOf(store, OTHER)), ("a@1", ""))
        self.assertTrue(await store.saveMqtt(BOX, epoch, MqttSession(), False))
        self.assertEqual(await self.listenerOf(store), "")
        self.assertTrue(await store.saveMqtt(BOX, epoch, MqttSession(), True))
        self.assertEqual(await self.listenerOf(store), "a@1")
        self.assertTrue(await store.release(BOX, epoch, NOW))
        self.assertEqual(await self.listenerOf(store), "")
        self.assertTrue(await store.saveMqtt(BOX, epoch, MqttSession(), True))
        self.assertEqual(await self.listenerOf(store), "")

    async def test_accounts(self) -> None:
        """
        Those under which a box of that asset was ever claimed, in order; marks and mail do not claim.
        """
        store = await self.startStore()
        self.assertEqual(await store.accounts("1"), ())
        for account in ("zeta", "acme", "ünï", "Acme", "acme"):
            claim = await self.claim(store, BoxKey(account, "1"))
        await self.claim(store, BoxKey("beta", "2"))
        await self.claim(store, BoxKey("1", "12"))
        await store.commitMarks([MarkUpdate(BoxKey("marked", "1"), 1, 1, 1)])
        await self.put(store, messageFor(box=BoxKey("mailed", "1")))
        await store.release(BoxKey("acme", "1"), claim.linkEpoch, NOW)
        self.assertEqual(await store.accounts("1"), ("Acme", "acme", "zeta", "ünï"))
        self.assertEqual(await store.accounts("2"), ("beta",))

    async def test_manyClaimsAtOnce(self) -> None:
        """
        Each gets an epoch of its own, and each but the first is told of another one before it.
        """
        store = await self.startStore()
        claims = await gatherResults(
            [store.claim(BOX, f"a@{n}", "md30", "192.0.2.1", NOW, False, str(n)) for n in range(20)]
        )
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
        self.assertTrue(await store.saveMqtt(BOX, first.linkEpoch, session, False))
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
        self.assertTrue(await store.saveMqtt(BOX, first.linkEpoch, MqttSession(), False))
        second = await self.claim(store)
        self.assertEqual(second.mqtt, MqttSession())
        self.assertTrue(await store.saveMqtt(BOX, second.linkEpoch, None, False))
        self.assertIsNone((await self.claim(store)).mqtt)

    async def test_mqttSessionIsFenced(self) -> None:
        """
        A link that was taken over cannot write it.
        """
        store = await self.startStore()
        first = await self.claim(store)
        second = await self.claim(store)
        self.assertFalse(await store.saveMqtt(BOX, first.linkEpoch, MqttSession((("i", 0),)), False))
        self.assertFalse(await store.saveMqtt(OTHER, 1, MqttSession(), False))
        self.assertTrue(await store.saveMqtt(BOX, second.linkEpoch, MqttSession(), False))
        self.assertTrue(await store.release(BOX, second.linkEpoch, NOW))
        self.assertTrue(await store.saveMqtt(BOX, second.linkEpoch, MqttSession((("i", 0),)), False))
        self.assertEqual((await self.claim(store)).mqtt, MqttSession((("i", 0),)))
