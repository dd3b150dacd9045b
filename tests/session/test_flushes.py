"""
Tests for how L{binaryserver.session.uplink} gathers flushes.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.topics import Topics
from tests.harness import NOW_MS, World, batch, publish

TRACKS = Topics.named().tracks


class EarlyFlushTests(SynchronousTestCase):
    """
    What is much goes to the bus within the turn.
    """

    def test_withinTheTurn(self) -> None:
        """
        Much of one partition is handed over in parts as it comes, with nothing lost and nothing twice, in its order.
        """
        world = World()
        world.bus.isOpen = False
        box = world.box()
        for n in range(5):
            box.link.dataReceived(publish("t", batch(1 + 200 * n, 200), n + 1))
        box.link.dataReceived(publish("t", batch(1001), 6))
        parts = [len(records) for topic, _, records, _ in world.bus.waiting if topic == TRACKS]
        self.assertGreater(len(parts), 1)
        self.assertGreater(world.gateway.uplink.pendingBytes, world.bus.pendingBytes)
        world.turn()
        self.assertEqual(world.gateway.uplink.pendingBytes, world.bus.pendingBytes)
        self.assertEqual(box.acks(), [])
        while world.bus.waiting:
            world.bus.commit()
        self.assertEqual([event.index for event in world.bus.events("tracks")], list(range(1, 1002)))
        self.assertEqual(box.acks(), list(range(1, 7)))

    def test_littleWaitsForTheTurn(self) -> None:
        """
        Little does not: what one turn brings of a partition is one flush.
        """
        world = World()
        world.bus.isOpen = False
        box = world.box()
        before = len(world.bus.waiting)
        for n in range(4):
            box.link.dataReceived(publish("t", batch(1 + n), n + 1))
        self.assertEqual(len(world.bus.waiting), before)
        world.turn()
        self.assertEqual([len(records) for topic, _, records, _ in world.bus.waiting if topic == TRACKS], [4])

    def test_partsOfOneBatch(self) -> None:
        """
        A batch with refused tracks has two parts. One of them that is durable at once acks nothing before the other.
        """
        world = World()
        box = world.box()
        box.publish("t", batch(1), 1)
        payload = batch(2, 150) + batch(2, 1, ageMs=NOW_MS)
        del world.bus.committed[:]
        box.received()
        box.link.dataReceived(publish("t", payload, 2))
        self.assertEqual(box.acks(), [])
        world.turn()
        self.assertEqual(box.acks(), [2])
        self.assertEqual(len(world.bus.events("tracks")), 150)
        self.assertEqual([reject.code for reject in world.bus.rejects()], ["BAD_TIME"])
