"""
What every L{ISessionStore} must do when boxes are to be forgotten.
"""

from __future__ import annotations

from binaryserver.interfaces import ISessionStore
from binaryserver.model import (
    EPOCH_2010_MS,
    REMEMBERED_MS,
    BoxKey,
    Claim,
    Erased,
    FingerprintUpdate,
    LinkState,
    MarkUpdate,
    MqttSession,
    Progress,
    Put,
    StreamMark,
    Take,
)
from tests.session.contract_base import BOX, NOW, OTHER, ContractBase, idsOf, messageFor
from tests.session.contract_fingerprints import packed

DAY = 86_400_000

NOTHING = Erased(False, False, 0, 0, 0)


class _Steps(ContractBase):
    """
    What the tests share.
    """

    async def fill(self, store: ISessionStore, box: BoxKey = BOX) -> int:
        """
        Have a store keep everything that can be of a box, which was connected until L{NOW}, and give its epoch.
        """
        epoch = await self.listen(store, box)
        await store.saveMqtt(box, epoch, MqttSession((("d", 1),), (7,)), True)
        await store.commitMarks([MarkUpdate(box, 7, 10, 100), MarkUpdate(box, 8, 1, 1)])
        await store.commitFingerprints([FingerprintUpdate(box, packed([1, 2, 3]))], 1024)
        await self.put(store, *(messageFor(name, box) for name in ("m1", "m2", "m3")))
        await self.put(store, messageFor("m4", box, expiresAt=NOW))
        await store.progressMessages([Progress(box, "m1", NOW), Progress(box, "m2", NOW)])
        await store.removeMessages([(box, "m1")])
        await store.release(box, epoch, NOW)
        return epoch

    async def assertGone(self, store: ISessionStore, epoch: int, box: BoxKey = BOX) -> None:
        """
        Nothing is known of a box but its last epoch.
        """
        self.assertEqual(await store.marks(box), ())
        self.assertEqual(await store.fingerprints(box), b"")
        self.assertEqual(await store.mailbox(box), [])
        self.assertEqual(await store.accounts(box.asset), ())
        self.assertEqual(await store.takeMessages([Take(box, epoch, 0, 9)], NOW), [None])
        self.assertEqual(await store.dueMessages(NOW + 3 * REMEMBERED_MS, 100), [])
        self.assertFalse(await store.release(box, epoch, NOW))
        self.assertFalse(await store.saveMqtt(box, epoch, MqttSession(), True))
        self.assertEqual(await store.erase(box), NOTHING)


