"""
Tests for L{binaryserver.session.farewell} and the drain of L{binaryserver.service.GatewayService}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.ops.health import Health, Phase
from binaryserver.plugins import BackEndContext
from binaryserver.proto import cloudnext_pb2
from binaryserver.service import GatewayService, ServingService
from binaryserver.session.farewell import PACE, SHARE, endLinks
from binaryserver.session.memorystore import MemorySessionStore
from binaryserver.session.registry import NoPeers
from tests.harness import Box, HandReactor, World, batch

TIMEOUT = 20.0


class FarewellTests(SynchronousTestCase):
    """
    An instance with some boxes ends their links.
    """

    def setUp(self) -> None:
        self.world = World()

    def boxes(self, count: int) -> list[Box]:
        """
        So many, connected.
        """
        return [self.world.box(f"box-{number}") for number in range(count)]

    def end(self, timeout: float = TIMEOUT, **options: Any) -> Deferred[bool]:
        """
        Begin.
        """
        gateway = self.world.gateway
        deadline = self.world.clock.seconds() + timeout
        return Deferred.fromCoroutine(endLinks(gateway, timeout, deadline, **options))

    def open(self, boxes: list[Box]) -> int:
        """
        How many of them have not been closed.
        """
        return sum(not box.transport.disconnecting for box in boxes)

    def test_paced(self) -> None:
        """
        Not all at once: so many a second, at moments drawn by chance; all within the time there is for it.
        """
        boxes = self.boxes(int(PACE))
        draws = iter([number / len(boxes) for number in range(len(boxes))])
        done = self.end(random=lambda: next(draws))
        counts = []
        for _ in range(4):
            self.world.wait(0.25)
            counts.append(self.open(boxes) / len(boxes))
        for found, expected in zip(counts, (0.75, 0.5, 0.25, 0.0), strict=True):
            self.assertLess(abs(found - expected), 0.1)
        self.world.wait(0.1)
        self.assertTrue(self.successResultOf(done))

    def test_share(self) -> None:
        """
        However many there are, they end within a share of the drain's time.
        """
        boxes = self.boxes(200)
        done = self.end(0.2)
        self.world.wait(0.2 * SHARE + 0.05)
        self.assertEqual(self.open(boxes), 0)
        self.assertTrue(self.successResultOf(done))

    def test_servedUntilThen(self) -> None:
        """
        A link whose moment has not come goes on: its tracks are taken, and acked.
        """
        early, late = self.boxes(2)
        order = {link: number for number, link in enumerate(self.world.gateway.registry.links)}
        draws = [0.0, 0.999] if order[early.link] < order[late.link] else [0.999, 0.0]
        done = self.end(0.004 * PACE, random=lambda: draws.pop(0) * PACE / 2)
        self.world.wait(0.1)
        self.assertTrue(early.transport.disconnecting)
        self.assertFalse(late.transport.disconnecting)
        late.tracks(0)
        self.assertEqual(late.acks(), [1])
        self.assertNoResult(done)
        self.world.wait(3)
        self.assertTrue(late.transport.disconnecting)
        self.assertTrue(self.successResultOf(done))

    def test_inFlight(self) -> None:
        """
        A link with tracks in flight is read no more, and closes once they are acked.
        """
        [box] = self.boxes(1)
        self.world.bus.isOpen = False
        box.tracks(0)
        done = self.end()
        self.world.wait(1)
        self.assertFalse(box.transport.disconnecting)
        self.assertFalse(box.transport.isReading)
        self.assertEqual(box.acks(), [])
        self.world.bus.commit()
        self.world.wait(0.1)
        self.assertEqual(box.acks(), [1])
        self.assertTrue(box.transport.disconnecting)
        self.assertTrue(self.successResultOf(done))

    def test_cutShort(self) -> None:
        """
        At the deadline links end as they are, and that is told.
        """
        stuck, free = self.boxes(2)
        self.world.bus.isOpen = False
        stuck.tracks(0)
        done = self.end()
        self.world.wait(TIMEOUT - 0.5)
        self.assertTrue(free.transport.disconnecting)
        self.assertFalse(stuck.transport.disconnecting)
        self.world.wait(1)
        self.assertTrue(stuck.transport.disconnecting)
        self.assertFalse(self.successResultOf(done))

    def test_whole(self) -> None:
        """
        The whole drain: presence says why, and it was whole.
        """
        boxes = self.boxes(5)
        service = GatewayService(self.world.gateway, NoPeers(), TIMEOUT, 10, 10, lambda: None)
        service._membership.start()
        done = service.end()
        for _ in range(20):
            self.world.wait(0.1)
            for box in boxes:
                if box.transport.disconnecting and box.link in self.world.gateway.registry.links:
                    box.lose()
        self.successResultOf(done)
        self.assertTrue(service.drainedWhole)
        ends = [
            event.presence.reason
            for event in self.world.bus.events("presences")
            if event.presence.type == cloudnext_pb2.PRESENCE_TYPE_DISCONNECT
        ]
        self.assertEqual(ends, ["SERVER_SHUTDOWN"] * 5)


class ServingTests(SynchronousTestCase):
    """
    The word that boxes are to come no more.
    """

    def setUp(self) -> None:
        self.clock: Any = World().clock
        self.health = Health()
        self.service = ServingService(self.health, 5.0, self.clock)

    def test_delay(self) -> None:
        """
        It is told at once, and the end of everything else waits.
        """
        self.successResultOf(self.service.begin())
        self.assertIs(self.health.phase, Phase.serving)
        done = self.service.end()
        self.assertIs(self.health.phase, Phase.draining)
        self.clock.advance(4.9)
        self.assertNoResult(done)
        self.clock.advance(0.2)
        self.successResultOf(done)

    def test_hurried(self) -> None:
        """
        Whose name is another's by now, or who never served, does not wait.
        """
        self.successResultOf(self.service.end())
        self.service.begin()
        self.service.hurry()
        done = self.service.end()
        self.clock.advance(0)
        self.successResultOf(done)


class SlowSessions(MemorySessionStore):
    """
    A session store that writes MQTT sessions when the test lets it.
    """

    def __init__(self) -> None:
        MemorySessionStore.__init__(self, "memory:", BackEndContext(HandReactor(), "--test"))
        self.isSlow = False
        self.waiting: list[tuple[Deferred[Any], Any]] = []

    def saveMqtt(self, *arguments: Any) -> Deferred[Any]:
        """
        See L{MemorySessionStore.saveMqtt}.
        """
        saved = MemorySessionStore.saveMqtt(self, *arguments)
        if not self.isSlow:
            return saved
        later: Deferred[Any] = Deferred()
        self.waiting.append((later, SynchronousTestCase().successResultOf(saved)))
        return later

    def goOn(self) -> None:
        """
        Let the write that is under way be done.
        """
        later, result = self.waiting.pop(0)
        later.callback(result)


class SessionsTests(SynchronousTestCase):
    """
    Links whose acks wait for the session store.
    """

    def test_qos2(self) -> None:
        """
        PUBRECs of a kept session wait until it is written, with each write for what came meanwhile. A link that ends
        waits for all of them.
        """
        store = SlowSessions()
        world = World(store=store)
        box = world.box(clean=False)
        store.isSlow = True
        box.publish("t", batch(0), 1, qos=2)
        box.publish("t", batch(1), 2, qos=2)
        self.assertEqual(len(store.waiting), 1, "one write at a time")
        deadline = world.clock.seconds() + TIMEOUT
        done = Deferred.fromCoroutine(endLinks(world.gateway, TIMEOUT, deadline))
        world.wait(1)
        self.assertEqual((box.received(), box.transport.disconnecting), ([], False))
        for packetId in (1, 2):
            store.goOn()
            world.wait(0.1)
            self.assertEqual(box.received(), [b"\x50\x02\x00" + bytes((packetId,))])
        self.assertTrue(box.transport.disconnecting)
        self.assertTrue(self.successResultOf(done))
