"""
Tests for boxes that move: between links, and between instances that share bus and store (DESIGN 11).
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from binaryserver.gateway import Limits
from binaryserver.interfaces import IPeers
from binaryserver.model import BoxKey, StreamMark
from binaryserver.plugins import BackEndContext
from binaryserver.proto import cloudnext_pb2
from binaryserver.session.memorystore import MemorySessionStore
from binaryserver.session.registry import NoPeers
from tests.harness import HandBus, HandReactor, World


@implementer(IPeers)
class Colleagues(NoPeers):
    """
    Each other's instances, by incarnation; those that are not in it are dead.
    """

    def __init__(self) -> None:
        self.worlds: dict[str, World] = {}

    def handOver(self, incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[tuple[StreamMark, ...] | None]:
        """
        See L{IPeers.handOver}.
        """
        world = self.worlds.get(incarnation)
        if world is None:
            return succeed(None)
        answer: Deferred[tuple[StreamMark, ...] | None] = Deferred()
        world.gateway.registry.handOver(box, linkEpoch).addCallback(answer.callback)
        return answer


class MovingTests(SynchronousTestCase):
    """
    Three instances, one box.
    """

    def setUp(self) -> None:
        """
        Start them. Each has a way to the bus of its own, which can be held.
        """
        self.peers = Colleagues()
        store = MemorySessionStore("memory:", BackEndContext(HandReactor(), "--test"))
        self.buses = [HandBus() for _ in range(3)]
        self.worlds = []
        for bus, name in zip(self.buses, "abc", strict=True):
            world = World(Limits(batchDeadline=60), store, bus, self.peers, f"{name}@1")
            self.peers.worlds[f"{name}@1"] = world
            self.worlds.append(world)

    def turn(self) -> None:
        """
        Let all of them do what needs no time.
        """
        for world in self.worlds:
            world.turn()

    def release(self, number: int) -> None:
        """
        Let everything of one instance commit.
        """
        self.buses[number].isOpen = True
        while self.buses[number].waiting:
            self.buses[number].commit()
        self.turn()

    def indices(self) -> list[int]:
        """
        What is on the bus, by all of them.
        """
        return sorted(event.index for bus in self.buses for event in bus.events("tracks"))

    def test_waitsForTheOldOwner(self) -> None:
        """
        What the old owner has in flight is not published by the new one; the old link is closed at once, and the new
        one has its CONNACK at once.
        """
        a, b, _ = self.worlds
        old = a.box()
        self.buses[0].isOpen = False
        old.tracks(1, 3)
        new = b.box()
        self.assertTrue(old.transport.isAborted)
        new.tracks(1, 5)
        self.turn()
        self.assertEqual(new.acks(), [])
        self.release(0)
        self.assertEqual(new.acks(), [1])
        self.assertEqual(self.indices(), [1, 2, 3, 4, 5])

    def test_threeInstances(self) -> None:
        """
        A to B to C while A has data in flight: B cannot say that all is settled before A has.
        """
        a, b, c = self.worlds
        first = a.box()
        self.buses[0].isOpen = False
        first.tracks(1, 3)
        second = b.box()
        second.tracks(1, 3)
        third = c.box()
        third.tracks(1, 3)
        self.turn()
        self.assertEqual(third.acks(), [])
        self.release(0)
        self.assertEqual(third.acks(), [1])
        self.assertEqual(self.indices(), [1, 2, 3])

    def test_thereAndBack(self) -> None:
        """
        A to B and back to A while A has data in flight.
        """
        a, b, _ = self.worlds
        first = a.box()
        self.buses[0].isOpen = False
        first.tracks(1, 3)
        second = b.box()
        second.tracks(1, 3)
        back = a.box()
        back.tracks(1, 4)
        self.turn()
        self.release(0)
        self.assertEqual(back.acks(), [1])
        self.assertEqual(self.indices(), [1, 2, 3, 4])

    def test_deadOwner(self) -> None:
        """
        Of an owner that is dead nothing is waited for: what the store knows counts.
        """
        a, b, _ = self.worlds
        old = a.box()
        old.tracks(1, 3)
        del self.peers.worlds["a@1"]
        new = b.box()
        new.tracks(1, 5)
        self.assertEqual(new.acks(), [1])
        self.assertEqual(self.indices(), [1, 2, 3, 4, 5])

    def test_silentOwner(self) -> None:
        """
        One that cannot settle is waited for until the deadline, and no longer; repeats have the same key.
        """
        a, b, _ = self.worlds
        old = a.box()
        self.buses[0].isOpen = False
        old.tracks(1, 3)
        new = b.box()
        new.tracks(1, 3)
        b.wait(59)
        self.assertEqual(new.acks(), [])
        b.wait(2)
        self.assertEqual(new.acks(), [1])
        self.release(0)
        self.assertEqual(self.indices(), [1, 1, 2, 2, 3, 3])
        ids = {
            dict(record.headers)["ce_id"] for bus in self.buses for topic, record in bus.committed if "tracks" in topic
        }
        self.assertEqual(len(ids), 3)

    def test_presenceEndsWithTheTruth(self) -> None:
        """
        A consumer that keeps the highest epoch sees the box connected after a takeover, and gone once it is gone.
        """
        a, b, _ = self.worlds
        a.box()
        new = b.box()
        self.turn()

        def latest() -> cloudnext_pb2.Event:
            events = [event for bus in self.buses for event in bus.events("presences")]
            return max(events, key=lambda event: (event.link_epoch, event.id))

        self.assertEqual(latest().presence.type, cloudnext_pb2.PRESENCE_TYPE_RECONNECT)
        reasons = [event.presence.reason for event in self.buses[0].events("presences")]
        self.assertEqual(reasons, ["", "TAKEOVER"])
        new.lose()
        self.assertEqual(latest().presence.type, cloudnext_pb2.PRESENCE_TYPE_DISCONNECT)
