"""
What every L{ISessionStore} must do with what an account may: how many boxes are connected, and how much is drawn.
"""

from __future__ import annotations

from twisted.internet.defer import gatherResults

from binaryserver.errors import AccountFull, StoreUnavailable
from binaryserver.interfaces import ISessionStore
from binaryserver.model import DRAW_BURST, BoxKey, Draw, LinkState, MqttSession, Owner
from tests.session.contract_base import BOX, NOW, OTHER, ContractBase, messageFor

THIRD = BoxKey("acme", "box-3")

SLOW = 1e-6
"""A rate so low that nothing comes back during a test."""


class MostContractMixin(ContractBase):
    """
    Of claims where only so many boxes of an account may be connected.
    """

    async def full(self, store: ISessionStore, box: BoxKey = THIRD, most: int = 2, incarnation: str = "a@1") -> None:
        """
        See a claim refused.
        """
        error = await self.refusalOf(self.claim(store, box, incarnation, most=most))
        self.assertIsInstance(error, AccountFull)
        self.assertNotIsInstance(error, StoreUnavailable)
        self.assertIn(box.account, str(error))

    async def test_full(self) -> None:
        """
        As many as may be, and no more; of other accounts as many as theirs. A claim without a limit is never refused.
        """
        store = await self.startStore()
        await self.claim(store, BOX, most=2)
        await self.claim(store, OTHER, incarnation="b@1", most=2)
        await self.full(store)
        await self.full(store, most=1, incarnation="b@1")
        await self.claim(store, BoxKey("ac", "me/box-9"), most=1)
        await self.full(store, BoxKey("ac", "10"), most=1)
        await self.claim(store, THIRD, most=3)
        await self.claim(store, BoxKey("acme", "box-4"))
        await self.full(store, BoxKey("acme", "box-5"), most=4)

    async def test_refusalChangesNothing(self) -> None:
        """
        Of a box that was known, and of one that was not: a claim that is allowed finds it as it was.
        """
        store = await self.startStore()
        first = await self.claim(store, THIRD, nowMs=NOW)
        await store.saveMqtt(THIRD, first.linkEpoch, MqttSession((("d", 1),)), True)
        await store.release(THIRD, first.linkEpoch, NOW + 5)
        await self.claim(store, BOX)
        for box in (THIRD, OTHER):
            error = await self.refusalOf(self.claim(store, box, "b@1", NOW + 9, True, "refused", most=1))
            self.assertIsInstance(error, AccountFull)
        self.assertEqual(await store.accounts(OTHER.asset), ())
        claim = await self.claim(store, THIRD, "b@1", NOW, attempt="refused", most=2)
        self.assertEqual(claim.previous, Owner("a@1", first.linkEpoch, False, NOW + 5))
        self.assertEqual((claim.linkEpoch, claim.mqtt), (first.linkEpoch + 1, MqttSession((("d", 1),))))
        self.assertEqual(await store.release(OTHER, 0, NOW), False)

    async def test_takeoverWhereFull(self) -> None:
        """
        A box that is connected may be claimed from wherever, also by several, and counts once.
        """
        store = await self.startStore()
        await self.claim(store, BOX, most=2)
        await self.claim(store, OTHER, most=2)
        for incarnation in ("b@1", "c@1", "c@1"):
            await self.claim(store, BOX, incarnation, most=2)
        await self.claim(store, BOX, "a@1", most=1)
        await self.full(store)

    async def test_releaseMakesRoom(self) -> None:
        """
        Once, however often it is said, and only if it is of the latest link.
        """
        store = await self.startStore()
        old = await self.claim(store, BOX, most=2)
        claim = await self.claim(store, BOX, most=2)
        await self.claim(store, OTHER, most=2)
        await store.release(BOX, old.linkEpoch, NOW)
        await self.full(store)
        for _ in range(2):
            await store.release(BOX, claim.linkEpoch, NOW)
        await self.claim(store, THIRD, most=2)
        await self.full(store, BOX)

    async def test_sameAttemptWhereFull(self) -> None:
        """
        Who asks again for want of an answer is answered as before: also when others filled the account, or the box was
        released, meanwhile.
        """
        store = await self.startStore()
        claim = await self.claim(store, BOX, attempt="one", most=1)
        self.assertEqual(await self.claim(store, BOX, attempt="one", most=1), claim)
        await store.release(BOX, claim.linkEpoch, NOW)
        await self.claim(store, OTHER, most=1)
        self.assertEqual(await self.claim(store, BOX, attempt="one", most=1), claim)
        await self.full(store, BOX, most=1)

    async def test_deadWhereFull(self) -> None:
        """
        Of one that is dead no claim is taken, full or not: that is another failure.
        """
        store = await self.startStore()
        await store.leaseWorker("a@1")
        await store.leaseWorker("a@2")
        await self.claim(store, BOX, "b@1", most=1)
        error = await self.refusalOf(self.claim(store, OTHER, "a@1", most=1))
        self.assertNotIsInstance(error, AccountFull)

    async def test_deadBoxesCount(self) -> None:
        """
        Boxes of one that died count until they were adopted and released.
        """
        store = await self.startStore()
        await self.claim(store, BOX, most=1)
        (orphan,) = await self.adopt(store)
        await self.full(store, OTHER, most=1)
        await store.release(BOX, orphan.linkEpoch, NOW)
        await self.claim(store, OTHER, most=1)

    async def test_restoredCount(self) -> None:
        """
        What is written again counts, once; what is refused, because another has it, counts no more than before.
        """
        store = await self.startStore()
        link = LinkState(BOX, 7, "md30", "192.0.2.1", NOW, (), None, False)
        for _ in range(2):
            await store.restore("a@1", [link])
        await self.claim(store, OTHER, most=2)
        await store.restore("b@1", [link, link._replace(box=OTHER, linkEpoch=1)])
        await self.full(store)
        await store.release(BOX, 7, NOW)
        await store.restore("b@1", [link, link._replace(linkEpoch=6)])
        await self.claim(store, THIRD, most=2)
        await self.full(store, BOX)

    async def test_manyAtOnce(self) -> None:
        """
        However many ask at once, exactly as many as may be come in.
        """
        store = await self.startStore()
        answers: list[object] = []
        boxes = [BoxKey("acme", str(number)) for number in range(30)]
        claims = [
            store.claim(box, "a@1", "md30", "192.0.2.1", NOW, False, box.asset, 7).addBoth(answers.append)
            for box in boxes
        ]
        await gatherResults(claims)
        refused = [answer.check(AccountFull) for answer in answers if hasattr(answer, "check")]
        self.assertEqual((len(answers), refused), (30, [AccountFull] * 23))


