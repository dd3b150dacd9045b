"""
What every L{ISessionStore} must do with links that outlive what it knows of them, or whoever held them.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import gatherResults

from binaryserver.interfaces import ISessionStore
from binaryserver.model import BoxKey, LinkState, MarkUpdate, MqttSession, Orphan, Owner, StreamMark
from tests.session.contract_base import BOX, MAX_UINT64, NOW, OTHER, ContractBase


def linkState(
    epoch: int,
    box: BoxKey = BOX,
    marks: tuple[StreamMark, ...] = (),
    mqtt: MqttSession | None = None,
    isListening: bool = False,
) -> LinkState:
    """
    A link with what a test does not care about.
    """
    return LinkState(box, epoch, "md30", "192.0.2.1", NOW, marks, mqtt, isListening)


class RestoreContractMixin(ContractBase):
    """
    Of links that are written again.
    """

    async def restore(self, store: ISessionStore, incarnation: str, *links: LinkState) -> Sequence[bool]:
        """
        Restore.
        """
        return await store.restore(incarnation, links)

    async def test_nothingKnown(self) -> None:
        """
        A store that lost its memory has it all again: owner, epoch, marks, MQTT session, and who listens.
        """
        store = await self.startStore()
        await store.leaseWorker("a@1")
        marks = (StreamMark(7, 10, 100), StreamMark(MAX_UINT64, MAX_UINT64, 5))
        mqtt = MqttSession((("#", 1),), (9,))
        links = [linkState(41, BOX, marks, mqtt, True), linkState(7, OTHER)]
        self.assertEqual(await self.restore(store, "a@1", *links), [True, True])
        self.assertEqual((await self.listenerOf(store), await self.listenerOf(store, OTHER)), ("a@1", ""))
        self.assertEqual(await store.accounts(BOX.asset), (BOX.account,))
        claim = await store.claim(BOX, "b@1", "md30", "192.0.2.1", 0, False, "x")
        assert claim.previous is not None
        self.assertEqual(claim.previous[:3], ("a@1", 41, True))
        self.assertEqual((claim.linkEpoch, claim.marks, claim.mqtt), (42, marks, mqtt))
        self.assertTrue(await store.release(OTHER, 7, NOW))

    async def test_nothingToRestore(self) -> None:
        """
        No links, no answers.
        """
        self.assertEqual(await self.restore(await self.startStore(), "a@1"), [])

    async def test_again(self) -> None:
        """
        An owner may say again what is so; also with what has changed since.
        """
        store = await self.startStore()
        epoch = await self.listen(store)
        for mqtt, isListening in ((MqttSession((("d", 1),)), True), (None, False), (MqttSession(), True)):
            link = linkState(epoch, mqtt=mqtt, isListening=isListening)
            self.assertEqual(await self.restore(store, "a@1", link), [True])
            self.assertEqual(await self.listenerOf(store), "a@1" if isListening else "")
        self.assertEqual((await self.claim(store)).mqtt, MqttSession())

    async def test_higherEpoch(self) -> None:
        """
        What the store has of a later link stands; the marks are merged all the same.
        """
        store = await self.startStore()
        old = await self.listen(store, incarnation="a@1")
        new = await self.listen(store, incarnation="b@1")
        await store.saveMqtt(BOX, new, MqttSession((("new", 1),)), True)
        await store.commitMarks([MarkUpdate(BOX, 7, 10, 100)])
        link = linkState(old, BOX, (StreamMark(7, 12, 50), StreamMark(8, 1, 1)), MqttSession(), False)
        both = await self.restore(store, "a@1", link, linkState(5, OTHER))
        self.assertEqual(both, [False, True])
        self.assertEqual(await self.listenerOf(store), "b@1")
        claim = await self.claim(store)
        assert claim.previous is not None
        self.assertEqual(claim.previous[:3], ("b@1", new, True))
        self.assertEqual(claim.marks, (StreamMark(7, 12, 100), StreamMark(8, 1, 1)))
        self.assertEqual(claim.mqtt, MqttSession((("new", 1),)))

    async def test_lowerEpoch(self) -> None:
        """
        What the store has of an earlier link does not: the later one is the box's.
        """
        store = await self.startStore()
        epoch = await self.listen(store, incarnation="b@1")
        self.assertEqual(await self.restore(store, "a@1", linkState(epoch + 5)), [True])
        self.assertFalse(await store.release(BOX, epoch, NOW))
        self.assertTrue(await store.release(BOX, epoch + 5, NOW))

    async def test_sameEpochOtherOwner(self) -> None:
        """
        Whoever has it in the store keeps it; the marks are merged all the same.
        """
        store = await self.startStore()
        epoch = await self.listen(store, incarnation="b@1")
        link = linkState(epoch, BOX, (StreamMark(7, 12, 50),), MqttSession(), False)
        self.assertEqual(await self.restore(store, "a@1", link), [False])
        self.assertEqual(await self.listenerOf(store), "b@1")
        self.assertEqual(await store.marks(BOX), (StreamMark(7, 12, 50),))
        self.assertIsNone((await self.claim(store)).mqtt)

    async def test_adoptedMeanwhile(self) -> None:
        """
        Who was taken for dead learns which of its boxes are no longer its own.
        """
        store = await self.startStore()
        first = await self.listen(store, BOX, "a@1")
        second = await self.listen(store, OTHER, "a@1")
        await store.resign("a@1")
        await self.adopt(store, limit=1)
        await store.leaseWorker("a@1")
        kept = await self.restore(store, "a@1", linkState(first, BOX), linkState(second, OTHER))
        self.assertEqual(sorted(kept), [False, True])


class AdoptContractMixin(ContractBase):
    """
    Of boxes whose instance died.
    """

    async def claimMany(self, store: ISessionStore, count: int, incarnation: str = "a@1") -> dict[BoxKey, int]:
        """
        Boxes with their link epochs.
        """
        boxes = [BoxKey("acme", str(number)) for number in range(count)]
        claims = await gatherResults(
            [store.claim(box, incarnation, "md21", f"192.0.2.{box.asset}", NOW, False, "x") for box in boxes]
        )
        return {box: claim.linkEpoch for box, claim in zip(boxes, claims, strict=True)}

    async def test_adopt(self) -> None:
        """
        With the next epoch, another owner, still connected, not listening; what else is known of the box stays.
        """
        store = await self.startStore()
        lost = await self.listen(store, BOX, "a@1")
        await store.saveMqtt(BOX, lost, MqttSession((("d", 1),)), True)
        await store.commitMarks([MarkUpdate(BOX, 7, 10, 100)])
        await store.leaseWorker("b@1")
        await store.leaseWorker("a@2")
        (orphan,) = await self.adopt(store, nowMs=NOW + 1000)
        self.assertEqual(orphan, Orphan(BOX, lost + 1000, lost, "md30", "192.0.2.1", None))
        self.assertEqual(await self.listenerOf(store), "")
        self.assertFalse(await store.saveMqtt(BOX, lost, None, True))
        self.assertFalse(await store.release(BOX, lost, NOW))
        claim = await self.claim(store, incarnation="a@2", nowMs=NOW)
        assert claim.previous is not None
        self.assertEqual(claim.previous[:3], ("b@1", orphan.linkEpoch, True))
        self.assertEqual((claim.linkEpoch, claim.marks), (orphan.linkEpoch + 1, (StreamMark(7, 10, 100),)))
        self.assertEqual(claim.mqtt, MqttSession((("d", 1),)))

    async def test_adoptedIsReleased(self) -> None:
        """
        Once it was told that it is gone, nobody adopts it any more.
        """
        store = await self.startStore()
        await self.claimMany(store, 1)
        (orphan,) = await self.adopt(store)
        self.assertTrue(await store.release(orphan.box, orphan.linkEpoch, NOW))
        self.assertEqual(await self.adopt(store, "b@1", "c@1"), [])
        self.assertEqual(await self.adopt(store, "a@1", "c@1"), [])

    async def test_onlyWhatIsConnected(self) -> None:
        """
        Not what was released, nor what has another owner.
        """
        store = await self.startStore()
        epochs = await self.claimMany(store, 4)
        boxes = list(epochs)
        await store.release(boxes[0], epochs[boxes[0]], NOW)
        await self.claim(store, boxes[1], "b@1")
        orphans = await self.adopt(store)
        self.assertEqual(sorted(orphan.box for orphan in orphans), boxes[2:])
        self.assertEqual({orphan.peer for orphan in orphans}, {"192.0.2.2", "192.0.2.3"})
        self.assertEqual({orphan.protocol for orphan in orphans}, {"md21"})

    async def test_notOfTheLiving(self) -> None:
        """
        Who is alive keeps its boxes; so does who is alive again, until it is dead again.
        """
        store = await self.startStore()
        await store.leaseWorker("a@1")
        (box,) = await self.claimMany(store, 1)
        self.assertEqual(await self.adopt(store), [])
        await store.resign("a@1")
        await store.leaseWorker("a@1")
        self.assertEqual(await self.adopt(store), [])
        await store.resign("a@1")
        self.assertEqual([orphan.box for orphan in await self.adopt(store)], [box])

    async def test_adoptLimit(self) -> None:
        """
        No more than that at once; the next call goes on, and the last gives none.
        """
        store = await self.startStore()
        epochs = await self.claimMany(store, 7)
        told: list[Orphan] = []
        for wanted in (3, 3, 1, 0):
            orphans = await self.adopt(store, limit=3)
            self.assertEqual(len(orphans), wanted)
            told += orphans
        self.assertEqual({orphan.box: orphan.lostEpoch for orphan in told}, epochs)
        self.assertTrue(all(orphan.linkEpoch == orphan.lostEpoch + 1 for orphan in told))

    async def test_adopterDies(self) -> None:
        """
        Another adopts from it what it has not told, and L{ISessionStore.bury} says that there is something.
        """
        store = await self.startStore()
        await self.claimMany(store, 2)
        first = await self.adopt(store)
        await store.leaseWorker("b@1")
        await store.leaseWorker("b@2")
        self.assertEqual(await store.bury(60_000), ["b@1"])
        await store.release(first[0].box, first[0].linkEpoch, NOW)
        (second,) = await self.adopt(store, "b@1", "c@1")
        self.assertEqual((second.box, second.lostEpoch), (first[1].box, first[1].linkEpoch))
        self.assertEqual(second.linkEpoch, first[1].linkEpoch + 1)

    async def test_manyAdoptAtOnce(self) -> None:
        """
        Each box is given to one of them.
        """
        store = await self.startStore()
        epochs = await self.claimMany(store, 40)
        answers = await gatherResults([store.adopt("a@1", f"{name}@1", NOW, 7, name) for name in "bcdefghi"])
        told = [orphan.box for orphans in answers for orphan in orphans]
        self.assertEqual(sorted(told), sorted(epochs))

    async def test_previous(self) -> None:
        """
        Who held the box before the dead one claimed it, also after the adopter died; L{None} where nobody did, or where
        the dead one wrote it again.
        """
        store = await self.startStore()
        first = await self.claim(store, BOX, "z@1")
        await self.claim(store, BOX, "a@1")
        await self.claim(store, OTHER, "a@1")
        previous = Owner("z@1", first.linkEpoch, True, NOW)
        told = await self.adopt(store)
        self.assertEqual({one.box: one.previous for one in told}, {BOX: previous, OTHER: None})
        second = await self.adopt(store, "b@1", "c@1")
        self.assertEqual({one.box: one.previous for one in second}, {BOX: previous, OTHER: None})
        (epoch,) = [one.linkEpoch for one in second if one.box == BOX]
        self.assertEqual(await store.restore("d@1", [linkState(epoch + 1)]), [True])
        (third,) = await self.adopt(store, "d@1", "e@1")
        self.assertIsNone(third.previous)

    async def test_previousWasReleased(self) -> None:
        """
        Who had given the box up before is told as such.
        """
        store = await self.startStore()
        first = await self.claim(store, BOX, "z@1")
        await store.release(BOX, first.linkEpoch, NOW + 5)
        await self.claim(store, BOX, "a@1")
        (orphan,) = await self.adopt(store)
        self.assertEqual(orphan.previous, Owner("z@1", first.linkEpoch, False, NOW + 5))

    async def test_adoptedAgain(self) -> None:
        """
        Whoever asks again for want of an answer has the same, and no more, as long as it has them; also when the dead
        one has none left, or lives.
        """
        store = await self.startStore()
        await self.claimMany(store, 5)
        first = sorted(await self.adopt(store, limit=3, attempt="one"))
        self.assertEqual(sorted(await self.adopt(store, nowMs=NOW + 5, limit=3, attempt="one")), first)
        rest = await self.adopt(store, attempt="two")
        self.assertEqual(len(rest), 2)
        await store.leaseWorker("a@1")
        self.assertEqual(sorted(await self.adopt(store, nowMs=NOW + 9, attempt="one")), first)
        self.assertEqual(sorted(await self.adopt(store, attempt="two")), sorted(rest))
        self.assertEqual(await self.adopt(store), [])

    async def test_notAdoptedAgain(self) -> None:
        """
        Not what was released, claimed, written again or adopted by another since, nor what is another adopter's.
        """
        store = await self.startStore()
        boxes = list(await self.claimMany(store, 5))
        told = {one.box: one for one in await self.adopt(store, attempt="one")}
        self.assertEqual(sorted(told), boxes)
        await store.release(boxes[0], told[boxes[0]].linkEpoch, NOW)
        await self.claim(store, boxes[1], "b@1")
        state = linkState(told[boxes[2]].linkEpoch, boxes[2])
        self.assertEqual(await store.restore("b@1", [state]), [True])
        self.assertEqual(await self.adopt(store, incarnation="c@1", attempt="one"), [])
        again = await self.adopt(store, attempt="one")
        self.assertEqual(sorted(again), [told[box] for box in boxes[3:]])
        self.assertEqual(len(await self.adopt(store, "b@1", "c@1")), 4)
        self.assertEqual(await self.adopt(store, attempt="one"), [])

    async def test_firstAfterAll(self) -> None:
        """
        An attempt that took nothing is a first one when it comes again.
        """
        store = await self.startStore()
        self.assertEqual(await self.adopt(store, attempt="one"), [])
        await self.claimMany(store, 2)
        self.assertEqual(len(await self.adopt(store, attempt="one")), 2)
