"""
Attacks on ownership and presence: each states what must hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from binaryserver.errors import StoreNotAsked, StoreUnavailable
from binaryserver.interfaces import IInbox, IPeers
from binaryserver.model import BoxKey, Claim, LinkState, Orphan, StreamMark
from binaryserver.session.memorystore import MemorySessionStore
from tests.harness import NOW_MS, Box, HandBus, World
from tests.session.test_membership import BOX, Instances, SharedStore


class RevivalTests(SynchronousTestCase):
    """
    One that was declared dead comes back while another adopts its boxes.
    """

    def test_adoptedBetweenRestoreAndLease(self) -> None:
        """
        It must end with the box's link closed, or with the box its own: never connected here and told gone there.
        """
        all_ = Instances(2)
        box = all_.worlds["i0@1"].box()
        all_.frozen.add("i0@1")
        all_.wait(16)
        self.assertTrue(self.successResultOf(all_.store.isDead("i0@1")))
        restore = all_.store.restore
        i1 = all_.members["i1@1"]

        def thenAdopted(incarnation: str, links: Sequence[LinkState]) -> Deferred[list[bool]]:
            answer = restore(incarnation, links)
            # What the other's loop over its chunks does meanwhile.
            for orphan in self.successResultOf(all_.store.adopt("i0@1", "i1@1", NOW_MS, 200, "x")):
                i1._tell(orphan, "i0@1")
            all_.worlds["i1@1"].turn()
            return answer

        all_.store.restore = thenAdopted  # type: ignore[method-assign]
        all_.thaw("i0@1", 16)
        all_.wait(60)
        self._isTrue(all_, box)

    def test_adoptedAfterTheRevival(self) -> None:
        """
        The other learned who is dead before it came back to life, and adopts after.
        """
        all_ = Instances(2)
        box = all_.worlds["i0@1"].box()
        all_.frozen.add("i0@1")
        all_.wait(16)
        dead = self.successResultOf(all_.store.bury(10_000))
        self.assertEqual(dead, ["i0@1"])
        all_.thaw("i0@1", 16)
        all_.wait(1)
        for orphan in self.successResultOf(all_.store.adopt(dead[0], "i1@1", NOW_MS, 200, "x")):
            all_.members["i1@1"]._tell(orphan, dead[0])
        all_.wait(60)
        self._isTrue(all_, box)

    def _isTrue(self, all_: Instances, box: Box) -> None:
        latest = max(all_.presences(), key=lambda presence: presence[1])
        isConnected = not (box.transport.isAborted or box.transport.disconnecting)
        self.assertEqual(latest[0] != "disconnect", isConnected, (all_.presences(), "link open:", isConnected))


class DeadClaimTests(SynchronousTestCase):
    """
    One that is dead claims a box that is connected elsewhere.
    """

    def setUp(self) -> None:
        """
        One that holds the box, one that dies, and one that tells its boxes.
        """
        self.all = Instances(0)
        self.inboxes: dict[str, IInbox] = {}
        for name in ("holder@1", "dead@1", "teller@1"):
            self.inboxes[name] = self.all.add(name, LocalPeers(self.inboxes)).gateway
        self.box = self.all.worlds["holder@1"].box()
        self.all.frozen.add("dead@1")

    def _claimLate(self) -> None:
        """
        It is not yet known that it is dead.
        """
        self.successResultOf(self.all.store.claim(BOX, "dead@1", "md30", "192.0.2.7", NOW_MS, True, "late"))

    def _tell(self) -> None:
        self.all.store.resign("dead@1")
        (orphan,) = self.successResultOf(self.all.store.adopt("dead@1", "teller@1", NOW_MS, 200, "x"))
        self.all.members["teller@1"]._tell(orphan, "dead@1")
        self.all.wait(1)

    def test_holderGivesItUp(self) -> None:
        """
        Whoever tells the box gone has its living link closed, so that the box comes back above all that was told.
        """
        self._claimLate()
        self._tell()
        self.assertTrue(self.box.transport.isAborted)
        self.all.worlds["holder@1"].box()
        self.all.wait(1)
        self.assertIn(max(self.all.presences(), key=lambda one: one[1])[0], ("connect", "reconnect"))

    def test_holderIsSilent(self) -> None:
        """
        It is not waited for, and not for ever.
        """
        cancelled: list[Deferred[Any]] = []
        asked: list[str] = []

        def silent(incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[Any]:
            asked.append(incarnation)
            return Deferred(cancelled.append)

        self.patch(self.all.worlds["teller@1"].gateway.registry._peers, "handOver", silent)
        self._claimLate()
        self._tell()
        self.assertEqual((asked, self.all.presences()[-1][0]), (["holder@1"], "disconnect"))
        self.all.wait(59)
        self.assertEqual(len(cancelled), 1)

    def test_nobodyToAsk(self) -> None:
        """
        Who had given the box up before, or is the dead one itself, is not asked.
        """
        self.patch(LocalPeers, "handOver", lambda *_: self.fail("it was asked"))
        self.box.lose()
        self._claimLate()
        self._tell()
        self.all.store.leaseWorker("dead@1")
        for attempt in ("one", "two"):
            self.all.store.claim(BoxKey("dev", "other"), "dead@1", "md30", "192.0.2.7", NOW_MS, True, attempt)
        self._tell()

    def test_refused(self) -> None:
        """
        Once it is known to be dead its claims are refused, until it is alive again: the box is asked to come later.
        """
        self.all.store.resign("dead@1")
        refused = Box(self.all.worlds["dead@1"]).connect()
        self.assertEqual(refused.received()[0][3], 3)
        self.assertFalse(self.box.transport.isAborted)
        self.assertEqual(self.all.worlds["dead@1"].gateway.registry.boxes, {})
        self.all.store.leaseWorker("dead@1")
        accepted = Box(self.all.worlds["dead@1"]).connect()
        self.assertEqual(accepted.received()[0][3], 0)
        self.assertTrue(self.box.transport.isAborted)


class SlowAdoptStore(SharedStore):
    """
    Each adoption takes a second.
    """

    def adopt(self, dead: str, incarnation: str, nowMs: int, limit: int, attempt: str) -> Deferred[list[Orphan]]:
        answer = MemorySessionStore.adopt(self, dead, incarnation, nowMs, limit, attempt)
        later: Deferred[list[Orphan]] = Deferred()
        self.reactor.callLater(1, later.callback, answer.result)
        return later


class BusyTests(SynchronousTestCase):
    """
    There is much to tell.
    """

    def test_renewsWhileItAdopts(self) -> None:
        """
        Whoever is busy with the boxes of a dead one is not taken for dead itself.
        """
        all_ = Instances.__new__(Instances)
        all_.store = SlowAdoptStore()
        all_.bus = HandBus()
        all_.worlds, all_.members, all_.frozen = {}, {}, set()
        for number in range(2):
            all_.add(f"i{number}@1")
        for number in range(5000):
            all_.worlds["i0@1"].box(f"box-{number}")
        all_.frozen.add("i0@1")
        oldest = 0.0
        for _ in range(80):
            all_.wait(1)
            alive = all_.store._alive["i1"]
            oldest = max(oldest, all_.store.reactor.seconds() - alive[1])
        self.assertLess(oldest, 10, "its lease lapsed")


class ClaimLostStore(SharedStore):
    """
    Claims are executed, and their answers may be lost.
    """

    isLost = False

    def claim(self, *arguments: Any) -> Deferred[Claim]:
        answer = MemorySessionStore.claim(self, *arguments)
        return fail(StoreUnavailable("its answer was lost")) if self.isLost else answer


@implementer(IPeers)
class LocalPeers:
    """
    Instances of one process.
    """

    inboxes: dict[str, IInbox]

    def __init__(self, inboxes: dict[str, IInbox]) -> None:
        self.inboxes = inboxes

    def start(self, inbox: IInbox) -> Deferred[None]:
        return succeed(None)

    def stop(self) -> Deferred[None]:
        return succeed(None)

    def handOver(self, incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[tuple[StreamMark, ...] | None]:
        inbox = self.inboxes.get(incarnation)
        answer: Deferred[tuple[StreamMark, ...] | None] = succeed(None)
        return inbox.handOver(box, linkEpoch).addCallback(lambda marks: marks) if inbox is not None else answer

    def wake(self, incarnation: str, boxes: Sequence[BoxKey]) -> None:
        if incarnation in self.inboxes:
            self.inboxes[incarnation].wake(boxes)

    def disconnect(self, incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[bool | None]:
        return succeed(self.inboxes[incarnation].disconnect(box, linkEpoch) if incarnation in self.inboxes else None)


class ClaimTests(SynchronousTestCase):
    """
    The answer to a claim is lost.
    """

    def setUp(self) -> None:
        self.store = ClaimLostStore()
        self.bus = HandBus()
        inboxes: dict[str, IInbox] = {}
        self.worlds = []
        for name in ("a@1", "b@1"):
            world = World(store=self.store, bus=self.bus, peers=LocalPeers(inboxes), incarnation=name)
            inboxes[name] = world.gateway
            self.worlds.append(world)

    def test_repeats(self) -> None:
        """
        Tracks in flight are not published twice where the old owner is alive (issue 5, 2), and it is told.
        """
        a, b = self.worlds
        old = a.box()
        self.bus.isOpen = False
        old.tracks(0, 3)
        self.store.isLost = True
        refused = Box(b).connect()
        self.assertEqual(refused.received()[0][3], 3)
        self.store.isLost = False
        self.bus.isOpen = False
        new = Box(b).connect()
        new.tracks(0, 3)
        a.turn()
        self.bus.isOpen = True
        while self.bus.waiting:
            self.bus.commit()
        a.wait(2)
        b.wait(2)
        indices = [event.index for event in self.bus.events("tracks")]
        self.assertEqual(sorted(indices), [0, 1, 2], "published twice")
        self.assertTrue(old.transport.isAborted, "the old owner was never told")

    def test_leftover(self) -> None:
        """
        A handover that meets a claim which then fails leaves nothing in memory.
        """
        a, _ = self.worlds
        waiting: Deferred[Claim] = Deferred()
        self.store.claim = lambda *_: waiting  # type: ignore[method-assign]
        Box(a).connect()
        a.gateway.handOver(BOX, 1 << 50)
        waiting.errback(StoreNotAsked("away"))
        a.wait(5)
        self.assertEqual(a.gateway.registry.boxes, {})