class EraseContractMixin(_Steps):
    """
    Of a box that is to be forgotten.
    """

    async def test_unknownBox(self) -> None:
        """
        There is nothing to remove, and nothing is left of the attempt.
        """
        store = await self.startStore()
        self.assertEqual(await store.erase(BOX), NOTHING)
        self.assertEqual(await self.claim(store), Claim(NOW - EPOCH_2010_MS, None, (), None))

    async def test_erase(self) -> None:
        """
        Everything goes, and is counted; what is known of another box stays. The next claim is of a new box, with the
        next epoch, however far the clock is behind.
        """
        store = await self.startStore()
        epoch = await self.fill(store)
        other = await self.fill(store, OTHER)
        self.assertEqual(await store.erase(BOX), Erased(True, False, 3, 2, 3))
        self.assertEqual(idsOf(await store.mailbox(OTHER)), ["m2", "m3", "m4"])
        self.assertEqual(len(await store.dueMessages(NOW + 3 * REMEMBERED_MS, 100)), 3)
        await self.assertGone(store, epoch)
        claim = await self.claim(store, nowMs=NOW - 5 * DAY)
        self.assertEqual(claim, Claim(epoch + 1, None, (), None))
        self.assertEqual(await store.accounts(BOX.asset), (BOX.account,))
        again = await self.claim(store, OTHER)
        self.assertEqual((again.linkEpoch, again.previous and again.previous.linkEpoch), (other + 1, other))
        self.assertEqual((again.marks, again.mqtt), (await store.marks(OTHER), MqttSession((("d", 1),), (7,))))
        self.assertEqual(await store.fingerprints(OTHER), packed([1, 2, 3]))

    async def test_connectedStays(self) -> None:
        """
        Whoever holds it; also when that one is dead, until it was adopted and released.
        """
        store = await self.startStore()
        claim = await self.claim(store)
        await store.commitMarks([MarkUpdate(BOX, 7, 10, 100)])
        await self.put(store, messageFor())
        connected = Erased(True, True, 0, 0, 0)
        self.assertEqual(await store.erase(BOX), connected)
        (orphan,) = await self.adopt(store)
        self.assertEqual(await store.erase(BOX), connected)
        self.assertEqual(await store.marks(BOX), (StreamMark(7, 10, 100),))
        self.assertEqual(len(await store.mailbox(BOX)), 1)
        self.assertFalse(await store.release(BOX, claim.linkEpoch, NOW))
        self.assertTrue(await store.release(BOX, orphan.linkEpoch, NOW))
        self.assertEqual(await store.erase(BOX), Erased(True, False, 1, 1, 0))
        self.assertEqual(await self.adopt(store, "b@1", "c@1"), [])
        await self.assertGone(store, orphan.linkEpoch)

    async def test_neverClaimed(self) -> None:
        """
        Marks, fingerprints or mail alone are something, too.
        """
        store = await self.startStore()
        boxes = [BoxKey("acme", name) for name in ("marked", "printed", "mailed", "finished")]
        await store.commitMarks([MarkUpdate(boxes[0], 7, 10, 100)])
        await store.commitFingerprints([FingerprintUpdate(boxes[1], packed([1]))], 1024)
        await self.put(store, messageFor(box=boxes[2]), messageFor(box=boxes[3], expiresAt=NOW))
        await store.removeMessages([(boxes[3], "m1")])
        self.assertEqual(
            [await store.erase(box) for box in boxes],
            [
                Erased(True, False, 0, 1, 0),
                Erased(True, False, 0, 0, 1),
                Erased(True, False, 1, 0, 0),
                Erased(True, False, 0, 0, 0),
            ],
        )
        for box in boxes:
            await self.assertGone(store, 0, box)
            self.assertEqual((await self.claim(store, box)).linkEpoch, NOW - EPOCH_2010_MS)

    async def test_comesAgain(self) -> None:
        """
        A box that was erased is one like any other when it comes again, and may be erased again: its ids and numbers of
        messages begin anew, its epochs do not.
        """
        store = await self.startStore()
        for turn in range(3):
            epoch = await self.fill(store)
            self.assertEqual(epoch, NOW - EPOCH_2010_MS + turn)
            self.assertEqual(await store.erase(BOX), Erased(True, False, 3, 2, 3))
        await self.listen(store)
        puts = await self.put(store, messageFor("m1"), messageFor("m2"))
        self.assertEqual([(put.isNew, put.entry and put.entry.sequence) for put in puts], [(True, 1), (True, 2)])
        self.assertEqual(idsOf(await self.take(store, NOW - EPOCH_2010_MS + 3)), ["m1", "m2"])

    async def test_dueAfterwards(self) -> None:
        """
        What was put again under the same id is due when it is due, once.
        """
        store = await self.startStore()
        for _ in range(2):
            await self.put(store, messageFor(noQueue=False))
            await store.erase(BOX)
        await self.put(store, messageFor())
        self.assertEqual(idsOf(await store.dueMessages(NOW + 60_000, 10)), ["m1"])
        self.assertEqual(await store.dueMessages(NOW + 60_001, 10), [])

    async def test_lateWrites(self) -> None:
        """
        What was under way makes nobody an owner: an answer is dropped, mail waits, marks and fingerprints stand there
        as of a box that never came, and go with the next erase.
        """
        store = await self.startStore()
        epoch = await self.fill(store)
        await store.erase(BOX)
        self.assertEqual(await store.progressMessages([Progress(BOX, "m3", NOW)]), [None])
        await store.removeMessages([(BOX, "m2")])
        await store.commitMarks([MarkUpdate(BOX, 7, 11, 100)])
        await store.commitFingerprints([FingerprintUpdate(BOX, packed([4]))], 1024)
        (put, refused) = await self.put(store, messageFor("m1"), messageFor("m5", noQueue=True))
        self.assertEqual((put.isNew, put.listener), (True, ""))
        self.assertEqual(refused.entry and refused.entry.final and refused.entry.final.reason, "BOX_AWAY")
        self.assertEqual(await store.accounts(BOX.asset), ())
        self.assertFalse(await store.release(BOX, epoch, NOW))
        self.assertEqual(await store.erase(BOX), Erased(True, False, 2, 1, 1))
        await self.assertGone(store, epoch)
        self.assertEqual((await self.claim(store, nowMs=NOW - DAY)).linkEpoch, epoch + 1)

    async def test_lateRestore(self) -> None:
        """
        A link that is written again is the box's only if its epoch is higher than the last one before the erase.
        """
        store = await self.startStore()
        epoch = await self.fill(store)
        await store.erase(BOX)
        for late in (epoch - 1, epoch):
            link = LinkState(BOX, late, "md30", "192.0.2.1", NOW, (), MqttSession(), True)
            self.assertEqual(await store.restore("a@1", [link]), [False])
        self.assertEqual((await store.accounts(BOX.asset), await self.listenerOf(store)), ((), ""))
        self.assertEqual(await store.restore("a@1", [link._replace(linkEpoch=epoch + 1)]), [True])
        self.assertEqual((await store.accounts(BOX.asset), await self.listenerOf(store)), ((BOX.account,), "a@1"))

    async def test_sameAttemptAfterwards(self) -> None:
        """
        An attempt from before is a claim like any other.
        """
        store = await self.startStore()
        first = await self.claim(store, attempt="one")
        await store.release(BOX, first.linkEpoch, NOW)
        await store.erase(BOX)
        self.assertEqual(await self.claim(store, attempt="one"), Claim(first.linkEpoch + 1, None, (), None))

    async def test_accountsOfOthers(self) -> None:
        """
        Other accounts' boxes of the same asset stay.
        """
        store = await self.startStore()
        for account in ("acme", "beta"):
            box = BoxKey(account, "a/b\\u002f")
            claim = await self.claim(store, box)
            await store.release(box, claim.linkEpoch, NOW)
        await store.erase(BoxKey("acme", "a/b\\u002f"))
        self.assertEqual(await store.accounts("a/b\\u002f"), ("beta",))


