"""
Tests for L{binaryserver.session.membership}: leases, the boxes of the dead, and what the living must not be taken for.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import StoreUnavailable
from binaryserver.interfaces import IPeers
from binaryserver.model import BoxKey, Orphan, Renewal
from binaryserver.plugins import BackEndContext
from binaryserver.proto import cloudnext_pb2
from binaryserver.session.boxrecords import EventKind
from binaryserver.session.membership import Membership
from binaryserver.session.memorystore import MemorySessionStore
from tests.harness import ASSET, NOW_MS, Box, HandBus, HandReactor, World

BOX = BoxKey("dev", ASSET)


class SharedStore(MemorySessionStore):
    """
    A session store that several instances share, and that can be away, lose its memory or stand still.
    """

    def __init__(self) -> None:
        self.reactor = HandReactor()
        MemorySessionStore.__init__(self, "memory:", BackEndContext(self.reactor, "--test"))
        self.isAway = False
        self.adopted = 0

    def renew(self, incarnation: str) -> Deferred[Renewal]:
        """
        See L{MemorySessionStore.renew}.
        """
        if self.isAway:
            return fail(StoreUnavailable("away"))
        return MemorySessionStore.renew(self, incarnation)

    def forget(self) -> None:
        """
        Lose everything.
        """
        MemorySessionStore.__init__(self, "memory:", BackEndContext(self.reactor, "--test"))


class Instances:
    """
    Several instances on one session store and one bus.
    """

    def __init__(self, count: int) -> None:
        self.store = SharedStore()
        self.bus = HandBus()
        self.worlds: dict[str, World] = {}
        self.members: dict[str, Membership] = {}
        self.frozen: set[str] = set()
        self.superseded: set[str] = set()
        for number in range(count):
            self.add(f"i{number}@1")

    def add(self, incarnation: str, peers: IPeers | None = None) -> World:
        """
        One more.
        """
        world = World(store=self.store, bus=self.bus, incarnation=incarnation, peers=peers)
        # All of them by the time of the store.
        world.gateway.nowMs = lambda: NOW_MS + int(self.store.reactor.seconds() * 1000)
        member = Membership(world.gateway, 10, 10, lambda: self.superseded.add(incarnation))
        member.start()
        self.worlds[incarnation] = world
        self.members[incarnation] = member
        return world

    def wait(self, seconds: int) -> None:
        """
        Let time pass for the store and for all that are not frozen or dead.
        """
        for _ in range(seconds * 2):
            self.store.reactor.advance(0.5)
            for incarnation, world in self.worlds.items():
                if incarnation not in self.frozen:
                    world.clock.advance(0.5)

    def thaw(self, incarnation: str, seconds: int) -> None:
        """
        A frozen one goes on, its clock having gone on without it.
        """
        self.frozen.discard(incarnation)
        self.worlds[incarnation].clock.advance(seconds)

    def presences(self) -> list[tuple[str, int]]:
        """
        Kind and epoch of every presence of the box, less the first epoch.
        """
        events = [event for event in self.bus.events("presences") if event.asset == ASSET]
        first = events[0].link_epoch
        names = cloudnext_pb2.PresenceType
        return [
            (names.Name(event.presence.type).removeprefix("PRESENCE_TYPE_").lower(), event.link_epoch - first)
            for event in events
        ]


class DeathTests(SynchronousTestCase):
    """
    An instance is killed.
    """

    def test_told(self) -> None:
        """
        Its boxes that do not come back are told disconnected, once, within 30 s, under an epoch above all of theirs.
        """
        all_ = Instances(3)
        lost = all_.worlds["i0@1"].box().link.linkEpoch
        all_.frozen.add("i0@1")
        all_.wait(9)
        self.assertEqual(all_.presences(), [("connect", 0)])
        all_.wait(21)
        (connect, disconnect) = all_.presences()
        self.assertEqual((connect, disconnect[0]), (("connect", 0), "disconnect"))
        self.assertGreater(disconnect[1], 0)
        event = all_.bus.events("presences")[-1]
        self.assertEqual((event.presence.reason, event.presence.peer_address), ("SERVER_SHUTDOWN", "192.0.2.7"))
        self.assertIn("i0@1 died", event.presence.detail)
        record = self.successResultOf(all_.store.boxRecord(BOX))
        assert record is not None
        ((kind, _, reason, detail, _, peer, instance, epoch, *_),) = record.events
        told = (EventKind.disconnected, "SERVER_SHUTDOWN", event.presence.detail, "192.0.2.7", "i0@1", lost)
        self.assertEqual((kind, reason, detail, peer, instance, epoch), told)
        all_.wait(60)
        self.assertEqual(len(all_.presences()), 2)

    def test_cameBack(self) -> None:
        """
        A box that comes back in time is told as a reconnect, and never as disconnected.
        """
        all_ = Instances(2)
        all_.worlds["i0@1"].box()
        all_.frozen.add("i0@1")
        all_.wait(15)
        all_.worlds["i1@1"].box()
        all_.wait(40)
        self.assertEqual([kind for kind, _ in all_.presences()], ["connect", "reconnect"])

    def test_restarted(self) -> None:
        """
        One that starts again under its id tells the boxes of its own dead incarnation, if it is the only one.
        """
        all_ = Instances(1)
        all_.worlds["i0@1"].box()
        all_.frozen.add("i0@1")
        all_.wait(2)
        all_.add("i0@2")
        all_.wait(28)
        self.assertEqual([kind for kind, _ in all_.presences()], ["connect", "disconnect"])

    def test_tellerDies(self) -> None:
        """
        Whoever adopted the boxes dies before the bus has the word: another tells.
        """
        all_ = Instances(3)
        all_.worlds["i0@1"].box()
        all_.bus.isOpen = False
        all_.frozen.add("i0@1")
        while not all_.bus.waiting:
            all_.wait(1)
        teller = next(one for one in ("i1@1", "i2@1") if all_.worlds[one].gateway.announcer.waiting)
        all_.frozen.add(teller)
        all_.bus.fail()
        all_.bus.isOpen = True
        all_.wait(35)
        self.assertEqual([kind for kind, _ in all_.presences()], ["connect", "disconnect"])

    def test_manyBoxes(self) -> None:
        """
        All of them, each once, although two tell.
        """
        all_ = Instances(3)
        for number in range(450):
            all_.worlds["i0@1"].box(f"box-{number}")
        all_.frozen.add("i0@1")
        all_.wait(40)
        gone = [
            event.asset
            for event in all_.bus.events("presences")
            if event.presence.type == cloudnext_pb2.PRESENCE_TYPE_DISCONNECT
        ]
        self.assertEqual((len(gone), len(set(gone))), (450, 450))

    def test_everySecondAnswerIsLost(self) -> None:
        """
        An attempt to adopt is made again until it is answered, and then a new one: every box is told, each once.
        """
        all_ = Instances(2)
        for number in range(450):
            all_.worlds["i0@1"].box(f"box-{number}")
        adopt = all_.store.adopt
        attempts: list[str] = []

        def adopting(dead: str, incarnation: str, nowMs: int, limit: int, attempt: str) -> Deferred[list[Orphan]]:
            answer = adopt(dead, incarnation, nowMs, limit, attempt)
            attempts.append(attempt)
            return fail(StoreUnavailable("the answer is lost")) if len(attempts) % 2 else answer

        self.patch(all_.store, "adopt", adopting)
        all_.frozen.add("i0@1")
        all_.wait(60)
        self.assertEqual(attempts[::2], attempts[1::2])
        self.assertEqual((len(attempts), len(set(attempts))), (6, 3))
        gone = [
            event.asset
            for event in all_.bus.events("presences")
            if event.presence.type == cloudnext_pb2.PRESENCE_TYPE_DISCONNECT
        ]
        self.assertEqual((len(gone), len(set(gone))), (450, 450))


class LifeTests(SynchronousTestCase):
    """
    An instance is not dead.
    """

    def test_storeAway(self) -> None:
        """
        After an outage of the store, however long, nobody is judged until one whole lease has passed.
        """
        all_ = Instances(3)
        all_.worlds["i0@1"].box()
        all_.store.isAway = True
        all_.wait(60)
        all_.store.isAway = False
        all_.wait(60)
        self.assertEqual(all_.presences(), [("connect", 0)])

    def test_allFrozen(self) -> None:
        """
        The whole host slept: whoever wakes first does not bury the others.
        """
        all_ = Instances(2)
        all_.worlds["i0@1"].box()
        names = set(all_.worlds)
        all_.frozen |= names
        all_.wait(60)
        all_.thaw("i1@1", 60)
        all_.wait(3)
        all_.thaw("i0@1", 63)
        all_.wait(40)
        self.assertEqual(all_.presences(), [("connect", 0)])

    def test_lapsed(self) -> None:
        """
        One whose lease merely lapsed keeps its links.
        """
        all_ = Instances(1)
        box = all_.worlds["i0@1"].box()
        all_.frozen.add("i0@1")
        all_.wait(30)
        all_.thaw("i0@1", 30)
        all_.wait(30)
        self.assertFalse(box.transport.isAborted)
        self.assertEqual(all_.presences(), [("connect", 0)])

    def test_thawed(self) -> None:
        """
        One that was declared dead closes the links that are another's by now, keeps the others, and is alive again.
        """
        all_ = Instances(2)
        world = all_.worlds["i0@1"]
        moved, adopted, kept = world.box(), world.box("adopted"), world.box("kept")
        all_.frozen.add("i0@1")
        all_.wait(16)
        all_.worlds["i1@1"].box()
        self.assertTrue(all_.worlds["i1@1"].store.isDead("i0@1"))
        all_.store.adopt("i0@1", "i1@1", NOW_MS, 1, "x")
        all_.thaw("i0@1", 16)
        all_.wait(1)
        states = [box.transport.isAborted for box in (moved, adopted, kept)]
        self.assertEqual(states.count(False), 1)
        self.assertTrue(moved.transport.isAborted)
        self.assertFalse(self.successResultOf(all_.store.isDead("i0@1")))
        self.assertEqual([kind for kind, _ in all_.presences()][-1], "disconnect")
        epochs = [epoch for _, epoch in all_.presences()]
        self.assertEqual(max(epochs), epochs[1], "the latest epoch is not the new link's")

    def test_memoryLost(self) -> None:
        """
        After the store lost its memory the owners write their sessions again: marks, epochs, subscriptions.
        """
        all_ = Instances(2)
        box = all_.worlds["i0@1"].box(clean=False)
        box.subscribe("i", "d")
        box.tracks(0, 5)
        epoch = box.link.linkEpoch
        ids = all_.worlds["i1@1"].gateway.ids
        all_.store.forget()
        all_.wait(4)
        self.assertFalse(box.transport.isAborted)
        claim = self.successResultOf(all_.store.claim(BOX, "i1@1", "md30", "192.0.2.9", NOW_MS, False, "x"))
        assert claim.previous is not None and claim.mqtt is not None
        self.assertEqual((claim.previous.incarnation, claim.previous.linkEpoch), ("i0@1", epoch))
        self.assertEqual([(mark.stream, mark.committed) for mark in claim.marks], [(9, 4)])
        self.assertEqual(claim.mqtt.subscriptions, (("i", 1), ("d", 1)))
        self.assertIs(all_.worlds["i1@1"].gateway.ids, ids, "the worker number changed")

    def test_superseded(self) -> None:
        """
        When another process takes the name of an instance the first one is to end; they do not declare each other dead
        by turns.
        """
        all_ = Instances(1)
        all_.add("i0@2")
        all_.wait(20)
        self.assertEqual(all_.superseded, {"i0@1"})
        self.assertFalse(self.successResultOf(all_.store.isDead("i0@2")))

    def test_stop(self) -> None:
        """
        One that stops gives its lease back, and is not judged.
        """
        all_ = Instances(2)
        box = all_.worlds["i0@1"].box()
        box.lose()
        self.successResultOf(all_.members["i0@1"].stop())
        self.assertTrue(self.successResultOf(all_.store.isDead("i0@1")))
        all_.wait(40)
        self.assertEqual([kind for kind, _ in all_.presences()], ["connect", "disconnect"])


class ReconnectTests(SynchronousTestCase):
    """
    Coming back.
    """

    def test_grace(self) -> None:
        """
        Within the grace it is a reconnect, later a connect; a takeover is a reconnect.
        """
        world = World()
        first = world.box()
        first.lose()
        world.wait(9)
        second = world.box()
        second.lose()
        world.wait(11)
        world.box()
        Box(world).connect()
        names = cloudnext_pb2.PresenceType
        kinds = [
            names.Name(event.presence.type).removeprefix("PRESENCE_TYPE_").lower()
            for event in world.bus.events("presences")
        ]
        self.assertEqual(
            kinds, ["connect", "disconnect", "reconnect", "disconnect", "connect", "disconnect", "reconnect"]
        )


class CheckTests(SynchronousTestCase):
    """
    How the session store does, as the renewals show it.
    """

    def test_away(self) -> None:
        """
        Not well once a renewal has failed, until the next is answered.
        """
        instances = Instances(1)
        [member] = instances.members.values()
        self.assertTrue(member.check().ok)
        instances.store.isAway = True
        instances.wait(4)
        self.assertEqual(member.check(), (False, "it did not renew the lease"))
        instances.store.isAway = False
        instances.wait(4)
        self.assertTrue(member.check().ok)

    def test_silent(self) -> None:
        """
        Not well either once no renewal was answered for a lease.
        """
        instances = Instances(1)
        [member] = instances.members.values()
        instances.wait(4)
        self.patch(instances.store, "renew", lambda incarnation: Deferred())
        instances.wait(8)
        self.assertTrue(member.check().ok)
        instances.wait(6)
        self.assertFalse(member.check().ok)
        self.assertRegex(member.check().detail, "it has not answered for 1[0-9] s")
