"""
Tests for L{binaryserver.md30.client} and L{binaryserver.md30.protocol}: a link's share of the reactor, and what leaves
at once.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet import tcp
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.gateway import Limits
from binaryserver.mqtt.packets import PINGREQ, PINGRESP, encodePubacks, encodeUnsuback, encodeUnsubscribe
from binaryserver.session.line import Pause
from tests.harness import World, batch, publish


class ShareTests(SynchronousTestCase):
    """
    Packets that bring no data have no window: they have turns.
    """

    def test_flood(self) -> None:
        """
        Of many requests in one read a part is answered in each turn, in their order, and the link is not read
        meanwhile; what other links bring is taken in between.
        """
        world = World(Limits(controlRate=0.0))
        flooding, other = world.box("1"), world.box("2")
        flooding.link.dataReceived(b"".join(encodeUnsubscribe(n, ["d"]) for n in range(1, 301)))
        answers = flooding.received()
        self.assertEqual(len(answers), 16)
        self.assertFalse(flooding.transport.isReading)
        self.assertTrue(flooding.link.pauses & Pause.turn)
        other.link.dataReceived(publish("t", batch(1), 7))
        self.assertEqual(flooding.received(), [])
        world.turn()
        self.assertEqual(other.acks(), [7])
        answers += flooding.received()
        self.assertEqual(answers, [encodeUnsuback(n) for n in range(1, 301)])
        self.assertTrue(flooding.transport.isReading)
        flooding.tracks(1, packetId=9)
        self.assertEqual(flooding.acks(), [9])

    def test_ordinary(self) -> None:
        """
        A box that asks as much as boxes do, and sends as much as it likes, is not paused.
        """
        world = World()
        box = world.box()
        box.link.dataReceived(
            b"".join(encodeUnsubscribe(n, ["d"]) for n in range(1, 16))
            + b"".join(publish("t", batch(n), n) for n in range(100, 250))
        )
        self.assertTrue(box.transport.isReading)
        world.turn()
        self.assertEqual(len(box.received()), 15 + 150)

    def test_lostMeanwhile(self) -> None:
        """
        A link that is lost while it waits for its turn has no further one.
        """
        world = World()
        box = world.box()
        box.link.dataReceived(b"".join(encodeUnsubscribe(n, ["d"]) for n in range(1, 301)))
        box.received()
        box.lose()
        self.assertEqual(box.received(), [])

    def test_pings(self) -> None:
        """
        Each PINGREQ is answered, between other packets in its place [MQTT-3.12.4-1].
        """
        world = World()
        box = world.box()
        box.send(PINGREQ * 8_000 + encodeUnsubscribe(3, ["d"]) + PINGREQ)
        self.assertEqual(box.transport.value(), PINGRESP * 8_001 + encodeUnsuback(3))


class RecordingSocket(tcp.Connection):
    """
    Twisted's own transport on a socket that takes a bounded number of bytes.
    """

    def __init__(self, room: int) -> None:
        sock: Any = _NoSocket()
        reactor: Any = _Writers()
        tcp.Connection.__init__(self, sock, Protocol(), reactor=reactor)
        self.connected = True
        self.room = room
        self.sent = b""

    def writeSomeData(self, data: bytes) -> int:
        """
        See L{tcp.Connection.writeSomeData}.
        """
        size = min(len(data), self.room)
        self.room -= size
        self.sent += bytes(data[:size])
        return size


class _NoSocket:
    """
    As much of a socket as a transport asks for at its making.
    """

    def setblocking(self, flag: bool) -> None:
        pass

    def fileno(self) -> int:
        return -1


class _Writers:
    """
    A reactor that only notes who waits to write.
    """

    def __init__(self) -> None:
        self.waiting: set[object] = set()

    def addWriter(self, writer: object) -> None:
        self.waiting.add(writer)

    def removeWriter(self, writer: object) -> None:
        self.waiting.discard(writer)


class OutputTests(SynchronousTestCase):
    """
    L{binaryserver.md30.protocol.Md30Link.flushOutput}.
    """

    def test_atOnce(self) -> None:
        """
        An ack leaves when it is due, without waiting for the reactor to ask for it.
        """
        world = World()
        box = world.box()
        transport = RecordingSocket(1_000)
        box.link.transport = transport
        box.tracks(1, packetId=5)
        self.assertEqual(transport.sent, encodePubacks([5]))
        self.assertEqual(cast("_Writers", transport.reactor).waiting, set())

    def test_lost(self) -> None:
        """
        With the connection the socket is gone: what was still to be sent goes with it, and the link ends whole.
        """
        world = World()
        box = world.box()
        world.bus.isOpen = False
        box.tracks(1, packetId=5)
        transport = RecordingSocket(1_000)
        box.link.transport = transport
        transport.connected = 0
        box.link._connection.puback([5])
        box.lose()
        self.assertEqual(transport.sent, b"")
        self.assertEqual(world.gateway.registry.links, set())

    def test_noRoom(self) -> None:
        """
        What the socket does not take waits for the reactor, in its order.
        """
        world = World()
        box = world.box()
        transport = RecordingSocket(2)
        box.link.transport = transport
        box.tracks(1, packetId=5)
        box.tracks(2, packetId=6)
        self.assertEqual(transport.sent, encodePubacks([5])[:2])
        self.assertEqual(cast("_Writers", transport.reactor).waiting, {transport})
        transport.room = 1_000
        transport.doWrite()
        self.assertEqual(transport.sent, encodePubacks([5, 6]))
        self.assertEqual(cast("_Writers", transport.reactor).waiting, set())