class PurgeContractMixin(_Steps):
    """
    Of boxes that were away for long.
    """

    async def away(self, store: ISessionStore, asset: str, seenMs: int, claimedMs: int = NOW) -> BoxKey:
        """
        A box with a mark, that was claimed and released then.
        """
        box = BoxKey("acme", asset)
        claim = await self.claim(store, box, nowMs=claimedMs)
        await store.commitMarks([MarkUpdate(box, 7, 10, 100)])
        await store.release(box, claim.linkEpoch, seenMs)
        return box

    async def test_nobody(self) -> None:
        """
        A store that knows no box.
        """
        self.assertEqual(await (await self.startStore()).purge(NOW, 10), 0)

    async def test_bySeen(self) -> None:
        """
        Those seen last before then; not those seen then or later, nor those that are connected.
        """
        store = await self.startStore()
        boxes = [await self.away(store, str(n), NOW + n) for n in range(4)]
        await self.claim(store, boxes[0], nowMs=NOW)
        self.assertEqual(await store.purge(NOW + 3, 10), 2)
        self.assertEqual([len(await store.marks(box)) for box in boxes], [1, 0, 0, 1])
        self.assertEqual(await store.accounts("1"), ())
        self.assertEqual(await store.purge(NOW + 3, 10), 0)

    async def test_limit(self) -> None:
        """
        So many at once, those that were away for longest first, and the rest with the next calls.
        """
        store = await self.startStore()
        boxes = [await self.away(store, str(n), NOW + n) for n in range(7)]
        for wanted, left in ((3, 4), (3, 1), (1, 0), (0, 0)):
            self.assertEqual(await store.purge(NOW + 9, 3), wanted)
            marked = [box for box in boxes if await store.marks(box)]
            self.assertEqual(len(marked), left)

    async def test_mailKeeps(self) -> None:
        """
        A box with mail stays, however many of them there are before those that go, until nothing is known of the mail.
        """
        store = await self.startStore()
        mailed = [await self.away(store, str(n), NOW) for n in range(5)]
        gone = await self.away(store, "gone", NOW + 1)
        await self.put(store, *(messageFor(box=box) for box in mailed))
        self.assertEqual(await store.purge(NOW + DAY, 3), 1)
        self.assertEqual((await store.marks(gone), len(await store.marks(mailed[0]))), ((), 1))
        await store.dueMessages(NOW + 60_000, 10)
        self.assertEqual(await store.purge(NOW + DAY, 3), 0)
        self.assertEqual([put.isNew for put in await self.put(store, messageFor(box=mailed[0]))], [False])

    async def test_rememberedKeeps(self) -> None:
        """
        A box stays as long as the id of a finished message is remembered: a copy that comes late is none then.
        """
        store = await self.startStore()
        box = await self.away(store, "1", NOW)
        await self.put(store, messageFor(box=box, expiresAt=NOW))
        await store.removeMessages([(box, "m1")])
        self.assertEqual(await store.purge(NOW + DAY, 3), 0)
        self.assertEqual(await self.put(store, messageFor(box=box)), [Put(None, False, "")])

    async def test_epochStays(self) -> None:
        """
        The last epoch of a box that is purged goes once no clock that is right to the day gives a lower one.
        """
        store = await self.startStore()
        box = await self.away(store, "1", NOW + 5)
        epoch = NOW - EPOCH_2010_MS
        self.assertEqual(await store.purge(NOW + 6, 10), 1)
        self.assertEqual(await store.purge(NOW + DAY, 10), 0)
        self.assertEqual((await self.claim(store, box, nowMs=NOW - DAY)).linkEpoch, epoch + 1)
        await store.release(box, epoch + 1, NOW + 5)
        await store.erase(box)
        # The last one is that of 1 ms later.
        self.assertEqual(await store.purge(NOW + DAY + 1, 10), 0)
        self.assertEqual(await store.purge(NOW + DAY + 2, 10), 1)
        self.assertEqual((await self.claim(store, box, nowMs=NOW - DAY)).linkEpoch, epoch - DAY)

    async def test_epochOfLongAgo(self) -> None:
        """
        Where it is that old already, it goes at once.
        """
        store = await self.startStore()
        box = await self.away(store, "1", NOW + 3 * DAY)
        self.assertEqual(await store.purge(NOW + 4 * DAY, 10), 1)
        self.assertEqual(await store.purge(NOW + 9 * DAY, 10), 0)
        self.assertEqual((await self.claim(store, box, nowMs=NOW - DAY)).linkEpoch, NOW - DAY - EPOCH_2010_MS)

    async def test_strays(self) -> None:
        """
        What was written of a box that has no owner goes as if it was seen when that was first written, by the store's
        clock.
        """
        store = await self.startStore()
        marked, printed = BoxKey("acme", "marked"), BoxKey("acme", "printed")
        await store.commitMarks([MarkUpdate(marked, 7, 10, 100)])
        await store.commitFingerprints([FingerprintUpdate(printed, packed([1]))], 1024)
        self.assertEqual(await store.purge(NOW - DAY * 36_500, 10), 0)
        self.assertEqual(await store.purge(NOW + DAY * 36_500, 10), 2)
        self.assertEqual((await store.marks(marked), await store.fingerprints(printed)), ((), b""))

    async def test_claimedAgain(self) -> None:
        """
        What was written before a box came does not count once it did.
        """
        store = await self.startStore()
        await store.commitMarks([MarkUpdate(BOX, 7, 10, 100)])
        claim = await self.claim(store)
        self.assertEqual(await store.purge(NOW + DAY * 36_500, 10), 0)
        await store.release(BOX, claim.linkEpoch, NOW + DAY)
        self.assertEqual(await store.purge(NOW + DAY, 10), 0)
        self.assertEqual(await store.purge(NOW + DAY + 1, 10), 1)
