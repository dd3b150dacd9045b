"""
Datagrams of real links on a gateway without sockets: acks after commits, pauses, and how ways end.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from binaryserver.gateway import Limits
from binaryserver.md21 import values
from binaryserver.md21.codec import decode, encode
from binaryserver.md21.datagrams import ACK_DELAY
from binaryserver.md21.udp import UdpSide
from binaryserver.md21.values import Capabilities, HeaderAck, Message, Ping, Reason, TrackingAck, Transport, WantAck
from binaryserver.session.line import Pause
from tests.md21.test_udp import HOME, FakeSocket
from tests.md21.world import Md21Box, Md21World, makeBlock, makeHeader


class UdpWorld(Md21World):
    """
    A gateway with a UDP side.
    """

    def __init__(self, **options: Any) -> None:
        Md21World.__init__(self, **options)
        self.udp = UdpSide(self.clock)
        self.socket = FakeSocket()
        self.udp.transport = cast(Any, self.socket)
        self.gateway.md21.udp = self.udp

    def udpBox(self) -> UdpBox:
        """
        A box that is here, and was offered UDP.
        """
        return UdpBox(self)


class UdpBox(Md21Box):
    """
    A box with datagrams.
    """

    def __init__(self, world: UdpWorld) -> None:
        Md21Box.__init__(self, world)
        self._socket, self._udp = world.socket, world.udp
        self.send(makeHeader(capabilities=Capabilities(udp=True)))
        ack, base, *self.unread = self.received()
        assert isinstance(ack, HeaderAck) and ack.udp is not None, ack
        assert isinstance(base, values.BaseValues), base
        self.token = ack.udp.token
        self.send(values.BaseValueAck(base.revision))

    def datagram(self, number: int, pdu: values.Pdu | bytes) -> None:
        """
        A datagram to the gateway, and a turn of its reactor.
        """
        octets = pdu if isinstance(pdu, bytes) else encode(pdu)
        self._udp.datagramReceived(encode(Transport(self.token, number, (), octets)), HOME)
        self.world.turn()

    def datagrams(self) -> list[tuple[tuple[int, ...], values.Pdu | None]]:
        """
        What the gateway has sent by datagram since last asked: acks, and PDU.
        """
        sent = []
        for data, _ in self._socket.sent:
            value = decode(data)
            assert isinstance(value, Transport)
            sent.append((value.acks, decode(value.pdu) if value.pdu else None))
        self._socket.sent.clear()
        return sent


class UdpLinkTests(SynchronousTestCase):
    """
    One gateway, one box.
    """

    def test_ackedOnceDurable(self) -> None:
        """
        G1: the datagram is acked soon, its block by datagram once it is committed, and only there.
        """
        world = UdpWorld()
        box = world.udpBox()
        world.bus.isOpen = False
        box.datagram(1, makeBlock(0, 3))
        world.clock.advance(ACK_DELAY)
        self.assertEqual(box.datagrams(), [((1,), None)])
        box.datagram(1, makeBlock(0, 3))
        world.clock.advance(ACK_DELAY)
        self.assertEqual(box.datagrams(), [((1,), None)])
        world.bus.commit()
        self.assertEqual(box.datagrams(), [((), TrackingAck())])
        self.assertEqual(box.received(), [])
        self.assertEqual(world.gateway.counters.tracks, 3)

    def test_ackGoesAlong(self) -> None:
        """
        A block that is committed at once is acked in one datagram with its own.
        """
        world = UdpWorld()
        box = world.udpBox()
        box.datagram(1, makeBlock(0))
        self.assertEqual(box.datagrams(), [((1,), TrackingAck())])
        world.clock.advance(ACK_DELAY)
        self.assertEqual(box.datagrams(), [])

    def test_wantsNone(self) -> None:
        """
        A block that wants no ack has its datagram acked and no more.
        """
        world = UdpWorld()
        box = world.udpBox()
        box.datagram(1, makeBlock(0, 1, WantAck.NONE))
        world.clock.advance(ACK_DELAY)
        self.assertEqual(box.datagrams(), [((1,), None)])

    def test_paused(self) -> None:
        """
        G7: what comes while the window is full is not acked, and taken when there is room, without a word of the box.
        """
        world = UdpWorld(linkLimits=Limits(window=2))
        box = world.udpBox()
        world.bus.isOpen = False
        for number in (1, 2, 3):
            box.datagram(number, makeBlock(number))
        world.clock.advance(ACK_DELAY)
        self.assertEqual(box.datagrams(), [((1, 2), None)])
        self.assertEqual(world.gateway.counters.tracks, 2)
        while world.bus.waiting:
            world.bus.commit()
            world.turn()
        self.assertEqual(world.gateway.counters.tracks, 3)
        sent = box.datagrams()
        self.assertEqual(sum(pdu == TrackingAck() for _, pdu in sent), 3)
        self.assertEqual([ack for acks, _ in sent for ack in acks], [3])

    def test_heldThroughAPause(self) -> None:
        """
        What came too early and was acked is kept while the link is paused, and taken when it goes on, without a word of
        the box.
        """
        world = UdpWorld(linkLimits=Limits(window=2))
        box = world.udpBox()
        world.bus.isOpen = False
        for number in (2, 3, 4, 1):
            box.datagram(number, makeBlock(number))
        self.assertEqual(world.gateway.counters.tracks, 2)
        while world.bus.waiting:
            world.bus.commit()
            world.turn()
        self.assertEqual(world.gateway.counters.tracks, 4)
        self.assertEqual(sum(pdu == TrackingAck() for _, pdu in box.datagrams()), 4)
        self.assertEqual(world.udp.heldBytes, 0)

    def test_busFails(self) -> None:
        """
        A block that the bus did not take is not acked: the link ends, and its token with it.
        """
        world = UdpWorld()
        box = world.udpBox()
        world.bus.isOpen = False
        box.datagram(1, makeBlock(0))
        world.bus.fail()
        world.turn()
        self.assertTrue(box.isClosed)
        box.datagram(1, makeBlock(0))
        world.clock.advance(10)
        self.assertEqual(box.datagrams(), [])
        self.assertEqual(world.udp.counters.foreign, 1)

    def test_takeover(self) -> None:
        """
        A box that comes again has a new token, and the old one is void.
        """
        world = UdpWorld()
        first = world.udpBox()
        second = world.udpBox()
        self.assertTrue(first.isClosed)
        self.assertNotEqual(first.token, second.token)
        first.datagram(1, makeBlock(0))
        second.datagram(1, makeBlock(1))
        self.assertEqual(second.datagrams(), [((1,), TrackingAck())])
        self.assertEqual(world.gateway.counters.tracks, 1)

    def test_sameBlocksBothWays(self) -> None:
        """
        A box that gives up datagrams and sends its blocks on TCP has them acked there, and published once.
        """
        world = UdpWorld()
        box = world.udpBox()
        box.datagram(1, makeBlock(0, 2))
        box.datagrams()
        box.block(0, 2)
        self.assertEqual(box.acks(), 1)
        self.assertEqual(box.datagrams(), [])
        self.assertEqual(world.gateway.counters.tracks, 2)

    def test_offers(self) -> None:
        """
        Only who asks is offered UDP, and only where there is some.
        """
        world = UdpWorld()
        box = world.md21Box()
        self.assertEqual(box.received(), [])
        world.gateway.md21.udp = None
        other = Md21Box(world)
        other.send(makeHeader("other", capabilities=Capabilities(udp=True)))
        self.assertEqual(other.received()[0], HeaderAck(values.HeaderStatus.OK))

    def test_broken(self) -> None:
        """
        What breaks a rule of the link's ends the link, as on TCP.
        """
        world = UdpWorld()
        box = world.udpBox()
        box.datagram(1, Message(1, 77, None, b"x"))
        self.assertEqual(box.received(), [values.Disconnect(Reason.UNKNOWN_CHANNEL)])
        self.assertTrue(box.isClosed)
        box.datagram(2, Ping(1))
        world.clock.advance(10)
        self.assertEqual(box.datagrams(), [])

    def test_malformed(self) -> None:
        """
        A PDU that cannot be read takes nothing away: neither answer nor end, the right one is taken instead.
        """
        world = UdpWorld()
        box = world.udpBox()
        box.datagram(1, encode(makeBlock(0))[:-3])
        world.clock.advance(1)
        self.assertEqual(box.datagrams(), [])
        self.assertFalse(box.isClosed)
        box.datagram(1, makeBlock(0))
        self.assertEqual(box.datagrams(), [((1,), TrackingAck())])

    def test_keepsLinkAlive(self) -> None:
        """
        A box that is heard by datagram need not say anything on TCP; replayed datagrams are not the box.
        """
        world = UdpWorld()
        box = world.udpBox()
        for number in range(1, 6):
            world.clock.pump([1.0] * 100)
            box.datagram(number, Ping(number))
        self.assertFalse(box.isClosed)
        for _ in range(6):
            world.clock.pump([1.0] * 100)
            box.datagram(1, Ping(1))
        self.assertTrue(box.isClosed)

    def test_pingsAreCountedWhenTheyCome(self) -> None:
        """
        A box that pings by datagram for days and then says something on TCP is not taken for one that floods; one that
        floods by datagram waits.
        """
        world = UdpWorld()
        box = world.udpBox()
        for number in range(1, 401):
            world.clock.pump([1.0] * 30)
            box.datagram(number, Ping(number))
        box.received()
        box.block(1)
        self.assertEqual(box.link.pauses, Pause.none)
        self.assertEqual(box.acks(), 1)
        for number in range(401, 701):
            ping = Transport(box.token, number, (), encode(Ping(number)))
            world.udp.datagramReceived(encode(ping), HOME)
        self.assertTrue(box.link.pauses & Pause.controls)
        world.clock.pump([1.0] * 10)
        self.assertEqual(box.link.pauses, Pause.none)