class DrawContractMixin(ContractBase):
    """
    Of budgets.
    """

    async def draw(self, store: ISessionStore, wanted: float, rate: float = SLOW, kind: str = "messages") -> float:
        """
        Draw once.
        """
        (granted,) = await store.draw([Draw("acme", kind, wanted, rate)])
        return granted

    async def test_drawNothing(self) -> None:
        """
        No draws, no answers.
        """
        self.assertEqual(await (await self.startStore()).draw([]), [])

    async def test_burst(self) -> None:
        """
        A bucket is full at first, holds no more than that, and what was granted is spent; the last draw gets the rest.
        """
        store = await self.startStore()
        most = SLOW * DRAW_BURST
        self.assertEqual(await self.draw(store, most / 4), most / 4)
        self.assertApproximates(await self.draw(store, 5.0), most * 3 / 4, most / 5)
        self.assertLess(await self.draw(store, 5.0), most / 2)

    async def test_manyDraws(self) -> None:
        """
        Answered in their order, more than one of a bucket one after the other; each account and kind has its own.
        """
        store = await self.startStore()
        other = BoxKey("ac", "me")
        draws = [
            Draw("acme", "messages", 1.5, 1e-3),
            Draw("acme", "messages", 1.5e-3, 1e-3),
            Draw("acme", "bytes", 1e-3, 1e-3),
            Draw(other.account, "me/messages", 1e-3, 1e-3),
            Draw("ac/me", "messages", 1e-3, 1e-3),
            Draw("\u65e5\n", "%", 9.0, 5e-4),
        ]
        granted = await store.draw(draws)
        for one, wanted in zip(granted, [2e-3, 0.0, 1e-3, 1e-3, 1e-3, 1e-3], strict=True):
            self.assertApproximates(one, wanted, 1e-7)

    async def test_manyAccounts(self) -> None:
        """
        One call takes as many as there are.
        """
        store = await self.startStore()
        draws = [Draw(f"account-{n}", "messages", 1.0, 10.0 + n) for n in range(450)]
        self.assertEqual(await store.draw(draws), [1.0] * 450)

    async def test_refill(self) -> None:
        """
        By the rate, as time passes; up to the burst, and no further.
        """
        store = await self.startStore()
        self.assertEqual(await self.draw(store, 20.0, 10.0), 20.0)
        self.assertLess(await self.draw(store, 20.0, 10.0), 10.0)
        await self.elapse(0.3)
        self.assertGreaterEqual(await self.draw(store, 2.5, 10.0), 2.5)
        await self.elapse(2.1)
        self.assertEqual(await self.draw(store, 1000.0, 10.0), 20.0)

    async def test_rateChanges(self) -> None:
        """
        Another rate counts from the next draw on: what a bucket holds is cut to what it may hold, or has more room.
        """
        store = await self.startStore()
        self.assertEqual(await self.draw(store, 1.0, 1000.0), 1.0)
        self.assertEqual(await self.draw(store, 1.0, SLOW), SLOW * DRAW_BURST)
        self.assertLess(await self.draw(store, 1000.0, 10.0), 15.0)
        self.assertLess(await self.draw(store, 1e9, 1e6), 1.9e6)

    async def test_least(self) -> None:
        """
        Less than what is wanted at least is neither granted nor spent; what is wanted at least fits into any bucket.
        """
        store = await self.startStore()
        most = SLOW * DRAW_BURST
        await store.draw([Draw("acme", "messages", most / 2, SLOW)])
        for _ in range(3):
            self.assertEqual(await store.draw([Draw("acme", "messages", most, SLOW, most * 3 / 4)]), [0.0])
        self.assertEqual(await store.draw([Draw("acme", "messages", most / 4, SLOW, most / 4)]), [most / 4])
        large = 100 * most
        self.assertEqual(await store.draw([Draw("other", "messages", large, SLOW, large)]), [large])
        self.assertEqual(await store.draw([Draw("other", "messages", large, SLOW, large)]), [0.0])

    async def test_drawnByMany(self) -> None:
        """
        However many draw at once, no more is granted than there is, and all of that.
        """
        store = await self.startStore()
        draws = [store.draw([Draw("acme", "messages", 3e-4, 1e-3)]) for _ in range(20)]
        granted = [one for (one,) in await gatherResults(draws)]
        self.assertEqual(granted[:6], [3e-4] * 6)
        # What comes back in a second and a half.
        self.assertApproximates(sum(granted), 2e-3, 1.5e-3)

    async def test_drawIsNoClaim(self) -> None:
        """
        It changes nothing of boxes, nor of mail.
        """
        store = await self.startStore()
        await self.draw(store, 1.0, 1.0)
        await self.put(store, messageFor())
        self.assertEqual((await store.accounts(BOX.asset), len(await store.mailbox(BOX))), ((), 1))
