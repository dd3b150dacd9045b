"""
What every L{ISessionStore} must do with incarnations, alive and dead.

A store judges by its own clock: the tests wait for that.
"""

from __future__ import annotations

from twisted.internet.defer import gatherResults

from binaryserver.model import BoxKey, Renewal
from tests.session.contract_base import BOX, NOW, OTHER, ContractBase

LEASE, LAPSED = 400, 0.5
"""ms, and s: one that is longer."""


class LeaseContractMixin(ContractBase):
    """
    Of the incarnations' leases.
    """

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

    async def test_manyLeasesAtOnce(self) -> None:
        """
        Each instance gets a number of its own.
        """
        store = await self.startStore()
        numbers = await gatherResults([store.leaseWorker(f"host-{n}@1") for n in range(50)])
        self.assertEqual(len(set(numbers)), 50)

    async def test_wantedWorker(self) -> None:
        """
        The number that was asked for, from the first to the last, if it is free; else another.
        """
        store = await self.startStore()
        self.assertEqual(await store.leaseWorker("a@1", 16_383), 16_383)
        self.assertEqual(await store.leaseWorker("b@1", 0), 0)
        other = await store.leaseWorker("c@1", 16_383)
        self.assertNotIn(other, (0, 16_383))
        self.assertEqual(await store.leaseWorker("a@2", 16_383), 16_383)

    async def test_wantedIsNotNeeded(self) -> None:
        """
        An instance that has a number keeps it, whatever is wanted.
        """
        store = await self.startStore()
        number = await store.leaseWorker("a@1")
        self.assertEqual(await store.leaseWorker("a@1", number + 5), number)
        self.assertEqual(await store.leaseWorker("a@2", number + 5), number)

    async def test_renewed(self) -> None:
        """
        Who is known and alive is told so, and is not dead.
        """
        store = await self.startStore()
        await store.leaseWorker("a@1")
        self.assertIs(await store.renew("a@1"), Renewal.renewed)
        self.assertFalse(await store.isDead("a@1"))

    async def test_renewUnknown(self) -> None:
        """
        An instance that the store never heard of is unknown and stays so, and dead.
        """
        store = await self.startStore()
        await store.leaseWorker("b@1")
        for _ in range(2):
            self.assertIs(await store.renew("a@1"), Renewal.unknown)
            self.assertTrue(await store.isDead("a@1"))

    async def test_renewDeclaredDead(self) -> None:
        """
        Who was declared dead is told so until it leases again; renewing does not revive.
        """
        store = await self.startStore()
        number = await store.leaseWorker("a@1")
        await self.elapse(LAPSED)
        await store.bury(LEASE)
        for _ in range(2):
            self.assertIs(await store.renew("a@1"), Renewal.declaredDead)
            self.assertTrue(await store.isDead("a@1"))
        self.assertEqual(await store.leaseWorker("a@1"), number)
        self.assertIs(await store.renew("a@1"), Renewal.renewed)
        self.assertFalse(await store.isDead("a@1"))

    async def test_lapsedIsNotDead(self) -> None:
        """
        A lease that merely lapsed is renewed, as long as nobody declared its incarnation dead.
        """
        store = await self.startStore()
        await store.leaseWorker("a@1")
        await self.elapse(LAPSED)
        self.assertFalse(await store.isDead("a@1"))
        self.assertIs(await store.renew("a@1"), Renewal.renewed)
        self.assertEqual(await store.bury(LEASE), [])
        self.assertFalse(await store.isDead("a@1"))

    async def test_newerIncarnation(self) -> None:
        """
        The old one is dead from then on, and told so; what it says changes nothing.
        """
        store = await self.startStore()
        await store.leaseWorker("a@1")
        await store.leaseWorker("other@1")
        await store.leaseWorker("a@2")
        self.assertTrue(await store.isDead("a@1"))
        self.assertIs(await store.renew("a@1"), Renewal.superseded)
        await store.resign("a@1")
        self.assertTrue(await store.isDead("a@1"))
        self.assertFalse(await store.isDead("a@2"))
        self.assertFalse(await store.isDead("other@1"))
        self.assertIs(await store.renew("a@2"), Renewal.renewed)

    async def test_resign(self) -> None:
        """
        Who gave its lease back is dead, and does not renew; others live on. Its number stays its instance's.
        """
        store = await self.startStore()
        number = await store.leaseWorker("a@1")
        await store.leaseWorker("b@1")
        for _ in range(2):
            await store.resign("a@1")
            self.assertTrue(await store.isDead("a@1"))
        self.assertIsNot(await store.renew("a@1"), Renewal.renewed)
        self.assertTrue(await store.isDead("a@1"))
        self.assertFalse(await store.isDead("b@1"))
        self.assertEqual(await store.leaseWorker("a@2"), number)
        await store.resign("never heard of@1")
        self.assertTrue(await store.isDead("never heard of@1"))

    async def test_buryOnlyWhoDidNotRenew(self) -> None:
        """
        And tell only of those that own connected boxes.
        """
        store = await self.startStore()
        for name in ("lapsed@1", "idle@1", "alive@1", "left@1"):
            await store.leaseWorker(name)
        await self.claim(store, BoxKey("acme", "1"), "lapsed@1")
        await self.claim(store, BoxKey("acme", "2"), "alive@1")
        left = await self.claim(store, BoxKey("acme", "3"), "left@1")
        await store.release(BoxKey("acme", "3"), left.linkEpoch, NOW)
        self.assertEqual(await store.bury(60_000), [])
        await self.elapse(LAPSED)
        await store.renew("alive@1")
        for _ in range(2):
            self.assertEqual(await store.bury(LEASE), ["lapsed@1"])
            self.assertFalse(await store.isDead("alive@1"))
        dead = [await store.isDead(name) for name in ("lapsed@1", "idle@1", "alive@1", "left@1")]
        self.assertEqual(dead, [True, True, False, True])
        self.assertEqual(await store.bury(60_000), ["lapsed@1"])

    async def test_buryTellsOfOlderIncarnations(self) -> None:
        """
        As long as they own connected boxes: not once those have another owner.
        """
        store = await self.startStore()
        await store.leaseWorker("a@1")
        await self.claim(store, BOX, "a@1")
        await self.claim(store, OTHER, "a@1")
        await store.leaseWorker("a@2")
        self.assertEqual(await store.bury(60_000), ["a@1"])
        await self.claim(store, BOX, "a@2")
        self.assertEqual(await store.bury(60_000), ["a@1"])
        await self.claim(store, OTHER, "a@2")
        self.assertEqual(await store.bury(60_000), [])

    async def test_buriedInVain(self) -> None:
        """
        Of one that was revived nobody is told any more.
        """
        store = await self.startStore()
        await store.leaseWorker("a@1")
        await self.claim(store, BOX, "a@1")
        await self.elapse(LAPSED)
        self.assertEqual(await store.bury(LEASE), ["a@1"])
        await store.leaseWorker("a@1")
        self.assertEqual(await store.bury(60_000), [])

    async def test_renewingHolds(self) -> None:
        """
        Each renewal counts from its own time.
        """
        store = await self.startStore()
        await store.leaseWorker("a@1")
        for _ in range(4):
            await self.elapse(0.3)
            self.assertIs(await store.renew("a@1"), Renewal.renewed)
        await store.bury(1000)
        self.assertFalse(await store.isDead("a@1"))
